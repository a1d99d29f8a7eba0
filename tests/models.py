"""Small models for tests: float ones, and what ONNX Runtime's quantizers make of them. All are deterministic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 21, 10  # read by every runtime the tests use
Array = np.ndarray[Any, np.dtype[Any]]


def make_model(
    nodes: Iterable[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, list[int | str]]],
    outputs: Mapping[str, tuple[int, list[int | str]]],
    weights: Mapping[str, Array] | None = None,
) -> onnx.ModelProto:
    """A model of ``nodes``; inputs and outputs are name to (element type, shape)."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, *spec) for name, spec in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    domains = {node.domain for node in graph.node} - {""}
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets)


def small_cnn(seed: int = 0) -> onnx.ModelProto:
    """A residual CNN, ``x`` (N, 1, 8, 8) to ``y`` (N, 10). Its residual Add has no name, its classifier is a MatMul."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "w3"], ["y"], "classifier"),
    ]
    weights = _normal(seed, w1=(8, 1, 3, 3), b1=(8,), w2=(8, 8, 3, 3), w3=(8, 10))
    return make_model(nodes, {"x": (1, ["N", 1, 8, 8])}, {"y": (1, ["N", 10])}, weights)


def mlp(seed: int = 0) -> onnx.ModelProto:
    """A Gemm and a MatMul with bias, ``x`` (N, 64) to ``y`` (N, 10); the MatMul has K = 128, enough for int4 blocks."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "gemm", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w2"], ["z"], "matmul"),
        helper.make_node("Add", ["z", "b2"], ["y"], "bias"),
    ]
    weights = _normal(seed, w1=(128, 64), b1=(128,), w2=(128, 10), b2=(10,))
    return make_model(nodes, {"x": (1, ["N", 64])}, {"y": (1, ["N", 10])}, weights)


def batch_shaped(seed: int = 0) -> onnx.ModelProto:
    """A convolution whose output is reshaped by a tensor made of the batch size: ``x`` (N, 3, 6, 6) to ``y`` (N, 4)."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["target"], axis=0),
        helper.make_node("Conv", ["x", "w1"], ["a"], "before"),
        helper.make_node("Reshape", ["a", "target"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w2"], ["b"], "after"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "w3"], ["y"], "classifier"),
    ]
    weights = _normal(seed, w1=(8, 3, 3, 3), w2=(128, 16), w3=(16, 4))
    weights |= {"first": np.array([0]), "rest": np.array([-1])}
    return make_model(nodes, {"x": (1, ["N", 3, 6, 6])}, {"y": (1, ["N", 4])}, weights)


def two_inputs(seed: int = 0) -> onnx.ModelProto:
    """A bag of embeddings, ``ids`` int64 (N, S) and ``mask`` float32 (N, S) to ``y`` (N, 3); ids are below 32."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"], "embed"),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"], "widen"),
        helper.make_node("Mul", ["embedded", "wide"], ["masked"], "apply_mask"),
        helper.make_node("ReduceSum", ["masked", "middle"], ["bag"], "bag", keepdims=0),
        helper.make_node("MatMul", ["bag", "w"], ["y"], "classifier"),
    ]
    weights = _normal(seed, table=(32, 16), w=(16, 3))
    axes = {"last": np.array([-1]), "middle": np.array([1])}
    inputs: dict[str, tuple[int, list[int | str]]] = {
        "ids": (TensorProto.INT64, ["N", "S"]),
        "mask": (TensorProto.FLOAT, ["N", "S"]),
    }
    return make_model(nodes, inputs, {"y": (1, ["N", 3])}, weights | axes)


