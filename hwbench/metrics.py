"""What counts as right: the metrics of each task, and how close two builds' outputs are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

import numpy as np

from hwbench.callables import foreign_code, is_reference, load_callable
from hwbench.errors import DataError, UnknownNameError
from hwbench.npy import Array, TensorLike
from hwbench.topk import class_scores, hits, topk

Task = Literal["classification", "regression", "embedding"]
Number = TypeVar("Number", float, Array)
Score = Callable[[Array, Array], Array]
Link = Callable[[Any, Any], Any]


def _identity(mean: Array, _spread: Array) -> Array:
    return mean


@dataclass(frozen=True)
class Metric:
    """One figure of merit: a value per sample, and a figure from their mean.

    Attributes:
        name: Its name in the table.
        unit: Its unit; empty where it is in the labels' own.
        higher_is_better: Its direction.
        proportion: Whether a sample's value is 0 or 1, so that the aggregate is a proportion.
        score: Outputs ``[n, ...]`` and labels ``[n, ...]`` to values ``[n]``.
        link: Mean of the samples' values and mean of their labels' spread (`label_spread`) to the figure, element by
            element and monotone in the first.
        needs_spread: Whether the figure depends on the labels' spread.
        k: For metrics that need only the best k classes, how many; else 0.
        by_user: Whether it is the user's own, of which only the values show whether they are all 0 or 1.
    """

    name: str
    unit: str
    higher_is_better: bool
    proportion: bool
    score: Score
    link: Link = _identity
    needs_spread: bool = False
    k: int = 0
    by_user: bool = False

    @property
    def is_mean(self) -> bool:
        """Whether the figure is the mean of the samples' values."""
        return self.link is _identity

    def is_proportion(self, *values: Array) -> bool:
        """Whether the figure is a proportion: declared, or a metric of the user's own whose values are all 0 or 1."""
        return self.proportion or (self.by_user and all(np.isin(each, (0.0, 1.0)).all() for each in values))

    def per_sample(self, outputs: Array, labels: Array) -> Array:
        """Each sample's value; samples may come in any number of chunks.

        Args:
            outputs: The model's output, ``[n, ...]``.
            labels: What it should be, ``[n, ...]``.

        Returns:
            float64 ``[n]``.

        Raises:
            DataError: Outputs and labels do not fit each other or the metric.
        """
        if len(outputs) != len(labels):
            raise DataError(f"{self.name}: {len(outputs)} outputs for {len(labels)} labels")
        return self.score(outputs, labels)

    def from_topk(self, indices: Array, labels: Array) -> Array:
        """Each sample's value from its best classes alone.

        Args:
            indices: ``[n, m]`` as `hwbench.topk.topk` gives, m ≥ min(`k`, classes).
            labels: ``[n]`` class numbers.

        Returns:
            float64 ``[n]``.

        Raises:
            ValueError: The metric needs more than the best classes.
        """
        if not self.k:
            raise ValueError(f"{self.name} needs the whole outputs")
        return hits(indices, class_labels(labels), self.k).astype(np.float64)

    def aggregate(self, values: Array, labels: Array | None = None) -> float:
        """The figure for a set of samples, NaN for none.

        Args:
            values: ``[n]`` as `per_sample` gives.
            labels: The same samples' labels; only R² needs them.
        """
        if not len(values):
            return math.nan
        if not self.needs_spread:
            return float(self.link(np.mean(values), np.float64(0)))
        if labels is None or len(labels) != len(values):
            raise DataError(f"{self.name} needs the labels of the samples it is aggregated over")
        return float(self.link(np.mean(values), np.mean(label_spread(labels))))

    def spread(self, labels: Array) -> Array | None:
        """The labels' spread, where the figure depends on it."""
        return label_spread(labels) if self.needs_spread else None

    def worsening(self, reference: Number, value: Number) -> Number:
        """How much worse ``value`` is than ``reference``, in the metric's unit; negative where it is better."""
        return reference - value if self.higher_is_better else value - reference


