"""What a fault costs: a campaign's CPU seconds per trial against one forward pass of the whole build over the same inputs.

EfficientNet-Lite0 with random weights, 16 inputs to which it gives answers of their own, 1,000 bit flips uniform over the
stored bits of its weights, ONNX Runtime on one thread. The int8 weights have 7 bits, so that they saturate on no processor. A
campaign is all that the study does before it looks at its trials: drawing faults and cutting the graph here, and the worker
from its start to its end, with its imports, compiling, golden passes and checks; one worker, because there is one thread to
fill. The trials that are then run again by a full rebuild are apart. The forward pass is that of the batch size, 1 or 16,
which takes less.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
import onnx
import pytest
from hwbench_onnxruntime import OnnxRuntimeBackend
from models import static_int8
from networks import efficientnet_lite0, telling_apart

from hwbench.backend import TensorSpec
from hwbench.build import Build
from hwbench.dataset import DataSpec, materialise, open_source
from hwbench.metrics import TASKS
from hwbench.model import Model
from hwbench.profile import load_profile
from hwbench.studies import Case, Subject
from hwbench.studies.faults import FaultsSettings, FaultsStudy, deployed
from hwbench.targets import open_target
from hwbench.worker.protocol import Job, JobResult

pytestmark = pytest.mark.slow
TRIALS, INPUTS, SHAPE, CLASSES = 1000, 16, (3, 224, 224), 1000
OPTIONS = {"intra_op_threads": 1}
# Build to how many times fewer CPU seconds a trial takes than a forward pass, with AVX2 and with VNNI alike. Measured on quiet
# machines: 8.2 (fp32) and 7.8 (int8) on a Xeon with AMX, 7.3 and 7.0 on a Zen 5, 8.5 for int8 with AVX2 (Zen 3); 6.8 (fp32) on
# the Zen 5 beside other tests. What is asserted leaves room for neighbors.
FEWER = {"fp32": 6.0, "int8": 6.0}
BUILDS: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "fp32": lambda model: model,
    "int8": lambda model: static_int8(model, samples=4, reduce_range=True),
}


def cpu_seconds() -> float:
    """What this process and those of its children that have ended took."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def make_case(folder: Path, compute: str) -> Case:
    """A build of the network as it stands, with random images."""
    images = np.random.default_rng(0).standard_normal((INPUTS, *SHAPE)).astype(np.float32)
    onnx.save(BUILDS[compute](telling_apart(efficientnet_lite0(), images)), folder / "model.onnx")
    np.savez(folder / "data.npz", image=images)
    image, logits = TensorSpec("image", "float32", (None, *SHAPE)), TensorSpec("logits", "float32", (None, CLASSES))
    source = open_source(DataSpec(source=str(folder / "data.npz")))
    manifest = {"sha256": "0", "contents": {"compute": {compute: 1}, "bytes": 1}, "asked": {}}
    subject = Subject(Build("build", folder, manifest), "onnxruntime", OPTIONS)
    return Case(
        profile=load_profile("cpu-fp32"),
        subject=subject,
        reference=subject,
        model=Model(folder / "model.onnx", "0", (image,), (logits,), 1, 1, 1),
        data=materialise(source, [image], folder, task="classification"),
        metrics=TASKS["classification"],
        output="logits",
        classifies=True,
        batch=INPUTS,
        seed=0,
        timeout_s=600.0,
        work=folder,
    )


class ForwardPass:
    """The whole build on all inputs, in batches of 1 and of 16."""

    def __init__(self, case: Case) -> None:
        self._session = OnnxRuntimeBackend().compile(case.subject.build.model, OPTIONS)
        self._images = case.data.inputs["image"].rows(0, INPUTS)
        self._taken: dict[int, list[float]] = {1: [], INPUTS: []}
        self.measure()  # the first runs make room
        self._taken = {batch: [] for batch in self._taken}

    def measure(self, times: int = 3) -> None:
        """Time some more passes."""
        for _ in range(times):
            for batch, taken in self._taken.items():
                start = process_time()
                for first in range(0, INPUTS, batch):
                    self._session.run({"image": self._images[first : first + batch]})
                taken.append(process_time() - start)

    @property
    def seconds(self) -> dict[int, float]:
        """Batch size to CPU seconds of a pass over all inputs."""
        return {batch: median(taken) for batch, taken in self._taken.items()}


class Measured:
    """A campaign on real workers, the forward passes timed between its jobs, so that both meet the same neighbours."""

    def __init__(self, case: Case, folder: Path, settings: FaultsSettings) -> None:
        deployed.cache_clear()
        self._folder, self._forward, self._target = folder, ForwardPass(case), open_target("local")
        self.results: dict[str, JobResult] = {}
        study, start = FaultsStudy(), cpu_seconds()
        jobs = study.plan(case, settings)
        planned = cpu_seconds() - start
        self.campaign = planned + self._carry_out(jobs)
        self.checks = [result.data["checks"] for result in self.results.values()]
        self.verification = self._carry_out(study.extend(case, settings, self.results))
        self.analysis = study.measure(case, settings, self.results)
        self.forward = self._forward.seconds
        self.ratio = min(self.forward.values()) / (self.campaign / TRIALS)

    def _carry_out(self, jobs: Mapping[str, Job]) -> float:
        taken = 0.0
        for label, job in jobs.items():
            self._forward.measure()
            start = cpu_seconds()
            self.results[label] = self._target.run(job, self._folder / job.key)
            taken += cpu_seconds() - start
            assert self.results[label].ok, self.results[label].detail
            self._forward.measure()
        return taken


@pytest.mark.parametrize("build", FEWER)
def test_a_trial_takes_a_fraction_of_a_forward_pass(benchmark, tmp_path, build):
    case = make_case(tmp_path, build)
    settings = FaultsSettings(trials=TRIALS, roles=("weight",), shard=TRIALS)
    made = benchmark.pedantic(Measured, args=(case, tmp_path / "first", settings), rounds=1)
    ratios = [made.ratio]
    if made.ratio < FEWER[build]:  # neighbours that come and go move it by some percent
        ratios.append(Measured(replace(case, work=tmp_path / "again"), tmp_path / "second", settings).ratio)

    figures = {"campaign_s": made.campaign, "verification_s": made.verification, "forward_s": made.forward}
    benchmark.extra_info |= {"ratios": ratios, **figures}
    print(f"{build}: {ratios} times fewer CPU seconds than a forward pass; {figures}")
    for check in made.checks:
        assert (check["segmented"], check["rebuilt"], check["golden_restored"]) == (True, 0, True)
        assert build == "fp32" or (check["golden_equal"], check["lane_max_abs_diff"]) == (True, 0)
    assert "verify" in made.results
    assert made.analysis.parts["trials"].height == TRIALS
    rates = [row for row in made.analysis.rows if row.metric == "sdc_rate" and row.condition == "{}"]
    assert [row.status for row in rates] == ["ok"]
    print(f"{build}: SDC rate {rates[0].value:.4f}")
    assert rates[0].value > 0
    assert max(ratios) >= FEWER[build]
