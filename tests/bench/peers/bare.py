"""The barest server there is: stock grpc.aio, no checks, no batches, the model on the event loop."""

import asyncio
import sys

import grpc
import numpy as np
import torch

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb import open_inference_pb2_grpc as pb_grpc
from tests.bench.peers import mlp


class Bare(pb_grpc.GRPCInferenceServiceServicer):
    def __init__(self) -> None:
        self._model = mlp.build()

    async def ServerReady(self, request, context):  # noqa: N802 - the protocol's name
        return pb.ServerReadyResponse(ready=True)

    async def ModelInfer(self, request, context):  # noqa: N802 - the protocol's name
        # A copy, because torch warns of arrays that cannot be written to.
        row = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(1, -1).copy()
        with torch.inference_mode():
            y = self._model(torch.from_numpy(row)).numpy()
        response = pb.ModelInferResponse(model_name="mlp", model_version="1", id=request.id)
        response.outputs.add(name="y", datatype="FP32", shape=y.shape)
        response.raw_output_contents.append(y.tobytes())
        return response


async def serve(port: str) -> None:
    server = grpc.aio.server()
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(Bare(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
