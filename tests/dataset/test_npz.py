"""Archives that are damaged or made to do harm."""

import io
import struct
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench.dataset import DataSpec, materialise, open_source
from hwbench.dataset import npz as npz_module
from hwbench.dataset import source as source_module
from hwbench.errors import DataError
from hwbench.npy import read_header


def header(text, version=(1, 0)):
    raw = text.encode("latin-1")
    length = struct.pack("<H" if version == (1, 0) else "<I", len(raw))
    return b"\x93NUMPY" + bytes(version) + length + raw


def archive(path, compression=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def member(**arrays):
    ((_, array),) = arrays.items()
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def refuses(path, match):
    with pytest.raises(DataError, match=match) as refused:
        list(open_source(DataSpec(source=str(path))).batches(8))
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 800


@pytest.mark.parametrize(
    "text",
    [
        "(" * 9000,
        "-" * 9000 + "1",
        "[" * 90 + "]" * 90,
        "1" * 9000,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0x" + "f" * 8000 + ",)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, -1)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 65 + ")}",
        "{'descr': '<f9', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [[['<f4']]], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': 'O', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)",
        "'" * 9001,
        "\x00" * 100,
        "",
    ],
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_headers_that_do_not_parse(tmp_path, text, version):
    path = archive(tmp_path / "a.npz", x=header(text, version) + b"\0" * 4)
    refuses(path, r"array 'x' is truncated or damaged \(")


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00", b"\x93NUMPY"]))
@settings(max_examples=200)
def test_any_header_is_read_or_refused(content, start):
    try:
        found = read_header(io.BytesIO(start + content))
    except ValueError:
        return
    assert found.offset <= len(start + content)


@pytest.mark.parametrize("version", [(3, 0), (9, 0), (0, 0), (1, 7)])
def test_other_versions_of_the_format(tmp_path, version):
    path = archive(tmp_path / "a.npz", x=header("{}", version))
    refuses(path, "array 'x' is truncated or damaged .*(version|length|header)")


def test_a_header_that_states_four_gigabytes_of_itself(tmp_path):
    stated = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1)
    refuses(archive(tmp_path / "a.npz", x=stated + b" " * 50_000_000), "array 'x' is truncated or damaged")


def test_samples_without_numbers_do_not_loop_for_ever(tmp_path):
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000, 0)}"
    refuses(archive(tmp_path / "a.npz", x=header(text)), "array 'x' has shape .*0.*samples are empty")


def test_samples_too_large_to_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "SAMPLE_BYTES", 1000)
    path = archive(tmp_path / "a.npz", x=member(x=np.zeros((3, 251), np.float32)))
    refuses(path, "a sample takes 0 MiB, more than the 0 MiB that hwbench holds")
    archive(path, x=member(x=np.zeros((3, 200), np.float32)), y=member(y=np.zeros((3, 100), np.int64)))
    refuses(path, "a sample takes")


def test_encrypted_and_foreign_compression(tmp_path):
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = archive(tmp_path / f"{method}.npz", method, x=member(x=np.zeros((3, 2))))
        refuses(path, "array 'x' is encrypted or compressed by another method than numpy's")
    path = archive(tmp_path / "a.npz", x=member(x=np.zeros((3, 2))))
    raw = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(signature) + offset] |= 1
    path.write_bytes(raw)
    refuses(path, "array 'x' is encrypted")


def test_overlapping_members(tmp_path):
    path = archive(tmp_path / "a.npz", x=member(x=np.zeros((300, 2))), y=member(y=np.zeros(300)))
    raw = bytearray(path.read_bytes())
    first = raw.index(b"PK\x01\x02")
    second = raw.index(b"PK\x01\x02", first + 4)
    raw[second + 42 : second + 46] = raw[first + 42 : first + 46]
    path.write_bytes(raw)
    refuses(path, "array 'y' is truncated or damaged")


def test_names_with_folders_are_names_only(tmp_path):
    path = archive(tmp_path / "a.npz", **{"/etc/x": member(x=np.zeros((3, 2))), "../../y": member(y=np.zeros(3))})
    source = open_source(DataSpec(source=str(path), label="../../y"))
    assert source.names == ("/etc/x",)
    ((arrays, labels),) = source.batches(8)
    assert (arrays["/etc/x"].shape, labels.shape) == ((3, 2), (3,))
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_many_members_and_two_of_one_name(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as file:
        for _ in range(2):
            file.writestr("x.npy", member(x=np.zeros((3, 2))))
    refuses(path, "two arrays have the same name")
    archive(path, **{f"x{at}": b"" for at in range(npz_module.MAX_ARRAYS + 1)})
    refuses(path, "holds 4097 arrays, more than 4096")
    monkeypatch.setattr(npz_module, "_DIRECTORY_BYTES", 1 << 16)
    refuses(path, "not an .npz file, or truncated .its directory of")


def test_structured_types_are_named_briefly(tmp_path):
    wide = np.zeros(3, [(f"f{at}", "f4") for at in range(300)])
    refuses(archive(tmp_path / "a.npz", x=member(x=wide)), "array 'x' holds .*, not numbers")


@given(st.integers(0, 3000), st.integers(0, 255), st.booleans())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_is_found_or_harmless(tmp_path, at, value, compressed):
    path = tmp_path / "a.npz"
    save = np.savez_compressed if compressed else np.savez
    save(path, x=np.arange(60.0).reshape(20, 3), y=np.arange(20))
    raw = bytearray(path.read_bytes())
    raw[at % len(raw)] = value
    path.write_bytes(raw)
    with suppress(DataError):
        batches = list(open_source(DataSpec(source=str(path))).batches(8))
        assert sum(len(array) for arrays, _ in batches for array in arrays.values()) in {0, 20, 40}


def test_data_that_no_disk_holds_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    class Input:
        name, dtype, shape = "x", "float32", (None, 2)

    class Usage:
        free = 1000

    path = archive(tmp_path / "a.npz", x=member(x=np.zeros((126, 2))))
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    with pytest.raises(
        DataError, match=r"a.npz: takes 0.0 GiB as inputs of the model, and .* has 0.0 GiB left; give fewer"
    ):
        materialise(open_source(DataSpec(source=str(path))), [Input()], tmp_path / "out", task=None)
    archive(path, x=member(x=np.zeros((125, 2))))
    assert materialise(open_source(DataSpec(source=str(path))), [Input()], tmp_path / "out", task=None).n == 125
