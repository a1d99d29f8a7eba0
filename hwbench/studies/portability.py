"""Portability: whether one build gives the same numbers on other processors' instruction sets."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field, field_validator

from hwbench import stats
from hwbench.backend import backends
from hwbench.bounds import INPUTS, POINTS
from hwbench.dataset import Dataset
from hwbench.metrics import Fidelity, FidelityResult
from hwbench.studies.base import GOLDEN, LEVEL, Analysis, Case, Settings, Study
from hwbench.studies.layers import few, layers_of, looking, pairs, reason, seen
from hwbench.studies.outputs import Array, chunks, row
from hwbench.table import Row, condition
from hwbench.targets import check_machine
from hwbench.worker.protocol import LOCAL, Job, JobResult, JobStatus, Limits

NATIVE = "native"
LOSS = "sqnr_loss_db"
PORTABLE = "portable"
# Beyond this, outputs differ by the rounding of float32 and no loss is counted.
_FLOAT_DB = 100.0
# Floats depart where they differ by more than this share of the tensor's largest value; quantized ones where they differ.
_ROUNDING = 1e-4
# What decides how int8 products are summed, best first: one of a processor's extensions names its way.
_INT8 = (
    "amx_int8", "avx512_vnni", "avx_vnni", "avx512bw", "avx2", "avx", "sse4_2", "sse4_1", "i8mm", "asimddp", "asimd",
)  # fmt: skip


class PortabilitySettings(Settings):
    """Study settings."""

    targets: tuple[str, ...] = Field(
        (NATIVE, "x86_64/Haswell", "x86_64/Nehalem", "aarch64/cortex-a53"),
        max_length=POINTS,
        description="'native', or the instruction set and the processor model that QEMU emulates; native is always measured",
    )
    layer_inputs: int = Field(
        32, gt=0, le=INPUTS, description="inputs the layers are compared on, of those whose outputs depart"
    )
    max_loss_db: float = Field(1.0, ge=0, description="loss of SQNR up to which a build counts as portable, in dB")

    @field_validator("targets")
    @classmethod
    def _named(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        for target in targets:
            if target != NATIVE and target.count("/") != 1:
                raise ValueError("a target is 'native' or ARCH/CPU, such as 'x86_64/Haswell'")
        return targets


class PortabilityStudy(Study):
    """One build's outputs on several instruction sets, held against the reference's and against those on this processor.

    Where they are not the same, the build's layers are compared too, and the first that departs is named.
    """

    name = "portability"
    headline = LOSS
    settings_type = PortabilitySettings
    default = False

    def check(self, settings: PortabilitySettings, data: Dataset, *, classifies: bool) -> None:
        """Raise `UnknownNameError` where an emulator is here and knows no such processor model."""
        for target in settings.targets:
            check_machine(_machine(target))

    def plan(self, case: Case, settings: PortabilitySettings) -> dict[str, Job]:
        """The reference's golden outputs; the build's, and the runtime's version, on every target."""
        if not _on_cpu(case):
            return {}
        jobs = {"reference": case.evaluation(GOLDEN, subject=case.reference)}
        for target in _targets(case, settings):
            jobs[target] = self._evaluation(case, target)
            jobs[f"{target} probe"] = Job(
                "hwbench.worker.tasks.probe:run",
                backend=backends.reference(case.subject.backend),
                limits=Limits(timeout_s=120),
                machine=_machine(target),
            )
        return jobs

    def extend(self, case: Case, settings: PortabilitySettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """The build's layers, here and on every target whose outputs depart, for some of the inputs whose outputs do."""
        jobs = {}
        for target in _targets(case, settings) if results and layers_of(case) else ():
            inputs = self._departing_inputs(case, settings, results, target)
            if inputs and f"{target} layers" not in results:
                for label, machine in ((f"{target} layers", target), (f"{target} layers here", NATIVE)):
                    jobs[label] = self._layers_job(case, machine, inputs)
        return jobs

    def measure(self, case: Case, settings: PortabilitySettings, results: Mapping[str, JobResult]) -> Analysis:
        """As `Study.measure`; a target that the build does not run on has a row of its own."""
        if not _on_cpu(case):
            return Analysis([self.missing("unavailable", "the build does not run on the processor")])
        for label in ("reference", NATIVE):
            status, detail = _ending(results[label])
            if status != "ok":
                return Analysis([self.missing(status, f"{label}: {detail}")])
        return self.analyse(case, settings, results)

    def analyse(self, case: Case, settings: PortabilitySettings, results: Mapping[str, JobResult]) -> Analysis:
        """Rows for every target, then the worst of them."""
        native = self._against(case, results["reference"], results[NATIVE])
        rows: list[Row] = []
        losses: dict[str, float] = {}
        for target in _targets(case, settings):
            result, at = results[target], condition(target=target)
            status, detail = _ending(result)
            if status != "ok":
                rows.append(Row(self.name, "sqnr_db", at, status=status, detail=detail))
                continue
            found = self._against(case, results["reference"], result)
            rows.extend(self._figures(found, at, self._circumstances(case, results, target)))
            if target != NATIVE:
                losses[target] = _loss(native, found)
                rows.extend(self._beside_native(case, settings, results, target, losses[target]))
        rows.append(self._worst(losses, case.data.n))
        return Analysis(rows)

    def _evaluation(self, case: Case, target: str) -> Job:
        return case.evaluation(GOLDEN, subject=replace(case.subject, machine=_machine(target)))

    def _layers_job(self, case: Case, target: str, inputs: Sequence[int]) -> Job:
        chosen = hashlib.sha256(json.dumps([case.data.inputs_key, *inputs]).encode()).hexdigest()[:16]
        files = {}
        for index, (name, file) in enumerate(case.data.inputs.items()):
            path = case.work / f"portability-{chosen}-{index}.npy"
            np.save(path, np.concatenate([file.rows(at, at + 1) for at in inputs]))
            files[name] = str(path)
        job = looking(replace(case, subject=replace(case.subject, machine=_machine(target))), len(inputs))
        identity, travels = {**job.identity, "inputs": chosen}, (*case.subject.build.files, *files.values())
        return replace(job, params={**job.params, "inputs": files}, identity=identity, files=travels)

    def _departing_inputs(
        self, case: Case, settings: PortabilitySettings, results: Mapping[str, JobResult], target: str
    ) -> list[int]:
        """The first inputs whose outputs are others on a target than here; none where it did not run."""
        if target == NATIVE or any(_ending(results[name])[0] != "ok" for name in (NATIVE, target)):
            return []
        found: list[int] = []
        for start, first, second in _outputs(results[NATIVE], results[target], case.data.n):
            apart = _apart(first, second).reshape(len(first), -1).any(axis=1)
            found += [start + int(index) for index in np.flatnonzero(apart)]
        return found[: few(case, settings.layer_inputs)]

    def _against(self, case: Case, reference: JobResult, result: JobResult) -> FidelityResult:
        return _compare(reference, result, case.data.n).figures

    def _figures(self, found: FidelityResult, at: str, detail: str) -> Iterator[Row]:
        n = found.samples
        yield Row(self.name, "sqnr_db", at, found.sqnr_db, "dB", n=n, detail=detail)
        if found.top1_agreement is not None:
            share = stats.proportion(found.top1_agreement, n, LEVEL)
            yield row(self.name, "top1_agreement", share, "ratio", at, detail=detail)

    def _beside_native(
        self, case: Case, settings: PortabilitySettings, results: Mapping[str, JobResult], target: str, loss: float
    ) -> Iterator[Row]:
        """A target's figures against the same build on this processor, and what they come to."""
        pair = _compare(results[NATIVE], results[target], case.data.n)
        yield from self._figures(pair.figures, condition(against=NATIVE, target=target), "")
        if pair.departs:
            yield from self._layers_until_departing(case, results, target)
        portable = not pair.departs or loss <= settings.max_loss_db
        verdict = (
            "the same, bit for bit" if pair.equal
            else "the same but for the rounding of floats" if not pair.departs
            else "rounded differently in places, as close to the reference" if portable
            else f"different values, {loss:.1f} dB further from the reference"
        )  # fmt: skip
        yield Row(self.name, LOSS, condition(target=target), loss, "dB", n=case.data.n, detail=verdict)
        yield Row(self.name, PORTABLE, condition(target=target), float(portable), n=case.data.n, detail=verdict)

    def _layers_until_departing(self, case: Case, results: Mapping[str, JobResult], target: str) -> Iterator[Row]:
        """The first layer, in the graph's order, whose values differ, and those before it that could not be looked at."""
        ours, theirs = results.get(f"{target} layers here"), results.get(f"{target} layers")
        if ours is None or theirs is None:
            return
        unseen_layers = 0
        for layer in layers_of(case):
            at = condition(against=NATIVE, target=target, tensor=layer.name)
            unseen = next((result for result in (ours, theirs) if not seen(result, layer)), None)
            if unseen is not None:
                unseen_layers += 1
                where = "on this processor" if unseen is ours else f"on {target}"
                yield Row(self.name, "sqnr_db", at, status="unavailable", detail=f"{where}: {reason(unseen, layer)}")
                continue
            pair = _compared(pairs(ours, theirs, layer), exact=layer.scale is not None)
            if pair.departs:
                kind = "observable layer" if unseen_layers else "layer"
                detail = f"{layer.op_type}: the first {kind} that differs"
                detail += f"; {unseen_layers} before it cannot be observed" if unseen_layers else ""
                yield Row(self.name, "sqnr_db", at, pair.figures.sqnr_db, "dB", n=int(ours.data["n"]), detail=detail)
                return

    def _circumstances(self, case: Case, results: Mapping[str, JobResult], target: str) -> str:
        """The target's int8 instructions and runtime version, with a note where that is not this processor's."""
        runtime = case.subject.backend_type.runtime
        probe, native = results[f"{target} probe"], results[f"{NATIVE} probe"]
        if not (probe.ok and native.ok):
            return ""
        there, here = probe.data["versions"], native.data["versions"]
        level = next((name for name in _INT8 if name in probe.data["isa"]), "")
        parts = [level, f"{runtime} {there.get(runtime, '')}"]
        if there.get(runtime) != here.get(runtime):
            parts.append(f"runtime version mismatch: natively {runtime} {here.get(runtime, '')}")
        parts += [f"qemu {there['qemu']}"] if "qemu" in there else []
        return "; ".join(part for part in parts if part)

    def _worst(self, losses: Mapping[str, float], n: int) -> Row:
        if not losses:
            return self.missing("unavailable", "no other instruction set could be emulated here")
        target = max(losses, key=lambda name: losses[name])
        return Row(self.name, LOSS, value=losses[target], unit="dB", n=n, detail=f"the worst, on {target}")


@dataclass(frozen=True)
class _Pair:
    """Two runs' values of one tensor side by side."""

    figures: FidelityResult
    equal: bool
    departs: bool


def _compare(a: JobResult, b: JobResult, n: int) -> _Pair:
    """Compare two evaluations' golden outputs."""
    return _compared((first, second) for _, first, second in _outputs(a, b, n))


def _compared(blocks: Iterable[tuple[Array, Array]], exact: bool = False) -> _Pair:
    """Compare values side by side; ``exact``: whether any difference is a departure."""
    fidelity, equal, departs = Fidelity(), True, False
    for first, second in blocks:
        same = np.array_equal(first, second, equal_nan=True)
        equal &= same
        departs |= not same and (exact or bool(_apart(first, second).any()))
        fidelity.add(first, second)
    return _Pair(fidelity.result(), equal, departs)


def _outputs(a: JobResult, b: JobResult, n: int) -> Iterator[tuple[int, Array, Array]]:
    """Both results' golden outputs, some inputs at a time, with the first one's index."""
    for (start, first), (_, second) in zip(chunks(a, "golden", n), chunks(b, "golden", n), strict=True):
        yield start, first, second


def _apart(first: Array, second: Array) -> Array:
    """Where values differ by more than the rounding of floats."""
    largest = float(np.max(np.abs(first), initial=0.0, where=np.isfinite(first)))
    return ~np.isclose(second, first, rtol=0.0, atol=_ROUNDING * largest, equal_nan=True)


def _loss(native: FidelityResult, there: FidelityResult) -> float:
    """By how many dB the outputs are further from the reference than on this processor."""
    if math.isnan(native.sqnr_db) or math.isnan(there.sqnr_db):
        return math.inf
    return min(native.sqnr_db, _FLOAT_DB) - min(there.sqnr_db, _FLOAT_DB)


def _ending(result: JobResult) -> tuple[JobStatus, str]:
    return result.failed.get("golden", (result.status, result.detail))


def _on_cpu(case: Case) -> bool:
    return case.subject.backend_type().device(case.subject.options).upper() == "CPU"


def _targets(case: Case, settings: PortabilitySettings) -> list[str]:
    """This processor, the targets asked for, and the profile's own where it is emulated."""
    own = case.subject.machine
    emulated = [f"{own['arch']}/{own['cpu']}"] if own["kind"] == "emulated" else []
    return list(dict.fromkeys([NATIVE, *settings.targets, *emulated]))


def _machine(target: str) -> Mapping[str, str]:
    arch, _, cpu = target.partition("/")
    return LOCAL if target == NATIVE else {"kind": "emulated", "arch": arch, "cpu": cpu}
