"""What KServe's own client sees of a server at `sys.argv[1]`, as JSON. Run by a Python that has kserve.

It stands in a process of its own: kserve and tritonclient register the same messages in one pool.
"""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

VALUES = {"fp32": np.array([[0.1, -2.5, 3.0]], np.float32), "int64": np.array([[1, -2, 2**62]])}


async def main(address: str) -> None:
    seen = {}
    async with InferenceGRPCClient(address, timeout=10) as client:
        seen["live"] = await client.is_server_live()
        seen["ready"] = await client.is_server_ready()
        seen["model ready"] = await client.is_model_ready("echo")
        for way in ("raw", "typed"):
            inputs = []
            for name, values in VALUES.items():
                entry = InferInput(name, [1, 3], name.upper())
                entry.set_data_from_numpy(values, binary_data=way == "raw")
                inputs.append(entry)
            reply = await client.infer(InferRequest("echo", inputs, request_id="mine"))
            seen[way] = {output.name: output.as_numpy().tolist() for output in reply.outputs}
            seen[f"{way} id"] = reply.id
        stub = GRPCInferenceServiceStub(client._channel)
        metadata = await stub.ModelMetadata(pb.ModelMetadataRequest(name="echo"))
        seen["versions"] = list(metadata.versions)
        loaded = await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="echo"))
        seen["loaded"] = [loaded.model_name, loaded.isLoaded]
    print(json.dumps(seen))


asyncio.run(main(sys.argv[1]))
