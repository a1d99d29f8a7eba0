import io
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from hwbench.dataset import DataSpec, Preprocess, materialise, open_source
from hwbench.errors import DataError, UnavailableError

MIB = 1 << 20


@dataclass(frozen=True)
class Input:
    name: str = "x"
    shape: tuple = (None, 3)
    dtype: str = "float32"


def npz(folder, compressed=False, **arrays):
    path = folder / "data.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return str(path)


def read(source, folder, *inputs, task="classification", **spec):
    return materialise(open_source(DataSpec(source=source, **spec)), inputs or [Input()], folder / "out", task=task)


def refuses(match, *args, **kwargs):
    with pytest.raises(DataError, match=match):
        read(*args, **kwargs)


def floats(n=10, *shape):
    return np.random.default_rng(n).normal(size=(n, *(shape or (3,)))).astype(np.float32)


# --- .npz


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_npz_roundtrip(tmp_path, compressed, order, shape):
    x = np.asarray(floats(300, *shape) if shape else floats(300, 1)[:, 0], order=order)
    y = np.arange(300) % 7
    data = read(npz(tmp_path, compressed, x=x, y=y), tmp_path, Input(shape=(1, *shape)))
    assert data.n == 300
    np.testing.assert_array_equal(data.rows("x", 0, 300), x)
    np.testing.assert_array_equal(data.rows("x", 150, 170), x[150:170])
    np.testing.assert_array_equal(data.labels_array(), y)
    assert data.labels.dtype == "int64"


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_any_array_and_batch_size_are_streamed_whole(tmp_path, data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=6))
    order = data.draw(st.sampled_from("CF"))
    dtype = data.draw(st.sampled_from(["<f4", ">f4", "<i2", ">i8", "u1", "?"]))
    x = np.asarray(data.draw(hnp.arrays(dtype, shape)), order=order)
    source = open_source(DataSpec(source=npz(tmp_path, x=x)))
    size = data.draw(st.integers(1, 8))
    batches = [arrays["x"] for arrays, _ in source.batches(size)]
    assert max(map(len, batches)) <= size
    np.testing.assert_array_equal(np.concatenate(batches), x)


def test_equal_content_has_equal_keys_and_files(tmp_path):
    x, y = floats(), np.zeros(10, np.int64)
    one = read(npz(tmp_path, x=x, y=y), tmp_path)
    again = read(npz(tmp_path, True, x=x.astype(np.float64), y=y.astype(np.uint8)), tmp_path)
    other = read(npz(tmp_path, x=x + 1, y=y), tmp_path)
    assert one == again
    assert one.key == again.key != other.key
    assert one.inputs["x"].path.name == f"{one.inputs['x'].sha256[:16]}.npy"
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_several_inputs_go_by_name_or_as_told(tmp_path):
    ids, mask = np.arange(20, dtype=np.int32).reshape(5, 4), np.ones((5, 4), np.int64)
    inputs = Input("ids", (None, None), "int64"), Input("mask", (None, None), "int64")
    path = npz(tmp_path, ids=ids, m=mask, labels=np.arange(5))
    data = read(path, tmp_path, *inputs, inputs={"mask": "m"})
    np.testing.assert_array_equal(data.rows("ids", 0, 5), ids)
    np.testing.assert_array_equal(data.labels_array(), np.arange(5))
    refuses(r"no array for the model's input 'mask'; there are: ids, m\. Rename one", path, tmp_path, *inputs)
    refuses("no array 'mm'. Did you mean 'm'", path, tmp_path, *inputs, inputs={"mask": "mm"})
    refuses("the model has no input 'mask_'", path, tmp_path, *inputs, inputs={"mask_": "m"})
    refuses("no 'classes' to take labels from", path, tmp_path, *inputs, label="classes")


def test_arrays_nobody_asks_for_may_have_any_length(tmp_path):
    path = npz(tmp_path, x=floats(), y=np.zeros(10, int), names=np.zeros(4))
    assert read(path, tmp_path).n == 10


def test_labels_are_optional(tmp_path):
    data = read(npz(tmp_path, pictures=floats()), tmp_path)
    assert data.labels is None
    data.check_labels(3)
    with pytest.raises(DataError, match="there are no labels"):
        data.labels_array()


# --- damaged or unsafe .npz


