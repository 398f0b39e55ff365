"""NaN and infinities in inputs."""

from __future__ import annotations

from dataclasses import replace

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from sidecar.server.nonfinite import nonfinite
from sidecar.types import Tensor

FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}


@pytest.mark.parametrize("datatype", FLOATS)
@given(drawn=st.data())
def test_the_count_is_that_of_every_value_that_is_not_finite(datatype, drawn):
    shape = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0)
    array = drawn.draw(arrays.arrays(FLOATS[datatype], shape))
    expected = sum(not np.isfinite(value) for value in array.flat)
    assert nonfinite(Tensor(datatype, array)) == expected


@given(bits=arrays.arrays(np.uint16, st.integers(0, 40)))
def test_the_count_of_bfloat16_is_that_of_the_same_float32(bits):
    wide = (bits.astype(np.uint32) << 16).view(np.float32)
    assert nonfinite(Tensor("BF16", bits)) == np.count_nonzero(~np.isfinite(wide))


@pytest.mark.parametrize(
    "array", [np.array([2**63], np.uint64), np.array([b"nan"], object), np.array([True])]
)
def test_datatypes_without_such_values_have_none(array):
    assert nonfinite(Tensor("any", array)) == 0


async def infer(address, values):
    message = pb.ModelInferRequest(model_name="echo")
    message.inputs.add(name="fp32", datatype="FP32", shape=[1, 3])
    message.raw_input_contents.append(np.array(values, np.float32).tobytes())
    async with grpc.aio.insecure_channel(address) as channel:
        return await GRPCInferenceServiceStub(channel).ModelInfer(message)


async def test_they_are_counted_and_served(serve, ledger, model, make_servable, fp32_spec):
    async with serve(make_servable(model.execute, [fp32_spec])) as address:
        await infer(address, [np.nan, np.inf, 1])
        await infer(address, [-np.inf, 0, 1])
        await infer(address, [2, 0, 1])
    assert ledger.nonfinite == 3
    assert ledger.codes == {"OK": 3}


async def test_a_model_that_takes_none_never_sees_them(serve, ledger, model, make_servable, fp32_spec):
    strict = replace(make_servable(model.execute, [fp32_spec]), refuse_nonfinite=True)
    async with serve(strict) as address:
        await infer(address, [2, 0, 1])
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await infer(address, [np.nan, 7.25, np.inf])
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "input 'fp32' has 2 values that are NaN or infinite, all must be finite"
    assert len(model.batches) == 1
    assert ledger.nonfinite == 2
