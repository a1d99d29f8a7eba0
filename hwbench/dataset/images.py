"""Image folders: one folder per class, decoded one image at a time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwbench.dataset.classes import class_numbers
from hwbench.dataset.source import MIB, Batch, Source, rows_within
from hwbench.dataset.spec import DataSpec, Preprocess
from hwbench.errors import DataError, UnavailableError
from hwbench.files import require_file
from hwbench.npy import Array

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Formats of those endings: Pillow would find others in a file of any name, and runs programs for some.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
DECODE_BYTES = 320 * MIB
# Measured on Pillow 13 with images of 24 million pixels: the peak while decoding and converting, rounded up.
_BYTES_PER_PIXEL: Mapping[str | None, int] = {"TIFF": 12, "WEBP": 17}
_PROGRESSIVE_JPEG, _OTHERS = 13, 9
# Pixels of a resized image, and of what its first pass leaves; Pillow keeps four bytes of each.
RESIZED_PIXELS = 24 * MIB


class ImageFolderSource(Source):
    """The images under a folder, a folder per class. A class's number is as ``classes`` states, else its folder's place.

    Raises:
        DataError: There are no class folders, one is not in ``classes``, or a file is not an image.
        UnavailableError: Pillow is not installed.
    """

    names = ("x",)

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        try:
            import PIL  # noqa: F401  # asked for here so that its absence shows before anything is read
        except ImportError as error:
            raise UnavailableError("image folders need Pillow", "pip install 'hwbench-ml[images]'") from error
        if spec.label is not None:
            raise DataError(f"{self.origin}: an image folder's labels are its folders; leave label out")
        self._steps = spec.preprocess or Preprocess()
        root = Path(spec.source)
        self.classes = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not self.classes:
            raise DataError(f"{root}: no folders in it; put each class's images in a folder of its own")
        if spec.classes is None:
            self.counted = len(self.classes)
            self._numbers: Sequence[int] = range(len(self.classes))
        else:
            self._numbers = class_numbers(self.classes, spec.classes, self.origin)
        # Names only, which a million images may have; decoded when their turn comes.
        self._names = [self._images(root / name) for name in self.classes]

    @property
    def scaled(self) -> bool:
        """Always: an image's bytes are 0 to 255 by definition."""
        return True

    @staticmethod
    def _images(folder: Path) -> list[str]:
        names = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not entry.is_file():
                    require_file(Path(entry.path), DataError)
                if f".{entry.name.rpartition('.')[2]}".lower() not in SUFFIXES:
                    raise DataError(
                        f"{entry.path}: not an image ({', '.join(sorted(SUFFIXES))}); move it out of the data folder"
                    )
                names.append(entry.name)
        return sorted(names)

    def _files(self) -> Iterator[tuple[Path, int]]:
        for number, name, files in zip(self._numbers, self.classes, self._names, strict=True):
            folder = Path(self.spec.source) / name
            yield from ((folder / file, number) for file in files)

    def _read(self, size: int, names: tuple[str, ...]) -> Iterator[Batch]:
        first, images, numbers = "", list[Array](), list[int]()
        for path, number in self._files():
            image = self._decode(path)
            if images and image.shape != images[0].shape:
                raise DataError(
                    f"{path}: {_size(image)}, while {first} is {_size(images[0])} (height × width); "
                    "give preprocess.resize as [height, width], or a crop"
                )
            if images and len(images) >= rows_within(4 * image.size, size):
                yield {"x": np.stack(images)}, np.array(numbers)
                images, numbers = [], []
            first = first if images else path.name
            images.append(image)
            numbers.append(number)
        if images:
            yield {"x": np.stack(images)}, np.array(numbers)

    def _decode(self, path: Path) -> Array:
        """One image, uint8 ``[height, width, channels]``."""
        from PIL import Image

        mode = "L" if self._steps.color == "gray" else "RGB"
        with self._guard(path), Image.open(path, formats=FORMATS) as opened:
            _require_plain(opened, path)
            picture: Image.Image = opened if opened.mode == mode else opened.convert(mode)
            pixels = np.asarray(self._cropped(self._resized(picture, path), path))
        if self._steps.color == "gray":
            return pixels[:, :, None]
        return pixels[:, :, ::-1] if self._steps.color == "bgr" else pixels

    @staticmethod
    @contextmanager
    def _guard(path: Path) -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on large and on odd files, which are judged here
            try:
                yield
            except DataError:
                raise
            except Exception as error:  # its decoders raise a dozen kinds on damaged content
                raise DataError(f"{path}: not a readable image ({error}); replace or remove it") from error

    def _resized(self, picture: Image.Image, path: Path) -> Image.Image:
        from PIL import Image

        wanted = self._steps.resize
        if wanted is None:
            return picture
        if isinstance(wanted, int):
            factor = wanted / min(picture.size)
            width, height = (max(wanted, round(side * factor)) for side in picture.size)
        else:
            height, width = wanted
        if width * max(height, picture.height) > RESIZED_PIXELS:
            raise DataError(
                f"{path}: to resize {picture.height} × {picture.width} pixels to {height} × {width} exceeds the limit of "
                f"{RESIZED_PIXELS / 1e6:.0f} million pixels; set a smaller preprocess.resize"
            )
        return picture.resize((width, height), Image.Resampling.BILINEAR)

    def _cropped(self, picture: Image.Image, path: Path) -> Image.Image:
        wanted = self._steps.crop
        if wanted is None:
            return picture
        height, width = (wanted, wanted) if isinstance(wanted, int) else wanted
        if height > picture.height or width > picture.width:
            raise DataError(
                f"{path}: {picture.height} × {picture.width} pixels are too few for a crop of {height} × {width}; "
                "set preprocess.resize"
            )
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return picture.crop((left, top, left + width, top + height))

    def _preprocessed(self, values: Array) -> Array:
        scale = 1 / 255 if self._steps.scale is None else self._steps.scale
        pixels = self._steps.normalise(values, True, scale, self.origin)
        return pixels if self._steps.layout == "nhwc" else np.moveaxis(pixels, -1, 1)


def _require_plain(opened: Image.Image, path: Path) -> None:
    """Refuse by its header what is not one image of 8 bits a channel that fits in memory."""
    costs = _BYTES_PER_PIXEL.get(opened.format, _PROGRESSIVE_JPEG if opened.info.get("progressive") else _OTHERS)
    limit = DECODE_BYTES // costs
    if opened.width * opened.height > limit:
        raise DataError(
            f"{path}: {opened.height} × {opened.width} pixels, more than the limit of {limit / 1e6:.0f} million for "
            f"{opened.format} files; store a smaller image"
        )
    if opened.mode.startswith(("I", "F")):
        raise DataError(f"{path}: more than 8 bits per channel ({opened.mode}); convert it to 8 bits")
    if getattr(opened, "is_animated", False) and opened.format != "MPO":  # cameras add previews of their own
        raise DataError(f"{path}: holds several images; store each in a file of its own")


def _size(image: Array) -> str:
    return f"{image.shape[0]} × {image.shape[1]}"
