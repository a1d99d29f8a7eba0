"""Rows on the parts of every output: groups of slices along an axis, the worst of them, and agreement of integers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwbench import stats
from hwbench.backend import TensorSpec
from hwbench.model import Model, read_proto
from hwbench.slices import MANY, GroupErrors, Layout, Scout, SliceErrors, sqnr_db
from hwbench.stats import Estimate
from hwbench.studies.base import GOLDEN, LEVEL, Case, Subject
from hwbench.studies.outputs import chunks, row, stored
from hwbench.table import Row, condition
from hwbench.worker.protocol import STOPPED, Job, JobResult

Array = np.ndarray[Any, np.dtype[Any]]
STUDY = "fidelity"
SLICE, WORST = "slice_sqnr_db", "worst_slice_sqnr_db"
# Operators that sort rows by score, and those behind which their order no longer matters.
_SORTING = frozenset({"TopK", "NonMaxSuppression"})
_COMPUTING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU"})
# Limit on the bytes of stored outputs besides the first; fewer inputs are compared if they would exceed it.
_ROOM = 1 << 28
_NAMED = 8  # runs of slices that are named


def other_outputs(case: Case, most: int) -> tuple[list[str], list[str]]:
    """The outputs besides the one that accuracy is measured on: those to compare, and those left out.

    An output is compared if it may have one row an input: states and scalars do not.
    """
    theirs = {value.name for value in read_proto(case.reference.build.model).graph.output}
    fitting = [
        spec.name
        for spec in case.model.outputs
        if spec.name != case.output and spec.name in theirs and _has_rows(case.model, spec)
    ]
    left_out = [spec.name for spec in case.model.outputs if spec.name not in {case.output, *fitting[:most]}]
    return fitting[:most], left_out


def _has_rows(model: Model, spec: TensorSpec) -> bool:
    axis = model.batch_axes.get(spec.name, 0)
    return axis is not None and axis < len(spec.shape) and spec.shape[axis] in (None, model.batch)


def evaluation(case: Case, names: Sequence[str], subject: Subject | None = None) -> Job:
    """A job that stores these outputs, for as many inputs as `_ROOM` holds."""
    job = case.evaluation(GOLDEN, subject=subject)
    return replace(job, params={**job.params, "outputs": list(names), "n": _inputs(case, names)})


def _inputs(case: Case, names: Sequence[str]) -> int:
    """The number of inputs that outputs are compared on; dimensions of which nothing is known count as 1."""
    graph = read_proto(case.reference.build.model).graph
    sizes = [[d.dim_value or 1 for d in one.type.tensor_type.shape.dim] for one in graph.output if one.name in names]
    held = _ROOM // max(1, sum(8 * math.prod(size) for size in sizes))
    return min(case.data.n, max(case.batch, held // case.batch * case.batch))


def slice_rows(case: Case, results: Mapping[str, JobResult], most: int) -> Iterator[Row]:
    """The worst slice of all outputs, then every output's groups.

    Args:
        case: The case.
        results: The fidelity study's: ``golden`` and ``reference``; ``others`` and ``reference_others``, if there are any.
        most: Limit on the number of other outputs.
    """
    found = [_compared(case, case.output, results["golden"], results["reference"], 0, case.data.n)]
    names, left_out = other_outputs(case, most)
    for index, name in enumerate(names):
        ours, theirs = results.get("others"), results.get("reference_others")
        bad = next((one for one in (ours, theirs) if one is not None and not one.ok), None)
        if ours is None or theirs is None or bad is not None:
            found.append(_Output(name, reason=STOPPED if bad is None else bad.detail))
        else:
            found.append(_compared(case, name, ours, theirs, index, _inputs(case, names)))
    yield _worst(found, _sorted_rows(case))
    for output in found:
        yield from output.rows()
    if left_out:
        why = f"not compared, as they lack one row per input or exceed {most} outputs: {', '.join(left_out[:20])}"
        yield Row(STUDY, SLICE, condition(output="*"), status="unavailable", detail=why)


@dataclass(frozen=True)
class _Output:
    """One output's errors, group by group.

    Attributes:
        name: The output.
        layout: Its slices.
        groups: Its groups' errors.
        agreement: For integers: the share of each input's values that are equal, float64 ``[n]``.
        seed: Seed of the resampling.
        reason: The reason that there are no figures.
    """

    name: str
    layout: Layout | None = None
    groups: Sequence[GroupErrors] = ()
    agreement: Array | None = None
    seed: int = 0
    reason: str = ""

    def rows(self) -> Iterator[Row]:
        at = condition(output=self.name)
        if self.agreement is not None:
            figure = stats.mean_interval(self.agreement, LEVEL, self.seed)
            yield row(STUDY, "value_agreement", figure, "ratio", at, "share of the integers that equal the reference's")
        elif self.layout is None:
            yield Row(STUDY, SLICE, at, status="unavailable", detail=self.reason)
        for group in self.groups:
            yield from self._group_rows(group)

    def where(self, slices: Sequence[int]) -> dict[str, Any]:
        """Condition of some slices; that of the whole output if they are all of its slices."""
        if self.layout is None or self.layout.axis is None or len(slices) == self.layout.size:
            return {"output": self.name}
        return {"output": self.name, "axis": self.layout.axis, "slice": slices[0] if len(slices) == 1 else span(slices)}

    def describe(self, errors: GroupErrors) -> str:
        """A group's range and oddities in words."""
        parts = [f"reference {errors.group.low:.4g} to {errors.group.high:.4g}"]
        if errors.constant and self.layout is not None:
            where = "the output" if self.layout.axis is None else f"of axis {self.layout.axis}: {span(errors.constant)}"
            parts.append(f"constant in the build only, {where}")
        if errors.broken:
            parts.append(f"{errors.broken} values are not finite in the build only")
        if errors.group.quiet:
            parts.append("not judged: probabilities too small for 8 bits")
        return "; ".join(parts)

    def _group_rows(self, errors: GroupErrors) -> Iterator[Row]:
        where, n = self.where(errors.group.slices), len(errors.signal)
        at = condition(**where)
        if math.isnan(errors.sqnr_db):
            why = "the reference is constant on these inputs: only its absolute error is judged"
            yield Row(STUDY, SLICE, at, status="unavailable", detail=why)
        else:
            figure = ratio(errors.signal, errors.noise, self.seed)
            yield _ratio_row(SLICE, figure, at, self.describe(errors))
        yield Row(STUDY, "max_abs_error", at, errors.max_abs_error, n=n)
        yield Row(STUDY, "distinct_values", at, float(errors.distinct), "count", n=n, detail=_many(errors.distinct))
        theirs = errors.reference_distinct
        yield Row(STUDY, "reference_distinct_values", at, float(theirs), "count", n=n, detail=_many(theirs))
        for index, signal, noise in errors.worst:
            alone = condition(**self.where([index]))
            yield _ratio_row(
                SLICE, ratio(signal, noise, self.seed, len(errors.group.slices)), alone, "not judged by itself"
            )


