"""Live progress on standard error, drawn only between jobs so that nothing runs beside a measurement."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

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
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        self._task: TaskID | None = None

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
        if self._task is None:
            self._task = self._bar.add_task("", total=0)
        self._bar.update(self._task, total=(self._bar.tasks[self._task].total or 0) + jobs)

    def step(self, text: str) -> None:
        """Something begins, or has just ended."""
        if self._console.is_terminal:
            if self._task is None:
                self._console.print(text, highlight=False, markup=False)
            else:
                self._bar.update(self._task, description=text)
                self._bar.refresh()

    def advance(self) -> None:
        """One job is done."""
        if self._task is not None:
            self._bar.advance(self._task)

    def note(self, profile: str, status: str) -> None:
        """A profile is finished."""
        self._console.print(f"{_MARKS.get(status, '✗')} {profile} ({status})", highlight=False, markup=False)
