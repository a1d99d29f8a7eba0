"""scikit-learn estimators come out as ONNX whose first output is the probabilities or the predicted values."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest

from hwbench.errors import InputError, ModelError, UnavailableError
from hwbench.export import export_model, parse_input

sklearn = pytest.importorskip("sklearn")
pytest.importorskip("skl2onnx")
ort = pytest.importorskip("onnxruntime")

from sklearn.cluster import KMeans  # noqa: E402  only where scikit-learn is
from sklearn.datasets import load_diabetes, load_iris  # noqa: E402
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor  # noqa: E402
from sklearn.linear_model import LogisticRegression, Ridge  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.svm import LinearSVC  # noqa: E402

FLOWERS, SPECIES = load_iris(return_X_y=True)
PATIENTS, PROGRESSION = load_diabetes(return_X_y=True)


def export(model, columns, out, **options):
    return export_model(model, [parse_input(f"features=1x{columns}")], out, **options)


def run(path, table):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"features": table.astype(np.float32)})


@pytest.mark.parametrize(
    "model",
    [LogisticRegression(max_iter=1000), make_pipeline(StandardScaler(), RandomForestClassifier(10, random_state=0))],
    ids=["linear", "pipeline"],
)
@pytest.mark.parametrize("labels", [SPECIES, np.array(["a", "b", "c"])[SPECIES]], ids=["numbers", "names"])
def test_a_classifier_gives_its_probabilities(tmp_path, model, labels):
    model.fit(FLOWERS, labels)
    report = export(model, 4, tmp_path / "model.onnx")
    assert (report.framework, report.outputs) == ("sklearn", ("probabilities",))
    assert report.max_abs_error < 1e-5
    [probabilities] = run(tmp_path / "model.onnx", FLOWERS)
    assert (model.classes_[probabilities.argmax(axis=1)] == model.predict(FLOWERS)).mean() > 0.99


@pytest.mark.parametrize(
    ("model", "values"),
    [(Ridge(), PROGRESSION), (Ridge(), np.c_[PROGRESSION, -PROGRESSION]), (RandomForestRegressor(10), PROGRESSION)],
    ids=["one", "two", "forest"],
)
def test_a_regressor_gives_its_values(tmp_path, model, values):
    model.fit(PATIENTS, values)
    report = export(model, 10, tmp_path / "model.onnx", output_names=["progression"])
    assert report.outputs == ("progression",)
    [predicted] = run(tmp_path / "model.onnx", PATIENTS)
    assert predicted.shape == (len(PATIENTS), values.size // len(values))


def test_the_file_is_portable(tmp_path):
    export(LogisticRegression(max_iter=1000).fit(FLOWERS, SPECIES), 4, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    assert max(entry.version for entry in model.opset_import if not entry.domain) <= 21
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert {node.op_type for node in model.graph.node} == {"LinearClassifier", "Normalizer"}  # none that makes labels


def test_a_model_changed_after_the_reference_fails_parity(tmp_path, monkeypatch):
    """The control: the file is made from other coefficients than those compared with."""
    from hwbench.export.sklearn import SklearnExporter

    real = SklearnExporter._export_impl

    def tampered(self, model, *rest):
        model.coef_ *= 1.01
        real(self, model, *rest)

    monkeypatch.setattr(SklearnExporter, "_export_impl", tampered)
    with pytest.raises(ModelError, match="output 0 differs by up to"):
        export(Ridge().fit(PATIENTS, PROGRESSION), 10, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            LinearSVC().fit(FLOWERS, SPECIES),
            "LinearSVC has no class probabilities; wrap it in .*CalibratedClassifierCV",
        ),
        (KMeans(2, n_init=1).fit(FLOWERS), "KMeans is neither a classifier nor a regressor"),
        (LogisticRegression(max_iter=1000), "could not be run on features float32 .*NotFittedError"),
        (Ridge().fit(PATIENTS, PROGRESSION), "could not be run on features float32 .*expecting 10 features"),
    ],
    ids=["no probabilities", "no task", "not fitted", "other columns"],
)
def test_what_cannot_be_exported_is_told(tmp_path, model, message):
    with pytest.raises(InputError, match=message):
        export(model, 4, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shapes", [["1x4", "b=1x4"], ["1x2x2"]])
def test_only_one_table_is_taken(tmp_path, shapes):
    model = LogisticRegression(max_iter=1000).fit(FLOWERS, SPECIES)
    with pytest.raises(InputError, match=r"takes one table, e\.g\. --input 1x20"):
        export_model(model, [parse_input(shape) for shape in shapes], tmp_path / "model.onnx")


def test_missing_skl2onnx_names_the_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(UnavailableError, match=r"pip install 'hwbench-ml\[sklearn\]'"):
        export(LogisticRegression(max_iter=1000).fit(FLOWERS, SPECIES), 4, tmp_path / "model.onnx")
