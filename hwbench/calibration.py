"""Calibrated activation ranges, and the tensors that 8 bits cannot hold: infinite ranges, and ranges set by a mask."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from hwbench.backend import BatchAxes, Feeds, place_batches
from hwbench.model import read_proto
from hwbench.npy import rows

Array = np.ndarray[Any, np.dtype[Any]]
RANGES = "ranges.json"
_BATCH = 16
# More bins give slightly better ranges and take proportionally longer (0.1 s per tensor with this many).
_ENTROPY_BINS = 512
_STEPS = 255
# Beyond this, one step of the range overflows float32, or nearly: masks hold its most negative number, −3.4e38.
_HUGE = 1e30
# Smaller ranges are not examined: masks are −10,000 and below, other inputs of a network's products rarely above 1,000.
_WIDE = 1e3
# "The rest" are values up to this share of the largest. A range is too wide if the rest are at least this share of all values,
# and their standard deviation is below this share of a step.
_REST_SHARE, _REST_MIN, _REST_STEPS = 1 / 16, 0.01, 0.25
_AT_ONCE = 8  # tensors that one session returns for examination


class CalibrationFeeds:
    """Calibration inputs in batches, in the form ONNX Runtime's quantizer reads them."""

    def __init__(self, files: Mapping[str, str], samples: int, model: Path, batch_axes: BatchAxes) -> None:
        self._batch_axes = batch_axes
        self._files = {name: Path(file) for name, file in files.items()}
        self._n = min((len(np.load(file, mmap_mode="r")) for file in self._files.values()), default=0)
        self._n = min(self._n, samples)
        fixed = {
            value.type.tensor_type.shape.dim[axis].dim_value
            for value in read_proto(model).graph.input
            if (axis := batch_axes.get(value.name, 0)) is not None
        }
        free = max(size for size in range(1, _BATCH + 1) if self._n % size == 0)
        self.batch = fixed.pop() if len(fixed) == 1 and 0 not in fixed else free
        self.rewind()

    def batches(self) -> Iterator[Feeds]:
        """Yield whole batches only; a set smaller than one batch is repeated to fill it.

        A graph with a fixed batch takes no smaller ones, and the histograms of entropy and percentile need batches of equal
        size.
        """
        for start in range(0, max(self._n - self.batch + 1, 1 if self._n else 0), self.batch):
            chosen = {name: rows(file, start, min(start + self.batch, self._n)) for name, file in self._files.items()}
            whole = {name: np.resize(value, (self.batch, *value.shape[1:])) for name, value in chosen.items()}
            yield place_batches(whole, self._batch_axes)

    def rewind(self) -> None:
        """Start again from the first batch."""
        self._batches = self.batches()

    def get_next(self) -> Feeds | None:
        """The next batch; None at the end."""
        return next(self._batches, None)


@dataclass(frozen=True)
class Calibrated:
    """Ranges for a static quantizer.

    Attributes:
        file: The ranges, in the form of ONNX Runtime's calibration cache; without the tensors kept in float.
        kept: Tensors kept in float, with the reason.
        nodes: Names of the nodes that read or produce one of them, which must not be quantized.
    """

    file: Path
    kept: Mapping[str, str] = field(default_factory=dict)
    nodes: Sequence[str] = ()


def calibrate(source: Path, feeds: CalibrationFeeds, method: str, percentile: float, *, large: bool) -> Calibrated:
    """Find the range of every activation, and the tensors whose range 8 bits cannot hold.

    In a transformer that masks its attention with −inf, or with the most negative float, the mask sets the range of some
    tensors, and all other values vanish in one int8 step. Such tensors stay in float, whatever the calibration method; a
    histogram of them could not even be computed.

    Args:
        source: The folded model; where tensors are kept in float, its nodes are given unique names, in place.
        feeds: Calibration inputs.
        method: ``"minmax"``, ``"entropy"`` or ``"percentile"``.
        percentile: For ``"percentile"``.
        large: Whether the weights are in a file beside the model.
    """
    from onnxruntime.quantization import save_tensors_data
    from onnxruntime.quantization.calibrate import TensorsData

    file, scratch = source.with_name(RANGES), source.with_name("calibrated.onnx")
    found = _collected(source, scratch, feeds, "minmax", {}, large)
    kept = _unfit(source, feeds, {name: _bounds(data) for name, data in found.items()})
    if method != "minmax":
        options = {"num_bins": _ENTROPY_BINS} if method == "entropy" else {"percentile": percentile}
        found = _collected(source, scratch, feeds, method, options, large, kept)
    fit = {name: data for name, data in found.items() if name not in kept}
    save_tensors_data(TensorsData(found.calibration_method, fit), file)
    return Calibrated(file, kept, _touching(source, kept) if kept else ())


def calibration_method(name: str) -> Any:
    """A profile's calibration method as ONNX Runtime's ``CalibrationMethod``."""
    from onnxruntime.quantization import CalibrationMethod

    return {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }[name]


