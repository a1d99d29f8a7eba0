"""ONNX files: opening them safely, describing them, and normalizing their graph so that every backend can read it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import onnx
import onnx_ir as ir
from onnx_ir.passes import PassBase, Sequential, common

from hwbench.backend import BatchAxes, TensorSpec
from hwbench.dimensions import (
    fix_dimensions,
    forget_placeholders,
    given_axes,
    inferred_axes,
    no_size,
    sample_dimensions,
    samples_first,
)
from hwbench.errors import ModelError, first_line
from hwbench.files import require_file, require_text
from hwbench.model_checks import check_functions, check_inputs, check_names, check_tensors, external_files
from hwbench.stored import Inventory

# What the oldest runtime a target may run reads: ONNX Runtime 1.26, the newest that works on an emulated Arm core.
MAX_IR_VERSION = 10
MAX_OPSET = 21
# Below this a scale per channel cannot be written (DequantizeLinear's axis).
MIN_OPSET = 13


@dataclass(frozen=True)
class Model:
    """An ONNX file that can be opened safely.

    Attributes:
        path: The file.
        sha256: Over the file and its external data.
        inputs: What must be fed; initializers are not inputs.
        outputs: What comes out; the first is the one that accuracy is measured on.
        nodes: How many nodes the main graph has.
        parameters: How many numbers it stores.
        bytes: Size of the file and its external data.
        batch_axes: Inputs and outputs whose batch is not on axis 0, to the axis; None for an input that is the same for all
            samples.
        external: Its external data files.
    """

    path: Path
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: int
    parameters: int
    bytes: int
    batch_axes: BatchAxes = field(default_factory=dict)
    external: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @cached_property
    def batch(self) -> int | None:
        """The batch size the graph is fixed to; None if it takes any."""
        sizes = {spec.shape[0] for spec in self.sample_inputs if spec.shape and spec.name not in self.constant_inputs}
        return sizes.pop() if len(sizes) == 1 else None

    @property
    def sample_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs as data hold them: samples on the first axis, whatever the graph's batch axis."""
        return tuple(replace(spec, shape=samples_first(spec, self.batch_axes)) for spec in self.inputs)

    @property
    def constant_inputs(self) -> frozenset[str]:
        """The inputs that are the same for all samples."""
        return frozenset(name for name, axis in self.batch_axes.items() if axis is None)

    @classmethod
    def open(cls, path: Path, batch_axes: Mapping[str, int | Literal["none"]] | None = None) -> Model:
        """Open and check a model.

        Args:
            path: The file.
            batch_axes: Input or output to the axis of its batch, or ``"none"`` for an input that is the same for all
                samples. Default: none for a scalar input, the axis that has the symbol of the batch where another input
                names it, else 0.

        Raises:
            UnknownNameError: ``batch_axes`` names no input or output.
            ModelError: The file is missing, not ONNX, damaged, or refers to data outside its folder.
        """
        require_text(path, ModelError)
        proto = read_proto(path)
        try:
            onnx.checker.check_model(str(path))
        except onnx.checker.ValidationError as error:
            raise ModelError(f"{path}: not a valid ONNX model: {first_line(error, 300)}") from None
        check_tensors(proto, path)
        check_functions(proto, path)
        stored = {tensor.name for tensor in proto.graph.initializer}
        files = [path, *external_files(proto, path)]
        digest = hashlib.sha256()
        for file in files:
            with file.open("rb") as stream:
                hashlib.file_digest(stream, lambda: digest)  # goes on from the file before
        fed = [value for value in proto.graph.input if value.name not in stored]
        inputs = tuple(_spec(value, path) for value in fed)
        check_inputs({spec.name: spec.shape for spec in inputs}, path)
        outputs = tuple(_spec(value, path) for value in proto.graph.output)
        axes = inferred_axes(fed, proto.graph.output) | given_axes(batch_axes or {}, inputs, outputs, path)
        return cls(
            path=path,
            sha256=digest.hexdigest(),
            inputs=inputs,
            outputs=outputs,
            batch_axes={name: axis for name, axis in axes.items() if axis != 0},
            nodes=len(proto.graph.node),
            parameters=sum(math.prod(place.shape(proto)) for place in Inventory.of(proto).places),
            bytes=sum(file.stat().st_size for file in files),
            external=tuple(files[1:]),
        )

    def require_sizes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Make sure that every dynamic dimension but the batch has a size.

        Args:
            shapes: Input name to the shape of one sample (without the batch).

        Raises:
            ModelError: A size is needed and not given.
        """
        for spec in self.inputs:
            for place, index in enumerate(sample_dimensions(spec.name, len(spec.shape), self.batch_axes)):
                if spec.shape[index] is None and len(shapes.get(spec.name, ())) <= place:
                    raise ModelError(no_size(spec.name, index))

    def describe(self) -> dict[str, Any]:
        """What run.json says of the model."""
        return {
            "name": self.name,
            "file": self.path.name,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "nodes": self.nodes,
            "parameters": self.parameters,
            "inputs": [vars(spec) for spec in self.inputs],
            "outputs": [vars(spec) for spec in self.outputs],
            "batch_axes": dict(self.batch_axes),
        }


def read_proto(path: Path) -> onnx.ModelProto:
    """Parse a model without its external data, after checking that those lie inside its folder.

    Raises:
        ModelError: The file is missing, not ONNX, or refers to data outside its folder.
    """
    require_file(path, ModelError, "model file", most=onnx.checker.MAXIMUM_PROTOBUF)
    try:
        proto = onnx.load(path, load_external_data=False, format="protobuf")
    except Exception as error:  # noqa: BLE001  protobuf's DecodeError has no public home; anything it raises means the same
        raise ModelError(f"{path}: not an ONNX file, or a truncated one: {first_line(error, 300)}") from None
    if not proto.graph.node or not proto.graph.output:
        raise ModelError(f"{path}: not an ONNX file, or one without a graph")
    check_names(proto, path)
    external_files(proto, path)
    return proto


def normalize(
    source: Path,
    target: Path,
    *,
    shapes: Mapping[str, Sequence[int]],
    batch_axes: BatchAxes | None = None,
    pin: bool = True,
    fix: bool = True,
) -> None:
    """Write a model in the form builds are made from.

    Constant nodes become initializers, dimensions other than the batch are fixed, every node has a name, and IR version and
    opset are brought to what the oldest target's runtime reads.

    Args:
        source: The model.
        target: Where to write it.
        shapes: Input name to the shape of one sample (without the batch).
        batch_axes: As in `Model`.
        pin: Whether opset and IR version may be changed; False for a build that is measured as it stands.
        fix: Whether dimensions are fixed.

    Raises:
        ModelError: The opset cannot be converted.
    """
    model = ir.external_data.load_to_model(ir.load(source))  # the copy has no such files beside it
    forget_placeholders(model)
    if fix:
        fix_dimensions(model, shapes, batch_axes or {})
    passes: list[PassBase] = [
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.NameFixPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
    ]
    Sequential(*passes)(model)
    proto = ir.to_proto(model)
    save(_pin(proto, source) if pin else proto, target)


def save(proto: onnx.ModelProto, path: Path) -> None:
    """Save as one file, or with one external data file beside it where protobuf's 2 GiB do not suffice."""
    external = proto.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF
    onnx.save_model(
        proto, str(path), save_as_external_data=external, location=f"{path.name}.data" if external else None
    )


