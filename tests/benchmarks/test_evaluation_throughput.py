"""Evaluation has at least 0.9 of the throughput of a bare loop over the runtime, at the same batch size.

Both run whole batches in fresh processes, in turns, and are compared by the CPU seconds of their loops, one thread each, which
leaves out what neighbors take. The bare loop holds its inputs and outputs in memory; evaluation reads files, ranks classes and
writes files.
"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import efficientnet_lite0, resnet20
from scipy.stats import t

pytestmark = pytest.mark.slow
LEAST, PAIRS, BATCH, LEVEL = 0.9, 5, 64, 0.95

BARE = """
import sys, time
import numpy as np
import onnxruntime as ort
folder, batch = sys.argv[1], int(sys.argv[2])
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"])
x = np.load(f"{folder}/x.npy")
start = time.process_time()
kept = [session.run(None, {"image": x[first : first + batch]})[0] for first in range(0, len(x), batch)]
print(time.process_time() - start)
"""

EVALUATION = """
import sys, time
from pathlib import Path
from hwbench.worker.protocol import JobContext
from hwbench.worker.tasks import evaluate
folder, batch, keep, n = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])

class Clocked(JobContext):
    def start(self, variant):
        super().start(variant)
        clock.append(time.process_time())

    def done(self, variant, data):
        clock.append(time.process_time())

clock = []
params = {"model": f"{folder}/model.onnx", "inputs": {"image": f"{folder}/x.npy"}, "n": n, "batch": batch, "keep": keep}
params |= {"outputs": ["logits"], "variants": {"golden": {"kind": "golden"}}}
options = {"intra_op_threads": 1, "allow_spinning": False}
evaluate.run(Clocked(Path(folder), params, "hwbench_onnxruntime:OnnxRuntimeBackend", options, ("golden",)))
print(clock[1] - clock[0])
"""

NETWORKS = {"resnet20": (resnet20, (3, 32, 32), 1024), "efficientnet-lite0": (efficientnet_lite0, (3, 224, 224), 128)}


def seconds(program: str, *arguments: object) -> float:
    """The CPU seconds that a program prints."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    path = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    return float(subprocess.run(command, env=path, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("keep", ["full", "top"])
@pytest.mark.parametrize("network", NETWORKS)
def test_evaluation_is_about_as_fast_as_a_bare_loop(benchmark, tmp_path: Path, network: str, keep: str):
    make, shape, n = NETWORKS[network]
    onnx.save(make(), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((n, *shape)).astype(np.float32))

    def pair(number: int) -> float:
        programs = [(BARE, tmp_path, BATCH), (EVALUATION, tmp_path, BATCH, keep, n)]
        order = programs if number % 2 else programs[::-1]
        taken = {program: seconds(program, *arguments) for program, *arguments in order}
        return math.log(taken[BARE] / taken[EVALUATION])

    ratios = benchmark.pedantic(lambda: [pair(number) for number in range(PAIRS)], rounds=1)
    mean, error = statistics.mean(ratios), statistics.stdev(ratios) / PAIRS**0.5
    half = t.ppf((1 + LEVEL) / 2, PAIRS - 1) * error
    ratio, low, high = (math.exp(value) for value in (mean, mean - half, mean + half))
    benchmark.extra_info |= {"ratio": ratio, "low": low, "high": high}
    print(f"{network}, {keep}: {ratio:.3f} of a bare loop's throughput [{low:.3f}, {high:.3f}]")
    assert high >= LEAST  # a single slow process of ten moves the mean by some percent; the interval allows for it
