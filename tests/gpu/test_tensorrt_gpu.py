"""TensorRT on a real GPU: the numbers it gives, what ran, weights changed in place, latency calls, the engine cache."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hwbench.errors import InputError, UnsupportedError

pytestmark = pytest.mark.gpu


def initializer(path, name):
    return next(numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer if tensor.name == name)


def test_probe_names_the_device_that_options_ask_for(tensorrt):
    found = tensorrt.probe()
    assert tensorrt.device({}) in found.devices
    assert found.versions["tensorrt"]
    assert all(name.startswith("sm_") for name in found.isa)


def test_fp32_agrees_with_onnxruntime(tensorrt, fp32_model, inputs, reference):
    with tensorrt.compile(fp32_model, {}) as session:
        (spec,) = session.inputs
        assert (spec.name, spec.dtype, spec.shape) == ("x", "float32", (None, 3, 12, 12))
        np.testing.assert_allclose(session.run({"x": inputs})["y"], reference, rtol=1e-4, atol=1e-5)


def test_fp16_agrees_to_its_precision(tensorrt, fp16_model, inputs, reference):
    with tensorrt.compile(fp16_model, {}) as session:
        output = session.run({"x": inputs.astype(np.float16)})["y"]
    assert output.dtype == np.float16
    np.testing.assert_allclose(output.astype(np.float32), reference, atol=2e-2)


def test_int8_agrees_to_its_precision_and_runs_in_int8(tensorrt, int8_model, inputs, reference):
    with tensorrt.compile(int8_model, {}) as session:
        output = session.run({"x": inputs})["y"]
        executed = session.executed()
    noise = np.mean((output - reference) ** 2)
    assert 10 * np.log10(np.mean(reference**2) / noise) > 20  # dB
    assert "int8" in {node.precision for node in executed}


def test_batches_of_different_sizes_run_one_after_the_other(tensorrt, fp32_model, inputs, reference):
    with tensorrt.compile(fp32_model, {"max_batch": len(inputs)}) as session:
        for rows in (1, len(inputs), 3):
            np.testing.assert_allclose(session.run({"x": inputs[:rows]})["y"], reference[:rows], rtol=1e-4, atol=1e-5)


def test_batch_above_the_largest_is_refused(tensorrt, fp32_model, inputs):
    with (
        tensorrt.compile(fp32_model, {"max_batch": 2}) as session,
        pytest.raises(InputError, match="max_batch"),
    ):
        session.run({"x": inputs[:3]})


def test_coverage_of_a_model_that_is_taken(tensorrt, fp32_model):
    coverage = tensorrt.coverage(fp32_model, {})
    assert [node.node for node in coverage.nodes] == ["conv", "relu", "pool", "flatten", "fc"]
    assert coverage.supported
    assert {node.device for node in coverage.nodes} == {tensorrt.device({})}


def test_coverage_names_the_node_that_is_not_taken(tensorrt, unsupported_model):
    nodes = {node.node: node for node in tensorrt.coverage(unsupported_model, {}).nodes}
    assert not nodes["odd"].supported
    assert nodes["odd"].reason
    assert nodes["odd"].device == ""


def test_a_model_that_is_not_taken_is_refused_with_the_node(tensorrt, unsupported_model):
    with pytest.raises(UnsupportedError, match=r"odd|Unknowable"):
        tensorrt.compile(unsupported_model, {})


def test_a_dynamic_dimension_other_than_the_batch_is_refused(tensorrt, tmp_path):
    value = [helper.make_tensor_value_info(name, 1, ["batch", "length"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "dynamic", value[:1], value[1:])
    path = tmp_path / "dynamic.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    with pytest.raises(UnsupportedError, match=r"'x'.*only the first dimension"):
        tensorrt.compile(path, {})


@pytest.mark.parametrize("options", [{}, {"max_batch": 4, "opt_batch": 4}])
def test_executed_layers_cover_the_model(tensorrt, fp16_model, options):
    with tensorrt.compile(fp16_model, options) as session:
        executed = session.executed()
    assert {node.device for node in executed} == {tensorrt.device({})}
    assert "fp16" in {node.precision for node in executed}
    assert {"conv", "fc"} <= {name for node in executed for name in node.onnx_nodes}
    assert any(node.kernel for node in executed)


@pytest.mark.parametrize("kind", ["fp32_model", "fp16_model", "int8_model"])
def test_engine_with_changeable_weights_computes_the_same(tensorrt, kind, inputs, request):
    """A refittable engine may choose other kernels, and in one release dropped the bias of a matrix product."""
    model = request.getfixturevalue(kind)
    names = [tensor.name for tensor in onnx.load(model).graph.initializer]
    feeds = {"x": inputs.astype(np.float16) if kind == "fp16_model" else inputs}
    with tensorrt.compile(model, {}) as plain, tensorrt.compile(model, {}, mutable=names) as changeable:
        expected, output = plain.run(feeds)["y"], changeable.run(feeds)["y"]
    tolerance = {"fp32_model": 1e-4, "fp16_model": 1e-2, "int8_model": 5e-2}[kind]
    np.testing.assert_allclose(output.astype(np.float32), expected.astype(np.float32), atol=tolerance)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("fp32_model", "conv.weight"), ("fp32_model", "fc.bias"), ("fp16_model", "fc.weight"), ("int8_model", "fc.bias")],
)
def test_changed_weights_compute_what_a_rebuilt_model_does(tensorrt, kind, name, inputs, tmp_path, request):
    model = request.getfixturevalue(kind)
    feeds = {"x": inputs.astype(np.float16) if kind == "fp16_model" else inputs}
    original = initializer(model, name)
    changed = (original + original.std() * 2).astype(original.dtype)
    rebuilt = onnx.load(model)
    next(tensor for tensor in rebuilt.graph.initializer if tensor.name == name).CopyFrom(
        numpy_helper.from_array(changed, name)
    )
    path = tmp_path / "rebuilt.onnx"
    onnx.save(rebuilt, path)
    with tensorrt.compile(model, {}, mutable=[name]) as session, tensorrt.compile(path, {}) as other:
        golden = session.run(feeds)["y"]
        session.update(name, changed)
        output, expected = session.run(feeds)["y"], other.run(feeds)["y"]
        session.update(name, original)
        restored = session.run(feeds)["y"]
    assert not np.allclose(output.astype(np.float32), golden.astype(np.float32), atol=0.05)
    np.testing.assert_allclose(output.astype(np.float32), expected.astype(np.float32), atol=2e-2)
    np.testing.assert_array_equal(restored, golden)


def test_quantized_weights_can_be_changed(tensorrt, int8_model, inputs):
    (name,) = [
        tensor.name for tensor in onnx.load(int8_model).graph.initializer if tensor.name == "fc.weight_quantized"
    ]
    original = initializer(int8_model, name)
    with tensorrt.compile(int8_model, {}, mutable=[name]) as session:
        golden = session.run({"x": inputs})["y"]
        session.update(name, np.bitwise_xor(original, np.int8(64)))
        assert not np.allclose(session.run({"x": inputs})["y"], golden, atol=0.05)
        session.update(name, original)
        np.testing.assert_allclose(session.run({"x": inputs})["y"], golden, atol=5e-2)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_bound_calls_outlive_each_other(tensorrt, fp32_model, inputs, reference, cuda_graph):
    with tensorrt.compile(fp32_model, {"cuda_graph": cuda_graph}) as session:
        one = session.bind({"x": inputs[:1]})
        many = session.bind({"x": inputs})
        for call in (one, many, one):
            call()
        np.testing.assert_allclose(session.run({"x": inputs})["y"], reference, rtol=1e-4, atol=1e-5)


def test_cached_engine_gives_the_same_output(tensorrt, fp32_model, inputs, tmp_path):
    options = {"cache": str(tmp_path / "cache")}
    with tensorrt.compile(fp32_model, options) as session:
        built = session.run({"x": inputs})["y"]
    (engine,) = (tmp_path / "cache").glob("*.engine")
    written = engine.stat().st_mtime_ns
    with tensorrt.compile(fp32_model, options) as session:
        np.testing.assert_array_equal(session.run({"x": inputs})["y"], built)
    assert engine.stat().st_mtime_ns == written


def test_damaged_engine_in_the_cache_is_built_again(tensorrt, fp32_model, inputs, reference, tmp_path):
    options = {"cache": str(tmp_path / "cache")}
    tensorrt.compile(fp32_model, options).close()
    (engine,) = (tmp_path / "cache").glob("*.engine")
    engine.write_bytes(engine.read_bytes()[:100])
    with tensorrt.compile(fp32_model, options) as session:
        np.testing.assert_allclose(session.run({"x": inputs})["y"], reference, rtol=1e-4, atol=1e-5)
