"""Progress protocol and a no-op implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hwbench.studies import Interim


class Progress(Protocol):
    """Receiver of a run's progress. It is called only between jobs: nothing runs beside a measurement."""

    def plan(self, jobs: int) -> None:
        """So many jobs are to be done."""

    def step(self, text: str) -> None:
        """Something begins, or has just ended."""

    def advance(self) -> None:
        """One job is done."""

    def passes(self, title: str, done: int, total: int, left_s: float | None) -> None:
        """So many of a study's passes over the inputs are done; ``left_s`` is an estimate for the run, None for none yet.

        It is called while jobs run that measure no time.
        """

    def figures(self, title: str, interim: Callable[[], Interim | None]) -> None:
        """A part of something long is done; ``interim`` computes the figures so far, which may take a moment."""

    def note(self, profile: str, status: str) -> None:
        """A profile is finished."""

    def say(self, text: str) -> None:
        """A remark that stays: something damaged was made again."""


class Silent:
    """Shows nothing."""

    def plan(self, jobs: int) -> None:
        """Nothing."""

    def step(self, text: str) -> None:
        """Nothing."""

    def advance(self) -> None:
        """Nothing."""

    def passes(self, title: str, done: int, total: int, left_s: float | None) -> None:
        """Nothing."""

    def figures(self, title: str, interim: Callable[[], Interim | None]) -> None:
        """Nothing."""

    def note(self, profile: str, status: str) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""
