"""Image files that are damaged, too large, or not what their name says."""

import os
import struct
import zlib

import numpy as np
import pytest

from hwbench.dataset import DataSpec, images, open_source
from hwbench.errors import DataError

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures" / "ant").mkdir(parents=True)
    return tmp_path / "pictures" / "ant"


def picture(*size, mode="RGB"):
    return Image.new(mode, size)


def batches(folder, **preprocess):
    source = open_source(DataSpec(source=str(folder.parent), preprocess=preprocess or None))
    return list(source.batches(8))


def refuses(folder, match, **preprocess):
    with pytest.raises(DataError, match=match) as refused:
        batches(folder, **preprocess)
    assert str(folder) in str(refused.value)


def png(width, height, content=b""):
    """A PNG file whose header states any size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(13_000, 13_000), (2**31 - 1, 2**31 - 1), (38_000_000, 1)])
def test_sizes_are_compared_before_anything_is_decoded(folder, size):
    (folder / "a.png").write_bytes(png(*size))
    refuses(folder, "a.png: .*(million for PNG files; store a smaller image|not a readable image)")


@pytest.mark.parametrize(("kind", "ending"), [("JPEG", "jpg"), ("TIFF", "tif"), ("WEBP", "webp"), ("PNG", "png")])
def test_the_limit_depends_on_the_memory_that_a_format_takes(folder, monkeypatch, kind, ending):
    picture(100, 90).save(folder / f"a.{ending}", kind)
    assert batches(folder)[0][0]["x"].shape == (1, 3, 90, 100)
    monkeypatch.setattr(images, "DECODE_BYTES", 9000 * 9 - 1)
    refuses(folder, f"a.{ending}: 90 × 100 pixels, more than the limit of 0 million for {kind}")


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "ppm", "tif", "webp"])
def test_damaged_files(folder, ending):
    file = folder / f"a.{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(file)
    whole = file.read_bytes()
    for content in (b"", whole[:9], whole[: len(whole) // 2], b"GIF89a" + whole, b"no image at all"):
        file.write_bytes(content)
        refuses(folder, f"a.{ending}: not a readable image .*; replace or remove it")


@pytest.mark.parametrize("kind", ["PDF", "EPS", "ICO", "TGA"])
def test_no_other_format_is_opened_whatever_its_name(folder, kind):
    """Pillow runs a program to read PostScript."""
    picture(8, 8).save(folder / "a.png", kind)
    refuses(folder, "a.png: not a readable image")


@pytest.mark.parametrize(("kind", "ending"), [("GIF", "gif"), ("PNG", "png"), ("TIFF", "tif"), ("WEBP", "webp")])
def test_files_of_several_images(folder, kind, ending):
    frames = [Image.new("RGB", (8, 8), (90 * at, 0, 0)) for at in range(3)]
    frames[0].save(folder / f"a.{ending}", kind, save_all=True, append_images=frames[1:])
    refuses(folder, f"a.{ending}: holds several images; store each in a file of its own")


@pytest.mark.parametrize(
    ("size", "resize"),
    [((40, 30), 100_000), ((40, 30), (1 << 40, 1 << 40)), ((3000, 1), 256), ((1, 3000), 256), ((1, 9000), (9, 9000))],
)
def test_resizes_that_take_too_much_memory(folder, size, resize):
    picture(*size).save(folder / "a.png")
    refuses(folder, "a.png: to resize .* exceeds the limit of .*; set a smaller preprocess.resize", resize=resize)


def test_entries_that_are_not_files(folder):
    os.mkfifo(folder / "a.png")
    refuses(folder, "a.png: is a FIFO or a pipe, not a regular file")
    (folder / "a.png").unlink()
    (folder / "b.png").symlink_to("/dev/zero")
    refuses(folder, "b.png: is a device, not a regular file")
    (folder / "b.png").unlink()
    (folder / "c.png").symlink_to("nowhere.png")
    refuses(folder, "c.png: cannot be read: No such file")


def test_batches_of_large_images_are_short(folder, monkeypatch):
    for at in range(5):
        Image.new("RGB", (10, 10), (at, 0, 0)).save(folder / f"{at}.png")
    monkeypatch.setattr("hwbench.dataset.source.BATCH_BYTES", 2 * 10 * 10 * 3 * 4)
    found = batches(folder, scale=1)
    assert [len(arrays["x"]) for arrays, _ in found] == [2, 2, 1]
    assert np.concatenate([arrays["x"] for arrays, _ in found])[:, 0, 0, 0].tolist() == list(range(5))
