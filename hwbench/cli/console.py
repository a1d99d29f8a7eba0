"""Output to the terminal, in whatever encoding it has: text, tables, JSON."""

from __future__ import annotations

import codecs
import io
import json
import math
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 160
_ERRORS = "hwbench-ascii"
# Signs of hwbench's own output, in ASCII. Those in tables keep their width where that leaves them readable.
_ASCII = {
    "–": "-",
    "−": "-",
    "…": "~",
    "×": "x",
    "·": ".",
    "µ": "u",
    "μ": "u",
    "σ": "s",
    "²": "2",
    "°": " ",
    "±": "+-",
    "≥": ">=",
    "≤": "<=",
    "→": "->",
    "∞": "inf",
    "√": "sqrt",
    "✓": "+",
    "✗": "x",
    "≈": "~",
    "\u202f": " ",
    "\u00a0": " ",
    "\ufffd": "?",
}


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding lacks: a codec error handler. Letters of foreign names become escapes, which are unambiguous."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_ASCII.get(sign) or _escape(sign) for sign in lacking), error.end


def _escape(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def adapt_streams() -> None:
    """Have standard output and standard error replace signs that their encoding lacks, instead of raising."""
    codecs.register_error(_ERRORS, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def flush_streams() -> None:
    """Write out what is buffered, while an error can still be reported.

    Raises:
        OSError: Standard output is closed, or its disk is full.
    """
    if sys.stdout is not None:
        sys.stdout.flush()


def abandon_streams() -> None:
    """Discard further output, which the interpreter would fail to write at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            sink = os.open(os.devnull, os.O_WRONLY)
            os.dup2(sink, 1 if stream is sys.stdout else 2)
            os.close(sink)


def printable(text: str) -> str:
    """Text with control, direction-changing and undecodable characters escaped, which names in files may hold."""
    return "".join(sign if sign.isprintable() or sign in _ASCII or sign in "\n\t" else _escape(sign) for sign in text)


def echo(text: str, *, err: bool = False) -> None:
    """Print a line; do nothing if the stream is closed."""
    stream = sys.stderr if err else sys.stdout
    if stream is not None:
        stream.write(f"{text}\n")


def print_json(content: Any) -> None:
    """Print JSON in ASCII; infinity and NaN, which JSON lacks, become null."""
    echo(json.dumps(_finite(content), indent=2, allow_nan=False))


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def console() -> Console:
    """Standard output; on a file or pipe, wide enough that no table is cut."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=_PIPE_WIDTH)
