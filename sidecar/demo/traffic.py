"""Real clients of the demo: single images over gRPC, paced or as fast as they are answered."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from uuid import uuid4

import grpc
import numpy as np

from sidecar._pb import open_inference_pb2 as pb
from sidecar._pb import open_inference_pb2_grpc as pb_grpc
from sidecar.demo.shifts import Draw

MODEL = "digits"
CONNECTIONS = 32
RECENT = 2000


@dataclass(slots=True)
class Tally:
    """What the clients saw. latencies: seconds of the newest answers to paced traffic. correct, answered: by phase."""

    sent: int = 0
    failed: int = 0
    answered: dict[str, int] = field(default_factory=dict)
    correct: dict[str, int] = field(default_factory=dict)
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    finished: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def total_answered(self) -> int:
        return sum(self.answered.values())

    def accuracy(self, phase: str) -> float | None:
        answered = self.answered.get(phase, 0)
        return self.correct[phase] / answered if answered else None

    def latency_ms(self, quantile: float) -> float | None:
        return float(np.quantile(self.latencies, quantile)) * 1000 if self.latencies else None

    def per_second(self, now: float, over: float = 2.0) -> float:
        """Answers a second in the `over` seconds before `now` (`time.perf_counter`)."""
        return sum(moment > now - over for moment in self.finished) / over


class Traffic:
    """Sends drawn images to the server at `address` until told to stop."""

    def __init__(self, address: str, random: np.random.Generator) -> None:
        self.tally = Tally()
        self._random = random
        self._channel = grpc.aio.insecure_channel(address)
        self._infer = pb_grpc.GRPCInferenceServiceStub(self._channel).ModelInfer

    async def flood(self, draw: Draw, phase: str, stop: asyncio.Event) -> list[float]:
        """`CONNECTIONS` clients, each sending its next image when the last is answered. Returns the latencies.

        The tally does not keep them: how long answers take under a flood says nothing of paced traffic.
        """
        latencies: list[float] = []

        async def client() -> None:
            while not stop.is_set():
                if (took := await self._send(draw, phase)) is not None:
                    latencies.append(took)

        await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
        return latencies

    async def pace(self, draw: Draw, phase: str, rate: float, stop: asyncio.Event) -> None:
        """`rate` images a second, whether or not earlier ones are answered yet."""
        started = time.perf_counter()
        sent = 0
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                due = int((time.perf_counter() - started) * rate) + 1
                for _ in range(due - sent):
                    group.create_task(self._paced(draw, phase))
                sent = max(sent, due)
                await asyncio.sleep(max(0.0, started + sent / rate - time.perf_counter()))

    async def _paced(self, draw: Draw, phase: str) -> None:
        if (took := await self._send(draw, phase)) is not None:
            self.tally.latencies.append(took)

    async def close(self) -> None:
        await self._channel.close(None)

    async def _send(self, draw: Draw, phase: str) -> float | None:
        """Seconds until the answer, None if there was none."""
        tally = self.tally
        image, label = draw(self._random)
        request = pb.ModelInferRequest(
            model_name=MODEL,
            id=uuid4().hex,
            inputs=[pb.ModelInferRequest.InferInputTensor(name="image", datatype="FP32", shape=[1, 64])],
            raw_input_contents=[np.ascontiguousarray(image, np.float32).tobytes()],
        )
        tally.sent += 1
        started = time.perf_counter()
        try:
            reply = await self._infer(request)
        except grpc.aio.AioRpcError:
            tally.failed += 1
            return None
        now = time.perf_counter()
        tally.finished.append(now)
        logits = np.frombuffer(reply.raw_output_contents[0], np.float32)
        tally.answered[phase] = tally.answered.get(phase, 0) + 1
        tally.correct[phase] = tally.correct.get(phase, 0) + int(int(logits.argmax()) == label)
        return now - started
