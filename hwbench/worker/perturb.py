"""What one variant of an evaluation does to a build's stored numbers or to its inputs.

A variant is a JSON object; its ``kind`` says what is perturbed, ``seed`` and ``draw`` choose the random numbers:

====================  =========  ============================================================================
kind                  setting    effect
====================  =========  ============================================================================
``golden``                       nothing
``bit_errors``        ``rate``   every stored bit flips with this probability
``memory_errors``     ``rate``   stored bits fail as on a simulated chip, behind a protection (see below)
``faults``            ``faults`` these faults, one after the other: ``[tensor, element, bit, kind, width, value]`` each
``weight_noise``      ``sigma``  Gaussian noise on stored weights, relative to the tensor's or format's range
``gaussian_input``    ``snr_db`` Gaussian noise on floating inputs, at this signal-to-noise ratio per sample
``impulse_input``     ``rate``   elements of floating inputs become the sample's minimum or maximum
====================  =========  ============================================================================

``memory_errors`` also takes ``asymmetry`` and ``columns`` (`hwbench.faults.memory`), ``protections`` and ``uncorrectable``
(`hwbench.faults.storage`). Its draw is a chip; with none of them its cells fail exactly as under ``bit_errors``.

A variant that also has ``inputs`` runs on so many inputs (`hwbench.worker.inputs.chosen_inputs`).

A random number belongs to (kind, seed, draw, tensor, position) alone: not to the setting, the build, the batch size or
other tensors. So error sets are nested in the rate, and settings and builds compare on the same draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray

from hwbench.errors import InputError, UnknownNameError
from hwbench.faults import bits, names
from hwbench.faults.error_rates import MAX_RATE
from hwbench.faults.fault import Fault
from hwbench.faults.memory import Chip, Columns, Memory
from hwbench.faults.space import ATTRIBUTE_ROLES
from hwbench.stored import Inventory

Array = np.ndarray[Any, np.dtype[Any]]
Variant = Mapping[str, Any]
ErrorBits = tuple[NDArray[np.int64], NDArray[np.float64]]

WEIGHT_KINDS = frozenset({"bit_errors", "memory_errors", "faults", "weight_noise"})
# Kinds that may make the runtime itself crash or loop; noise only changes values.
FAULT_KINDS = frozenset({"bit_errors", "memory_errors", "faults"})
RATE_KINDS = frozenset({"bit_errors", "memory_errors"})
INPUT_KINDS = frozenset({"gaussian_input", "impulse_input"})
KINDS = WEIGHT_KINDS | INPUT_KINDS | {"golden"}

# Operators whose scales and zero points may have two or more dimensions, to the inputs that hold them.
_QUANTIZATION_PARAMETERS = {"QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "MatMulNBits": (2, 3)}


@dataclass(frozen=True)
class Changes:
    """Changes by a variant to a build's stored numbers.

    Attributes:
        tensors: New content of those that differ from the build's own.
        n_faults: Flipped bits, or under weight noise the elements that differ.
        memory: What the memory reports (`hwbench.faults.memory.Readout.report`); empty under other kinds.
        halted: Whether an error that the memory could not correct stops whoever reads it.
    """

    tensors: Mapping[str, Array] = field(default_factory=dict)
    n_faults: int = 0
    memory: Mapping[str, int] = field(default_factory=dict)
    halted: bool = False


class WeightPerturber:
    """Applies variants to the stored numbers of one build.

    The error bits of the last draw are kept, so that going through a draw's rates costs one pass over random numbers.

    Args:
        tensors: The build's stored numbers, as `stored_initializers` gives them.
        weights: Those that weight noise goes to, to the bits of one weight; by default what `weight_widths` says
            without knowing the graph.
    """

    def __init__(self, tensors: Mapping[str, Array], weights: Mapping[str, int] | None = None) -> None:
        self.tensors = dict(tensors)
        self.weights = dict(weight_widths(tensors) if weights is None else weights)
        self._cached: tuple[int, int, float] | None = None
        self._errors: dict[str, ErrorBits] = {}
        self._memory = Memory(self.tensors)

    @classmethod
    def from_model(cls, model: onnx.ModelProto) -> WeightPerturber:
        """A perturber of a model's stored numbers."""
        tensors = stored_initializers(model)
        return cls(tensors, weight_widths(tensors, model.graph.node))

    def changes(self, variant: Variant, max_rate: float = 0.0) -> Changes:
        """The stored numbers as ``variant`` leaves them; nothing changes under a kind that is not about weights.

        Args:
            variant: The JSON object described above.
            max_rate: The highest rate that will be asked of this draw of bit or memory errors, so that it is drawn once.

        Raises:
            InputError: The variant is malformed.
        """
        match checked_kind(variant):
            case "bit_errors":
                return self._bit_errors(variant, max_rate)
            case "memory_errors":
                return self._memory_errors(variant, max_rate)
            case "faults":
                return self._listed(variant["faults"])
            case "weight_noise":
                return self._weight_noise(variant)
            case _:
                return Changes()

    def _bit_errors(self, variant: Variant, max_rate: float) -> Changes:
        rate = checked_number(variant, "rate", 0.0, 1.0)
        self._draw_errors(*checked_draw(variant), max(rate, max_rate))
        tensors, n_faults = {}, 0
        for name, (positions, uniforms) in self._errors.items():
            flipped = positions[uniforms < rate]
            if flipped.size:
                tensor = self.tensors[name]
                tensors[name] = bits.flip(tensor, *np.divmod(flipped, bits.width(tensor.dtype)))
                n_faults += flipped.size
        return Changes(tensors, n_faults)

    def _draw_errors(self, seed: int, draw: int, rate: float) -> None:
        if self._cached is None or self._cached[:2] != (seed, draw) or self._cached[2] < rate:
            self._errors = {
                name: bits.error_bits(seed, draw, name, bits.stored_bits(tensor), rate)
                for name, tensor in self.tensors.items()
            }
            self._cached = (seed, draw, rate)

    def _memory_errors(self, variant: Variant, max_rate: float) -> Changes:
        rate = checked_number(variant, "rate", 0.0, MAX_RATE)
        columns = variant.get("columns")
        chip = Chip(*checked_draw(variant), variant.get("asymmetry", 0.0), Columns(**columns) if columns else None)
        how = variant.get("protections", ()), variant.get("uncorrectable", "zero")
        read = self._memory.read(chip, rate, *how, max_rate=min(max_rate, MAX_RATE))
        return Changes(read.tensors, read.n_faults, read.report, read.halted)

    def _listed(self, faults: Sequence[Sequence[Any]]) -> Changes:
        tensors: dict[str, Array] = {}
        for fault in (Fault(*one) for one in faults):
            if fault.tensor not in self.tensors:
                raise InputError(f"the build has no initializer {fault.tensor!r}")
            tensors[fault.tensor] = fault.apply(tensors.get(fault.tensor, self.tensors[fault.tensor]))
        return Changes(tensors, len(faults))

    def _weight_noise(self, variant: Variant) -> Changes:
        sigma = checked_number(variant, "sigma", 0.0, math.inf)
        seed, draw = checked_draw(variant)
        tensors, n_faults = {}, 0
        for name, n_bits in self.weights.items():
            tensor = self.tensors[name]
            noisy = _noisy_weights(tensor, n_bits, sigma, bits.random_words("weight_noise", seed, draw, name))
            n_changed = int(np.count_nonzero(bits.patterns(noisy) != bits.patterns(tensor)))
            if n_changed:
                tensors[name] = noisy
                n_faults += n_changed
        return Changes(tensors, n_faults)