def test_missing_and_foreign_files(tmp_path):
    refuses("nowhere.npz: no such file", str(tmp_path / "nowhere.npz"), tmp_path)
    refuses("nowhere: no such file or folder; give a .npz", str(tmp_path / "nowhere"), tmp_path)
    (tmp_path / "a.npz").write_bytes(b"not a zip")
    refuses("a.npz: not an .npz file, or truncated", str(tmp_path / "a.npz"), tmp_path)
    (tmp_path / "a.txt").write_text("1")
    refuses("a.txt: not a kind of data hwbench reads", str(tmp_path / "a.txt"), tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 1000, -30, -1])
def test_a_truncated_file_is_told(tmp_path, keep):
    path = tmp_path / "cut.npz"
    path.write_bytes((tmp_path / npz(tmp_path, x=floats(200), y=np.zeros(200))).read_bytes()[:keep])
    refuses(r"cut.npz: not an .npz file, or truncated", str(path), tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_array_is_named_and_nothing_stays(tmp_path, compressed):
    path = tmp_path / "data.npz"
    x = np.random.default_rng(0).integers(0, 9, (2000, 3))  # whatever the damage makes of these is finite
    npz(tmp_path, compressed, x=x, y=np.zeros(2000, int))
    raw = bytearray(path.read_bytes())
    middle = raw.index(b"y.npy") // 2
    raw[middle : middle + 40] = bytes(40)
    path.write_bytes(raw)
    refuses("data.npz: array 'x' is truncated or damaged", str(path), tmp_path, Input(dtype="int64"))
    assert list((tmp_path / "out").iterdir()) == []


def member(folder, data):
    path = folder / "bad.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", data)
    return str(path)


def test_a_header_that_lies_is_told(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)})
    refuses("bad.npz: array 'x' is truncated.*states shape", member(tmp_path, stream.getvalue()), tmp_path)
    refuses("bad.npz: array 'x' is truncated or damaged", member(tmp_path, b"\x93NUMPY\x01\x00"), tmp_path)
    refuses("bad.npz: array 'x' is truncated or damaged", member(tmp_path, b"hello, world, how are you"), tmp_path)


def test_pickles_are_never_opened(tmp_path):
    path = npz(tmp_path, x=np.array([{"a": 1}, None], dtype=object))
    refuses("array 'x' holds object, not numbers", path, tmp_path)


@pytest.mark.parametrize("x", [np.array(["a", "b"]), np.zeros(3, "c8"), np.zeros(3, [("a", "f4")])])
def test_arrays_of_other_things_than_numbers_are_refused(tmp_path, x):
    refuses("array 'x' holds .* not numbers", npz(tmp_path, x=x), tmp_path)
    refuses("array 'x' is a single number", npz(tmp_path, x=np.float32(3)), tmp_path)


# --- what does not fit the model


def test_shapes(tmp_path):
    path = npz(tmp_path, x=floats(4, 8, 6, 3))
    refuses(
        r"array 'x' for input 'x': row 0 .*sample has shape \[8, 6, 3\], the model takes \[3, 8, 6\]; .*another order",
        path,
        tmp_path,
        Input(shape=(1, 3, 8, 6)),
    )
    refuses(r"the model takes \[\?, 6\]", path, tmp_path, Input(shape=(None, None, 6)))
    assert read(path, tmp_path, Input(shape=(2, None, None, 3))).n == 4
    refuses("the model gives no shape for it", path, tmp_path, Input(shape=()))
    refuses("the model takes bfloat16, which data files cannot hold", path, tmp_path, Input(dtype="bfloat16"))


@pytest.mark.parametrize(
    ("have", "want", "message"),
    [
        ("int64", "float32", "the data are int64, the model takes float32; save them as float32"),
        ("uint8", "float32", "the data are uint8, the model takes float32; .*scale"),
        ("float32", "int64", "the data are float32, the model takes int64"),
        ("float32", "uint8", "the data are float32, the model takes uint8; give the stored bytes"),
        ("bool", "float32", "the data are bool, the model takes float32"),
        ("int64", "bool", "the data are int64, the model takes bool"),
    ],
)
def test_element_types_that_are_not_cast(tmp_path, have, want, message):
    refuses(message, npz(tmp_path, x=np.ones((5, 3), have)), tmp_path, Input(dtype=want))


