"""Hypothesis strategies that damage what is sound: bytes, protobuf messages, JSON and TOML values."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message
from hypothesis import strategies as st

EXTREMES = (0, 1, -1, 2, 7, 255, 65_535, -(2**31), 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63))
ODD_TEXTS = (
    "", " ", "x", "y", ".", "..", "../x", "../../etc/passwd", "/etc/passwd", "a/b", "%s%n", "{}", "\0", "a\0b", "\n", "\x1b[2J",
    "=1+1", "@activation/x", "@artefact", "<b>", "]]>", "‮", "é", "😀", "A" * 300, "w1", "conv1", "module:name",
)  # fmt: skip
FLOATS = (0.0, -0.0, 1e300, -1e300, 1e-310, float("inf"), float("-inf"), float("nan"), 0.5, -1.0)


@st.composite
def damaged(draw: st.DrawFn, sound: bytes, most: int = 4) -> bytes:
    """Bytes of which some are flipped, cut off, put in, taken out, copied elsewhere, or made an extreme integer."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(("flip", "set", "cut", "insert", "delete", "copy", "integer", "integer")))
        length = draw(st.integers(1, 64))
        if kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and data:
            data[at] = draw(st.sampled_from((0, 1, 10, 34, 44, 127, 128, 255)))
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "delete":
            del data[at : at + length]
        elif kind == "copy":
            source = draw(st.integers(0, max(0, len(data) - 1)))
            data[at : at + length] = data[source : source + length]
        elif kind == "integer":
            number = draw(st.sampled_from(EXTREMES)) & (2**64 - 1)
            size = draw(st.sampled_from((2, 4, 8)))
            data[at : at + size] = struct.pack("<Q", number)[:size]
    return bytes(data)


def texts() -> st.SearchStrategy[str]:
    """Names that somebody wants to do harm with, and any other."""
    return st.one_of(st.sampled_from(ODD_TEXTS), st.text(max_size=12))


def integers() -> st.SearchStrategy[int]:
    """Extreme and small integers of 64 bits."""
    return st.one_of(st.sampled_from(EXTREMES), st.integers(-4, 40))


@st.composite
def changed_message(draw: st.DrawFn, sound: Message, most: int = 3) -> bytes:
    """A protobuf message with a few fields removed, repeated, reordered, or given odd values."""
    message = type(sound)()
    message.CopyFrom(sound)
    for _ in range(draw(st.integers(1, most))):
        slots = list(_slots(message))
        if slots:
            _change(draw, *draw(st.sampled_from(slots)))
    return message.SerializeToString()


def _slots(message: Message) -> Iterator[tuple[Message, Any]]:
    """Every field that is set, of the message and of all below it, and the scalar fields of those that could be set."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None or message.HasField(field.name) if not _repeated(field) else True:
            yield message, field
        if field.message_type is not None:
            below = getattr(message, field.name)
            for each in below if _repeated(field) else [below] if message.HasField(field.name) else []:
                yield from _slots(each)


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


def _change(draw: st.DrawFn, message: Message, field: Any) -> None:
    if not _repeated(field):
        if field.message_type is not None or draw(st.booleans()):
            message.ClearField(field.name)
        else:
            setattr(message, field.name, draw(_values(field)))
        return
    values = getattr(message, field.name)
    kind = draw(st.sampled_from(("clear", "remove", "repeat", "swap", "set", "add")))
    at = draw(st.integers(0, max(0, len(values) - 1)))
    if kind == "clear":
        message.ClearField(field.name)
    elif kind == "add":
        values.add() if field.message_type is not None else values.append(draw(_values(field)))
    elif not len(values):
        return
    elif kind == "remove":
        del values[at]
    elif kind == "repeat":
        values.extend([values[at]] * draw(st.sampled_from((1, 1, 2, 50))))
    elif kind == "swap":
        values.extend([values[at]])
        del values[at]
    elif field.message_type is None:
        values[at] = draw(_values(field))


def _values(field: Any) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    kinds: dict[int, st.SearchStrategy[Any]] = {
        field.CPPTYPE_STRING: texts().filter(_encodable) if field.type == field.TYPE_STRING else st.binary(max_size=40),
        field.CPPTYPE_FLOAT: st.floats(width=32),
        field.CPPTYPE_DOUBLE: st.floats(),
        field.CPPTYPE_BOOL: st.booleans(),
        field.CPPTYPE_INT32: integers().map(lambda number: (number + 2**31) % 2**32 - 2**31),
        field.CPPTYPE_UINT64: integers().map(lambda number: number % 2**64),
    }
    return kinds.get(field.cpp_type, integers())


def _encodable(text: str) -> bool:
    return text.isascii() or not any(0xD800 <= ord(sign) <= 0xDFFF for sign in text)


def odd_values(depth: int = 2) -> st.SearchStrategy[Any]:
    """Values of JSON and TOML that no setting expects."""
    plain = st.one_of(integers(), st.sampled_from(FLOATS), texts(), st.booleans(), st.just([]), st.just({}))
    if not depth:
        return plain
    below = odd_values(depth - 1)
    return st.one_of(plain, st.lists(below, max_size=3), st.dictionaries(texts(), below, max_size=3))


@st.composite
def changed_tree(draw: st.DrawFn, sound: Any, most: int = 3) -> Any:
    """A JSON object in which a few values are removed, exchanged, or replaced by odd ones."""
    tree = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(tree))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        other, there = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(("remove", "odd", "odd", "odd", "swap", "rename")))
        if kind == "remove":
            del holder[key]
        elif kind == "odd":
            holder[key] = draw(odd_values())
        elif kind == "rename" and isinstance(holder, dict):
            holder[draw(texts())] = holder.pop(key)
        elif kind == "swap" and not _is_below(holder[key], other) and not _is_below(other[there], holder):
            holder[key], other[there] = other[there], holder[key]
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def _is_below(tree: Any, holder: Any) -> bool:
    return tree is holder or any(each is holder for place, key in _places(tree) for each in (place, place[key]))


def toml(tree: dict[str, Any]) -> str:
    """A tree as TOML, in inline tables."""
    return "".join(f"{_string(key)} = {_toml(value)}\n" for key, value in tree.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_string(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return _string(value) if isinstance(value, str) else repr(value)


def _string(text: str) -> str:
    return (
        json.dumps(text).replace("\x7f", "\\u007f")
        if _encodable(text) and text.isascii()
        else json.dumps(text, ensure_ascii=False)
    )