def _collected(
    source: Path,
    scratch: Path,
    feeds: CalibrationFeeds,
    method: str,
    options: Mapping[str, Any],
    large: bool,
    without: Mapping[str, str] | None = None,
) -> Any:
    """ONNX Runtime's ranges of all tensors that its quantizer may ask for.

    The entropy method defaults to 128 bins for 128 levels, which leaves a single candidate, the range of minmax; ``options``
    sets more bins.
    """
    from onnxruntime.quantization import create_calibrator
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    kind = calibration_method(method)
    operators = sorted({*QLinearOpsRegistry, *QDQRegistry})
    calibrator = create_calibrator(
        source, operators, str(scratch), kind, use_external_data_format=large, extra_options=dict(options)
    )
    if without:
        calibrator.tensors_to_calibrate = set(calibrator.tensors_to_calibrate) - set(without)
    feeds.rewind()
    calibrator.collect_data(feeds)
    return calibrator.compute_data()


def _bounds(data: Any) -> tuple[float, float]:
    low, high = (float(np.asarray(bound).reshape(-1)[0]) for bound in data.range_value)
    return low, high


def _unfit(source: Path, feeds: CalibrationFeeds, ranges: Mapping[str, tuple[float, float]]) -> dict[str, str]:
    """Tensors that 8 bits cannot hold, with the reason, in the order of their names."""
    kept, wide = {}, {}
    for name, (low, high) in ranges.items():
        largest = max(abs(low), abs(high))
        if not math.isfinite(largest):
            kept[name] = f"its calibrated range [{low:.4g}, {high:.4g}] is not finite"
        elif largest > _HUGE:
            kept[name] = f"its calibrated range [{low:.4g}, {high:.4g}] is that of a mask, too wide for int8"
        elif largest > _WIDE:
            wide[name] = (low, high)
    return dict(sorted((kept | _collapsed(source, feeds, wide) | _infinite_weights(source)).items()))


def _infinite_weights(source: Path) -> dict[str, str]:
    """Stored floats that are not finite, such as a causal mask of −inf."""
    stored = ((tensor.name, tensor) for tensor in onnx.load(source).graph.initializer if tensor.data_type == 1)
    return {
        name: "it contains values that are not finite"
        for name, tensor in stored
        if not np.isfinite(numpy_helper.to_array(tensor)).all()
    }


@dataclass
class _Rest:
    """Count, sum and sum of squares of a tensor's values except the largest ones."""

    limit: float
    total: int = 0
    count: int = 0
    sum: float = 0.0
    squares: float = 0.0

    def add(self, values: Array) -> None:
        rest = values[np.abs(values) <= self.limit].astype(np.float64)
        self.total += values.size
        self.count += rest.size
        self.sum += float(rest.sum())
        self.squares += float((rest**2).sum())

    @property
    def deviation(self) -> float:
        mean = self.sum / max(1, self.count)
        return math.sqrt(max(0.0, self.squares / max(1, self.count) - mean**2))


def _collapsed(source: Path, feeds: CalibrationFeeds, wide: Mapping[str, tuple[float, float]]) -> dict[str, str]:
    """Return the tensors with a wide range in which all but the largest values would fall into one int8 step."""
    found, names = {}, sorted(wide)
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        rests = {name: _Rest(max(map(abs, wide[name])) * _REST_SHARE) for name in some}
        for values in _values(source, feeds, some):
            for name in some:
                rests[name].add(values[name])
        for name, rest in rests.items():
            low, high = wide[name]
            step = (high - low) / _STEPS
            if rest.count >= _REST_MIN * rest.total and 0 < rest.deviation < _REST_STEPS * step:
                found[name] = (
                    f"one int8 step of its calibrated range [{low:.4g}, {high:.4g}] is {step:.3g}, in which "
                    f"{rest.count / rest.total:.0%} of its values (standard deviation {rest.deviation:.3g}) would vanish"
                )
    return found


def _values(source: Path, feeds: CalibrationFeeds, names: Sequence[str]) -> Iterator[dict[str, Array]]:
    """Tensors of the model, batch by batch."""
    import onnxruntime as ort

    model = read_proto(source)
    given, outputs = {value.name for value in model.graph.input}, {value.name for value in model.graph.output}
    inner = [name for name in names if name not in given]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner if name not in outputs)
    looked = source.with_name("looked_into.onnx")
    onnx.save(model, looked)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(looked, options, providers=["CPUExecutionProvider"])
    for batch in feeds.batches():
        made = dict(zip(inner, session.run(inner, batch), strict=True)) if inner else {}
        yield {name: made[name] if name in made else batch[name] for name in names}


def _touching(source: Path, tensors: Mapping[str, str]) -> list[str]:
    """Names of the nodes that read or produce one of the tensors; all nodes get unique names for the quantizers."""
    model = read_proto(source)
    counts = Counter(node.name for node in model.graph.node)
    for index, node in enumerate(model.graph.node):
        if not node.name or counts[node.name] > 1:
            node.name = f"{node.name or node.op_type}_in_place_{index}"
    onnx.save(model, source)  # external data stay where they are
    return [node.name for node in model.graph.node if not tensors.keys().isdisjoint([*node.input, *node.output])]