def masked_transformer(masked: float, how: Literal["where", "add"] = "where", seed: int = 0) -> onnx.ModelProto:
    """An attention block with a padding mask, ``x`` (N, 12, 16) and ``keep`` (N, 12) of 0 and 1 to ``y`` (N, 6).

    Args:
        masked: The score of a token that is padding: −inf, or a number such as float32's most negative.
        how: Whether the mask replaces scores, as in ``masked_fill``, or is added to them, as in BERT.
        seed: Seed of the weights.
    """
    mask = {
        "where": [
            helper.make_node("Greater", ["wide", "half"], ["visible"], "visible"),
            helper.make_node("Where", ["visible", "scores", "masked"], ["seen"], "apply_mask"),
        ],
        "add": [
            helper.make_node("Sub", ["one", "wide"], ["padding"], "padding"),
            helper.make_node("Mul", ["padding", "masked"], ["penalty"], "penalty"),
            helper.make_node("Add", ["scores", "penalty"], ["seen"], "apply_mask"),
        ],
    }
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"], "query"),
        helper.make_node("MatMul", ["x", "wk"], ["k"], "key"),
        helper.make_node("MatMul", ["x", "wv"], ["v"], "value"),
        helper.make_node("Transpose", ["k"], ["kt"], "keys", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], "scores"),
        helper.make_node("Unsqueeze", ["keep", "middle"], ["wide"], "widen"),
        *mask[how],
        helper.make_node("Softmax", ["seen"], ["attention"], "softmax", axis=-1),
        helper.make_node("MatMul", ["attention", "v"], ["mixed"], "mix"),
        helper.make_node("Add", ["mixed", "x"], ["sum"], "residual"),
        helper.make_node("ReduceMean", ["sum", "middle"], ["pooled"], "pool", keepdims=0),
        helper.make_node("MatMul", ["pooled", "w"], ["y"], "classifier"),
    ]
    weights = _normal(seed, wq=(16, 16), wk=(16, 16), wv=(16, 16), w=(16, 6))
    weights |= {"middle": np.array([1]), "half": np.float32(0.5), "one": np.float32(1), "masked": np.float32(masked)}
    inputs: dict[str, tuple[int, list[int | str]]] = {"x": (1, ["N", 12, 16]), "keep": (1, ["N", 12])}
    return make_model(nodes, inputs, {"y": (1, ["N", 6])}, weights)