@given(hnp.arrays(np.float64, (5, 3), elements=st.floats(-3e38, 3e38)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_doubles_become_floats(tmp_path, x):
    data = read(npz(tmp_path, x=x), tmp_path)
    np.testing.assert_array_equal(data.rows("x", 0, 5), x.astype(np.float32))


@given(
    hnp.arrays(np.int64, (5, 3), elements=st.integers(-(2**33), 2**33)),
    st.sampled_from(["int8", "uint8", "int32", "uint64"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_integers_are_cast_exactly_or_not_at_all(tmp_path, x, dtype):
    limits = np.iinfo(dtype)
    fits = [limits.min <= int(value) <= limits.max for value in x.ravel()]
    path = npz(tmp_path, x=x)
    if all(fits):
        np.testing.assert_array_equal(read(path, tmp_path, Input(dtype=dtype)).rows("x", 0, 5), x)
    else:
        at = fits.index(False)
        refuses(rf"row {at // 3} .*: {x.ravel()[at]} does not fit {dtype}", path, tmp_path, Input(dtype=dtype))


def test_values_beyond_the_models_type(tmp_path):
    x = np.zeros((300, 3))
    x[277, 1] = 1e39
    refuses(r"row 277 \(counted from 0\): 1e\+39 is too large for float32", npz(tmp_path, x=x), tmp_path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, bad):
    x = floats(300)
    x[201, 2] = bad
    refuses(rf"data.npz: array 'x' .*: row 201 \(counted from 0\): holds {bad}", npz(tmp_path, x=x), tmp_path)
    y = np.zeros(300)
    y[150] = bad
    refuses(rf"data.npz: labels: row 150 .*holds {bad}", npz(tmp_path, x=floats(300), y=y), tmp_path, task="regression")


def test_empty_data(tmp_path):
    refuses("data.npz: empty", npz(tmp_path, x=floats(0, 3), y=np.zeros(0, int)), tmp_path)


def test_lengths(tmp_path):
    refuses(r"differ in length \(x: 10, y: 9\)", npz(tmp_path, x=floats(), y=np.zeros(9, int)), tmp_path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.array([0, 1, -1]), "labels: row 2 .*: -1 is not a class number"),
        (np.array([0, 1.5, 1]), "labels: row 1 .*: 1.5 is not a class number"),
        (np.full((3, 2), 0.5), "one class number, or one 1 among zeros; turn other rows of scores"),
        (np.array([[1, 0], [1, 1], [0, 1]]), "one class number, or one 1 among zeros"),
    ],
)
def test_labels_that_are_no_classes(tmp_path, bad, message):
    refuses(message, npz(tmp_path, x=floats(3), y=bad), tmp_path)


@pytest.mark.parametrize("task", [None, "classification"])
@pytest.mark.parametrize("dtype", ["int8", "float32", "bool"])
def test_one_hot_labels_are_class_numbers(tmp_path, task, dtype):
    classes = np.random.default_rng(0).integers(0, 5, 300)
    data = read(npz(tmp_path, x=floats(300), y=np.eye(5)[classes].astype(dtype)), tmp_path, task=task)
    for width in (5, None):
        numbers = data.with_class_numbers(width)
        np.testing.assert_array_equal(numbers.labels_array(), classes)
        assert (numbers.labels.dtype, numbers.label_note) == ("int64", "one-hot rows, read as class numbers")
        assert numbers.key != data.key
    with pytest.raises(
        DataError, match="labels are one-hot rows of 5 and the model's output has 10 classes; give class"
    ):
        data.with_class_numbers(10)


@pytest.mark.parametrize(
    "labels", [np.array([0, 1, 2, 1]), np.ones((4, 1)), np.full((4, 2), 0.5), np.eye(4, 3), np.ones((4, 2))]
)
def test_other_labels_are_left_as_they_are(tmp_path, labels):
    data = read(npz(tmp_path, x=floats(4), y=labels), tmp_path, task=None)
    assert data.with_class_numbers(10) is data


def test_label_range(tmp_path):
    data = read(npz(tmp_path, x=floats(6), y=np.array([0, 1, 2, 3, 9, 9])), tmp_path)
    data.check_labels(10)
    with pytest.raises(DataError, match=r"row 4 .*: label 9 is not one of the model's classes 0 to 8 \(2 such"):
        data.check_labels(9)
    regression = read(npz(tmp_path, x=floats(6), y=np.arange(6)), tmp_path, task="regression")
    assert regression.labels.dtype == "float64"
    with pytest.raises(DataError, match="not one class number"):
        regression.check_labels(9)


@pytest.mark.parametrize(
    ("task", "y", "dtype", "shape"),
    [
        (None, np.zeros(4, np.uint8), "int64", (4,)),
        (None, np.zeros(4, np.float32), "float32", (4,)),
        (None, np.zeros((4, 2), np.float32), "float32", (4, 2)),
        ("classification", np.zeros((4, 1)), "int64", (4,)),
        ("regression", np.zeros((4, 1), np.float32), "float64", (4, 1)),
    ],
)
def test_how_labels_are_kept(tmp_path, task, y, dtype, shape):
    labels = read(npz(tmp_path, x=floats(4), y=y), tmp_path, task=task).labels
    assert (labels.dtype, labels.shape) == (dtype, shape)


# --- preprocessing of arrays


def test_scale_mean_and_std_per_channel(tmp_path):
    x = np.random.default_rng(1).integers(0, 256, (5, 2, 4, 4), np.uint8)
    path = npz(tmp_path, x=x)
    steps = {"scale": 1 / 255, "mean": [0.25, 0.5], "std": [0.5, 2]}
    data = read(path, tmp_path, Input(shape=(None, 2, 4, 4)), preprocess=steps)
    wanted = (x / 255 - np.reshape([0.25, 0.5], (2, 1, 1))) / np.reshape([0.5, 2], (2, 1, 1))
    np.testing.assert_allclose(data.rows("x", 0, 5), wanted, rtol=1e-5, atol=1e-6)
    channels_last = {**steps, "layout": "nhwc"}
    refuses(
        r"mean has 2 numbers for 4 channels", path, tmp_path, Input(shape=(None, 2, 4, 4)), preprocess=channels_last
    )
    refuses("preprocess.resize is for image folders", path, tmp_path, preprocess={"resize": 3})
    whole = read(path, tmp_path, Input(shape=(None, 2, 4, 4)), preprocess={"scale": 1})
    np.testing.assert_array_equal(whole.rows("x", 0, 5), x)
    two = Input("a", (None, 2, 4, 4)), Input("b", (None, 2, 4, 4))
    refuses("models with one input", path, tmp_path, *two, preprocess={"scale": 1})


@pytest.mark.parametrize(
    "bad", [{"std": [0.0]}, {"mean": [float("nan")]}, {"resize": 0}, {"layout": "hwc"}, {"scale": 0}, {"colour": "rgb"}]
)
def test_preprocessing_that_makes_no_sense(bad):
    with pytest.raises(ValidationError):
        Preprocess(**bad)


# --- image folders


@pytest.fixture
def pictures(tmp_path):
    image = pytest.importorskip("PIL.Image")
    root = tmp_path / "pictures"
    rng = np.random.default_rng(3)
    stored = []
    for name in ("cat", "ant", "bee"):
        (root / name).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 256, (6, 4, 3), np.uint8)
            image.fromarray(pixels).save(root / name / f"{number}.png")
            stored.append((name, pixels))
    (root / ".cache").mkdir()
    return root, np.stack([pixels for _, pixels in sorted(stored, key=lambda one: one[0])])


def test_image_folder(tmp_path, pictures):
    root, pixels = pictures
    data = read(str(root), tmp_path, Input(shape=(1, 3, 6, 4)))
    np.testing.assert_allclose(data.rows("x", 0, 6), pixels.transpose(0, 3, 1, 2) / 255, rtol=1e-6)
    assert data.labels_array().tolist() == [0, 0, 1, 1, 2, 2]
    data.check_labels(3)
    with pytest.raises(DataError, match=r"3 class folders, but the model's output has 1000 classes; .*--classes FILE"):
        data.check_labels(1000)


LABELS = "n01 tench, Tinca tinca\nbee\n\nant\nn02084071\tcat, house cat\ncrane\ncrane\n"


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        ({"ant": 7, "bee": 0, "cat": 7}, [7, 7, 0, 0, 7, 7]),
        (("labels.txt", LABELS), [3, 3, 1, 1, 4, 4]),
        (("labels.json", '["cat", "bee", "ant"]'), [2, 2, 1, 1, 0, 0]),
        (("labels.json", '{"cat": 9, "bee": 8, "ant": 1, "dog": 0}'), [1, 1, 8, 8, 9, 9]),
        (("labels.json", '{"0": ["n1", "cat"], "1": ["n2", "ant"], "5": ["n3", "bee"]}'), [1, 1, 5, 5, 0, 0]),
    ],
)
def test_a_class_map_gives_folders_their_numbers(tmp_path, pictures, classes, labels):
    root, _ = pictures
    if isinstance(classes, tuple):
        (tmp_path / classes[0]).write_text(classes[1])
        classes = str(tmp_path / classes[0])
    data = read(str(root), tmp_path, Input(shape=(1, 3, 6, 4)), classes=classes)
    assert data.labels_array().tolist() == labels
    data.check_labels(1000)
    with pytest.raises(DataError, match="not one of the model's classes"):
        data.check_labels(max(labels))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"ant": 0, "bee": 1}, "folder 'cat' is not a class in data.classes; add it"),
        (
            ("labels.txt", "ant\nbee\ncat\ncat"),
            "folder 'cat' is the name of several classes \\(2, 3\\) in .*; give the number",
        ),
        (("labels.json", "[1, 2]"), "must hold a list of names"),
        (("labels.json", "[" * 100_000), "is not JSON"),
        (("labels.json", "[" + "9" * 5000 + "]"), "is not JSON"),
        (("labels.json", '{"' + "9" * 5000 + '": "cat"}'), "must hold a list of names"),
        (("labels.json", '{"cat": 100000000000000000000}'), "must hold a list of names"),
        (("absent", None), "no such labels file"),
    ],
)
def test_class_maps_that_do_not_work(tmp_path, pictures, classes, message):
    root, _ = pictures
    if isinstance(classes, tuple):
        if classes[1] is not None:
            (tmp_path / classes[0]).write_text(classes[1])
        classes = str(tmp_path / classes[0])
    refuses(message, str(root), tmp_path, Input(shape=(1, 3, 6, 4)), classes=classes)


