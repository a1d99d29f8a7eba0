"""SIGINT, SIGTERM and SIGHUP: each interrupts a command in the same way, so that workers end and the run can be resumed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Ending workers and saving what is finished may take so long; signals that come meanwhile change nothing.
_PATIENCE_S = 10.0


class Interrupted(KeyboardInterrupt):
    """The command was interrupted.

    Args:
        number: The signal.

    Attributes:
        code: The exit code that a shell reports for it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Interruptions:
    """The handler of the signals.

    Attributes:
        first: The first signal that came; None before it.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self._since = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise `Interrupted`, unless the command is ending already."""
        now = time.monotonic()
        if self.first is not None and now < self._since + _PATIENCE_S:
            return
        self.first, self._since = self.first or number, now
        raise Interrupted(self.first)


@contextmanager
def interruptible() -> Iterator[Interruptions]:
    """Handle the signals in a block, but for those that the command was started to ignore (``nohup``, ``&`` in a script).

    Once one has come, further ones are ignored after the block too: the process exits.
    """
    handler = Interruptions()
    before = {}
    if threading.current_thread() is threading.main_thread():  # others cannot receive any
        wanted = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield handler
    finally:
        for number, previous in before.items():
            # the interpreter, at its end, puts back the default action of a handler, but leaves one that ignores
            signal.signal(number, previous if handler.first is None else signal.SIG_IGN)