def class_labels(labels: Array) -> Array:
    """Labels as ``[n]`` class numbers.

    Raises:
        DataError: They are of another shape or type.
    """
    flat = labels.reshape(len(labels)) if labels.size == len(labels) else labels
    if flat.ndim != 1 or flat.dtype.kind not in "iub":
        raise DataError(f"classification needs one integer label a sample, not {labels.dtype} {list(labels.shape)}")
    return flat


def _flat(values: Array) -> Array:
    """Float64 ``[n, m]``."""
    return values.astype(np.float64).reshape(len(values), math.prod(values.shape[1:]))


def _within_top(k: int) -> Score:
    def score(outputs: Array, labels: Array) -> Array:
        return hits(topk(outputs, k), class_labels(labels), k).astype(np.float64)

    return score


def _errors(outputs: Array, labels: Array) -> Array:
    """Prediction minus label, float64 ``[n, values]``; infinite where the output is not finite."""
    if outputs.size != labels.size:
        raise DataError(
            f"outputs {list(outputs.shape)} and labels {list(labels.shape)} hold different numbers of values"
        )
    predicted = _flat(outputs)
    return np.where(np.isfinite(predicted), predicted - _flat(labels), np.inf)


def _squared(outputs: Array, labels: Array) -> Array:
    with np.errstate(over="ignore"):
        values: Array = np.mean(_errors(outputs, labels) ** 2, axis=1)
    return values


def _absolute(outputs: Array, labels: Array) -> Array:
    values: Array = np.mean(np.abs(_errors(outputs, labels)), axis=1)
    return values


def label_spread(labels: Array) -> Array:
    """Squared distance of each sample's label from the labels' mean, averaged over its values: float64 ``[n]``."""
    y = _flat(labels)
    values: Array = np.mean((y - y.mean(axis=0)) ** 2, axis=1)
    return values


def _root(mean: Array, _spread: Array) -> Array:
    values: Array = np.sqrt(mean)
    return values


def _determination(mean: Array, spread: Array) -> Array:
    """R² = 1 − Σ(y−ŷ)² / Σ(y−ȳ)², summed over all outputs. NaN where the labels do not vary."""
    varying = np.where(spread > 0, spread, np.nan)
    values: Array = 1.0 - mean / varying
    return values


def cosine(outputs: Array, references: Array) -> Array:
    """Cosine of the angle between each sample's output and its reference.

    Args:
        outputs: ``[n, ...]``.
        references: The same shape.

    Returns:
        float64 ``[n]``: 1 for two zero vectors; 0 where only one is zero or a value is not finite.

    Raises:
        DataError: Shapes differ.
    """
    if outputs.shape != references.shape:
        raise DataError(f"outputs {list(outputs.shape)} and references {list(references.shape)} differ in shape")
    a, a_norm, a_finite = _unit(outputs)
    b, b_norm, b_finite = _unit(references)
    both_zero = (a_norm == 0) & (b_norm == 0)
    angle = np.clip(np.sum(a * b, axis=1), -1.0, 1.0)
    return np.where(a_finite & b_finite, np.where(both_zero, 1.0, angle), 0.0)


def _unit(values: Array) -> tuple[Array, Array, Array]:
    """Unit vectors ``[n, m]``, norms up to scale ``[n]`` and whether all was finite ``[n]``."""
    flat = _flat(values)
    finite = np.asarray(np.isfinite(flat).all(axis=1))
    flat = np.where(finite[:, None], flat, 0.0)
    largest = np.max(np.abs(flat), axis=1, initial=0.0)
    flat = (
        flat / np.where(largest > 0, largest, 1.0)[:, None]
    )  # first to size 1: squares of large values would overflow
    norm = np.linalg.norm(flat, axis=1)
    return flat / np.where(norm > 0, norm, 1.0)[:, None], norm, finite


TOP1 = Metric("top1", "ratio", True, True, _within_top(1), k=1)
TOP5 = Metric("top5", "ratio", True, True, _within_top(5), k=5)
RMSE = Metric("rmse", "", False, False, _squared, _root)
MAE = Metric("mae", "", False, False, _absolute)
R2 = Metric("r2", "ratio", True, False, _squared, _determination, needs_spread=True)
COSINE = Metric("cosine", "ratio", True, False, cosine)