def padded(batch: int, seed: int = 1) -> dict[str, Array]:
    """Inputs of `masked_transformer`: 4 to 12 tokens each, the rest padding."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, 13, batch)
    keep = np.arange(12) < lengths[:, None]
    return {
        "x": generator.standard_normal((batch, 12, 16)).astype(np.float32),
        "keep": keep.astype(np.float32),
    }


def detector(separate: bool = False, seed: int = 0) -> onnx.ModelProto:
    """A small detection head, ``x`` (N, 3, 8, 8) to ``y`` (N, 7, 64): boxes in pixels to 640 and three classes' scores to 1.

    Args:
        separate: Whether boxes and scores are outputs of their own, ``boxes`` (N, 4, 64) and ``scores`` (N, 3, 64).
        seed: Seed of the weights.
    """
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "stem_relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "box_head"),
        helper.make_node("Sigmoid", ["c2"], ["s2"], "box_sigmoid"),
        helper.make_node("Mul", ["s2", "pixels"], ["p2"], "to_pixels"),
        helper.make_node("Reshape", ["p2", "box_shape"], ["boxes"], "box_rows"),
        helper.make_node("Conv", ["r1", "w3", "b3"], ["c3"], "score_head"),
        helper.make_node("Sigmoid", ["c3"], ["s3"], "score_sigmoid"),
        helper.make_node("Reshape", ["s3", "score_shape"], ["scores"], "score_rows"),
        *([] if separate else [helper.make_node("Concat", ["boxes", "scores"], ["y"], "join", axis=1)]),
    ]
    weights = _normal(seed, w1=(8, 3, 3, 3), b1=(8,), w2=(4, 8, 1, 1), w3=(3, 8, 1, 1))
    weights |= {"w3": 2 * weights["w3"], "b3": np.float32([-3, -4, -3]), "pixels": np.float32(640)}
    weights |= {"box_shape": np.array([0, 4, 64]), "score_shape": np.array([0, 3, 64])}
    both: dict[str, tuple[int, list[int | str]]] = {"boxes": (1, ["N", 4, 64]), "scores": (1, ["N", 3, 64])}
    return make_model(nodes, {"x": (1, ["N", 3, 8, 8])}, both if separate else {"y": (1, ["N", 7, 64])}, weights)


def carried_state(seed: int = 0, batch: int | str = "N") -> onnx.ModelProto:
    """A detector with a carried state, as for voice activity: the batch of ``state`` is on axis 1, ``rate`` is a scalar.

    ``x`` (N, 64), ``state`` (2, N, 16) and ``rate`` () int64 to ``y`` (N, 4) and ``next`` (2, N, 16).
    """
    nodes = [
        helper.make_node("ReduceSum", ["state", "axis"], ["carried"], "reduce", keepdims=0),
        helper.make_node("MatMul", ["x", "w1"], ["seen"], "encoder"),
        helper.make_node("MatMul", ["carried", "w2"], ["recalled"], "recurrence"),
        helper.make_node("Add", ["seen", "recalled"], ["sum"], "join"),
        helper.make_node("Tanh", ["sum"], ["hidden"], "tanh"),
        helper.make_node("Cast", ["rate"], ["rate_float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Div", ["rate_float", "base"], ["gain"], "gain"),
        helper.make_node("MatMul", ["hidden", "w3"], ["scores"], "classifier"),
        helper.make_node("Mul", ["scores", "gain"], ["y"], "scaled"),
        helper.make_node("Unsqueeze", ["hidden", "axis"], ["row"], "unsqueeze"),
        helper.make_node("Add", ["state", "row"], ["next"], "update"),
    ]
    weights = _normal(seed, w1=(64, 16), w2=(16, 16), w3=(16, 4))
    weights |= {"axis": np.array([0]), "base": np.array(16000, np.float32)}
    inputs = {"x": (1, [batch, 64]), "state": (1, [2, batch, 16]), "rate": (TensorProto.INT64, [])}
    return make_model(nodes, inputs, {"y": (1, [batch, 4]), "next": (1, [2, batch, 16])}, weights)


def trees(n_trees: int = 3, depth: int = 2, seed: int = 0) -> onnx.ModelProto:
    """A forest of complete trees, all its numbers in one node's attributes: ``x`` (N, 6) to ``y`` (N, 3)."""
    rng, inner, size = np.random.default_rng(seed), 2**depth - 1, 2 ** (depth + 1) - 1
    leaves = [(tree, node, label) for tree in range(n_trees) for node in range(inner, size) for label in range(3)]
    node = helper.make_node(
        "TreeEnsembleClassifier",
        ["x"],
        ["label", "y"],
        "forest",
        domain="ai.onnx.ml",
        nodes_treeids=[tree for tree in range(n_trees) for _ in range(size)],
        nodes_nodeids=[*range(size)] * n_trees,
        nodes_featureids=rng.integers(0, 6, size * n_trees).tolist(),
        nodes_modes=[*["BRANCH_LEQ"] * inner, *["LEAF"] * (size - inner)] * n_trees,
        nodes_values=rng.normal(0, 0.5, size * n_trees).astype(np.float32).tolist(),
        nodes_truenodeids=[2 * node + 1 if node < inner else 0 for node in range(size)] * n_trees,
        nodes_falsenodeids=[2 * node + 2 if node < inner else 0 for node in range(size)] * n_trees,
        class_treeids=[tree for tree, _, _ in leaves],
        class_nodeids=[node for _, node, _ in leaves],
        class_ids=[label for _, _, label in leaves],
        class_weights=rng.random(len(leaves)).astype(np.float32).tolist(),
        classlabels_int64s=[0, 1, 2],
    )
    return make_model([node], {"x": (1, ["N", 6])}, {"y": (1, ["N", 3])})


def branches(seed: int = 0) -> onnx.ModelProto:
    """Weights in the branches of an If, of another inside it and in the body of a Loop: ``x`` (N, 6) to ``y`` (N, 4)."""
    weights = _normal(seed, then=(6, 6), inner=(6, 6), body=(6, 6), w=(6, 4))
    plain = helper.make_node(
        "Constant", [], ["shift"], "shift", value=numpy_helper.from_array(np.full(6, 0.5, np.float32))
    )
    innermost = [plain, helper.make_node("Add", ["x", "shift"], ["moved"], "move")]
    inner = helper.make_node(
        "If",
        ["is_low"],
        ["chosen_inside"],
        "inner_if",
        then_branch=_branch([helper.make_node("MatMul", ["x", "v"], ["product"])], "product", v=weights["inner"]),
        else_branch=_branch(innermost, "moved"),
    )
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["carried", "v"], ["next"], "step"),
            helper.make_node("Tanh", ["next"], ["bent"]),
            helper.make_node("Identity", ["going"], ["goes_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", 1, None),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("bent", 1, None),
        ],
        [numpy_helper.from_array(weights["body"], "v")],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["highest"], keepdims=0),
        helper.make_node("ReduceMin", ["x"], ["lowest"], keepdims=0),
        helper.make_node("Greater", ["highest", "limit"], ["is_high"]),
        helper.make_node("Less", ["lowest", "floor"], ["is_low"]),
        helper.make_node(
            "If",
            ["is_high"],
            ["chosen"],
            "outer_if",
            then_branch=_branch([helper.make_node("MatMul", ["x", "v"], ["then"])], "then", v=weights["then"]),
            else_branch=_branch([inner], "chosen_inside"),
        ),
        helper.make_node("Shape", ["x"], ["trips"], start=1, end=2),
        helper.make_node("Loop", ["trips", "", "chosen"], ["looped"], "loop", body=body),
        helper.make_node("MatMul", ["looped", "w"], ["y"], "classifier"),
    ]
    stored = {"limit": np.float32(2), "floor": np.float32(-2), "w": weights["w"]}
    return make_model(nodes, {"x": (1, ["N", 6])}, {"y": (1, ["N", 4])}, stored)