def test_a_class_map_is_for_image_folders(tmp_path):
    refuses("data.classes is for image folders", npz(tmp_path, x=floats(4, 3)), tmp_path, classes={"a": 0})


def test_image_layout_colour_and_bytes(tmp_path, pictures):
    root, pixels = pictures
    steps = {"layout": "nhwc", "color": "bgr", "scale": 1}
    data = read(str(root), tmp_path, Input(shape=(1, 6, 4, 3), dtype="uint8"), preprocess=steps)
    np.testing.assert_array_equal(data.rows("x", 0, 6), pixels[..., ::-1])
    as_float = read(str(root), tmp_path, Input(shape=(1, 6, 4, 3)), preprocess=steps)
    np.testing.assert_array_equal(as_float.rows("x", 0, 6), pixels[..., ::-1])
    gray = read(str(root), tmp_path, Input(shape=(None, 1, 6, 4)), preprocess={"color": "gray"})
    luma = pixels @ [0.299, 0.587, 0.114] / 255
    np.testing.assert_allclose(gray.rows("x", 0, 6)[:, 0], luma, atol=1.01 / 255)
    stored = Input(shape=(1, 3, 6, 4), dtype="uint8")
    refuses("float32, the model takes uint8; .*scale = 1", str(root), tmp_path, stored)


