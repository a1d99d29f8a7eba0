"""PyTorch modules come out as ONNX that computes the same for any batch, or not at all."""

from __future__ import annotations

import sys

import onnx
import pytest

from hwbench.errors import InputError, ModelError, UnavailableError
from hwbench.export import export_model, parse_input
from hwbench.export.torch import TorchExporter

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

# torch.export takes seconds; each test that exports is one of CI's.
slow = pytest.mark.slow


class Small(torch.nn.Module):
    """Has a layer that behaves otherwise in training."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.dropout = torch.nn.Dropout(0.5)
        self.linear = torch.nn.Linear(4 * 36, 5)

    def forward(self, x):
        return self.linear(self.dropout(self.norm(self.convolution(x)).relu().flatten(1)))


class Encoder(torch.nn.Module):
    """Takes ids and a mask; returns a dict of two tensors, as transformers do."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(10, 8)
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, ids, mask):
        hidden = self.embedding(ids)
        weights = mask.to(hidden.dtype).unsqueeze(-1)
        mixed, _ = self.attention(hidden, hidden, hidden, need_weights=False)
        pooled = (mixed * weights).sum(1) / (weights.sum(1) + 1)
        return {"logits": self.head(pooled), "hidden": mixed}


class FixedBatch(torch.nn.Module):
    """Runs on any batch, but by another path on a batch of two, so that tracing ties the batch to one path."""

    def forward(self, x):
        return x + 1 if x.shape[0] == 2 else x - 1


def inputs(*texts):
    return [parse_input(text) for text in texts]


@slow
def test_small_network(tmp_path):
    torch.manual_seed(0)
    model = Small().train()
    out = tmp_path / "new" / "model.onnx"
    report = export_model(model, inputs("image=1x3x8x8"), out, output_names=["logits"])
    assert (report.framework, report.outputs, report.opset, report.batches) == ("torch", ("logits",), 18, (1, 3))
    assert report.max_abs_error <= 1e-5
    assert report.size_bytes == out.stat().st_size
    assert f"max abs difference {report.max_abs_error:.3g} (tolerance 0.0001 + 0.001 of the value)" in str(report)
    assert [path.name for path in out.parent.iterdir()] == ["model.onnx"]
    exported = onnx.load(out)
    onnx.checker.check_model(exported, full_check=True)
    dims = exported.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, 8, 8]
    for tensor in exported.graph.initializer:
        tensor.ClearField("raw_data")
    assert ".py" not in str(exported)


@slow
@pytest.mark.parametrize("names", [("ids", "mask"), ("mask", "ids"), ("first", "second")])
def test_two_inputs_by_name_or_position(tmp_path, names):
    torch.manual_seed(0)
    dtypes = {"mask": "bool", "second": "bool"}
    specs = inputs(*(f"{name}=1x16:{dtypes.get(name, 'int64')}" for name in names))
    report = export_model(Encoder(), specs, tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert {value.name for value in graph.input} == set(names)
    assert len(report.outputs) == 2


@slow
def test_a_callable_named_on_the_command_line(tmp_path, user_module):
    name = user_module("""
        import torch

        def classifier():
            return torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Softmax(dim=-1))
    """)
    report = export_model(f"{name}:classifier", inputs("1x4"), tmp_path / "model.onnx", opset=21)
    assert (report.inputs[0].name, report.opset) == ("input", 21)


@slow
def test_a_wrong_export_fails_parity_and_leaves_what_was_there(tmp_path, monkeypatch):
    """The control: one weight is changed between the reference run and the export, by one part in a hundred."""
    real = TorchExporter._export_impl

    def tampered(self, model, *rest):
        with torch.no_grad():
            model.linear.weight[0, 0] *= 1.01
            model.linear.weight[0, 0] += 0.01
        real(self, model, *rest)

    monkeypatch.setattr(TorchExporter, "_export_impl", tampered)
    out = tmp_path / "model.onnx"
    out.write_bytes(b"an earlier result")
    torch.manual_seed(0)
    with pytest.raises(ModelError, match=r"differs by up to [\d.e-]+, the tolerance is 0\.0001 \+ 0\.001"):
        export_model(Small(), inputs("1x3x8x8"), out)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(out.name, b"an earlier result")]


@slow
def test_a_model_that_fixes_its_batch_is_refused(tmp_path):
    with pytest.raises(ModelError, match="fixed shape"):
        export_model(FixedBatch(), inputs("1x4"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_an_input_that_does_not_fit_is_told_before_exporting(tmp_path):
    with pytest.raises(InputError, match=r"could not be run on input float32 \(1, 7\): RuntimeError: mat1 and mat2"):
        export_model(torch.nn.Linear(4, 2), inputs("1x7"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_result_that_is_no_tensor_is_refused(tmp_path):
    class Text(torch.nn.Module):
        def forward(self, _):
            return "seven"

    with pytest.raises(ModelError, match="the model returns a str"):
        export_model(Text(), inputs("1x4"), tmp_path / "model.onnx")


def test_missing_onnxscript_names_the_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UnavailableError, match=r"pip install 'hwbench-ml\[torch\]'"):
        export_model(torch.nn.Linear(4, 2), inputs("1x4"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
