"""What every backend that runs without a GPU promises, checked on the real runtimes."""

import subprocess
import sys
from dataclasses import fields, is_dataclass

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from pydantic import TypeAdapter, ValidationError

from hwbench.backend import backends, load_backend
from hwbench.errors import InputError, ModelError, UnsupportedError
from tests import models

pytestmark = pytest.mark.isa
RUNTIMES = {"onnxruntime": "onnxruntime", "openvino": "openvino"}  # backend to the package it drives
FLOAT_MODELS = {"cnn": models.small_cnn, "mlp": models.mlp, "two inputs": models.two_inputs}


@pytest.fixture(params=RUNTIMES)
def backend(request):
    return load_backend(backends.reference(request.param))


@pytest.fixture(scope="module")
def cnn():
    return models.small_cnn()


@pytest.fixture(scope="module")
def int8_cnn(cnn):
    return models.static_int8(cnn)


def compiled(backend, model, mutable=(), **options):
    return backend.compile(model.SerializeToString(), {backend.threads_option: 1, **options}, mutable)


def weight(model, name):
    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


def flipped(value, element, bit):
    """A copy of ``value`` with one bit of one element inverted."""
    copy = np.array(value)
    copy.view(f"u{copy.itemsize}").reshape(-1)[element] ^= np.array(1 << bit, f"u{copy.itemsize}")
    return copy


# Running


@pytest.mark.parametrize("make", FLOAT_MODELS.values(), ids=FLOAT_MODELS)
def test_a_run_gives_what_onnx_defines(backend, make):
    model = make()
    feeds = models.feeds(model)
    with compiled(backend, model) as session:
        got = session.run(feeds)
    expected = ReferenceEvaluator(model).run(None, feeds)
    assert list(got) == [output.name for output in model.graph.output]
    np.testing.assert_allclose(got["y"], expected[0], rtol=1e-4, atol=1e-5)
    assert got["y"].dtype == np.float32


def test_inputs_and_outputs_are_described(backend):
    with compiled(backend, models.two_inputs()) as session:
        described = {spec.name: (spec.dtype, spec.shape) for spec in session.inputs + session.outputs}
    assert described == {"ids": ("int64", (None, None)), "mask": ("float32", (None, None)), "y": ("float32", (None, 3))}


def test_the_batch_size_may_change_and_results_are_kept_apart(backend, cnn):
    feeds = models.feeds(cnn, batch=6)
    with compiled(backend, cnn) as session:
        whole = session.run(feeds)["y"]
        before = whole.copy()
        parts = [session.run({"x": feeds["x"][i : i + 2]})["y"] for i in (0, 2, 4)]
    np.testing.assert_array_equal(whole, before)  # the outputs handed out are not the runtime's own memory
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5, atol=1e-6)


def test_feeds_may_be_read_only_and_not_contiguous(backend, cnn):
    values = np.asfortranarray(models.feeds(cnn)["x"])
    values.flags.writeable = False
    with compiled(backend, cnn) as session:
        np.testing.assert_array_equal(
            session.run({"x": values})["y"], session.run({"x": np.array(values, order="C")})["y"]
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "uint8", "int32", "int64", "float64", "bool"])
def test_element_types_go_in_and_out_unchanged(backend, dtype):
    kind = models.helper.np_dtype_to_tensor_dtype(np.dtype(dtype) if dtype != "bfloat16" else bfloat16())
    nodes = [models.helper.make_node("Concat", ["x", "x"], ["y"], "twice", axis=0)]
    model = models.make_model(nodes, {"x": (kind, ["N", 3])}, {"y": (kind, ["M", 3])})
    value = np.array([[0, 1, 1], [1, 0, 1]]).astype(bfloat16() if dtype == "bfloat16" else dtype)
    with compiled(backend, model) as session:
        got = session.run({"x": value})["y"]
        session.bind({"x": value})()
    assert (session.inputs[0].dtype, got.dtype.name) == (dtype, dtype)
    np.testing.assert_array_equal(got.astype(np.float64), np.concatenate([value, value]).astype(np.float64))


def bfloat16():
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)


def test_text_is_refused(backend):
    nodes = [models.helper.make_node("Identity", ["x"], ["y"], "same")]
    model = models.make_model(nodes, {"x": (onnx.TensorProto.STRING, [2])}, {"y": (onnx.TensorProto.STRING, [2])})
    with pytest.raises(UnsupportedError, match=r"'x'.*string"):
        compiled(backend, model)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"inputs are \['x'\], not \[\]"),
        ({"z": np.zeros((1, 1, 8, 8), np.float32)}, "not .*'z'"),
        ({"x": np.zeros((1, 1, 8, 8), np.float64)}, "takes float32, not float64"),
        ({"x": np.zeros((1, 1, 8, 9), np.float32)}, "takes shape"),
        ({"x": np.zeros((1, 8, 8), np.float32)}, "takes shape"),
    ],
)
@pytest.mark.parametrize("method", ["run", "bind"])
def test_feeds_that_do_not_fit_are_refused(backend, cnn, method, feeds, message):
    with compiled(backend, cnn) as session, pytest.raises(InputError, match=message):
        getattr(session, method)(feeds)