def test_images_are_resized_and_cropped(tmp_path, pictures):
    root, pixels = pictures
    cropped = read(str(root), tmp_path, Input(shape=(1, 2, 4, 3)), preprocess={"crop": [2, 4], "layout": "nhwc"})
    np.testing.assert_allclose(cropped.rows("x", 0, 6), pixels[:, 2:4] / 255, rtol=1e-6)
    shorter = read(str(root), tmp_path, Input(shape=(1, 3, 12, 8)), preprocess={"resize": 8})
    assert shorter.inputs["x"].shape == (6, 3, 12, 8)
    exact = read(str(root), tmp_path, Input(shape=(1, 3, 5, 9)), preprocess={"resize": [5, 9]})
    assert exact.inputs["x"].shape == (6, 3, 5, 9)
    refuses("6 × 4 pixels are too few for a crop of 5 × 5; set", str(root), tmp_path, preprocess={"crop": 5})


def test_image_folders_that_do_not_work(tmp_path, pictures):
    root, _ = pictures
    image = pytest.importorskip("PIL.Image")
    odd = root / "ant" / "9.png"
    image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(odd)
    refuses("9.png: 3 × 3, while 0.png is 6 × 4", str(root), tmp_path, Input(shape=(1, 3, None, None)))
    odd.write_bytes((root / "ant" / "0.png").read_bytes()[:60])
    refuses("9.png: not a readable image", str(root), tmp_path)
    image.fromarray(np.full((6, 4), 40000, np.uint16)).save(odd)
    refuses("9.png: more than 8 bits per channel", str(root), tmp_path)
    odd.rename(root / "ant" / "notes.txt")
    refuses("notes.txt: not an image", str(root), tmp_path)
    refuses("labels are its folders", str(root), tmp_path, label="y")
    (tmp_path / "bare").mkdir()
    refuses("bare: no folders in it", str(tmp_path / "bare"), tmp_path)


