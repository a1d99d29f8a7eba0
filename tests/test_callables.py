import sys

import pytest

from hwbench.callables import foreign_code, is_reference, load_callable
from hwbench.errors import DataError, InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:b", True),
        ("a.b:c.d", True),
        ("a", False),
        ("a:", False),
        (":b", False),
        ("a/x.npz", False),
        ("./a:b", False),
    ],
)
def test_references_are_told_from_paths(text, expected):
    assert is_reference(text) is expected


def test_modules_in_the_current_folder_are_found(tmp_path, monkeypatch):
    (tmp_path / "hwbench_test_mine.py").write_text("class Box:\n    @staticmethod\n    def f():\n        return 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_callable("hwbench_test_mine:Box.f")() == 7


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no colon", "not of the form module:callable"),
        ("hwbench_no_such_module:f", "hwbench_no_such_module"),
        ("math:no_such_function", "no_such_function"),
        ("math:pi", "not callable but of type float"),
    ],
)
def test_what_cannot_be_loaded_is_named(reference, message):
    with pytest.raises(InputError, match=message):
        load_callable(reference)
    with pytest.raises(DataError):
        load_callable(reference, DataError)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "raise RuntimeError('no\\nway')",
            r"importing 'hwbench_test_bad' failed: RuntimeError: no way \(\w+\.py, line 1\)",
        ),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("1 +", "SyntaxError"),
        ("def f(:", "SyntaxError"),
        ("x = '\\ud800'.encode()", "UnicodeEncodeError"),
        ("import hwbench_no_such_module", "cannot be loaded: No module named"),
        (
            "class E(Exception):\n    def __str__(self):\n        raise ValueError\nraise E",
            "its message raised ValueError",
        ),
        ("def f():\n    return f()\nf()", "RecursionError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(tmp_path, monkeypatch, source, message):
    (tmp_path / "hwbench_test_bad.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "hwbench_test_bad", raising=False)
    with pytest.raises(DataError, match=message) as refused:
        load_callable("hwbench_test_bad:f", DataError)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_interruptions_and_our_own_errors_pass(error):
    with pytest.raises(error, match="stop"), foreign_code("the call", DataError):
        raise error("stop")
