"""Data files, images and fault lists that are damaged or lie about their sizes."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from fuzz_client import check, examples
from hypothesis import given
from hypothesis import strategies as st
from models import make_model
from mutations import EXTREMES, damaged, texts
from onnx import helper
from sound_files import CSV, NPZ, X, Y, image, model_bytes, npy, npz

SPEC = 'model = "model.onnx"\nprofiles = ["cpu-fp32"]\nstudies = ["accuracy"]\n[data]\nsource = "{}"\n'
FLAT = make_model(
    [helper.make_node("Softmax", ["x"], ["y"], "softmax")], {"x": (1, ["N", 2])}, {"y": (1, ["N", 2])}
).SerializeToString()


def case(name, content, model=None, more=""):
    spec = (SPEC.format(name.split("/")[0]) + more).encode()
    return {"model.onnx": model or model_bytes(), "spec.toml": spec, name: content}


GRAY = 'preprocess = { color = "gray" }\nclasses = { a = 0 }\n'


def test_sound_files_are_read(fuzzer):
    for sound in (
        case("data.npz", NPZ),
        case("data.npz", npz(x=np.asfortranarray(X), y=Y)),
        case("data.csv", CSV, FLAT),
        case("photos/a/1.png", image("PNG"), more=GRAY),
    ):
        assert fuzzer.run("data", sound).code == 0
    assert fuzzer.run("faults", {"faults.csv": FAULTS}).code == 0


@examples(60)
@given(st.sampled_from((NPZ, npz(compressed=True, x=X, y=Y), npz(x=np.asfortranarray(X), y=Y))).flatmap(damaged))
def test_damaged_archives(fuzzer, content):
    check(fuzzer.run("data", case("data.npz", content)), ["data.npz"])


@examples(50)
@given(st.data())
def test_archives_whose_members_are_damaged(fuzzer, data):
    stream = io.BytesIO()
    names = data.draw(
        st.lists(st.sampled_from(("x.npy", "y.npy", "x.npy", "z.npy", "../x.npy", "x")), min_size=1, max_size=3)
    )
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            array = npy(data.draw(st.sampled_from((X, Y, X[:3], X.astype(">f4"), np.array("text"), np.array(3.0)))))
            with pytest.warns() if name in archive.namelist() else _nothing():
                archive.writestr(name, data.draw(st.one_of(st.just(array), damaged(array, 2))))
    check(fuzzer.run("data", case("data.npz", stream.getvalue())), ["data.npz"])


@examples(40)
@given(st.data())
def test_headers_that_lie_about_shape_and_type(fuzzer, data):
    shape = tuple(data.draw(st.lists(st.sampled_from((*EXTREMES, 6, 8, 10**12, 10**30)), max_size=4)))
    dtype = data.draw(st.sampled_from(("<f4", ">i8", "|O", "<U9", "<c16", "|V3", "f4,i4", "?", "nonsense", "<M8[s]")))
    order = data.draw(st.booleans())
    text = f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape!r}, }}".encode()
    body = data.draw(st.binary(max_size=200))
    header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header + body)
    check(fuzzer.run("data", case("data.npz", stream.getvalue())), ["data.npz"])


@examples(50)
@given(damaged(CSV))
def test_damaged_tables(fuzzer, content):
    check(fuzzer.run("data", case("data.csv", content, FLAT)), ["data.csv"])


@examples(30)
@given(st.data())
def test_tables_of_odd_cells(fuzzer, data):
    cells = st.one_of(texts(), st.sampled_from(('"', '"a', "1e999", "nan", "1_000", "0x1", "²", "1,5", "\r", "\t")))
    lines = data.draw(st.lists(st.lists(cells, min_size=1, max_size=4).map(",".join), min_size=1, max_size=6))
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    check(fuzzer.run("data", case("data.csv", content, FLAT)), ["data.csv"])


@examples(60)
@given(st.sampled_from(("PNG", "BMP", "GIF", "JPEG", "PPM", "TIFF", "WEBP")), st.data())
def test_damaged_images(fuzzer, form, data):
    sound = image(form, mode=data.draw(st.sampled_from(("RGB", "L"))))
    name = f"photos/a/1.{'jpg' if form == 'JPEG' else form.lower()}"
    more = data.draw(
        st.sampled_from(
            (
                GRAY,
                GRAY.replace('"gray"', '"gray", resize = 8, crop = 8'),
                GRAY.replace('"gray"', '"gray", resize = [1000000, 1000000]'),
                GRAY.replace('"gray"', '"gray", resize = 1000000000'),
            )
        )
    )
    check(fuzzer.run("data", case(name, data.draw(damaged(sound)), more=more)), ["photos", name.split("/")[-1]])


FAULTS = b"""tensor,element,bit,kind,width,value,format
w1,0,31,flip,1,0,float32
"'=w2",3,7,burst,2,0,int8
w1,1,2,random_value,1,77,float32
"""


@examples(40)
@given(damaged(FAULTS))
def test_damaged_fault_lists(fuzzer, content):
    check(fuzzer.run("faults", {"faults.csv": content}), ["faults.csv"])


class _nothing:  # noqa: N801
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None
