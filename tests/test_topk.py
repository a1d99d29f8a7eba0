import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hwbench.errors import DataError
from hwbench.topk import class_scores, hits, topk

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=9)
# Few different values, so that ties are common.
FLOATS = hnp.arrays(np.float32, SHAPES, elements=st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 2.0, np.inf]))
INTEGERS = hnp.arrays(np.uint8, SHAPES, elements=st.sampled_from([0, 1, 128, 255])) | hnp.arrays(
    np.int8, SHAPES, elements=st.sampled_from([-128, -1, 0, 127])
)


@given(FLOATS | INTEGERS, st.integers(1, 6))
def test_it_is_a_sort_by_score_then_class(scores, k):
    wanted = [sorted(range(len(one)), key=lambda c, one=one: (-float(one[c]), c))[:k] for one in scores]
    found = topk(scores, k)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, wanted)


@given(FLOATS, st.integers(1, 6))
def test_fewer_classes_are_the_beginning_of_more(scores, k):
    np.testing.assert_array_equal(topk(scores, 1), topk(scores, k)[:, :1])


def test_a_sample_with_nan_has_no_ranking():
    scores = np.array([[0.0, np.nan, 1.0], [0.0, 2.0, 1.0]], np.float32)
    for k in (1, 2):
        best = topk(scores, k)
        assert (best[0] == -1).all()
        assert best[1, 0] == 1
    assert hits(topk(scores, 3), np.array([2, 0]), 3).tolist() == [False, True]


def test_formats_numpy_cannot_sort_are_ranked():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    scores = np.array([[0.5, 2.0, 1.0]], ml_dtypes.bfloat16)
    assert topk(scores, 2).tolist() == [[1, 2]]


def test_trailing_dimensions_of_one_are_dropped():
    assert class_scores(np.zeros((3, 4, 1, 1))).shape == (3, 4)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 4, 2), (3, 1, 1)])
def test_what_is_not_a_classifiers_output_is_refused(shape):
    with pytest.raises(DataError, match=r"\[n, classes\].*one column per class"):
        topk(np.zeros(shape), 1)
