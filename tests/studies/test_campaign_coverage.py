"""Repeated campaigns, stopping rule included, against the exhaustive truth of one whole int8 build: every bit, every input.

The truth is the study's own exhaustive campaign on a small network that was trained, quantized and deployed as any other. What
each bit does to each single input comes from a plain session on a patched file, and must sum up to what that campaign counts.
Repeated campaigns then draw their faults and blocks of inputs by the study's own code and read the outcomes off the truth
instead of running them.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from campaigns import bare_onnxruntime, patched
from models import make_model
from onnx import helper

from hwbench.build import make_build
from hwbench.faults.sampling import Inputs, Results, Sampler, Stratified, Uniform
from hwbench.faults.space import FaultSpace
from hwbench.preparation import prepare
from hwbench.spec import make_spec
from hwbench.studies import Subject
from hwbench.studies.deployed import deployed
from hwbench.studies.fault_draws import drawn
from hwbench.studies.faults import FaultsStudy
from hwbench.studies.faults_settings import FaultsSettings
from hwbench.targets import open_target

INPUTS, LEVEL = 40, 0.95
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Truth:
    """Outcomes of every (fault, input) pair.

    Attributes:
        space: All stored bits.
        changed, due: For each stratum (tensor, bit) an array ``[elements, inputs]``.
        exhaustive: n_changed and n_due by (tensor, element, bit), from the study's exhaustive campaign.
        row: What that campaign says of the SDC rate.
    """

    space: FaultSpace
    changed: dict[tuple[str, int], Array]
    due: dict[tuple[str, int], Array]
    exhaustive: dict[tuple[str, int, int], tuple[int, int]]
    row: Any

    @property
    def sdc(self) -> float:
        return sum(part.sum() for part in self.changed.values()) / (self.space.size * INPUTS)

    @property
    def loss(self) -> float:
        return sum(part.sum() for part in self.due.values()) / (self.space.size * INPUTS)

    def campaign(self, sampler: Sampler, seed: int) -> tuple[Results, list[int | None]]:
        """All results of one campaign, and how many inputs the trials of each stage had."""
        order = np.random.default_rng(seed).permutation(INPUTS)
        results, done, per_trial = Results.none(), {True: Counter[Any](), False: Counter[Any]()}, []
        strata, columns = [], [np.empty((3, 0), dtype=int)]
        while (wanted := sampler.next(results)) is not None:
            per_trial.append(wanted.inputs)
            before = done[wanted.inputs is None]
            trials = drawn(self.space, wanted, before, seed, INPUTS, ("flip", 1))
            before.update(wanted.trials)
            counts = np.empty((3, trials.height), dtype=int)
            fields = trials.select("tensor", "bit", "element", "first", "last")
            for at, (tensor, bit, element, first, last) in enumerate(fields.iter_rows()):
                inputs = order[first:last]
                found = self.changed[tensor, bit][element, inputs], self.due[tensor, bit][element, inputs]
                counts[:, at] = len(inputs), found[0].sum(), found[1].sum()
                strata.append((tensor, bit))
            columns.append(counts)
            results = Results(strata, *np.concatenate(columns, axis=1))
        return results, per_trial


def network() -> tuple[onnx.ModelProto, Array, Array]:
    """A trained classifier of 8×8 digits averaged to 4×4, with evaluation images and labels."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    digits = load_digits()
    x = digits.images.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16).astype(np.float32) / 16
    trained = MLPClassifier((4,), solver="lbfgs", max_iter=5000, tol=0.01, alpha=1.0, random_state=0)
    trained.fit(x[INPUTS:], digits.target[INPUTS:])
    (w1, w2), (b1, b2) = trained.coefs_, trained.intercepts_
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "hidden"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], "classifier"),
    ]
    weights = {name: value.astype(np.float32) for name, value in {"w1": w1, "b1": b1, "w2": w2, "b2": b2}.items()}
    model = make_model(nodes, {"x": (1, ["N", 16])}, {"y": (1, ["N", 10])}, weights)
    return model, x[:INPUTS], digits.target[:INPUTS]


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> Truth:
    folder = tmp_path_factory.mktemp("truth")
    model, x, y = network()
    onnx.save(model, folder / "digits.onnx")
    np.savez(folder / "digits.npz", x=x, y=y)
    spec = make_spec(
        "faults",
        model=str(folder / "digits.onnx"),
        data={"source": str(folder / "digits.npz")},
        profiles=["cpu-int8"],
        studies=["faults"],
        seed=0,
        settings={},
    )
    target = open_target("local")
    with prepare(spec) as prepared:
        (profile,) = prepared.profiles
        build = make_build(prepared.recipe(profile, prepared.model), folder / "build", target.run)
        subject = Subject(build, profile.backend, profile.full_options)
        case = prepared.case(profile, subject, subject)
        study, settings, results = FaultsStudy(), FaultsSettings(sampler="exhaustive", shard=5000), {}
        jobs = study.plan(case, settings)
        while jobs:
            results |= {label: target.run(job, folder / job.key) for label, job in jobs.items()}
            jobs = study.extend(case, settings, results)
        analysis = study.measure(case, settings, results)
    trials = analysis.parts["trials"].select("tensor", "element", "bit", "n_changed", "n_due").iter_rows()
    space = deployed(build.model).part("stored")
    changed, due = _pairs(onnx.load(build.model), x, space)
    row = next(row for row in analysis.rows if (row.metric, row.condition) == ("sdc_rate", "{}"))
    return Truth(space, changed, due, {(name, at, bit): (c, d) for name, at, bit, c, d in trials}, row)