def _compared(case: Case, name: str, ours: JobResult, theirs: JobResult, index: int, n: int) -> _Output:
    """Compare an output with the reference's, in two passes over the stored arrays: one finds its groups, one compares."""
    got, wanted = stored(ours, "golden", index), stored(theirs, "golden", index)
    if got.shape != wanted.shape or len(got) != n:
        return _Output(name, reason=f"its shape {list(got.shape)} is not {n} rows like the reference's")
    if wanted.size == 0 or "U" in (got.dtype.kind, wanted.dtype.kind):
        return _Output(name, reason="it holds no numbers")
    if wanted.dtype.kind in "iub":
        equal = [(a == b).reshape(len(a), -1).mean(axis=1) for a, b in _pairs(theirs, ours, index, n)]
        return _Output(name, agreement=np.concatenate(equal), seed=case.seed)
    scout = Scout()
    for _, block in chunks(theirs, "golden", n, index):
        scout.add(block)
    layout = scout.layout()
    errors = SliceErrors(layout, n)
    for reference, output in _pairs(theirs, ours, index, n):
        errors.add(reference, output)
    return _Output(name, layout, errors.result(), seed=case.seed)


def _pairs(theirs: JobResult, ours: JobResult, index: int, n: int) -> Iterator[tuple[Array, Array]]:
    """Chunks of an output, the reference's and the build's."""
    both = (chunks(result, "golden", n, index) for result in (theirs, ours))
    for (_, reference), (_, output) in zip(*both, strict=True):
        yield reference, output


