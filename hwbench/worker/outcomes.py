"""Counts, for every trial, what became of each input: masked, silently wrong (SDC) or visibly so (DUE)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hwbench.backend import Array
from hwbench.topk import class_scores, topk

# n_inputs: inputs that count; one does not if its golden output is not finite, which no fault can make worse. n_changed: finite
# outputs whose answer changed; n_due: outputs that are not finite, or none at all; n_top5: finite, and the golden answer is no
# longer among the five best; n_confidence_10, _20: finite, and the golden answer lost more than 10 or 20 points of confidence;
# n_lost: right before, wrong now; n_won: the reverse.
COLUMNS = ("n_inputs", "n_changed", "n_due", "n_top5", "n_confidence_10", "n_confidence_20", "n_lost", "n_won")
_AT = {name: place for place, name in enumerate(COLUMNS)}
# Class probabilities below this count as this, so that one hopeless input cannot outweigh all others in a loss.
LEAST_PROBABILITY = 1e-7
MAX_LOSS = -float(np.log(LEAST_PROBABILITY))


class Outcomes:
    """The counts of a shard of trials.

    Args:
        trials: How many trials.
        outcome: ``{"kind": "top1"}`` or ``{"kind": "tolerance", "tolerance": t}``: the answer is the best class, or the output
            within an absolute tolerance.
        labels: ``[n]`` class numbers, or what the outputs should be; None without labels.
        only_correct: Whether only inputs count that are right when fault-free; needs labels.

    Attributes:
        counts: int64 ``[trials, columns]``.
        max_abs_error: Largest absolute error, infinite where an output was not finite, ``[trials]``.
        loss_change: What a trial adds to the loss, summed over the inputs that count and whose output is finite, ``[trials]``:
            cross-entropy in nats, at most `MAX_LOSS` an input; without classes, the mean squared error. 0 without labels.
    """

    def __init__(
        self, trials: int, outcome: Mapping[str, Any], labels: Array | None, *, only_correct: bool = False
    ) -> None:
        self.counts = np.zeros((trials, len(COLUMNS)), dtype=np.int64)
        self.max_abs_error = np.zeros(trials)
        self.loss_change = np.zeros(trials)
        self._tolerance = outcome.get("tolerance")
        if only_correct and labels is None:
            raise ValueError("which inputs are right when fault-free is only known with labels")
        self._labels = labels
        self._only_correct = only_correct

    def expect(self, trials: Array, start: int, golden: Array, wanted: Array | None = None) -> None:
        """Count a chunk's inputs for trials whose masked pairs will not be seen.

        Args:
            trials: The trials, ``[b]``.
            start: Number of the chunk's first input.
            golden: The chunk's golden outputs, ``[inputs, ...]``.
            wanted: Which inputs each trial runs over, ``[b, inputs]``; None for all.
        """
        counted = self._counted(np.arange(start, start + len(golden)), golden)
        self.counts[trials, _AT["n_inputs"]] += counted.sum() if wanted is None else (wanted & counted).sum(axis=1)

    def pairs(self, trials: Array, inputs: Array, outputs: Array, golden: Array) -> None:
        """Count (trial, input) pairs.

        Args:
            trials: Trial of each pair, ``[b]``.
            inputs: Input of each pair, counted over the whole data, ``[b]``.
            outputs: Faulty output of each pair, ``[b, ...]``.
            golden: Golden output of each pair, ``[b, ...]``.
        """
        kept = self._counted(inputs, golden)
        trials, inputs, outputs, golden = trials[kept], inputs[kept], outputs[kept], golden[kept]
        if not len(trials):
            return
        flat = outputs.reshape(len(outputs), -1).astype(np.float64)
        finite = _finite(outputs)
        with np.errstate(invalid="ignore"):
            error = np.abs(flat - golden.reshape(len(golden), -1)).max(axis=1)
        np.maximum.at(self.max_abs_error, trials, np.where(finite, error, np.inf))
        self._add("n_due", trials, ~finite)
        if self._tolerance is not None:
            self._add("n_changed", trials, finite & (error > self._tolerance))
            if self._labels is not None and self._labels[0].size == flat.shape[1] and self._labels.dtype.kind in "iufb":
                wanted = self._labels[inputs].reshape(flat.shape).astype(np.float64)
                self._add_loss(trials, finite, _squared_error(outputs, wanted) - _squared_error(golden, wanted))
            return
        best, answer = topk(outputs, 1)[:, 0], topk(golden, 1)[:, 0]
        self._add("n_changed", trials, finite & (best != answer))
        self._add("n_top5", trials, finite & (_rank(outputs, answer) >= 5))
        place, given = np.arange(len(answer)), _are_probabilities(golden)
        with np.errstate(all="ignore"):
            before, after = _confidence(golden, given), _confidence(outputs, given)
            lost = (before - after)[place, answer]
        self._add("n_confidence_10", trials, finite & (lost > 0.10))
        self._add("n_confidence_20", trials, finite & (lost > 0.20))
        if self._labels is not None:
            labels = self._labels[inputs].reshape(-1)
            right, was_right = finite & (best == labels), answer == labels
            self._add("n_lost", trials, was_right & ~right)
            self._add("n_won", trials, right & ~was_right)
            self._add_loss(trials, finite, _surprise(after, labels) - _surprise(before, labels))

    def chunk(self, trial: int, start: int, golden: Array, made: Array | None) -> None:
        """Count consecutive inputs of a trial.

        Args:
            trial: The trial.
            start: The first input, counted over the whole data.
            golden: Their golden output, ``[n, ...]``.
            made: What the faulty build gave; None if it gave nothing.
        """
        inputs = np.arange(start, start + len(golden))
        self.expect(np.array([trial]), start, golden)
        if made is None or made.shape != golden.shape:
            self.lose(trial, inputs, golden)
        else:
            self.pairs(np.full(len(inputs), trial), inputs, made, golden)

    def lose(self, trial: int, inputs: Array, golden: Array) -> None:
        """Count inputs of a trial whose faulty build could not be loaded or run, or gave an output of another shape."""
        broken = np.full(golden.shape, np.nan)
        self.pairs(np.full(len(inputs), trial), inputs, broken, golden)

    def clear(self, trial: int) -> None:
        """Forget a trial."""
        self.counts[trial] = 0
        self.max_abs_error[trial] = 0.0
        self.loss_change[trial] = 0.0

    def record(self, trial: int) -> dict[str, Any]:
        """A trial as a JSON object; what is not finite as None."""
        error, loss = (float(values[trial]) for values in (self.max_abs_error, self.loss_change))
        return {
            "counts": self.counts[trial].tolist(),
            "max_abs_error": error if np.isfinite(error) else None,
            "loss_change": loss if np.isfinite(loss) else None,
        }

    def take(self, trial: int, record: Mapping[str, Any]) -> None:
        """Take a trial's counts from a `record`."""
        self.counts[trial] = record["counts"]
        for name in ("max_abs_error", "loss_change"):
            getattr(self, name)[trial] = np.inf if record[name] is None else record[name]

    def _counted(self, inputs: Array, golden: Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
        counted: np.ndarray[Any, np.dtype[np.bool_]] = _finite(golden)
        if self._only_correct and self._labels is not None:
            counted &= np.equal(topk(golden, 1)[:, 0], self._labels[inputs])
        return counted

    def _add(self, column: str, trials: Array, which: Array) -> None:
        np.add.at(self.counts[:, _AT[column]], trials[which], 1)

    def _add_loss(self, trials: Array, which: Array, change: Array) -> None:
        np.add.at(self.loss_change, trials[which], change[which])


def _finite(outputs: Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether every number of an output is, ``[n]``."""
    flat = outputs.reshape(len(outputs), -1)
    finite: np.ndarray[Any, np.dtype[np.bool_]] = np.all(np.isfinite(flat), axis=1)
    return finite


def _rank(outputs: Array, answer: Array) -> Array:
    """How many classes come before one, ``[n]``, in the order of `topk`; for finite outputs."""
    scores = class_scores(outputs)
    own = scores[np.arange(len(answer)), answer][:, None]
    before: Array = (scores > own).sum(axis=1)
    before += ((scores == own) & (np.arange(scores.shape[1]) < answer[:, None])).sum(axis=1)
    return before


def _are_probabilities(golden: Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether an output is class probabilities already, ``[n]``; told by the golden one, whatever a fault makes of it."""
    flat = golden.reshape(len(golden), -1).astype(np.float64)
    are: np.ndarray[Any, np.dtype[np.bool_]] = np.all(flat >= 0, axis=1)
    are &= np.isclose(flat.sum(axis=1), 1.0, atol=1e-3)
    return are


def _confidence(outputs: Array, given: Array) -> Array:
    """Class probabilities: the outputs themselves where they are ``given`` as that, else their softmax."""
    flat = outputs.reshape(len(outputs), -1).astype(np.float64)
    powers = np.exp(flat - flat.max(axis=1, keepdims=True))
    probabilities: Array = np.where(given[:, None], flat, powers / powers.sum(axis=1, keepdims=True))
    return probabilities


def _surprise(probabilities: Array, labels: Array) -> Array:
    """Cross-entropy of the right class, nats ``[b]``; a class that the output has not has no probability."""
    known = (labels >= 0) & (labels < probabilities.shape[1])
    right = np.where(known, probabilities[np.arange(len(labels)), np.where(known, labels, 0)], 0.0)
    bounded: Array = -np.log(np.clip(right, LEAST_PROBABILITY, 1.0))
    return bounded


def _squared_error(outputs: Array, wanted: Array) -> Array:
    """Mean squared error of each output, ``[b]``."""
    flat = outputs.reshape(wanted.shape).astype(np.float64)
    with np.errstate(all="ignore"):
        mean: Array = ((flat - wanted) ** 2).mean(axis=1)
    return mean
