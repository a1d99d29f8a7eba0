"""scikit-learn estimators and pipelines to ONNX, by way of skl2onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.errors import InputError
from hwbench.export.base import Exporter
from hwbench.export.inputs import Array, InputShape

_ML_OPSET = 3  # of the domain ai.onnx.ml; the version that goes with opset 18


class SklearnExporter(Exporter):
    """Fitted classifiers (the one output is the class probabilities) and regressors (the predicted values)."""

    framework = "sklearn"
    package = "sklearn"
    model_class = "BaseEstimator"
    install = "pip install 'hwbench-ml[sklearn]'"

    def _reference_impl(self, model: Any, feeds: Mapping[str, Array]) -> list[Array]:
        features = _only(feeds)
        if features.ndim != 2:
            raise InputError(f"a scikit-learn model takes one table, e.g. --input 1x20, not the shape {features.shape}")
        if _is_classifier(model):
            return [np.asarray(model.predict_proba(features))]
        predicted = np.asarray(model.predict(features))
        return [predicted.reshape(len(predicted), -1)]

    def _export_impl(self, model: Any, inputs: Sequence[InputShape], path: Path, opset: int) -> None:
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import guess_data_type

        spec = inputs[0]
        [(_, table)] = guess_data_type(np.empty(spec.shape, spec.dtype))
        table = type(table)([None, *spec.shape[1:]])  # the same with a dynamic batch
        classifier = _is_classifier(model)
        exported = convert_sklearn(
            model,
            initial_types=[(spec.name, table)],
            target_opset={"": opset, "ai.onnx.ml": _ML_OPSET},
            options={"zipmap": False} if classifier else None,
        )
        if classifier:  # skl2onnx puts the label first; the label is the arg max of what follows
            del exported.graph.output[0]
        path.write_bytes(exported.SerializeToString())


def _only(feeds: Mapping[str, Array]) -> Array:
    if len(feeds) != 1:
        raise InputError(f"a scikit-learn model takes one table, e.g. --input 1x20, not {len(feeds)} inputs")
    return next(iter(feeds.values()))


def _is_classifier(model: Any) -> bool:
    """Whether probabilities are exported (True) or predicted values (False).

    Raises:
        InputError: The model gives neither.
    """
    from sklearn.base import is_classifier, is_regressor

    kind = type(model).__name__
    if is_classifier(model):
        if not hasattr(model, "predict_proba"):
            raise InputError(
                f"{kind} has no class probabilities; wrap it in sklearn.calibration.CalibratedClassifierCV, "
                "or choose a loss that gives them (SGDClassifier(loss='log_loss'))"
            )
        return True
    if is_regressor(model):
        return False
    raise InputError(f"{kind} is neither a classifier nor a regressor, nor a pipeline that ends in one")
