"""The backend and its session."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from hwbench.backend import (
    Array,
    Availability,
    Backend,
    Coverage,
    ExecutedNode,
    Feeds,
    ModelSource,
    NodeCoverage,
    Session,
    TensorSpec,
    node_name,
)
from hwbench.errors import UnsupportedError
from hwbench_onnx_reference.options import OnnxReferenceOptions

DEVICE = "numpy"


class OnnxReferenceSession(Session):
    """One model, evaluated node by node."""

    options: OnnxReferenceOptions

    def _load_impl(self, source: ModelSource) -> None:
        model = onnx.load(source) if isinstance(source, Path) else onnx.load_model_from_string(source)
        self._model = _typed(model)
        try:
            self._evaluator = ReferenceEvaluator(
                self._model,
                check_shape_annotations=self.options.check_shapes,
                **{name: int(value) for name, value in self.options.evaluator.items()},
            )
        except NotImplementedError as error:
            raise UnsupportedError(f"the reference implementation cannot run the model: {error}") from error
        self.inputs = tuple(_spec(value) for value in self._model.graph.input)
        self.outputs = tuple(_spec(value) for value in self._model.graph.output)

    def _run_impl(self, feeds: Feeds) -> dict[str, Array]:
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._evaluator.run(names, dict(feeds)), strict=True))

    def _bind_impl(self, feeds: Feeds) -> Callable[[], object]:
        return functools.partial(self._evaluator.run, None, dict(feeds))

    def _executed_impl(self) -> tuple[ExecutedNode, ...]:
        nodes = self._model.graph.node
        return tuple(
            ExecutedNode(node_name(node), node.op_type, DEVICE, "fp32", onnx_nodes=(node_name(node),)) for node in nodes
        )


class OnnxReferenceBackend(Backend):
    """Runs models with ONNX's reference implementation."""

    name: ClassVar[str] = "onnx-reference"
    options_type: ClassVar[type[Any]] = OnnxReferenceOptions
    runtime: ClassVar[str] = "onnx"
    install: ClassVar[str] = "pip install hwbench-onnx-reference"

    def _probe_impl(self) -> Availability:
        return Availability(True, versions={"onnx": onnx.__version__, "numpy": np.__version__}, devices=(DEVICE,))

    def _device_impl(self, options: OnnxReferenceOptions) -> str:
        return DEVICE

    def _coverage_impl(self, model: Path, options: OnnxReferenceOptions) -> Coverage:
        return Coverage(tuple(_coverage(node) for node in onnx.load(model).graph.node))

    def _session_impl(self, options: OnnxReferenceOptions, mutable: Sequence[str]) -> OnnxReferenceSession:
        return OnnxReferenceSession(options, mutable)


def _coverage(node: onnx.NodeProto) -> NodeCoverage:
    """A node of the standard domain is specified, so there is a reference for it."""
    standard = node.domain in ("", "ai.onnx")
    reason = "" if standard else f"the domain {node.domain} is not ONNX's"
    return NodeCoverage(node_name(node), node.op_type, standard, DEVICE if standard else "", reason)


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the types of all its outputs: hwbench asks for inner tensors as outputs by their names alone."""
    outputs = list(model.graph.output)
    del model.graph.output[:]  # inference leaves the types of outputs alone
    known = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    model.graph.output.extend(known.get(value.name, value) for value in outputs)
    return model


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    shape = (axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim)
    return TensorSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, tuple(shape))