def test_without_pillow_the_install_command_is_named(tmp_path, monkeypatch):
    (tmp_path / "folder" / "ant").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UnavailableError, match=r"need Pillow \(pip install 'hwbench-ml\[images\]'\)"):
        read(str(tmp_path / "folder"), tmp_path)


# --- tables


def table(folder, kind, frame):
    path = folder / f"table.{kind}"
    getattr(frame, f"write_{kind}")(path)
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables(tmp_path, kind):
    x = np.random.default_rng(5).normal(size=(1000, 3))
    target = [i % 3 for i in range(1000)]
    frame = pl.DataFrame({"a": x[:, 0], "label": range(1000), "b": x[:, 1], "c": x[:, 2], "target": target})
    data = read(table(tmp_path, kind, frame.drop("label")), tmp_path)
    np.testing.assert_array_equal(data.rows("x", 0, 1000), x.astype(np.float32))
    assert data.labels_array().tolist() == target
    path = table(tmp_path, kind, frame)
    assert read(path, tmp_path, Input(shape=(None, 4))).labels_array()[5] == 2
    regression = read(path, tmp_path, Input(shape=(None, 4)), task="regression", label="b")
    np.testing.assert_array_equal(regression.labels_array(), x[:, 1])
    inputs = Input("b", (None, 1)), Input("n", (None,), "int64")
    columns = read(path, tmp_path, *inputs, inputs={"n": "label"}, label="target")
    np.testing.assert_array_equal(columns.rows("b", 0, 1000), x[:, 1:2].astype(np.float32))
    assert columns.rows("n", 999, 1000).tolist() == [999]
    refuses(
        "the feature columns for input 'x': .*not an integer", path, tmp_path, Input(shape=(None, 4), dtype="int64")
    )


def test_a_csv_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("hwbench.dataset.tables.BLOCK_BYTES", 64)
    lines = [f'{i},"{i % 5}.5","x\n{i}",{i % 2}' for i in range(500)]
    path = tmp_path / "table.csv"
    path.write_text("a,b,text,y\n" + "\n".join(lines) + "\n")
    data = read(str(path), tmp_path, Input("a", (None,)), Input("b", (None,)))
    assert data.rows("a", 0, 500).tolist() == list(range(500))
    assert data.rows("b", 0, 500).tolist() == [i % 5 + 0.5 for i in range(500)]
    assert data.labels_array().tolist() == [i % 2 for i in range(500)]
    refuses("row 0 .*: column 'text' is 'x\\\\n0', not a number", str(path), tmp_path)


def test_labels_written_as_floats_late_in_a_csv_are_floats(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,y\n" + "1,2\n" * 5000 + "1,2.5\n")
    labels = read(str(path), tmp_path, Input(shape=(None, 1)), task=None).labels
    assert labels.dtype == "float64"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,y\n1,0\nred,0\n", "table.csv: row 1 .*: column 'a' is 'red', not a number"),
        ("a,y\n1,0\n,0\n", "table.csv: row 1 .*: column 'a' is empty"),
        ("a,y\n1,0\n2\n", "table.csv: row 1 .*: column 'y' is empty"),
        ("a,y\n1,0\nnan,0\n", "row 1 .*: holds nan"),
        ("a,y\n1,zero\n", "column 'y' is 'zero', not a number"),
        ("a,y\n1,0,5\n", "table.csv: from row 0 .*: not a CSV table"),
        ("a,y\n", "table.csv: empty"),
        ("", "table.csv: .*not a CSV table"),
        ("y\n1\n", "no column but the labels'"),
    ],
)
def test_csv_files_that_do_not_work(tmp_path, text, message):
    path = tmp_path / "table.csv"
    path.write_text(text)
    refuses(message, str(path), tmp_path, Input(shape=(None, 1)))