def test_a_bound_call_needs_nothing_but_itself(backend, cnn):
    with compiled(backend, cnn) as session:
        call = session.bind(models.feeds(cnn, batch=64))  # the only reference to these inputs is the binding's
        other = session.bind(models.feeds(cnn, batch=2))
        for _ in range(3):
            call()
            other()
        assert session.run(models.feeds(cnn))["y"].shape == (4, 10)


def test_a_closed_session_refuses_everything(backend, cnn):
    session = compiled(backend, cnn)
    feeds = models.feeds(cnn)
    with session:
        session.run(feeds)
    session.close()  # a second time does nothing
    for call in (lambda: session.run(feeds), lambda: session.bind(feeds), session.executed):
        with pytest.raises(InputError, match="closed"):
            call()


# Changing weights


def test_an_update_changes_the_output_and_is_undone_exactly(backend, cnn):
    feeds, original = models.feeds(cnn), weight(cnn, "w2")
    with compiled(backend, cnn, mutable=["w2"]) as session:
        golden = session.run(feeds)["y"]
        session.update("w2", flipped(original, element=17, bit=30))
        assert not np.array_equal(session.run(feeds)["y"], golden)
        session.update("w2", original)
        np.testing.assert_array_equal(session.run(feeds)["y"], golden)


def test_the_stored_bits_of_a_quantized_model_can_be_updated(backend, int8_cnn):
    feeds, name = models.feeds(int8_cnn), "w2_quantized"
    original = weight(int8_cnn, name)
    assert original.dtype == np.int8
    with compiled(backend, int8_cnn, mutable=[name]) as session:
        golden = session.run(feeds)["y"]
        session.update(name, -original)
        assert not np.array_equal(session.run(feeds)["y"], golden)
        session.update(name, original)
        np.testing.assert_array_equal(session.run(feeds)["y"], golden)


def test_only_declared_initializers_can_be_updated(backend, cnn):
    with compiled(backend, cnn, mutable=["w2"]) as session:
        with pytest.raises(InputError, match="w1"):
            session.update("w1", weight(cnn, "w1"))
        session.update("w2", weight(cnn, "w2")[:2])
        with pytest.raises(InputError, match="w2"):
            session.run(models.feeds(cnn))


# What ran


def test_the_products_of_a_qdq_model_ran_in_int8(backend, int8_cnn):
    with compiled(backend, int8_cnn) as session:
        nodes = session.executed()
    ran = {name: node for node in nodes for name in node.onnx_nodes}
    for product in ("conv1", "conv2", "classifier"):
        assert ran[product].precision == "int8", ran[product]
        assert ran[product].device == backend.device({})


def test_a_float_model_ran_in_fp32_and_every_node_is_accounted_for(backend, cnn):
    with compiled(backend, cnn) as session:
        nodes = session.executed()
    assert {node.precision for node in nodes if node.onnx_nodes} == {"fp32"}
    behind = [name for node in nodes for name in node.onnx_nodes]
    assert sorted(behind) == sorted(node.name or node.output[0] for node in cnn.graph.node)
    assert all(node.kernel for node in nodes)


def test_int4_weights_are_told(backend):
    with compiled(backend, models.int4(models.mlp())) as session:
        nodes = session.executed()
    ran = {name: node.precision for node in nodes for name in node.onnx_nodes}
    assert ran["gemm"] == "fp32"
    assert next(precision for name, precision in ran.items() if name.startswith("matmul")) == "int4"


def test_what_ran_can_be_told_after_an_update(backend, cnn):
    with compiled(backend, cnn, mutable=["w1"]) as session:
        before = session.executed()
        session.update("w1", weight(cnn, "w1") * 2)
        session.run(models.feeds(cnn))
        assert sorted(node.onnx_nodes for node in session.executed()) == sorted(node.onnx_nodes for node in before)


# What is supported


def test_a_model_that_runs_is_covered_node_by_node(backend, cnn, int8_cnn, tmp_path):
    for model in (cnn, int8_cnn):
        coverage = backend.coverage(models.saved(model, tmp_path / "model.onnx"), {})
        assert coverage.supported
        assert [node.node for node in coverage.nodes] == [node.name or node.output[0] for node in model.graph.node]
        assert [node.op_type for node in coverage.nodes] == [node.op_type for node in model.graph.node]
        assert {node.device for node in coverage.nodes} == {backend.device({})}