def _worst(found: Sequence[_Output], unordered: str) -> Row:
    """The row that the rule on the worst slice judges."""
    judged = [(output, group) for output in found for group in output.groups if group.judged]
    if unordered or not judged:
        why = unordered or "no output of the reference varies by more than 8 bits can resolve"
        return Row(STUDY, WORST, status="unavailable", detail=why)
    figures = [ratio(group.signal, group.noise, output.seed, len(judged)) for output, group in judged]
    place = min(range(len(judged)), key=lambda index: figures[index].value)
    (output, worst), least = judged[place], figures[place]
    # The intervals hold jointly at the level, so their least bounds enclose the least ratio.
    figure = replace(least, low=min(one.low for one in figures), high=min(one.high for one in figures))
    part = in_words(output.where(worst.group.slices))
    return _ratio_row(WORST, figure, "{}", "; ".join([f"{part}: {output.describe(worst)}", *_levels(worst)]))


def ratio(signal: Array, noise: Array, seed: int, among: int = 1) -> Estimate:
    """A signal-to-noise ratio in dB, with a bootstrap interval over inputs.

    An infinite ratio (equal outputs, or a build with values that are not finite) is exact.

    Args:
        signal: The signal of every input, float64 ``[n]``.
        noise: Its noise.
        seed: Seed of the resampling.
        among: Number of ratios whose intervals hold jointly (Bonferroni).
    """
    value = sqnr_db(signal, noise)
    if math.isinf(value):
        return Estimate(value, value, value, LEVEL, len(signal))
    found = stats.bootstrap_statistic(sqnr_db, [signal, noise], 1 - (1 - LEVEL) / among, seed)
    return replace(found, level=LEVEL)


def _ratio_row(metric: str, figure: Estimate, at: str, detail: str) -> Row:
    """A row of `ratio`; an infinite one is exact."""
    if math.isinf(figure.value):
        return Row(STUDY, metric, at, figure.value, "dB", n=figure.n, detail=detail)
    return row(STUDY, metric, figure, "dB", at, detail)


def _levels(errors: GroupErrors) -> Iterator[str]:
    """The number of distinct values, in words, where the build has fewer."""
    theirs = f"{MANY} or more" if errors.reference_distinct >= MANY else str(errors.reference_distinct)
    if errors.distinct < min(MANY, errors.reference_distinct):
        yield f"{errors.distinct} distinct value{'s' if errors.distinct > 1 else ''}, {theirs} in the reference"


def in_words(where: Mapping[str, Any]) -> str:
    """A condition of `_Output.where` in words."""
    if "slice" not in where:
        return f"output {where['output']!r}"
    several = "slices" if isinstance(where["slice"], str) else "slice"
    return f"output {where['output']!r}, {several} {where['slice']} of axis {where['axis']}"


def span(slices: Sequence[int]) -> str:
    """Numbers as ranges, e.g. ``"0-3,7"``; of many ranges, the first."""
    breaks = [place for place in range(1, len(slices)) if slices[place] != slices[place - 1] + 1]
    starts, ends = [0, *breaks], [*breaks, len(slices)]
    runs = [(slices[start], slices[end - 1]) for start, end in zip(starts, ends, strict=True)]
    shown = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs[:_NAMED])
    return f"{shown},..." if len(runs) > _NAMED else shown


def _many(count: int) -> str:
    return f"{MANY} or more; counting stopped there" if count >= MANY else ""


def _sorted_rows(case: Case) -> str:
    """Reason not to compare outputs element by element: rows sorted by score, which rounding exchanges."""
    graph = read_proto(case.reference.build.model).graph
    made_by = {name: node for node in graph.node for name in node.output}
    waiting, seen = [case.output], set()
    while waiting:
        node = made_by.get(waiting.pop())
        if node is None or id(node) in seen or node.op_type in _COMPUTING:
            continue
        if node.op_type in _SORTING:
            return f"{node.op_type} sorts the output's rows by score, and rounding exchanges them"
        seen.add(id(node))
        waiting.extend(node.input)
    return ""
