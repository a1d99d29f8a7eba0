"""Data made to exhaust memory, and files whose reading never ends: each is refused in seconds, within 512 MiB."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from guarded import hwbench
from models import helper, make_model, mlp, saved

LIMIT_MIB = 512
SECONDS = 60  # of one command; machines may be slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(mlp(), tmp_path_factory.mktemp("model") / "mlp.onnx")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small.npz"
    rng = np.random.default_rng(0)
    np.savez(path, x=rng.normal(size=(20, 64)).astype(np.float32), y=np.arange(20) % 10)
    return path


def zeros(path, shape, dtype="u1", order="C"):
    """An archive of zeros, made without holding them."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": order == "F", "shape": shape}
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        left, chunk = int(np.prod(shape)) * np.dtype(dtype).itemsize, bytes(1 << 24)
        while left:
            left -= file.write(chunk[:left])
    return path


def sparse(path, start):
    """A file of 4 GiB that takes no space, zeros after its start."""
    path.write_bytes(start)
    os.truncate(path, 1 << 32)
    return path


def folder(path, *pictures, **options):
    (path / "ant").mkdir(parents=True)
    for name, picture in pictures:
        picture.save(path / "ant" / name, **options)
    return path


def run(model, data, *more):
    return ["run", model, "--data", data, "--profiles", "cpu-fp32", "--studies", "accuracy", "--quiet", *more]


def test_data_that_no_memory_holds(model, tmp_path):
    """One process reads them all: what one of them leaves allocated counts for the next."""
    image = pytest.importorskip("PIL.Image")
    many = tmp_path / "many"
    (many / "ant").mkdir(parents=True)
    for at in range(20_000):
        (many / "ant" / f"{at:06}.png").touch()
    text = tmp_path / "text.parquet"
    pl.DataFrame({f"c{at}": pl.repeat("a" * 1000, 100_000, eager=True) for at in range(2)}).write_parquet(text)
    one = tmp_path / "one.parquet"
    pl.DataFrame({"a": pl.repeat(1.0, 10**8, eager=True, dtype=pl.Float32)}).write_parquet(one, row_group_size=10**8)
    header = ",".join(f"c{at}" for at in range(64)).encode() + b"\n"
    wide = tmp_path / "wide.csv"
    wide.write_text(",".join(f"c{at}" for at in range(200_000)) + "\n" + "1," * 199_999 + "1\n")
    data = {
        zeros(tmp_path / "rows.npz", (24, 33_000_000)): "a sample has shape [33000000]",
        zeros(tmp_path / "fortran.npz", (24, 33_000_000), order="F"): "a sample has shape [33000000]",
        folder(tmp_path / "large", ("a.png", image.new("L", (13_000, 13_000)))): "million for PNG files",
        many: "not a readable image",
        sparse(tmp_path / "line.csv", b""): "its header is longer than",
        sparse(tmp_path / "cell.csv", header): "a line is longer than",
        sparse(tmp_path / "quote.csv", header + b'"'): "a quote is not closed",
        sparse(tmp_path / "none.npz", b"PK\x03\x04"): "not an .npz file, or truncated",
        sparse(tmp_path / "none.parquet", b"PAR1"): "not a Parquet file, or truncated",
        wide: "200000 columns, more than",
        text: "holds String, not numbers",
        one: "a sample has shape [1]",
    }
    refused = hwbench(*(run(model, path) for path in data), seconds=SECONDS)
    for (path, message), ended in zip(data.items(), refused, strict=True):
        assert (ended.status, message in ended.errors, str(path) in ended.errors) == (2, True, True), ended
        assert "Traceback" not in ended.errors
        assert ended.peak_mib < LIMIT_MIB, ended


LARGEST = {
    "png": ("RGBA", (6100, 6100), {}),
    "jpeg": ("RGB", (5000, 5100), {"progressive": True, "subsampling": 0}),
    "tiff": ("CMYK", (5200, 5300), {"compression": "tiff_lzw", "tiffinfo": {278: 5300}}),
    "webp": ("RGB", (4400, 4400), {}),
}


@pytest.mark.slow
def test_images_of_the_largest_size_are_read_within_the_limit(tmp_path):
    image = pytest.importorskip("PIL.Image")
    model, commands = saved(flat_pixels(), tmp_path / "pixels.onnx"), []
    for kind, (mode, size, options) in LARGEST.items():
        source = folder(tmp_path / kind, (f"a.{kind}", image.new(mode, size)), **options)
        for name in ("bee", "cat", "dog"):
            (source / name).mkdir()
            image.new("RGB", (300, 300)).save(source / name / "a.png")
        spec = tmp_path / f"{kind}.toml"
        spec.write_text(
            f'model = "{model}"\nprofiles = ["cpu-fp32"]\nstudies = ["accuracy"]\n'
            f'[data]\nsource = "{source}"\npreprocess = {{ resize = 256, crop = 8 }}\n'
        )
        commands.append(["run", spec, "--plan"])
    for command, planned in zip(commands, hwbench(*commands, seconds=2 * SECONDS), strict=True):
        assert planned.status == 0, (command, planned)
        assert planned.peak_mib < LIMIT_MIB, command