def test_parquet_columns_of_lists(tmp_path):
    ids = [[1, 2, 3], [4, 5, 6]]
    mask = pl.Series(ids, dtype=pl.Array(pl.Int64, 3))
    path = table(tmp_path, "parquet", pl.DataFrame({"ids": ids, "mask": mask, "y": [0, 1]}))
    data = read(path, tmp_path, Input("ids", (None, None), "int64"), Input("mask", (None, 3), "int32"))
    assert data.rows("ids", 0, 2).tolist() == data.rows("mask", 0, 2).tolist() == ids
    ragged = table(tmp_path, "parquet", pl.DataFrame({"ids": [[1], [1, 2]]}))
    refuses("row 1 .*: list of another length in column 'ids'", ragged, tmp_path, inputs={"x": "ids"})


def test_parquet_files_that_do_not_work(tmp_path):
    path = table(tmp_path, "parquet", pl.DataFrame({"a": [1.0, None], "s": ["u", "v"], "y": [0, 1]}))
    refuses("row 1 .*: column 'a' is empty", path, tmp_path, Input(shape=(None,)), inputs={"x": "a"})
    refuses("column 's' holds String, not numbers", path, tmp_path, Input(shape=(None,)), inputs={"x": "s"})
    refuses("no array 'q'", path, tmp_path, inputs={"x": "q"})
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "table.parquet").read_bytes()[:100])
    refuses("cut.parquet: not a Parquet file, or truncated", str(tmp_path / "cut.parquet"), tmp_path)
    refuses("none.parquet: no such file", str(tmp_path / "none.parquet"), tmp_path)


# --- callables


X, Y = floats(300), np.arange(300) % 4


def pair():
    return X, Y


def mapping():
    return {"x": X, "label": Y}


def batches():
    for start in range(0, 300, 100):
        yield X[start : start + 100], Y[start : start + 100]


def lists():
    return [[X[:200].tolist(), Y[:200].tolist()], ({"x": X[200:].astype(float)}, Y[200:])]


def inputs_only():
    return X


def nothing():
    return iter(())


def number():
    return 3


def triple():
    return X, Y, Y


def ragged():
    yield X[:5]
    yield X[:5, :2]


def unequal():
    return X, Y[:200]


def half_labelled():
    yield X[:200], Y[:200]
    yield X[200:]


def words():
    return np.array(["a"])


def other_names():
    yield {"x": X}
    yield {"z": X}


def other_labels():
    yield X[:5], Y[:5]
    yield X[:5], X[:5, 0]


@pytest.mark.parametrize("name", ["pair", "mapping", "batches", "lists"])
def test_callables(tmp_path, name):
    source = open_source(DataSpec(source=f"{__name__}:{name}"))
    data = materialise(source, [Input()], tmp_path, task="classification")
    np.testing.assert_array_equal(data.rows("x", 0, 300), X)
    np.testing.assert_array_equal(data.labels_array(), Y)
    assert materialise(source, [Input()], tmp_path, task="classification") == data
    assert all(len(arrays["x"]) <= 64 for arrays, _ in source.batches(64))


def test_callable_without_labels(tmp_path):
    assert read(f"{__name__}:inputs_only", tmp_path).labels is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "empty; it gave no batch"),
        ("number", "returned int; it must return"),
        ("triple", r"a batch is \(x, y\), not 3 things"),
        ("ragged", "row 5 .*sample has shape \\[2\\], the model takes \\[3\\]"),
        ("unequal", r"arrays differ in length from row 128 .*x: 128, labels: 72"),
        ("half_labelled", "labels: row 200 .*some batches have labels and some do not"),
        ("words", "'x' is <U1"),
        ("other_names", r"batch 1 lacks the array 'x'; it has: z"),
        ("no_such", "cannot be loaded"),
    ],
)
def test_callables_that_do_not_work(tmp_path, name, message):
    refuses(message, f"{__name__}:{name}", tmp_path)


