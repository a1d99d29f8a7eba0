"""Image folders: one folder per class, in alphabetical order, decoded one image at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hwbench.dataset.source import Batch, Source
from hwbench.dataset.spec import DataSpec, Preprocess
from hwbench.errors import DataError, UnavailableError
from hwbench.npy import Array

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageFolderSource(Source):
    """The images under a folder; the number of a class is the place of its folder among the sorted ones.

    Raises:
        DataError: There are no class folders, or a file is not an image.
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
        # Paths only: a few hundred bytes an image, decoded when their turn comes.
        self._files = [(path, number) for number, name in enumerate(self.classes) for path in self._images(root / name)]

    @property
    def scaled(self) -> bool:
        """Always: an image's bytes are 0 to 255 by definition."""
        return True

    @staticmethod
    def _images(folder: Path) -> list[Path]:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        for path in files:
            if path.suffix.lower() not in SUFFIXES:
                raise DataError(f"{path}: not an image ({', '.join(sorted(SUFFIXES))}); move it out of the data folder")
        return files

    def _read(self, size: int, names: tuple[str, ...]) -> Iterator[Batch]:  # there is only x
        for start in range(0, len(self._files), size):
            part = self._files[start : start + size]
            images = [self._decode(path) for path, _ in part]
            for (path, _), image in zip(part, images, strict=True):
                if image.shape != images[0].shape:
                    raise DataError(
                        f"{path}: {_size(image)}, while {part[0][0].name} is {_size(images[0])} (height × width); "
                        "give preprocess.resize as [height, width], or a crop"
                    )
            yield {"x": np.stack(images)}, np.array([number for _, number in part])

    def _decode(self, path: Path) -> Array:
        """One image, uint8 ``[height, width, channels]``."""
        from PIL import Image

        try:
            with Image.open(path) as opened:
                if opened.mode.startswith(("I", "F")):
                    raise DataError(f"{path}: more than 8 bits a channel ({opened.mode}); convert it to 8 bits")
                picture: Image.Image = opened.convert("L" if self._steps.color == "gray" else "RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}: not a readable image ({error})") from error
        pixels = np.asarray(self._cropped(self._resized(picture), path))
        if self._steps.color == "gray":
            return pixels[:, :, None]
        return pixels[:, :, ::-1] if self._steps.color == "bgr" else pixels

    def _resized(self, picture: Image.Image) -> Image.Image:
        from PIL import Image

        wanted = self._steps.resize
        if wanted is None:
            return picture
        if isinstance(wanted, int):
            factor = wanted / min(picture.size)
            width, height = (max(wanted, round(side * factor)) for side in picture.size)
        else:
            height, width = wanted
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


def _size(image: Array) -> str:
    return f"{image.shape[0]} × {image.shape[1]}"