def test_an_unknown_operator_is_named(backend, tmp_path):
    path = models.saved(models.unknown_operator(), tmp_path / "strange.onnx")
    coverage = backend.coverage(path, {})
    assert not coverage.supported
    assert [node.supported for node in coverage.nodes] == [True, False, True]
    assert "Strange" in coverage.nodes[1].reason
    with pytest.raises(UnsupportedError, match=r"strange\.onnx.*tests\.example.Strange"):
        backend.compile(path, {})


# Files


@pytest.mark.parametrize("external", [False, True])
def test_a_model_is_read_from_its_file(backend, cnn, tmp_path, external):
    path = models.saved(cnn, tmp_path / "model.onnx", external=external)
    feeds = models.feeds(cnn)
    with compiled(backend, cnn) as session:
        expected = session.run(feeds)["y"]
    with backend.compile(path, {backend.threads_option: 1}, ["w2"]) as session:
        np.testing.assert_array_equal(session.run(feeds)["y"], expected)
        assert session.executed()
        session.update("w2", weight(cnn, "w2") * 2)
        assert not np.array_equal(session.run(feeds)["y"], expected)
    assert backend.coverage(path, {}).supported


def test_files_that_are_no_model_are_refused(backend, cnn, tmp_path):
    with pytest.raises(ModelError, match=r"missing\.onnx: no such model file"):
        backend.compile(tmp_path / "missing.onnx", {})
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(cnn.SerializeToString()[:500])
    with pytest.raises(ModelError, match=r"truncated\.onnx"):
        backend.compile(truncated, {})
    for content in (b"", b"not a model at all" * 20):
        with pytest.raises(ModelError, match="whole ONNX file"):
            backend.compile(content, {})


def test_external_data_that_are_missing_are_reported(backend, cnn, tmp_path):
    path = models.saved(cnn, tmp_path / "model.onnx", external=True)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx.*external data"):
        backend.compile(path, {})


# Options and environment


def test_options_forbid_unknown_keys_and_negative_counts(backend):
    adapter = TypeAdapter(backend.options_type)
    assert is_dataclass(backend.options_type)
    assert adapter.validate_python({backend.threads_option: 2}) == backend.options_type(**{backend.threads_option: 2})
    with pytest.raises(ValidationError, match="no_such_option"):
        adapter.validate_python({"no_such_option": 1})
    with pytest.raises(ValidationError, match="must not be negative"):
        adapter.validate_python({backend.threads_option: -1})
    documented = backend.options_type.__doc__
    assert all(f"{field.name}:" in documented for field in fields(backend.options_type))


def test_the_probe_tells_versions_devices_and_hints(backend):
    found = backend.probe()
    assert found.available
    assert backend.device({}) in found.devices
    assert RUNTIMES[backend.name] in found.versions
    assert found.hints
    assert not set(found.hints) & set(found.devices)
    assert all(found.hints.values())


def test_importing_a_backend_or_its_options_imports_no_runtime(backend):
    package, runtime = f"hwbench_{backend.name}", RUNTIMES[backend.name]
    in_child(f"""
        import sys
        import {package}, {package}.options
        assert not {{"numpy.random", "onnx", "{runtime}"}} & set(sys.modules), sys.modules.keys()
    """)
    in_child(f"""
        import sys
        from importlib.util import find_spec, module_from_spec, spec_from_file_location
        folder = find_spec("{package}").submodule_search_locations[0]
        spec = spec_from_file_location("alone", folder + "/options.py")
        sys.modules["alone"] = module = module_from_spec(spec)
        spec.loader.exec_module(module)
        assert not {{"hwbench", "numpy", "pydantic", "{runtime}"}} & set(sys.modules), sys.modules.keys()
    """)


def test_telemetry_is_off_before_the_runtime_is_imported(backend):
    in_child(
        f"""
        import os, sys

        class Watch:
            seen = []

            def find_spec(self, name, path=None, target=None):
                if name == "{RUNTIMES[backend.name]}":
                    self.seen.append(dict(os.environ))

        sys.meta_path.insert(0, Watch())
        from hwbench.backend import load_backend
        from hwbench.telemetry import NO_TELEMETRY
        for name in NO_TELEMETRY:
            os.environ.pop(name, None)
        load_backend("{backends.reference(backend.name)}").probe()
        assert len(Watch.seen) == 1
        assert NO_TELEMETRY.items() <= Watch.seen[0].items()
        """
    )


def in_child(code):
    from textwrap import dedent

    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_compiled_form_can_be_kept(backend, tmp_path):
    path = models.saved(models.small_cnn(), tmp_path / "model.onnx")
    with backend.compile(path, {}) as session:
        name, content = session.compiled()
    assert name.startswith(backend.name)
    assert len(content) > 1000
