"""The Python API: `run` makes a run, `Run` reads one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl

from hwbench.budget import Budget
from hwbench.build import Build, Recipe, make_build, work_folder
from hwbench.comparison import Direction, compare_runs, compare_tables
from hwbench.dataset import DataSpec, materialise, open_source
from hwbench.errors import InputError
from hwbench.export import parse_input
from hwbench.model import Model
from hwbench.per_input import FOLDER, PerInput
from hwbench.preparation import prepare
from hwbench.profile import load_profile
from hwbench.progress import Progress
from hwbench.report.html import write_html
from hwbench.report.junit import write_junit
from hwbench.report.markdown import write_markdown
from hwbench.report.pytest_benchmark import write_pytest_benchmark
from hwbench.run_record import problem
from hwbench.runner import Outcome, execute, execute_interleaved
from hwbench.spec import RunSpec, make_spec
from hwbench.store import RUN_FILE, RunDirectory, damaged
from hwbench.table import Row, from_frame
from hwbench.targets import open_target
from hwbench.verdict import Verdict, exit_code

DEFAULT_HOME = Path("results")


class Run:
    """A finished or interrupted run.

    Args:
        directory: Its folder.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self.record: Mapping[str, Any] = directory.read()
        if wrong := problem(self.record):
            raise damaged(directory.path / RUN_FILE, wrong)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a run directory.

        Raises:
            RunDirectoryError: There is no run, it is damaged, or a newer hwbench wrote it.
        """
        return cls(RunDirectory.open(Path(path)))

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._directory.path

    @property
    def table(self) -> pl.DataFrame:
        """The measurement table, one row a figure (`hwbench.table`)."""
        return self._directory.table()

    @property
    def rows(self) -> list[Row]:
        """The table's rows."""
        return from_frame(self.table)

    @property
    def verdicts(self) -> list[Verdict]:
        """The outcome of every acceptance rule."""
        return [Verdict(**verdict) for verdict in self.record["verdicts"]]

    def inputs(self, profile: str) -> PerInput | None:
        """The results of every input under one profile (or ``"reference"``); None where the run kept none."""
        table = self._directory.read_parts(FOLDER, profile)
        try:
            return None if table is None else PerInput.from_frame(table)
        except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
            raise damaged(self.path / FOLDER / profile, error) from None

    def trials(self, profile: str) -> pl.DataFrame | None:
        """The fault trials of a profile, one row a fault; None where the run kept none."""
        return self._directory.read_parts("trials", profile)

    def launches(self, study: str, profile: str) -> pl.DataFrame | None:
        """The figures of every launch of a study of time; None where the run kept none."""
        return self._directory.read_parts(study, profile)

    def exit_code(self, required: Sequence[str] = (), *, strict: bool = False) -> int:
        """The exit code the command line would give: 0, 1, 3 or 4."""
        return exit_code(self.verdicts, self.rows, required=required, strict=strict)

    def report(self, path: str | Path) -> Path:
        """Write the report; its ending says in which form: ``.html``, ``.md`` or ``.xml`` (JUnit).

        Raises:
            ValueError: Another ending.
        """
        file = Path(path)
        if file.suffix not in WRITERS:
            raise ValueError(f"{file}: a report ends in {', '.join(WRITERS)}")
        return WRITERS[file.suffix](self.record, self.table, self.verdicts, file)

    def report_all(self) -> list[Path]:
        """Write every view into the run directory."""
        files = [self.path / name for name in ("report.html", "report.md", "junit.xml")]
        for file in files:
            if file.is_symlink() or file.exists():
                file.unlink()  # in a directory from elsewhere it may be a link to any file, or a FIFO
        return [self.report(file) for file in files]


Writer = Callable[[Mapping[str, Any], pl.DataFrame, Sequence[Verdict], Path], Path]
WRITERS: dict[str, Writer] = {".html": write_html, ".md": write_markdown, ".xml": write_junit}