TASKS: dict[str, tuple[Metric, ...]] = {
    "classification": (TOP1, TOP5),
    "regression": (RMSE, MAE, R2),
    "embedding": (COSINE,),
}


def custom_metric(reference: str) -> Metric:
    """A metric named as ``module:callable``.

    It is called as ``fn(outputs, labels)`` and returns one number a sample, so that intervals can be computed; a
    ``higher_is_better`` attribute (default True) gives its direction.

    Raises:
        InputError: It cannot be loaded.
    """
    function = load_callable(reference)

    def score(outputs: Array, labels: Array) -> Array:
        with foreign_code(f"the metric {reference!r}", DataError):
            values = np.asarray(function(outputs, labels))
        if values.shape != (len(outputs),) or values.dtype.kind not in "iufb":
            raise DataError(
                f"the metric {reference!r} returned {values.dtype} of shape {list(values.shape)}; "
                f"it must return one number a sample, shape [{len(outputs)}]"
            )
        return values.astype(np.float64)

    with foreign_code(f"reading higher_is_better of {reference!r}"):
        name, higher = reference.partition(":")[2], bool(getattr(function, "higher_is_better", True))
    return Metric(name, "", higher, False, score, by_user=True)


def resolve_task(
    task: str | None, metric: str | None, output: TensorLike, labels_dtype: np.dtype[Any] | None
) -> list[Metric]:
    """The metrics to report, the primary one (which limits are held against) first.

    Args:
        task: ``"classification"``, ``"regression"``, ``"embedding"``, or None to tell by output and labels.
        metric: The primary metric: one of the task's, or ``module:callable``; None for the task's first.
        output: The model's output that is judged.
        labels_dtype: Element type of the labels; None where there are none.

    Raises:
        UnknownNameError: No such task or metric.
        DataError: The output does not fit the task, or the task cannot be told.
    """
    if metric is not None and is_reference(metric):
        return [custom_metric(metric)]
    name = task if task is not None else _infer_task(output, labels_dtype)
    if name not in TASKS:
        raise UnknownNameError("task", name, TASKS)
    metrics = [one for one in TASKS[name] if one is not TOP5 or _classes(output) > 5]
    if name == "classification" and not classifies(output):
        raise DataError(
            f"output {output.name!r} has shape {list(output.shape)}, and classification needs [n, classes] with 2 "
            "or more classes: give one column per class, or name your own metric as module:callable"
        )
    if metric is None:
        return metrics
    if metric not in {one.name for one in metrics}:
        raise UnknownNameError(f"metric of the task {name}", metric, [one.name for one in metrics])
    return sorted(metrics, key=lambda one: one.name != metric)


def _infer_task(output: TensorLike, labels_dtype: np.dtype[Any] | None) -> Task:
    if labels_dtype is not None and labels_dtype.kind == "f":
        return "regression"
    if classifies(output):
        return "classification"
    if labels_dtype is None:
        return "regression"
    raise DataError(
        f"the task cannot be told: labels are {labels_dtype} and output {output.name!r} has shape "
        f"{list(output.shape)}, not [n, classes] with 2 or more classes; state the task, or name your own metric as "
        "module:callable"
    )


def _classes(output: TensorLike) -> int:
    """How many classes the output scores; 0 where it does not say."""
    return output.shape[1] or 0 if len(output.shape) >= 2 else 0


def classifies(output: TensorLike) -> bool:
    """Whether an output may be a classifier's: ``[n, classes]`` with 2 or more classes."""
    return len(output.shape) >= 2 and output.shape[1] != 1 and all(size == 1 for size in output.shape[2:])