def test_free_dimensions_and_label_types_stay_the_same(tmp_path):
    refuses(r"row 5 .*: shape \[2\] after \[3\]", f"{__name__}:ragged", tmp_path, Input(shape=(None, None)))
    refuses(r"row 5 .*: float32 \[\] after int64 \[\]", f"{__name__}:other_labels", tmp_path, task=None)


# --- parts of a data set


@given(st.integers(2, 60), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_a_split_is_disjoint_and_complete(tmp_path, n, data):
    x = np.arange(n * 3, dtype=np.float32).reshape(n, 3)
    whole = read(npz(tmp_path, x=x, y=np.arange(n)), tmp_path)
    count = data.draw(st.integers(1, n - 1))
    drawn, rest = whole.split(count, seed=n)
    assert (drawn.n, rest.n) == (count, n - count)
    a, b = drawn.labels_array().tolist(), rest.labels_array().tolist()
    assert sorted(a + b) == list(range(n))
    assert (a, b) == (sorted(a), sorted(b))
    np.testing.assert_array_equal(drawn.rows("x", 0, count), x[a])
    assert whole.split(count, seed=n) == (drawn, rest)


def test_splits_by_fraction_and_their_limits(tmp_path):
    data = read(npz(tmp_path, x=floats(300)), tmp_path)
    assert [part.n for part in data.split(0.25, 0)] == [75, 225]
    assert data.split(0.25, 0)[0].key != data.split(0.25, 1)[0].key
    for size in (0, 300, 0.001, 0.9999, 1.0):
        with pytest.raises(DataError, match="cannot hold"):
            data.split(size, 0)


def test_subset_takes_any_order(tmp_path):
    x = floats(300)
    data = read(npz(tmp_path, x=x, y=np.arange(300)), tmp_path)
    chosen = np.random.default_rng(0).integers(0, 300, 400)
    part = data.subset(chosen)
    np.testing.assert_array_equal(part.rows("x", 0, 400), x[chosen])
    np.testing.assert_array_equal(part.labels_array(), chosen)
    for bad in ([], [300], [-1], [0.5], [[1]]):
        with pytest.raises(DataError, match="row numbers from 0 to 299"):
            data.subset(np.array(bad))


def test_opening_imports_no_table_or_image_library():
    code = "import sys, hwbench.dataset; print(sorted({'polars', 'PIL', 'scipy', 'onnx'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- memory

PEAK = textwrap.dedent("""
    import sys
    from pathlib import Path
    from types import SimpleNamespace
    from hwbench.dataset import DataSpec, materialise, open_source

    source, folder, columns = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    inputs = [SimpleNamespace(name="x", dtype="float32", shape=(None, columns))]
    data = materialise(open_source(DataSpec(source=source)), inputs, folder, task="classification")
    for part in data.split(0.1, 0):
        total = sum(float(part.rows("x", at, at + 64).sum()) for at in range(0, part.n, 64))
    # Not ru_maxrss: a child begins with its parent's.
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(data.n, int(peak.split()[1]) * 1024)
""")


def peak(source, folder, columns):
    command = [sys.executable, "-c", PEAK, source, str(folder), str(columns)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    n, size = map(int, done.stdout.split())
    return n, size


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npz", "npz-fortran", "csv", "parquet"])
def test_memory_does_not_grow_with_the_data(tmp_path, kind):
    columns = 64 if kind in {"csv", "parquet"} else 784
    found = {}
    for n in (1000, 50_000):
        folder = tmp_path / str(n)
        folder.mkdir()
        x = np.random.default_rng(0).random((n, columns), np.float32)
        y = np.arange(n) % 10
        if kind.startswith("npz"):
            source = npz(folder, x=np.asfortranarray(x) if kind == "npz-fortran" else x, y=y)
        else:
            frame = pl.DataFrame(x, schema=[f"c{i}" for i in range(columns)]).with_columns(y=pl.Series(y))
            source = table(folder, kind, frame)
        del x
        count, found[n] = peak(source, folder / "out", columns)
        assert count == n
    grown = (found[50_000] - found[1000]) / MIB
    assert grown < 64, {n: size / MIB for n, size in found.items()}
