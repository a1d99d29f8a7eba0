"""Sound files that fuzz cases damage."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from models import small_cnn
from PIL import Image

ROWS = 6


def npz(compressed: bool = False, **arrays: np.ndarray) -> bytes:
    """An ``.npz`` file."""
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    """An ``.npy`` file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def image(form: str, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    """An image file."""
    stream = io.BytesIO()
    Image.new(mode, size, 3).save(stream, form)
    return stream.getvalue()


@cache
def model_bytes() -> bytes:
    """A classifier of one input, ``[n, 1, 8, 8]``."""
    content: bytes = small_cnn().SerializeToString()
    return content


X = np.linspace(0, 1, ROWS * 64, dtype=np.float32).reshape(ROWS, 1, 8, 8)
Y = np.arange(ROWS) % 10
NPZ = npz(x=X, y=Y)
CSV = b"a,b,label\n" + b"".join(b'%d,"%d.5",%d\n' % (number, number, number % 2) for number in range(40))
