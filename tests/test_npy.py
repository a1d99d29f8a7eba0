import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hwbench.npy import NpyWriter, rows

DTYPES = st.sampled_from(["float16", "float32", "float64", "int8", "int32", "int64", "uint8", "bool"])


@given(st.data())
def test_blocks_of_any_size_make_one_file(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("npy")
    dtype = np.dtype(data.draw(DTYPES))
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=7))
    whole = data.draw(hnp.arrays(dtype, shape))
    cuts = sorted(data.draw(st.lists(st.integers(0, shape[0]), max_size=4)))
    with NpyWriter(folder, dtype, shape[1:]) as writer:
        for start, stop in zip([0, *cuts], [*cuts, shape[0]], strict=True):
            writer.append(whole[start:stop])
        file = writer.close()
    assert [path.name for path in folder.iterdir()] == [f"{file.sha256[:16]}.npy"]
    assert (file.shape, file.dtype) == (shape, dtype.name)
    np.testing.assert_array_equal(np.load(file.path, allow_pickle=False), whole)
    np.testing.assert_array_equal(file.rows(1, shape[0] - 1), whole[1 : max(1, shape[0] - 1)])


def test_the_name_depends_on_content_dtype_and_shape(tmp_path):
    def write(values):
        with NpyWriter(tmp_path, values.dtype, values.shape[1:]) as writer:
            writer.append(values)
            return writer.close()

    values = np.arange(12, dtype=np.int32)
    files = [write(values), write(values.reshape(3, 4)), write(values.view(np.uint32)), write(values + 1)]
    assert len({file.sha256 for file in files}) == 4
    assert write(values) == files[0]
    data = files[0].path.read_bytes()
    assert files[0].sha256 == hashlib.sha256(data[128:] + data[:128]).hexdigest()


def test_a_file_that_is_not_closed_leaves_nothing(tmp_path):
    with NpyWriter(tmp_path, np.dtype("f4"), (2,)) as writer:
        writer.append(np.zeros((3, 2), np.float32))
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("block", [np.zeros((1, 2)), np.zeros((1, 3), np.float32)])
def test_rows_of_another_kind_are_refused(tmp_path, block):
    with NpyWriter(tmp_path, np.dtype("f4"), (2,)) as writer, pytest.raises(ValueError, match="rows are float32"):
        writer.append(block)


def test_rows_are_copies(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.arange(10))
    part = rows(tmp_path / "a.npy", 2, 5)
    part[:] = 0
    np.testing.assert_array_equal(rows(tmp_path / "a.npy", 2, 5), [2, 3, 4])