def initializer_changes(variant: Variant, tensors: Mapping[str, Array]) -> Changes:
    """One variant applied to initializers once; `WeightPerturber` is for many."""
    return WeightPerturber(tensors).changes(variant)


def stored_initializers(model: onnx.ModelProto) -> dict[str, Array]:
    """The numbers that a model stores, by the names of `hwbench.stored`, int4 as one element a byte (ml_dtypes)."""
    return {place.name: place.read(model) for place in Inventory.of(model).places}


def weight_widths(tensors: Mapping[str, Array], nodes: Iterable[onnx.NodeProto] = ()) -> dict[str, int]:
    """Which tensors are weights, to the bits of one weight.

    Weights are floating-point numbers and integers of at most 8 bits in two or more dimensions, which leaves out
    biases, per-tensor and per-channel scales and zero points, and shape constants; the weights and thresholds among nodes'
    attributes, which are lists, are weights too. With the graph's ``nodes``,
    blockwise scales and zero points are left out too, and weights packed several to a byte (MatMulNBits) have their own
    width.
    """
    parameters: set[str] = set()
    packed: dict[str, int] = {}
    for node in nodes:
        positions = _QUANTIZATION_PARAMETERS.get(node.op_type, ())
        parameters.update(node.input[position] for position in positions if position < len(node.input))
        if node.op_type == "MatMulNBits":
            packed[node.input[1]] = next((a.i for a in node.attribute if a.name == "bits"), 4)
    return {
        name: packed.get(name, bits.width(tensor.dtype))
        for name, tensor in tensors.items()
        if (tensor.ndim >= 2 or _is_weight_list(name)) and name not in parameters and _holds_weights(tensor.dtype)
    }


