"""A limit for the processor time of faulty builds: a changed node id or trip count can make a runtime loop without end."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

# A faulty run may take this many times the processor time of the fault-free one, and this many seconds more. The factor is
# large because denormal numbers are slow, and slowness is not an outcome.
_TIMES, _GRACE_S = 100, 5.0


class Patience:
    """Measures the processor time of fault-free work, and ends this process if faulty work takes far more.

    The kernel's timer counts the processor time of all threads; other processes or a suspended machine do not count. It ends
    the process by SIGPROF, as a crash would: the worker's parent counts that as any other death.
    """

    def __init__(self) -> None:
        self._fault_free_s = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Context of work without a fault; the longest sets the limit."""
        start = time.process_time()
        yield
        self._fault_free_s = max(self._fault_free_s, time.process_time() - start)

    @contextmanager
    def limited(self, share: float = 1.0) -> Iterator[None]:
        """Context of work with a fault.

        Args:
            share: Its amount, relative to the measured work.
        """
        signal.setitimer(signal.ITIMER_PROF, _TIMES * self._fault_free_s * max(share, 1.0) + _GRACE_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
