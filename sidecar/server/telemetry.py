"""`sidecar.v1.ActivationTelemetry`: the API's questions and answers as protobuf messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message

from sidecar._pb import telemetry_pb2, telemetry_pb2_grpc
from sidecar.server.status import ErrorsAsStatus

SERVICE = telemetry_pb2.DESCRIPTOR.services_by_name["ActivationTelemetry"]

Ask = Callable[[str, Mapping[str, object]], Awaitable[dict[str, Any]]]
"""A method's name and the fields that are set -> the answer as a tree of dicts and lists. Raises RequestError."""


def register(server: Any, ask: Ask) -> None:
    """Have `server` answer every method of the service by `ask`."""
    telemetry_pb2_grpc.add_ActivationTelemetryServicer_to_server(_Servicer(ask), server)


class _Servicer:
    """The generated registration asks for each method by its name; they differ in nothing else."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def __getattr__(self, name: str) -> Any:
        if name not in SERVICE.methods_by_name:
            raise AttributeError(name)
        response = getattr(telemetry_pb2, SERVICE.methods_by_name[name].output_type.name)

        async def answer(request: Message, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
            async with ErrorsAsStatus(context):
                asked = {field.name: value for field, value in request.ListFields()}
                return message(response, await self._ask(name, asked))

        return answer


def message(response: Callable[..., Message], answer: Mapping[str, Any]) -> Message:
    """An answer as its message: where the two differ, proto3 has no list of lists and no list with gaps."""
    fields = dict(answer)
    if "values" in fields:
        fields["values"] = [{"values": row} for row in fields["values"]]
        fields["row_peaks"] = [-1 if place is None else place for place in fields["row_peaks"]]
    if "distribution" in fields:
        fields["distribution"] = {
            name: telemetry_pb2.Values(values=row) for name, row in fields["distribution"].items()
        }
    return response(**{name: value for name, value in fields.items() if value is not None})
