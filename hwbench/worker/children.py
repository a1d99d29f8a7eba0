"""Work in a process of its own: whatever it does to itself, this process goes on and says how it ended."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from hwbench.worker.__main__ import die_with

_PIECE = 1 << 16


@dataclass(frozen=True)
class Child:
    """How a process ended.

    Attributes:
        end: ``ok`` if it returned something, ``timeout`` if it was killed for taking too long, else ``crash``.
        said: What it returned.
    """

    end: Literal["ok", "crash", "timeout"]
    said: Mapping[str, Any]


def in_child(work: Callable[[], Mapping[str, Any]], limit_s: float, memory: int | None = None) -> Child:
    """Do some work in a fork of this process.

    A fork is as good as a fresh process where this one has loaded no runtime, so that no thread of one is lost in it.

    Args:
        work: The work; what it returns must be JSON. An exception is a crash, and its trace goes to stderr.
        limit_s: Wall time after which the child is killed, in seconds.
        memory: Bytes of private writable memory (RLIMIT_DATA) that it may have; None for any.
    """
    parent = os.getpid()
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        _work(work, writer, parent, memory)
    os.close(writer)
    try:
        text, is_late = _heard(reader, time.monotonic() + limit_s)
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)  # it is not reaped yet, so that the number cannot be another's
        os.waitpid(pid, 0)
    if text.endswith(b"\n"):
        return Child("ok", json.loads(text))
    return Child("timeout" if is_late else "crash", {})


def _heard(reader: int, deadline: float) -> tuple[bytes, bool]:
    """What comes through a pipe up to a line's end, the pipe's end or the deadline, and whether it was that."""
    text, poll = b"", select.poll()
    poll.register(reader, select.POLLIN)
    while not text.endswith(b"\n"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return text, True
        piece = os.read(reader, _PIECE)
        if not piece:
            break
        text += piece
    return text, False


def _work(work: Callable[[], Mapping[str, Any]], writer: int, parent: int, memory: int | None) -> NoReturn:
    """The child's whole life."""
    try:
        die_with(parent)
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        text = json.dumps(dict(work())).encode() + b"\n"
        while text:
            text = text[os.write(writer, text) :]
    except BaseException:  # noqa: BLE001  nothing may come back from a fork; its end is told by its silence
        traceback.print_exc()
    os._exit(0)
