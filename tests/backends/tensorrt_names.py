"""Finds uses of TensorRT or the CUDA runtime that their real bindings do not have. Run where the bindings can be imported.

What is checked in a source file: every attribute chain on a module imported from the bindings, and every attribute of a
value whose type is known, from an annotation (``builder: trt.Builder``) or from the signature that the bindings document
for the method that returned it. A TensorRT object kept under a name without an annotation is a problem of its own, so that
no use escapes.
"""

import ast
import importlib
import json
import re
import sys
from pathlib import Path

MODULES = {"trt": "tensorrt", "cudart": "cuda.bindings.runtime"}
RETURNED = re.compile(r"-> [\w.]*tensorrt\.(\w+)\s*$", re.MULTILINE)


def problems(source: str) -> list[str]:
    """Line and description of every use that does not exist in the bindings."""
    tree = ast.parse(source)
    return [
        *_unknown_names(tree),
        *(f"line {line}: {problem}" for line, problem in _unknown_members(tree, _annotations(tree))),
    ]


def uses(source: str) -> int:
    """How many attribute accesses of ``source`` are checked."""
    tree = ast.parse(source)
    types = _annotations(tree)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return sum(_chain(node) is not None or _type_of(node.value, types) is not None for node in nodes)


def _unknown_names(tree):
    for node in ast.walk(tree):
        chain = _chain(node)
        if chain and _lookup(chain) is None:
            yield f"line {node.lineno}: {'.'.join(chain)} does not exist"


def _unknown_members(tree, types):
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not _chain(node):
            owner = _type_of(node.value, types)
            if owner is not None and not hasattr(owner, node.attr):
                yield node.lineno, f"{owner.__name__} has no {node.attr}"
        if isinstance(node, ast.Assign) and not all(_type_of(target, types) for target in node.targets):
            made = _type_of(node.value, types)
            if made is not None:
                yield node.lineno, f"annotate what holds this {made.__name__}"


def _annotations(tree):
    """Names, and attributes of self, annotated with a class of the bindings, to the class."""
    types = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            name, annotation = node.arg, node.annotation
        elif isinstance(node, ast.AnnAssign):
            name, annotation = _identifier(node.target), node.annotation
        else:
            continue
        chain = _chain(annotation)
        if chain and isinstance(_lookup(chain), type):
            types[name] = _lookup(chain)
    return types


def _type_of(node, types):
    """The class of an expression's value as far as it is known."""
    if isinstance(node, ast.Call):
        chain = _chain(node.func)
        called = _lookup(chain) if chain else None
        if isinstance(called, type):
            return called if chain[0] == "trt" else None
        owner = _type_of(node.func.value, types) if isinstance(node.func, ast.Attribute) else None
        signature = (
            RETURNED.search(getattr(getattr(owner, node.func.attr, None), "__doc__", None) or "") if owner else None
        )
        found = _lookup(("trt", signature[1])) if signature else None
        return found if isinstance(found, type) else None
    return types.get(_identifier(node))


def _identifier(node):
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def _chain(node):
    """``trt.BuilderFlag.REFIT`` as ("trt", "BuilderFlag", "REFIT"); None if it does not start at a module."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if names and isinstance(node, ast.Name) and node.id in MODULES:
        return (node.id, *reversed(names))
    return None


def _lookup(chain):
    found = importlib.import_module(MODULES[chain[0]])
    for name in chain[1:]:
        found = getattr(found, name, None)
    return found


if __name__ == "__main__":
    # The package `tensorrt` re-exports this one and adds a dependency on libraries that only make sense with a GPU.
    sys.modules["tensorrt"] = importlib.import_module("tensorrt_bindings")
    files = {path: Path(path).read_text() for path in sys.argv[1:]}
    print(
        json.dumps(
            {
                "version": sys.modules["tensorrt"].__version__,
                "problems": [f"{path}: {problem}" for path, text in files.items() for problem in problems(text)],
                "uses": sum(map(uses, files.values())),
            }
        )
    )