def numberless() -> onnx.ModelProto:
    """A model that stores no number: ``x`` (N, 4) to ``y`` (N, 4)."""
    return make_model([helper.make_node("Relu", ["x"], ["y"], "relu")], {"x": (1, ["N", 4])}, {"y": (1, ["N", 4])})


def _branch(nodes: Sequence[onnx.NodeProto], output: str, **stored: Array) -> onnx.GraphProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(output, 1, None)], initializers)


def unknown_operator() -> onnx.ModelProto:
    """A model whose node ``strange`` is of an operator that no runtime knows."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "relu"),
        helper.make_node("Strange", ["a"], ["b"], "strange", domain="tests.example"),
        helper.make_node("Sigmoid", ["b"], ["y"], "sigmoid"),
    ]
    return make_model(nodes, {"x": (1, ["N", 4])}, {"y": (1, ["N", 4])})


def feeds(model: onnx.ModelProto, batch: int = 4, seed: int = 1) -> dict[str, Array]:
    """Random inputs for a model: standard normal floats, integers below 32, free dimensions of size ``batch``."""
    generator = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [size.dim_value or batch for size in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        whole = np.issubdtype(dtype, np.integer)
        drawn = generator.integers(0, 32, shape) if whole else generator.standard_normal(shape)
        made[value.name] = np.asarray(drawn).astype(dtype)
    return made


def static_int8(
    model: onnx.ModelProto,
    activations: Literal["u8", "s8"] = "u8",
    weights: Literal["u8", "s8"] = "s8",
    per_channel: bool = True,
    reduce_range: bool = False,
    symmetric: bool = False,
    samples: int = 32,
    in_float: Sequence[str] = (),
) -> onnx.ModelProto:
    """The QDQ version of a model, calibrated on random inputs; ``symmetric`` activations have zero point 0.

    The nodes named by ``in_float`` are not quantized.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the runtime has no types
        def __init__(self) -> None:
            self.batches: Iterator[dict[str, Array]] = iter([feeds(model, batch=samples, seed=2)])

        def get_next(self) -> dict[str, Array] | None:
            return next(self.batches, None)

    types = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize_static(
            _copy(model),  # it moves the weights of what it is given into a file
            str(path),
            Reader(),
            per_channel=per_channel,
            reduce_range=reduce_range,
            activation_type=types[activations],
            weight_type=types[weights],
            nodes_to_exclude=list(in_float),
            extra_options={"ActivationSymmetric": symmetric},
        )
        return onnx.load(path)


def dynamic_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """The dynamically quantized version of a model."""
    from onnxruntime.quantization import quantize_dynamic

    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize_dynamic(_copy(model), str(path))
        return onnx.load(path)


def int4(model: onnx.ModelProto, block_size: int = 32) -> onnx.ModelProto:
    """The weight-only int4 version of a model: MatMul becomes MatMulNBits."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(_copy(model), block_size=block_size, is_symmetric=True)
    quantizer.process()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def saved(model: onnx.ModelProto, path: Path, external: bool = False) -> Path:
    """Save a model, its weights beside it if ``external``, and return its path."""
    onnx.save(_copy(model), path, save_as_external_data=external, size_threshold=0, location=f"{path.name}.data")
    return path


def _normal(seed: int, **shapes: tuple[int, ...]) -> dict[str, Array]:
    """Named weights, He-scaled so that activations stay of order one."""
    generator = np.random.default_rng(seed)
    return {
        name: (generator.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
        for name, shape in shapes.items()
    }


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
