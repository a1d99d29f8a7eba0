"""Live progress on standard error, drawn only between jobs so that nothing runs beside a measurement."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from hwbench.durations import format_duration

if TYPE_CHECKING:
    from hwbench.studies import Interim

_TERMINAL_S, _LOG_S = 1.0, 30.0  # between two tellings of figures
_SHARE = 20  # times as long as it takes to compute them, at least
_WINDOW = 10  # tellings that the rate is taken over

_MARKS = {"ok": "✓", "unavailable": "–"}


class LiveProgress:
    """A bar over the profiles with what is being done; on a file or pipe, a line for each profile. A context manager.

    Args:
        quiet: Whether to show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        # auto_refresh would redraw from a thread while a job measures.
        self._bar = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column()),  # may take several lines
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        self._task: TaskID | None = None
        self._quiet = quiet
        self._told: dict[str, deque[tuple[float, int]]] = {}
        self._said: dict[str, str] = {}
        self._begun = self._next = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def plan(self, jobs: int) -> None:
        """So many jobs are to be done."""
        self._begun, self._told = time.monotonic(), {}
        if self._task is None:
            self._task = self._bar.add_task("", total=jobs)
        else:
            self._bar.update(self._task, total=(self._bar.tasks[self._task].total or 0) + jobs)

    def step(self, text: str) -> None:
        """Something begins, or has just ended."""
        if self._console.is_terminal:
            if self._task is None:
                self._console.print(text, highlight=False, markup=False)
            else:
                self._bar.update(self._task, description=self._said.get(text, text))
                self._bar.refresh()

    def advance(self) -> None:
        """One job is done."""
        if self._task is not None:
            self._bar.advance(self._task)

    def passes(self, title: str, done: int, total: int, left_s: float | None) -> None:
        """So many of a study's passes over the inputs are done: the bar's text, or now and then a line."""
        if self._quiet or time.monotonic() < self._next:
            return
        parts = [f"{done:,} of {total:,} passes"] * (total > 1)
        parts += [f"about {format_duration(left_s)} left for the run"] if left_s is not None else []
        if parts:
            self._show(title, ", ".join(parts), 0.0)

    def figures(self, title: str, interim: Callable[[], Interim | None]) -> None:
        """A part of something long is done: the bar's text, or now and then a line."""
        start = time.monotonic()
        if self._quiet or start < self._next:
            return
        found, now = interim(), time.monotonic()
        if found is None:
            return
        told = self._told.setdefault(title, deque([(self._begun, 0)], _WINDOW))
        told.append((now, found.done))
        self._show(title, describe(found, told[0][1], told[-1][0] - told[0][0]), _SHARE * (now - start))

    def _show(self, title: str, figures: str, pause_s: float) -> None:
        """Show how far something is, and not again for a while."""
        self._next = time.monotonic() + max(_TERMINAL_S if self._console.is_terminal else _LOG_S, pause_s)
        self._said[title] = text = f"{title}: {figures}"
        if self._console.is_terminal:
            self.step(title)
        else:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def note(self, profile: str, status: str) -> None:
        """A profile is finished."""
        self._console.print(f"{_MARKS.get(status, '✗')} {profile} ({status})", highlight=False, markup=False)

    def say(self, text: str) -> None:
        """A remark that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def describe(interim: Interim, before: int, seconds: float) -> str:
    """How far something is, how fast it goes, and how long it will take.

    Args:
        interim: Where it stands.
        before: How many units were done some time ago.
        seconds: How long ago.
    """
    parts = [f"{interim.done:,} of {interim.total:,} {interim.unit}"]
    if interim.done > before and seconds > 0:
        rate = (interim.done - before) / seconds
        parts += [f"{rate:,.3g}/s", f"{format_duration((interim.total - interim.done) / rate)} left"]
    return ", ".join([*parts, interim.said] if interim.said else parts)
