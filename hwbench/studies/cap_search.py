"""The smallest cap that holds, found by bisection over trials that may disagree: each edge is tried several times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

STEP_MIB = 2
# Where between the edges a trial is made: above the middle, since one that fails takes longer than one that succeeds.
_BIAS = 2 / 3

Trials = Mapping[int, Sequence[bool]]


@dataclass(frozen=True)
class CapSearch:
    """A bisection over multiples of `STEP_MIB`. A cap holds if every trial under it succeeded.

    Attributes:
        low: What cannot be enough, in MiB, whatever is tried; 0 if nothing is known. Believed until a trial refutes it.
        first: What is tried first, in MiB: likely to be enough, though not by much.
        top: What is known to be enough, in MiB.
        edge: How often each edge is tried: 3 is once to find it, and twice to confirm it.
    """

    low: int
    first: int
    top: int
    edge: int = 3

    def next(self, trials: Trials) -> int | None:
        """The cap to try next; None when the answer is found, or when not even `top` holds.

        Args:
            trials: Cap to the outcomes of its trials, in any order.
        """
        low, high = self.bracket(trials)
        if high is None:
            ahead = up(self.first) if up(self.first) > low else 2 * max(low, STEP_MIB)
            return min(ahead, up(self.top)) if low < up(self.top) else None
        if high - low > STEP_MIB:
            return min(up(low + (high - low) * _BIAS), high - STEP_MIB)
        if len(trials[high]) < self.edge:
            return high
        return low if low and len(trials.get(low, ())) < self.edge else None

    def bracket(self, trials: Trials) -> tuple[int, int | None]:
        """The largest cap that does not hold, and the smallest above it that does; None if none does yet."""
        hint = self.low // STEP_MIB * STEP_MIB
        refuted = any(all(outcomes) for cap, outcomes in trials.items() if cap <= hint)
        low = max((cap for cap, outcomes in trials.items() if not all(outcomes)), default=0)
        low = low if refuted else max(low, hint)
        return low, min((cap for cap, outcomes in trials.items() if all(outcomes) and cap > low), default=None)


def up(mib: float) -> int:
    """The next multiple of `STEP_MIB` that is not below ``mib``."""
    return -int(-mib // STEP_MIB) * STEP_MIB
