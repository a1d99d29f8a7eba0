"""A limit for the processor time of faulty builds: a changed node id or trip count can make a runtime loop without end."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

# A faulty run may take so many times the processor time of the fault-free one, and so many seconds more. Many times: numbers
# next to zero are slow, and slow is no outcome.
_TIMES, _GRACE_S = 100, 5.0


class Patience:
    """Knows the processor time that fault-free work takes, and ends this process where faulty work takes far more.

    The kernel's timer counts all threads, so that neither other processes nor a suspended machine use it up. It ends the
    process by SIGPROF, as a crash would: the worker's parent then counts that as it counts other deaths.
    """

    def __init__(self) -> None:
        self._fault_free_s = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Work without a fault; the longest decides."""
        start = time.process_time()
        yield
        self._fault_free_s = max(self._fault_free_s, time.process_time() - start)

    @contextmanager
    def limited(self, share: float = 1.0) -> Iterator[None]:
        """Work with a fault.

        Args:
            share: How much of it there is, relative to the work that was measured.
        """
        signal.setitimer(signal.ITIMER_PROF, _TIMES * self._fault_free_s * max(share, 1.0) + _GRACE_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
