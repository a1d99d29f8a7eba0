"""The options a profile may set for ONNX's reference implementation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class OnnxReferenceOptions:
    """How the reference implementation runs a model.

    Attributes:
        check_shapes: Whether every tensor must have the shape that the model states for it.
        evaluator: Further arguments of the evaluator, of which a profile may set ``verbose``.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    check_shapes: bool = False
    evaluator: dict[str, str] = field(default_factory=dict, metadata={"allowed": {"verbose": range(5)}})