def _is_weight_list(name: str) -> bool:
    """True if stored numbers are an attribute that holds weights or thresholds."""
    attribute = name.rpartition("/")[2].removesuffix("_as_tensor")
    return names.is_inside(name) and ATTRIBUTE_ROLES.get(attribute) in ("weight", "threshold")


def standard_normal(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Standard normal numbers, one for each word of an even last axis (Box and Muller, 1958)."""
    uniforms = bits.uniforms(words)
    radius = np.sqrt(-2 * np.log1p(-uniforms[..., 0::2]))
    angle = 2 * np.pi * uniforms[..., 1::2]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(words.shape)


def _normal_field(stream: np.random.Philox, size: int) -> NDArray[np.float64]:
    """The first ``size`` standard normal numbers of a stream, made in chunks to bound the memory in between."""
    normals = np.empty(size)
    for start in range(0, size, bits.CHUNK):
        part = normals[start : start + bits.CHUNK]
        part[:] = standard_normal(stream.random_raw(part.size + part.size % 2))[: part.size]
    return normals


def _noisy_weights(tensor: Array, n_bits: int, sigma: float, stream: np.random.Philox) -> Array:
    """A copy of one weight tensor with noise on every weight, relative to a range as its kind of number defines it."""
    if bits.is_floating(tensor.dtype):
        return _noisy_floats(tensor, sigma, stream)
    if n_bits < bits.width(tensor.dtype):
        return _packed(_noisy_integers(_unpacked(tensor, n_bits), (0, 2**n_bits - 1), sigma, stream))
    limits = ml_dtypes.iinfo(tensor.dtype)
    return _noisy_integers(tensor, (int(limits.min), int(limits.max)), sigma, stream)


def _noisy_floats(tensor: Array, sigma: float, stream: np.random.Philox) -> Array:
    """Noise of σ × (max − min) of the tensor's finite elements, not clipped."""
    values = tensor.astype(np.float64)
    finite = values[np.isfinite(values)]
    spread = float(np.ptp(finite)) if finite.size else 0.0
    noise = _normal_field(stream, tensor.size).reshape(tensor.shape)
    with np.errstate(over="ignore"):  # what leaves the format's range is stored as infinity
        noisy: Array = (values + sigma * spread * noise).astype(tensor.dtype)
    return noisy


def _noisy_integers(weights: Array, limits: tuple[int, int], sigma: float, stream: np.random.Philox) -> Array:
    """Noise of σ × (high − low) quantization steps, the format's whole range; rounded to whole steps and saturated."""
    low, high = limits
    steps = np.rint(sigma * (high - low) * _normal_field(stream, weights.size)).reshape(weights.shape)
    return np.clip(weights.astype(np.float64) + steps, low, high).astype(weights.dtype)


def _unpacked(tensor: Array, n_bits: int) -> Array:
    """Unsigned numbers that stand packed in bytes, lowest bits first, along a new last axis."""
    if 8 % n_bits:
        raise InputError(f"weights of {n_bits} bits do not fill bytes; weight noise takes packed weights of 1, 2 or 4")
    shifts = np.arange(0, 8, n_bits, dtype=np.uint8)
    unpacked: Array = tensor.view(np.uint8)[..., np.newaxis] >> shifts & np.uint8(2**n_bits - 1)
    return unpacked


def _packed(weights: Array) -> Array:
    """The inverse of `_unpacked`, for bytes."""
    shifts = np.arange(0, 8, 8 // weights.shape[-1], dtype=np.uint8)
    packed: Array = np.bitwise_or.reduce(weights << shifts, axis=-1)
    return packed


def _holds_weights(dtype: np.dtype[Any]) -> bool:
    return bits.is_floating(dtype) or (bits.is_integer(dtype) and bits.width(dtype) <= 8)


def checked_kind(variant: Variant) -> str:
    """A variant's kind; `UnknownNameError` where there is no such kind."""
    kind = str(variant.get("kind"))
    if kind not in KINDS:
        raise UnknownNameError("perturbation", kind, KINDS)
    return kind


def checked_draw(variant: Variant) -> tuple[int, int]:
    """A variant's seed and draw; `InputError` where one is missing."""
    missing = [key for key in ("seed", "draw") if not isinstance(variant.get(key), int)]
    if missing:
        raise InputError(f"a {variant['kind']} variant needs a whole number as {missing[0]!r}: {dict(variant)}")
    return variant["seed"], variant["draw"]


def checked_number(variant: Variant, key: str, low: float, high: float) -> float:
    """A number of a variant; `InputError` unless it is in [low, high]."""
    value = variant.get(key)
    if not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"a {variant['kind']} variant needs a number in [{low}, {high}] as {key!r}: {dict(variant)}")
    return float(value)