def run(
    model: str | Path,
    *,
    data: str | Path | Mapping[str, Any],
    profiles: Sequence[str],
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Run:
    """Build a model for every profile and measure each build.

    Args:
        model: The ONNX file.
        data: Evaluation data: a path, ``module:callable``, or a mapping with the fields of `hwbench.dataset.DataSpec`.
        profiles: Names of shipped profiles, or paths of ``.toml`` files.
        out: The run directory; default ``results/<model's name>``.
        overwrite: Replace a run that is there.
        resume: Go on with a run that is there.
        progress: Receiver of progress.
        settings: Further fields of `hwbench.spec.RunSpec`, e.g. ``studies=["accuracy"]``, ``trust_profile=True``.

    Raises:
        InputError: Something that was given cannot be used.
    """
    spec = make_spec(model=str(model), data=as_data(data), profiles=list(profiles), **settings)
    return run_spec(spec, out, overwrite=overwrite, resume=resume, progress=progress)


def run_spec(
    spec: RunSpec,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Run a specification and write its reports; arguments and errors as in `run`."""
    place, budget = Path(out) if out is not None else DEFAULT_HOME / Path(spec.model).stem, Budget(spec.budget)
    with prepare(spec) as prepared:
        outcome = execute(prepared, place, overwrite=overwrite, resume=resume, progress=progress, budget=budget)
    return _finished(outcome)


def run_interleaved(
    a: RunSpec, b: RunSpec, out: str | Path, *, overwrite: bool = False, progress: Progress | None = None
) -> tuple[Run, Run]:
    """Run two specifications whose timings alternate block by block, so that `compare` pairs them.

    Args:
        a: The specification to compare with; its run directory is ``out/a``.
        b: The new one, in ``out/b``.
        out: The folder of both.
        overwrite: Replace runs that are there.
        progress: Receiver of progress.

    Raises:
        InputError: Something that was given cannot be used.
    """
    with prepare(a) as first, prepare(b) as second:
        places = [(first, Path(out) / "a"), (second, Path(out) / "b")]
        outcomes = execute_interleaved(places, overwrite=overwrite, progress=progress)
    return _finished(outcomes[0]), _finished(outcomes[1])


def _finished(outcome: Outcome) -> Run:
    """The run with its views written."""
    finished = Run(outcome.directory)
    _write_benchmark(finished, outcome)
    finished.report_all()
    return finished


def as_data(data: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Data as a specification states them."""
    return dict(data) if isinstance(data, Mapping) else {"source": str(data)}


def _write_benchmark(finished: Run, outcome: Outcome) -> None:
    if outcome.timings:
        timings: Mapping[str, np.ndarray[Any, Any]] = outcome.timings
        write_pytest_benchmark(finished.record, timings, finished.path / "benchmark.json")


def compare(
    a: Run | str | Path | pl.DataFrame,
    b: Run | str | Path | pl.DataFrame,
    directions: Mapping[str, Direction] | None = None,
) -> pl.DataFrame:
    """Compare two runs figure by figure.

    Args:
        a: The run to compare with, its directory, or its measurement table alone.
        b: The new run; figures of accuracy are paired by input where both are runs on the same inputs.
        directions: Which way is better, for metrics of the user's own; runs know that of their own metric.

    Returns:
        The table of `hwbench.comparison.compare_tables`.

    Raises:
        RunDirectoryError: There is no run, or a newer hwbench wrote it.
    """
    first, second = (Run.open(run) if isinstance(run, str | Path) else run for run in (a, b))
    if isinstance(first, Run) and isinstance(second, Run):
        return compare_runs(first, second, directions)
    tables = [run.table if isinstance(run, Run) else run for run in (first, second)]
    return compare_tables(tables[0], tables[1], directions)


def build_model(
    model: Path,
    profile: str,
    out: Path,
    *,
    calibration: str | None = None,
    shapes: Sequence[str] = (),
    trust_profile: bool = False,
    batch_axis: Mapping[str, int | Literal["none"]] | None = None,
) -> Build:
    """Make the deployed ONNX of one profile.

    Args:
        model: The ONNX file.
        profile: A profile's name or path.
        out: Folder for ``model.onnx`` and ``manifest.json``; it must not hold a build yet.
        calibration: Calibration data, where the profile's precision needs them.
        shapes: Sizes of inputs with dynamic dimensions, ``name=1x3x224x224``, batch first.
        trust_profile: Let the profile set runtime options beyond the allowlist.
        batch_axis: As in `RunSpec`.

    Raises:
        InputError: Something that was given cannot be used, or sizes or calibration data are missing.
        UnavailableError: The model holds nothing that this precision applies to, or a package is missing.
    """
    opened, chosen = Model.open(model, batch_axis), load_profile(profile, trusted=trust_profile)
    if (out / "manifest.json").exists():
        raise InputError(f"{out}: holds a build; name another folder")
    if chosen.precision.needs_calibration and calibration is None:
        raise InputError(f"profile {chosen.name}: static int8 needs calibration data; give --calibration")
    with work_folder() as folder:
        data = None
        sizes: dict[str, Sequence[int]] = {
            given.name: given.shape[1:] for given in map(parse_input, shapes) if given.name
        }
        if calibration is not None:
            source = open_source(DataSpec(source=calibration))
            data = materialise(source, opened.sample_inputs, folder, task=None, constant=opened.constant_inputs)
            data = replace(data, labels=None)
            sizes = {name: file.shape[1:] for name, file in data.inputs.items()}
        recipe = Recipe(opened, chosen.precision, sizes, data if chosen.precision.needs_calibration else None, "given")
        return make_build(recipe, out, open_target("local").run)