def flat_pixels():
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    return make_model(nodes, {"x": (1, ["N", 3, 8, 8])}, {"y": (1, ["N", 4])}, {"w": np.ones((192, 4), np.float32)})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npz", "fortran", "csv", "parquet"])
def test_large_data_that_fit_the_model_are_read_within_the_limit(model, tmp_path, kind):
    n, size = 2_500_000, 64
    source = tmp_path / ("data.npz" if kind == "fortran" else f"data.{kind}")
    if kind in {"npz", "fortran"}:
        zeros(source, (n, size), "<f4", "F" if kind == "fortran" else "C")
    elif kind == "csv":
        block = "\n".join(",".join(f"{at + column}" for column in range(size)) for at in range(10_000)) + "\n"
        with source.open("w") as file:
            file.write(",".join(f"c{at}" for at in range(size)) + "\n")
            for _ in range(250):
                file.write(block)
    else:
        values = np.random.default_rng(0).random((n, size), np.float32)
        pl.DataFrame(values, schema=[f"c{at}" for at in range(size)]).write_parquet(source, row_group_size=n)
        del values
    (planned,) = hwbench(run(model, source, "--plan"), seconds=5 * SECONDS)
    assert planned.status == 0, planned
    assert planned.peak_mib < LIMIT_MIB


def test_files_of_gigabytes_in_the_place_of_small_ones(model, small, tmp_path):
    for name in ("model.onnx", "spec.toml", "profile.toml", "faults.csv"):
        sparse(tmp_path / name, b"tensor,element,bit,kind\n" if name == "faults.csv" else b"a = 1\n")
    (tmp_path / "run").mkdir()
    sparse(tmp_path / "run" / "run.json", b"{")
    replay = ["faults", model, "--data", small, "--profile", "cpu-fp32", "--out", tmp_path / "out", "--quiet"]
    commands = [
        run(tmp_path / "model.onnx", small),
        ["run", tmp_path / "spec.toml"],
        [*run(model, small)[:5], tmp_path / "profile.toml", "--quiet"],
        [*replay, "--faults", tmp_path / "faults.csv"],
        ["report", tmp_path / "run"],
    ]
    for command, ended in zip(commands, hwbench(*commands, seconds=SECONDS), strict=True):
        assert ended.status == 2, (command, ended)
        assert str(tmp_path) in ended.errors
        assert "more than the" in ended.errors or "longer than" in ended.errors, (command, ended)
        assert ended.peak_mib < LIMIT_MIB, command


def test_files_whose_reading_never_ends(model, small, tmp_path):
    fifo, zero = tmp_path / "fifo", tmp_path / "zero"
    fifo.mkdir()
    zero.mkdir()
    kinds = ["data.npz", "data.csv", "data.parquet", "model.onnx", "spec.toml", "profile.toml", "faults.csv"]
    for name in kinds:
        os.mkfifo(fifo / name)
        (zero / name).symlink_to("/dev/zero")
    (tmp_path / "images" / "ant").mkdir(parents=True)
    os.mkfifo(tmp_path / "images" / "ant" / "a.png")
    commands = []
    for kind in (fifo, zero):
        commands += [run(model, kind / name) for name in kinds[:3]]
        commands += [run(model, small, "--calibration", kind / "data.npz"), run(kind / "model.onnx", small)]
        commands += [run(model, small, "--reference", kind / "model.onnx"), ["run", kind / "spec.toml"]]
        commands += [[*run(model, small)[:5], kind / "profile.toml", "--quiet"]]
        replay = ["faults", model, "--data", small, "--profile", "cpu-fp32", "--out", tmp_path / "out", "--quiet"]
        commands += [[*replay, "--faults", kind / "faults.csv"]]
    commands += [run(model, tmp_path / "images"), run(model, Path("/dev/stdin")), run(Path("/dev/zero"), small)]
    for command, ended in zip(commands, hwbench(*commands, seconds=SECONDS), strict=True):
        assert ended.status == 2, (command, ended)
        assert "Traceback" not in ended.errors
        assert "regular file" in ended.errors or "not a kind of data" in ended.errors, (command, ended)


@pytest.fixture(scope="module")
def finished(model, small, tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "run"
    (made,) = hwbench(run(model, small, "--out", path), seconds=5 * SECONDS)
    assert made.status in {0, 1}, made
    return path


@pytest.mark.parametrize("special", ["fifo", "/dev/zero", "victim"])
def test_run_directories_with_pipes_devices_and_links_for_files(finished, tmp_path, special):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    names = [path.relative_to(finished) for path in finished.rglob("*") if path.is_file() and path.name != ".lock"]
    assert {Path("run.json"), Path("report.html")} <= set(names)
    commands = []
    for at, name in enumerate(names):
        broken = shutil.copytree(finished, tmp_path / str(at) / "run")
        (broken / name).unlink()
        os.mkfifo(broken / name) if special == "fifo" else (broken / name).symlink_to(tmp_path / special)
        commands += [["report", broken], ["compare", finished, broken]]
    for command, ended in zip(commands, hwbench(*commands, seconds=SECONDS), strict=True):
        assert ended.status in {0, 2}, (command, ended)
        if special != "victim":
            assert ended.status == 0 or "regular file" in ended.errors, (command, ended)
        assert ended.peak_mib < LIMIT_MIB
    assert victim.read_text() == "mine"


def test_campaigns_beyond_any_memory(model, small, tmp_path):
    faults = ["faults", model, "--data", small, "--profile", "cpu-fp32", "--out", tmp_path / "out", "--quiet"]
    (ended,) = hwbench([*faults, "--trials", str(10**12)], seconds=SECONDS)
    assert ended.status == 2, ended
    assert "settings.faults.trials: Input should be less than or equal to 5000000" in ended.errors
    assert ended.peak_mib < LIMIT_MIB