@dataclass(frozen=True)
class FidelityResult:
    """How close outputs are to the reference's; errors are over the pairs in which both values are finite.

    Attributes:
        samples: How many samples were compared.
        elements: How many pairs of values.
        non_finite: Pairs in which a value is NaN or infinite.
        max_abs_error: Largest absolute error; NaN without a finite pair.
        mean_abs_error: Mean absolute error; NaN without a finite pair.
        sqnr_db: Signal to quantization noise, 10·log₁₀(Σr² / Σ(r−o)²), in dB; infinite where all is equal.
        cosine: Mean over samples of the cosine between reference and output; 0 for a sample without a finite pair. Where a
            sample is a single number, whose cosine tells its sign alone, that between the vectors of all samples.
        top1_agreement: Samples whose best class is the same; None where the output is not a classifier's.
    """

    samples: int
    elements: int
    non_finite: int
    max_abs_error: float
    mean_abs_error: float
    sqnr_db: float
    cosine: float
    top1_agreement: int | None


class Fidelity:
    """Compares outputs with the reference's, chunk by chunk, in constant memory."""

    def __init__(self) -> None:
        self._samples = self._elements = self._non_finite = 0
        self._signal = self._noise = self._absolute = self._cosine = 0.0
        self._product = self._power = 0.0
        self._largest = 0.0
        self._agreement: int | None = None

    def add(self, reference: Array, output: Array) -> None:
        """Compare one chunk.

        Args:
            reference: The reference's output, ``[n, ...]``.
            output: The build's output on the same inputs, the same shape.

        Raises:
            DataError: Shapes differ.
        """
        if reference.shape != output.shape:
            raise DataError(
                f"the reference's output has shape {list(reference.shape)}, the build's {list(output.shape)}"
            )
        wanted, got = _flat(reference), _flat(output)
        finite = np.isfinite(wanted) & np.isfinite(got)
        wanted, got = np.where(finite, wanted, 0.0), np.where(finite, got, 0.0)
        error = np.abs(got - wanted)
        self._samples += len(reference)
        self._elements += reference.size
        self._non_finite += int(finite.size - np.count_nonzero(finite))
        self._largest = max(self._largest, float(np.max(error, initial=0.0)))
        self._absolute += float(np.sum(error))
        with np.errstate(over="ignore"):
            self._signal += float(np.sum(wanted**2))
            self._noise += float(np.sum(error**2))
            self._product += float(np.sum(wanted * got))
            self._power += float(np.sum(got**2))
        self._cosine += float(np.sum(cosine(got, wanted)[finite.any(axis=1)]))
        if reference.ndim >= 2 and reference.shape[1] >= 2 and math.prod(reference.shape[2:]) == 1:
            best, ours = topk(class_scores(reference), 1)[:, 0], topk(class_scores(output), 1)[:, 0]
            self._agreement = (self._agreement or 0) + int(np.count_nonzero((best == ours) & (best >= 0)))

    def state(self) -> dict[str, Any]:
        """The sums over all chunks so far, as a JSON object: all that a worker brings back of what it compared."""
        return dict(vars(self))

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Self:
        """The comparison whose `state` this is."""
        fidelity = cls()
        vars(fidelity).update(state)
        return fidelity

    def result(self) -> FidelityResult:
        """The figures over all chunks so far."""
        finite = self._elements - self._non_finite
        return FidelityResult(
            samples=self._samples,
            elements=self._elements,
            non_finite=self._non_finite,
            max_abs_error=self._largest if finite else math.nan,
            mean_abs_error=self._absolute / finite if finite else math.nan,
            sqnr_db=self._sqnr() if finite else math.nan,
            cosine=self._angle() if self._samples else math.nan,
            top1_agreement=self._agreement,
        )

    def _angle(self) -> float:
        if self._elements != self._samples:
            return self._cosine / self._samples
        if not self._signal or not self._power:
            return float(self._signal == self._power)
        return float(np.clip(self._product / math.sqrt(self._signal) / math.sqrt(self._power), -1.0, 1.0))

    def _sqnr(self) -> float:
        if self._noise == 0:
            return math.inf
        ratio = self._signal / self._noise
        return 10 * math.log10(ratio) if ratio > 0 else -math.inf
