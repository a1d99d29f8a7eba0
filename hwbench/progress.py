"""Who is told how a run comes along: the protocol, and the one who tells nobody."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Who is told how a run comes along. It is only called between jobs, so that nothing runs beside a measurement."""

    def plan(self, jobs: int) -> None:
        """So many jobs are to be done."""

    def step(self, text: str) -> None:
        """Something begins, or has just ended."""

    def advance(self) -> None:
        """One job is done."""

    def note(self, profile: str, status: str) -> None:
        """A profile is finished."""


class Silent:
    """Tells nobody."""

    def plan(self, jobs: int) -> None:
        """Nothing."""

    def step(self, text: str) -> None:
        """Nothing."""

    def advance(self) -> None:
        """Nothing."""

    def note(self, profile: str, status: str) -> None:
        """Nothing."""