def _pin(proto: onnx.ModelProto, source: Path) -> onnx.ModelProto:
    proto.ir_version = min(proto.ir_version, MAX_IR_VERSION)
    version = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), MAX_OPSET)
    wanted = min(max(version, MIN_OPSET), MAX_OPSET)
    if wanted == version:
        return proto
    try:
        converted = onnx.version_converter.convert_version(proto, wanted)
    except Exception as error:  # noqa: BLE001  the converter is C++ and raises bare RuntimeErrors of its own making
        raise ModelError(
            f"{source}: opset {version} cannot be converted to {wanted}, which the deployment runtimes read; "
            f"export the model with opset {MAX_OPSET} or lower ({first_line(error, 300)})"
        ) from None
    converted.ir_version = proto.ir_version
    return converted


def _spec(value: onnx.ValueInfoProto, path: Path) -> TensorSpec:
    if not value.type.HasField("tensor_type"):
        raise ModelError(
            f"{path}: {value.name!r} is not a tensor; sequences, maps and optional values are not supported"
        )
    tensor = value.type.tensor_type
    if tensor.elem_type not in onnx.helper.get_all_tensor_dtypes():
        raise ModelError(f"{path}: {value.name!r} has no known element type ({tensor.elem_type})")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    # Exporters write -1 where they mean a free size.
    sizes = (dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    shape = tuple(None if size == -1 else size for size in sizes)
    return TensorSpec(value.name, dtype.name, shape)
