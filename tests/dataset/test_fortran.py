import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hwbench.dataset import fortran
from hwbench.dataset.fortran import FortranRows
from hwbench.npy import NpyHeader


@given(hnp.arrays("<i2", hnp.array_shapes(min_dims=2, max_dims=4, max_side=7)), st.data())
def test_rows_of_any_shape(array, data):
    start = data.draw(st.integers(0, len(array)))
    stop = data.draw(st.integers(start, len(array)))
    with tempfile.TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fortran, "BATCH_BYTES", data.draw(st.integers(1, 64)))
        file.write(array.tobytes("F"))
        file.flush()
        rows = FortranRows(file, NpyHeader(array.dtype, array.shape, True, 0))
        np.testing.assert_array_equal(rows.rows(start, stop), array[start:stop])
        rows.close()
