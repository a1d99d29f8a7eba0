"""Which flips a search for the worst case tries, told from the stored numbers alone: those that change them most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from hwbench.faults import bits
from hwbench.faults.space import FaultSpace
from hwbench.faults.storage import top_bits

Array = np.ndarray[Any, np.dtype[Any]]
Place = tuple[int, int]


def sign_flips(
    space: FaultSpace, nodes: Sequence[onnx.NodeProto], stored: Mapping[str, Array], layers: int, count: int
) -> list[tuple[str, int, int]]:
    """Highest bits (the sign, of a floating-point number) of the largest weights of the first layers, in turns.

    After Galil, Kimhi and El-Yaniv (2025), "No data, no optimization: a lightweight method to disrupt neural networks with
    sign flips", arXiv:2502.07408.

    Args:
        space: The faults that are allowed.
        nodes: The deployed graph's nodes.
        stored: The build's initializers.
        layers: How many layers with weights count as the first ones.
        count: How many flips.

    Returns:
        (tensor, element, bit), the first flip first; fewer than ``count`` where there are no more.
    """
    weights = sorted((tensor for tensor in space.tensors if tensor.role == "weight"), key=lambda one: one.depth)
    first = sorted({tensor.depth for tensor in weights})[:layers]
    order: list[tuple[str, list[int], int]] = []
    for tensor in weights:
        if tensor.depth in first and tensor.last_bit == tensor.width - 1:
            size = np.abs(_dequantized(nodes, stored, tensor.name)).ravel()
            order.append((tensor.name, _largest(size, count).tolist(), tensor.last_bit))
    turns = max((len(elements) for _, elements, _ in order), default=0)
    flips = [(name, found[turn], bit) for turn in range(turns) for name, found, bit in order if turn < len(found)]
    return flips[:count]


def most_changing(
    name: str, nodes: Sequence[onnx.NodeProto], stored: Mapping[str, Array], count: int, seed: int
) -> list[Place]:
    """Flips in one tensor that are worth a trial, the most promising first.

    Candidates are sign and exponent bits, of integers the highest one, whose flip leaves a finite number. Of each bit position
    come in turns the element that changes most (as dequantized; of equal ones the largest) and a random one: an integer's
    highest bit changes all elements by the same. Every second candidate is of the position that can change most, every fourth
    of the one after it, and so on.

    Args:
        name: The tensor.
        nodes: The deployed graph's nodes.
        stored: The build's initializers.
        count: How many flips.
        seed: Seed of the random ones.

    Returns:
        (element, bit); fewer than ``count`` where there are no more.
    """
    array = stored[name]
    step, old = _step(nodes, stored, name), array.astype(np.float64)
    width, found = bits.width(array.dtype), list[tuple[float, list[Place]]]()
    for bit in range(width - top_bits(array.dtype), width):
        with np.errstate(all="ignore"):  # some become NaN or infinite, and are left out
            new = bits.flip(array, np.arange(array.size), bit).astype(np.float64)
            change = np.where(np.isfinite(new) & np.isfinite(old), np.abs(new - old) * step, 0.0).ravel()
        possible = np.flatnonzero(change > 0)
        if not len(possible):
            continue
        top = float(change.max())
        largest = possible[_largest(change[possible] + 1e-9 * top * _share(np.abs(old).ravel()[possible]), count)]
        words = bits.random_words("worst_case", seed, bit, name).random_raw(count)
        drawn = possible[(words % np.uint64(len(possible))).astype(np.int64)]
        both = [int(element) for pair in zip(largest, drawn[: len(largest)], strict=True) for element in pair]
        found.append((top, [(element, bit) for element in dict.fromkeys(both)]))
    found.sort(key=lambda one: -one[0])
    return list(_ruled([places for _, places in found], count))


def _ruled(queues: Sequence[Sequence[Place]], count: int) -> Iterator[Place]:
    """The first queue every second time, the second every fourth, ...; where one is empty, the first that is not."""
    left = [iter(queue) for queue in queues]
    for number in range(1, count + 1):
        turn = (number & -number).bit_length() - 1  # how many times 2 divides the number
        for queue in [*left[turn : turn + 1], *left]:
            place = next(queue, None)
            if place is not None:
                yield place
                break


def _largest(values: Array, count: int) -> Array:
    """Places of the largest values, the largest first; of equal ones the first."""
    count = min(count, len(values))
    least = np.partition(values, len(values) - count)[len(values) - count]
    above, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
    chosen = np.concatenate([above, equal[: count - len(above)]])
    return chosen[np.argsort(-values[chosen], kind="stable")]


def _share(values: Array) -> Array:
    largest = float(values.max(initial=0.0))
    return values / largest if largest > 0 else values


def _dequantized(nodes: Sequence[onnx.NodeProto], stored: Mapping[str, Array], name: str) -> Array:
    """The numbers that the graph computes with."""
    values = stored[name].astype(np.float64)
    node = _dequantizer(nodes, name)
    if node is not None and len(node.input) > 2 and node.input[2] in stored:
        values = values - _spread(node, stored[node.input[2]].astype(np.float64), values.shape)
    numbers: Array = values * _step(nodes, stored, name)
    return numbers


def _step(nodes: Sequence[onnx.NodeProto], stored: Mapping[str, Array], name: str) -> Array:
    """By how much one step of the stored number changes what the graph computes with, as far as that is stored."""
    node = _dequantizer(nodes, name)
    if node is None or node.input[1] not in stored:
        return np.ones(())
    return _spread(node, np.abs(stored[node.input[1]].astype(np.float64)), stored[name].shape)


def _dequantizer(nodes: Sequence[onnx.NodeProto], name: str) -> onnx.NodeProto | None:
    return next((node for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] == name), None)


def _spread(node: onnx.NodeProto, values: Array, shape: tuple[int, ...]) -> Array:
    """Scales or zero points in a form that broadcasts to the tensor they belong to: one in all, per channel or per block."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if values.size == 1:
        return values.reshape(())
    axis = attributes.get("axis", 1) % len(shape)
    if attributes.get("block_size"):
        wide = np.repeat(values, attributes["block_size"], axis=axis)
        return np.take(wide, np.arange(shape[axis]), axis=axis)
    return values.reshape([-1 if at == axis else 1 for at in range(len(shape))])