def _pairs(model: onnx.ModelProto, x: Array, space: FaultSpace) -> tuple[dict[Any, Array], dict[Any, Array]]:
    """Outcomes of every fault on every input, by a plain session for each fault."""
    golden = bare_onnxruntime(model, {"x": x})
    assert golden is not None
    changed: dict[Any, Array] = {}
    due: dict[Any, Array] = {}
    for (name, bit), elements in space.strata():
        faults = [(name, element, bit, "flip", 1, 0) for element in range(elements)]
        made = [bare_onnxruntime(patched(model, fault), {"x": x}) for fault in faults]
        outputs = np.array([np.full_like(golden, np.nan) if one is None else one for one in made])
        lost = ~np.isfinite(outputs).all(axis=2)
        due[name, bit] = lost
        changed[name, bit] = ~lost & (outputs.argmax(axis=2) != golden.argmax(axis=1))
    return changed, due


def test_the_truth_is_what_the_exhaustive_campaign_says(truth):
    assert 1500 < truth.space.size == len(truth.exhaustive) < 4000
    for (tensor, bit), part in truth.changed.items():
        for element, pairs in enumerate(part):
            counts = int(pairs.sum()), int(truth.due[tensor, bit][element].sum())
            assert truth.exhaustive[tensor, element, bit] == counts
    assert 0.01 < truth.sdc < 0.5
    assert (truth.row.value, truth.row.ci_low, truth.row.ci_high) == pytest.approx([truth.sdc] * 3)
    print(f"{truth.space.size} bits, {INPUTS} inputs: SDC {truth.sdc:.4f}, DUE {truth.loss:.4f}")


GOALS: dict[str, tuple[dict[str, Any], int]] = {
    "half-width, inputs chosen": ({"half_width": 0.03, "inputs": Inputs(INPUTS)}, 120),
    "half-width, all inputs": ({"half_width": 0.02}, 60),
    "200 trials of 7 inputs": ({"n": 200, "inputs": Inputs(INPUTS, per_trial=7)}, 120),
}


@pytest.mark.parametrize("kind", [Uniform, Stratified])
@pytest.mark.parametrize("goal", list(GOALS))
def test_repeated_campaigns_cover_the_truth_at_their_level(truth, kind, goal):
    """Coverage is at least nominal: a method that covers at exactly 95 % falls below the bound once in a thousand times."""
    settings, campaigns = GOALS[goal]
    strata = list(truth.space.strata())
    tensors = {name: [stratum for stratum, _ in strata if stratum[0] == name] for (name, _), _ in strata}
    rates = {name: np.concatenate([truth.changed[stratum] for stratum in ids]).mean() for name, ids in tensors.items()}
    found, covered, chosen = [], [], set()
    for seed in range(campaigns):
        sampler = kind(strata, seed=seed, level=LEVEL, **settings)
        results, per_trial = truth.campaign(sampler, seed)
        estimate = sampler.estimate(results, tensors)
        chosen.add(per_trial[-1])
        found.append(estimate.overall)
        for name, figures in estimate.groups.items():
            covered.append(figures.sdc.low - 1e-9 <= rates[name] <= figures.sdc.high + 1e-9)
    sdc = [figures.sdc for figures in found]
    coverage = np.mean([figure.low <= truth.sdc <= figure.high for figure in sdc])
    coverage_due = np.mean([figures.due.low <= truth.loss <= figures.due.high for figures in found])
    error = np.mean([figure.value for figure in sdc]) - truth.sdc
    print(
        f"{kind.__name__}, {goal}: coverage {coverage:.3f}, by tensor {np.mean(covered):.3f}; mean error {error:+.5f}"
    )
    least = LEVEL - 3.1 * math.sqrt(LEVEL * (1 - LEVEL) / campaigns)
    assert min(coverage, coverage_due) >= least
    assert np.mean(covered) >= LEVEL
    assert abs(error) < 4 * np.std([figure.value for figure in sdc]) / math.sqrt(campaigns)
    assert all(figure.high - figure.low > 0 for figure in sdc)
    assert all(figure.level == LEVEL for figure in sdc)
    if "half_width" in settings:
        assert all(figure.high - figure.low <= 2 * settings["half_width"] for figure in sdc)
    assert chosen <= ({1, 2, 4} if goal.endswith("chosen") else {None, 7})
