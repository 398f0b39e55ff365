"""Laws of padding: each request gets back what it would alone, from a batch of the bucket's length."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import InferenceError
from sidecar.runtime import padding
from sidecar.types import DATATYPES, InferRequest, Ragged, Tensor

IDS_PAD = 7
shapes = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), min_size=1, max_size=6)


def ragged(dimension):
    places = {"ids": 1, "wave": dimension}
    return Ragged((4, 9), places, places, {"ids": IDS_PAD, "wave": 0})


def request(number, rows, length, how):
    """Every value tells its request, and none is a padding value."""
    wave = np.full((rows, 2, length) if how.inputs["wave"] == 2 else (rows, length, 2), number + 10.0)
    arrays = {"ids": np.full((rows, length), number + 10), "fixed": np.full((rows, 3), number), "wave": wave}
    inputs = {name: Tensor("FP64" if name == "wave" else "INT64", array) for name, array in arrays.items()}
    return InferRequest(str(number), inputs, rows, length=length, bucket=9)


@given(sizes=shapes, dimension=st.sampled_from([1, 2]))
def test_what_is_padded_and_cut_again_is_what_came(sizes, dimension):
    how = ragged(dimension)
    requests = [request(number, rows, length, how) for number, (rows, length) in enumerate(sizes)]
    batch = padding.pad(requests, how)
    assert list(batch) == ["ids", "fixed", "wave"]
    padding.check(batch, 9, how)
    start = 0
    for one in requests:
        end = start + one.rows
        rows = {name: Tensor(tensor.datatype, tensor.array[start:end]) for name, tensor in batch.items()}
        for name, tensor in padding.cut(rows, one.length, how).items():
            np.testing.assert_array_equal(tensor.array, one.inputs[name].array)
            assert tensor.array.dtype == one.inputs[name].array.dtype
        start = end


def test_used_memory_is_filled_anew():
    how = ragged(2)
    dirty = lambda _, shape, dtype: np.full(shape, 99, dtype)  # noqa: E731
    batch = padding.pad([request(0, 2, 3, how), request(1, 1, 0, how)], how, dirty)
    assert not any(np.any(tensor.array == 99) for tensor in batch.values())


@given(sizes=shapes)
def test_everything_beyond_a_request_is_the_padding_value(sizes):
    how = ragged(2)
    requests = [request(number, rows, length, how) for number, (rows, length) in enumerate(sizes)]
    batch = padding.pad(requests, how)
    beyond = sum(rows * (9 - length) for rows, length in sizes)
    assert np.count_nonzero(batch["ids"].array == IDS_PAD) == beyond
    assert np.count_nonzero(batch["wave"].array == 0) == 2 * beyond


@given(length=st.integers(0, 20), buckets=st.sets(st.integers(1, 16), min_size=1))
def test_a_bucket_is_the_smallest_that_holds_the_length_and_beyond_all_the_length_itself(length, buckets):
    found = Ragged(tuple(sorted(buckets)), {}, {}, {}).bucket(length)
    assert found == min((bucket for bucket in buckets if bucket >= length), default=length)


def test_an_output_of_another_length_than_the_inputs_is_an_inference_error():
    how = Ragged((4,), {"ids": 1}, {"found": 1}, {"ids": 0})
    found = {"found": Tensor("FP32", np.zeros((2, 5), DATATYPES["FP32"]))}
    with pytest.raises(InferenceError, match=r"output found has shape \[2, 5\] for inputs of length 4"):
        padding.check(found, 4, how)
