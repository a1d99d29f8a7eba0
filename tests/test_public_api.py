"""The public names stay, and importing or asking for help stays light: which modules are loaded is locked."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from types import FunctionType

import pytest

import hwbench

PUBLIC = ["HwbenchError", "Profile", "Run", "__version__", "compare", "export_model", "load_profile", "run"]
# What the command line is made of; shellingham and the others come with typer.
COMMAND_LINE = {"annotated_doc", "click", "shellingham", "typer", "typing_extensions"}


def loaded_by(code: str) -> set[str]:
    """The modules that ``code`` loads in a fresh interpreter which has started up."""
    program = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*set(sys.modules) - before, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def foreign(modules: set[str]) -> set[str]:
    """The top-level packages among ``modules`` that are neither ours nor the standard library's."""
    return {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) - {"hwbench"}


def test_the_public_names_are_these():
    assert hwbench.__all__ == PUBLIC
    assert dir(hwbench) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_resolves_and_is_documented(name):
    value = getattr(hwbench, name)
    if isinstance(value, (type, FunctionType)):
        assert value.__module__.startswith("hwbench.")
        assert value.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'hwbench' has no attribute 'runn'"):
        hwbench.runn  # noqa: B018


def test_the_version_is_the_distributions():
    assert hwbench.__version__ == version("hwbench-ml")


def test_importing_the_package_loads_the_standard_library_alone():
    loaded = loaded_by("import hwbench")
    assert foreign(loaded) == set()
    assert {name for name in loaded if name.startswith("hwbench")} == {"hwbench"}


def test_asking_for_help_loads_the_command_line_alone():
    call = (
        "from hwbench.cli import main\nsys.argv = ['hwbench', '--help']\ntry:\n    main()\nexcept SystemExit:\n    pass"
    )
    loaded = loaded_by(call)
    assert foreign(loaded) <= COMMAND_LINE
    ours = {name for name in loaded if name.startswith("hwbench")}
    assert {name for name in ours if not name.startswith("hwbench.cli")} == {"hwbench", "hwbench.errors"}
    assert "hwbench.cli.main" in ours  # it was the help that was asked for


@pytest.mark.parametrize("module", ["hwbench.backend", "hwbench.worker.__main__", "hwbench.api", "hwbench.cli.run"])
def test_the_core_imports_no_runtime(module):
    runtimes = {"keras", "nncf", "onnxruntime", "openvino", "sklearn", "tensorrt", "torch"}
    assert foreign(loaded_by(f"import {module}")) & runtimes == set()
