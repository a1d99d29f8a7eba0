"""Networks of the sizes people deploy, with random weights: what a fault costs depends on shapes, not on what was learned."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

# EfficientNet-Lite0: expansion, output channels, repeats, stride and kernel of every stage (Tan and Le, 2019, without
# squeeze-and-excitation and with ReLU6).
_EFFICIENTNET_LITE0 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class Graph:
    """Nodes and He-initialized weights of a network in the making."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)
        self._count = 0

    def constant(self, value: np.ndarray, name: str) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        self._count += 1
        name = f"{op.lower()}_{self._count}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def conv(
        self, x: str, c_in: int, c_out: int, kernel: int, stride: int = 1, group: int = 1, gain: float = 2.0
    ) -> str:
        self._count += 1
        fan = c_in // group * kernel * kernel
        shape = (c_out, c_in // group, kernel, kernel)
        weight = self.constant(self._normal(shape, (gain / fan) ** 0.5), f"conv_{self._count}.weight")
        bias = self.constant(self._normal((c_out,), 0.05), f"conv_{self._count}.bias")
        pad = kernel // 2
        return self.node(
            "Conv", x, weight, bias, strides=[stride] * 2, pads=[pad] * 4, group=group, kernel_shape=[kernel] * 2
        )

    def linear(self, x: str, c_in: int, c_out: int) -> str:
        self._count += 1
        weight = self.constant(self._normal((c_in, c_out), (1 / c_in) ** 0.5), f"linear_{self._count}.weight")
        bias = self.constant(self._normal((c_out,), 0.05), f"linear_{self._count}.bias")
        return self.node("Gemm", x, weight, bias)

    def model(self, output: str, image: tuple[int, ...], classes: int) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "logits"
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *image])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
            self.weights,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(made)
        return made

    def _normal(self, shape: tuple[int, ...], scale: float) -> np.ndarray:
        return (self._rng.standard_normal(shape) * scale).astype(np.float32)


def efficientnet_lite0(size: int = 224, classes: int = 1000) -> onnx.ModelProto:
    """4.6 M parameters and 0.39 GMAC per image of 3 × 224 × 224."""
    g = Graph()
    low, high = g.constant(np.float32(0), "zero"), g.constant(np.float32(6), "six")

    def relu6(x: str) -> str:
        return g.node("Clip", x, low, high)

    x, channels = relu6(g.conv("image", 3, 32, 3, 2)), 32
    for expansion, out, repeats, stride, kernel in _EFFICIENTNET_LITE0:
        for repeat in range(repeats):
            step, start = stride if repeat == 0 else 1, x
            wide = channels * expansion
            if expansion > 1:
                x = relu6(g.conv(x, channels, wide, 1))
            x = relu6(g.conv(x, wide, wide, kernel, step, group=wide))
            x = g.conv(x, wide, out, 1, gain=1.0)
            if step == 1 and channels == out:
                x = g.node("Add", x, start)
            channels = out
    x = relu6(g.conv(x, channels, 1280, 1))
    x = g.node("Flatten", g.node("GlobalAveragePool", x))
    return g.model(g.linear(x, 1280, classes), (3, size, size), classes)


def telling_apart(model: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """A network whose last bias takes away the mean output over some images.

    One with random weights gives all of them one answer otherwise, which hardly a fault changes.
    """
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    outputs = session.run(None, {name: images})[0]
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == model.graph.node[-1].input[2])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - outputs.mean(axis=0), bias.name))
    return model


def resnet20(classes: int = 10) -> onnx.ModelProto:
    """The CIFAR ResNet-20 (He et al., 2016): 0.27 M parameters and 41 MMAC per image of 3 × 32 × 32."""
    g = Graph()
    x, channels = g.node("Relu", g.conv("image", 3, 16, 3)), 16
    for out, stride in ((16, 1), (32, 2), (64, 2)):
        for block in range(3):
            step = stride if block == 0 else 1
            y = g.node("Relu", g.conv(x, channels, out, 3, step))
            y = g.conv(y, out, out, 3, gain=0.5)
            skip = x if channels == out else g.conv(x, channels, out, 1, step)
            x, channels = g.node("Relu", g.node("Add", y, skip)), out
    x = g.node("Flatten", g.node("GlobalAveragePool", x))
    return g.model(g.linear(x, 64, classes), (3, 32, 32), classes)
