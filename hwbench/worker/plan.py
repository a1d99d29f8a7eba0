"""The layers of a cut graph as the parent planned them: what the engine reads of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class UpdatePlan:
    """The convolution after a layer that is replaced by a rank-one update where one channel of the layer changes.

    Attributes:
        y: The convolution's output.
        weight: Its weights.
        file: The segment that takes the place of the layer's ``rest``.
        cut: The tensors after the layer that this reads.
        golden, change, column: Its other inputs: golden ``y``, how far the channel is from the golden one, and its weights.
    """

    y: str
    weight: str
    file: str
    cut: Sequence[str]
    golden: str
    change: str
    column: str


@dataclass(frozen=True)
class LayerPlan:
    """A layer with faults, as the parent cut it.

    Attributes:
        out: The tensor it makes.
        x: The tensor it reads.
        axis: The axis of ``out`` that counts channels.
        parameters: Initializer to the axis that counts channels.
        depthwise: Whether each channel reads its own input channel only.
        lanes: Channels the lane segment computes.
        laned: Those of them whose faults can be computed in lanes.
        own: The initializers that nothing but this layer depends on.
        advance, lane, layer, rest: The segments' files.
        cut: The tensors after the layer.
        checkpoint: Index of the checkpoint that ``rest`` leads to.
        update: What faults in one channel go on through instead of ``rest``; None if that is nothing else.
    """

    out: str
    x: str
    axis: int
    parameters: Mapping[str, int]
    depthwise: bool
    lanes: int
    laned: Sequence[str]
    own: Sequence[str]
    advance: str
    lane: str
    layer: str
    rest: str
    cut: Sequence[str]
    checkpoint: int
    update: UpdatePlan | None = None

    @classmethod
    def of(cls, plan: Mapping[str, Any]) -> LayerPlan:
        """A layer of the plan that `hwbench.faults.segments` makes."""
        update = plan["update"] and UpdatePlan(**plan["update"])
        return cls(**{**plan, "update": update})
