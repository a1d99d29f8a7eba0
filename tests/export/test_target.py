"""`module:callable` finds the user's object, or says which part of it is not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hwbench.errors import InputError, ModelError, UnavailableError
from hwbench.export.target import build_model, load_target


def test_a_module_of_the_current_directory_is_found(user_module):
    name = user_module("class Holder:\n    value = 42")
    before = list(sys.path)
    assert load_target(f"{name}:Holder.value") == 42
    assert sys.path == before


@pytest.mark.parametrize("target", ["", "module", ":name", "module:", "path/to/file.py"])
def test_another_form_is_refused(target):
    with pytest.raises(InputError, match=r"not of the form package\.module:callable"):
        load_target(target)


def test_missing_parts_are_named(user_module, tmp_path):
    name = user_module("import json")
    with pytest.raises(InputError, match=f"no module 'no_such_module' in {tmp_path}"):
        load_target("no_such_module.sub:model")
    with pytest.raises(InputError, match=f"no module '{name}.sub'"):
        load_target(f"{name}.sub:model")
    with pytest.raises(InputError, match=f"module '{name}' has no attribute 'model'"):
        load_target(f"{name}:model")
    with pytest.raises(InputError, match="'json' has no attribute 'model'"):
        load_target(f"{name}:json.model")


def test_a_failing_import_is_told_with_its_cause(user_module):
    name = user_module("1 / 0")
    with pytest.raises(InputError, match=f"importing '{name}' failed: ZeroDivisionError: division by zero") as caught:
        load_target(f"{name}:model")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_missing_framework_names_the_install_command(user_module, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)  # what an absent package looks like to import
    name = user_module("import keras")
    with pytest.raises(
        UnavailableError, match=r"keras, which is not installed .*pip install 'hwbench-ml\[keras,torch\]'"
    ):
        load_target(f"{name}:model")
    late = user_module("def model():\n    import keras.layers")
    with pytest.raises(UnavailableError, match=r"pip install 'hwbench-ml\[keras,torch\]'"):
        build_model(load_target(f"{late}:model"), "late")


def test_another_missing_package_is_the_user_s(user_module):
    name = user_module("import no_such_package.sub")
    with pytest.raises(InputError, match="needs the package 'no_such_package', which is not installed"):
        load_target(f"{name}:model")


def test_a_failing_callable_is_told_with_its_cause():
    def model():
        raise FileNotFoundError("weights.bin")

    with pytest.raises(InputError, match=r"models:model\(\) failed: FileNotFoundError: weights\.bin"):
        build_model(model, "models:model")


def test_our_own_errors_pass_through():
    def model():
        raise ModelError("as it was raised")

    with pytest.raises(ModelError, match=r"^as it was raised$"):
        build_model(model, "models:model")


def test_an_object_of_no_framework_is_refused():
    with pytest.raises(
        InputError, match="models:model gives a dict, which is not a model of keras or sklearn or torch"
    ):
        build_model(dict, "models:model")


def test_a_named_framework_is_the_only_one_considered():
    linear_model = pytest.importorskip("sklearn.linear_model")
    assert build_model(linear_model.Ridge(), "m", "sklearn")[1].framework == "sklearn"
    with pytest.raises(InputError, match=r"Ridge, which is not a model of torch$"):
        build_model(linear_model.Ridge(), "m", "torch")


def test_a_model_of_two_frameworks_goes_to_the_nearer_one():
    """As Keras models on the torch backend are torch modules."""
    module = type("Module", (), {"__module__": "torch.nn.modules.module"})
    keras_model = type("Model", (module,), {"__module__": "keras.src.models.model"})
    user_model = type("Net", (keras_model,), {"__module__": "user"})
    assert build_model(user_model(), "m")[1].framework == "keras"
    assert build_model(type("Net", (module,), {"__module__": "user"})(), "m")[1].framework == "torch"


def test_recognising_imports_no_framework():
    code = """if True:
        import sys
        from hwbench.errors import InputError
        from hwbench.export import export_model, parse_input
        from pathlib import Path
        try:
            export_model(dict, [parse_input("1x2")], Path("never.onnx"))
        except InputError:
            print(sorted({"torch", "sklearn", "skl2onnx", "keras", "onnxruntime"} & sys.modules.keys()))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
