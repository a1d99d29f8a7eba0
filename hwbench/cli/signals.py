"""SIGINT, SIGTERM and SIGHUP: each interrupts a command in the same way, so that workers end and the run can be resumed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Time to end workers and save finished work, in which further signals are ignored.
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
        first: The first signal received; None before.
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
    """Handle the signals in a block, except those ignored since the start of the command (``nohup``, ``&`` in a script).

    After the first signal, further ones are also ignored after the block: the process exits.
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
            # at exit, the interpreter resets handlers to the default action, but leaves ignored signals ignored
            signal.signal(number, previous if handler.first is None else signal.SIG_IGN)
