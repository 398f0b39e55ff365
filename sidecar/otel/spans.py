"""Spans of requests whose clients record a trace, made after the fact and away from the requests' own threads."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from sidecar.types import Clock, Trace

MOST_WAITING = 4096
"""Requests whose spans wait to be sent. Those beyond are dropped and counted."""

_RECORDED = TraceFlags(TraceFlags.SAMPLED)
_FAILED = Status(StatusCode.ERROR)
_UNSET = Status()


class Ended(NamedTuple):
    """A request that is over. monotonic, wall: the same moment in seconds on both clocks."""

    model: str
    version: str
    code: str
    seconds: float
    trace: Trace
    monotonic: float
    wall: float


class Spans:
    """`traced` takes requests on any thread, `take` gives their spans on the thread that sends them.

    monotonic, wall: clocks, the first the server's own. dropped: requests that have no spans because too many waited.
    """

    def __init__(
        self, resource: Resource, monotonic: Clock = time.monotonic, wall: Clock = time.time
    ) -> None:
        self.dropped = 0
        self._resource = resource
        self._monotonic, self._wall = monotonic, wall
        self._waiting: deque[Ended] = deque()
        # Ids need to differ, not to be secret.
        self._random = random.Random()
        self._scope = InstrumentationScope("sidecar")

    def traced(self, model: str, version: str, code: str, seconds: float, trace: Trace) -> None:
        """A `types.Traced`. A request that the client does not record has no spans."""
        if not trace.sampled:
            return
        if len(self._waiting) >= MOST_WAITING:
            self.dropped += 1
            return
        self._waiting.append(Ended(model, version, code, seconds, trace, self._monotonic(), self._wall()))

    def take(self) -> list[ReadableSpan]:
        """Spans of all requests that ended since."""
        return [span for _ in range(len(self._waiting)) for span in self._of(self._waiting.popleft())]

    def _of(self, ended: Ended) -> Iterator[ReadableSpan]:
        """The request's span, and below it queue, batch, in that the model, and in that telemetry."""
        trace, end = ended.trace, ended.monotonic
        client = SpanContext(
            int(trace.trace_id, 16), int(trace.span_id, 16), is_remote=True, trace_flags=_RECORDED
        )
        request = self._span(ended, "request", client, end - ended.seconds, end, SpanKind.SERVER)
        yield request
        if not trace.began:
            return
        yield self._span(ended, "queue", request.context, trace.queued, trace.began)
        cost = trace.cost
        if cost is None:
            return
        to_model = trace.began + cost.assembly
        from_model = to_model + cost.compute
        batch = self._span(ended, "batch", request.context, trace.began, from_model + cost.response)
        yield batch
        model = self._span(ended, "model", batch.context, to_model, from_model)
        yield model
        if cost.telemetry:
            yield self._span(ended, "telemetry", model.context, to_model, to_model + cost.telemetry)

    def _span(
        self,
        ended: Ended,
        name: str,
        parent: SpanContext | None,
        start: float,
        end: float,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> ReadableSpan:
        since = ended.wall - ended.monotonic
        trace_id = int(ended.trace.trace_id, 16)
        own = SpanContext(trace_id, self._random.getrandbits(64) | 1, is_remote=False, trace_flags=_RECORDED)
        attributes: dict[str, str] = {"sidecar.model": ended.model, "sidecar.version": ended.version}
        if kind is SpanKind.SERVER:
            attributes |= {"rpc.system": "grpc", "rpc.method": "ModelInfer", "sidecar.code": ended.code}
        failed = kind is SpanKind.SERVER and ended.code != "OK"
        return ReadableSpan(
            name=f"sidecar.{name}",
            context=own,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            kind=kind,
            status=_FAILED if failed else _UNSET,
            start_time=round((start + since) * 1e9),
            end_time=round((end + since) * 1e9),
            instrumentation_scope=self._scope,
        )
