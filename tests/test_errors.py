"""The exception tree and what messages hold."""

import inspect
import re

import pytest

from hwbench import errors
from hwbench.errors import HwbenchError, InputError, UnavailableError, UnknownNameError

CLASSES = {name: found for name, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, Exception)}


def drawn():
    """The tree in the module's docstring, as class name to parent's name."""
    parents, path = {}, []
    for line in errors.__doc__.splitlines():
        if not (match := re.match(r"    ((?:│   |    )*)(?:[├└]── )?([A-Z]\w+Error)\b", line)):
            continue
        depth = len(match[1]) // 4 + ("──" in line)
        path[depth:] = [match[2]]
        parents[match[2]] = path[depth - 1] if depth else "Exception"
    return parents


def test_the_tree_is_as_drawn():
    assert drawn() == {name: error.__base__.__name__ for name, error in CLASSES.items()}


def test_bad_input_is_told_from_what_this_machine_lacks():
    assert issubclass(UnknownNameError, InputError)
    assert not issubclass(UnavailableError, InputError)
    assert all(issubclass(error, HwbenchError) for error in CLASSES.values())


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        (
            "cpu-int9",
            ["cpu-int8", "cpu-fp32"],
            "unknown profile 'cpu-int9'. Did you mean 'cpu-int8'? Known: cpu-fp32, cpu-int8.",
        ),
        ("zzz", ["b", "a"], "unknown profile 'zzz'. Known: a, b."),
        ("x", [], "unknown profile 'x'. Known: none."),
    ],
)
def test_unknown_names_come_with_the_nearest_and_all_others(name, known, message):
    error = UnknownNameError("profile", name, iter(known))
    assert str(error) == message
    assert (error.name, error.known) == (name, sorted(known))


def test_what_would_help_is_part_of_the_message():
    error = UnavailableError("no GPU", "nvidia-smi")
    assert (str(error), error.reason, error.hint) == ("no GPU (nvidia-smi)", "no GPU", "nvidia-smi")
    assert str(UnavailableError("no GPU")) == "no GPU"
