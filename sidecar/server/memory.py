"""Triton's shared memory extension: tensors in memory that client and server both see.

Off unless `server.shared_memory` names the keys that may be used. Contents are read and written as a file is
(pread, pwrite) and never mapped: a client that truncates a mapped region would end the process.
"""

# ruff: noqa: N802 - gRPC finds the methods by the protocol's own names.

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from sidecar._pb import open_inference_pb2 as pb
from sidecar.errors import InvalidInputError, UnknownModelError, UnsupportedError
from sidecar.server.codec import SHARED_MEMORY
from sidecar.server.status import ErrorsAsStatus

Context = grpc.aio.ServicerContext[Any, Any]
Parameters = Any  # protobuf's map of InferParameter

SYSTEM = Path("/dev/shm")
"""Where Linux keeps POSIX shared memory (shm_overview(7))."""

NOT_REGISTERED = "the shared memory is not registered: register it first"


@dataclass(slots=True, eq=False)
class Region:
    """A registered part of a shared memory object. descriptor: -1 once it is unregistered."""

    key: str
    offset: int
    size: int
    descriptor: int

    def read(self, place: slice) -> bytes:
        """Raises InvalidInputError where the object has become shorter, or was unregistered."""
        self._check_open()
        content = os.pread(self.descriptor, place.stop - place.start, self.offset + place.start)
        if len(content) != place.stop - place.start:
            raise InvalidInputError("the shared memory has become shorter than it was registered")
        return content

    def write(self, place: slice, content: bytes) -> None:
        """Raises InvalidInputError where `content` is larger than `place`, or the region was unregistered."""
        self._check_open()
        if len(content) > place.stop - place.start:
            raise InvalidInputError(
                f"an output of {len(content)} bytes does not fit the {place.stop - place.start} set aside for it"
            )
        if os.pwrite(self.descriptor, content, self.offset + place.start) != len(content):
            raise InvalidInputError("the shared memory did not take the whole output")

    def close(self) -> None:
        os.close(self.descriptor)
        self.descriptor = -1

    def _check_open(self) -> None:
        if self.descriptor < 0:
            raise InvalidInputError(NOT_REGISTERED)


Placements = dict[str, tuple[Region, slice]]
"""Name of an output -> where a request wants it."""


class Regions:
    """What is registered, by the name that requests use. Its errors never quote a name or key.

    keys: shared memory objects that may be registered. folder: where the system keeps them.
    max_bytes: most that one request may bring in, as if it came in the message.
    """

    def __init__(self, keys: Collection[str], max_bytes: int, folder: Path = SYSTEM) -> None:
        self._max_bytes = max_bytes
        self._keys = frozenset(key.removeprefix("/") for key in keys)
        self._folder = folder
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Raises InvalidInputError for what may not be registered."""
        if name in self._regions:
            raise InvalidInputError("shared memory of that name is registered already: unregister it first")
        if not name or not size:
            raise InvalidInputError("shared memory needs a name and a size above 0")
        plain = key.removeprefix("/")
        if plain not in self._keys:
            raise InvalidInputError("that shared memory may not be used: server.shared_memory lists what may")
        try:
            descriptor = os.open(self._folder / plain, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            raise InvalidInputError("that shared memory cannot be opened") from None
        region = Region(key, offset, size, descriptor)
        if offset + size > os.fstat(descriptor).st_size:
            region.close()
            raise InvalidInputError("that shared memory is shorter than offset and byte_size say")
        self._regions[name] = region

    def unregister(self, name: str) -> None:
        """That one, or all for ""; nothing happens to one that is not registered."""
        for each in [name] if name else list(self._regions):
            if region := self._regions.pop(each, None):
                region.close()

    def registered(self, name: str) -> Mapping[str, Region]:
        """That one, or all for "". Raises UnknownModelError."""
        if not name:
            return dict(self._regions)
        if name not in self._regions:
            raise UnknownModelError(NOT_REGISTERED)
        return {name: self._regions[name]}

    def bring(self, message: pb.ModelInferRequest) -> Placements:
        """Put inputs that lie in regions into `message` as raw contents, and take the outputs' places out of it.

        Raises InvalidInputError for places outside a region, and for values that come both ways.
        """
        if any(SHARED_MEMORY in entry.parameters for entry in message.inputs):
            raw = list(message.raw_input_contents)
            del message.raw_input_contents[:]
            room = self._max_bytes
            for entry in message.inputs:
                if SHARED_MEMORY in entry.parameters:
                    region, place = self._take(entry.parameters)
                    room -= place.stop - place.start
                    if room < 0:
                        raise InvalidInputError(
                            f"the inputs in shared memory are larger than {self._max_bytes} bytes together"
                        )
                    message.raw_input_contents.append(region.read(place))
                elif raw:
                    message.raw_input_contents.append(raw.pop(0))
            if raw:
                raise InvalidInputError(
                    "raw_input_contents must have no entry for an input in shared memory, and one for any other"
                )
        return {
            entry.name: self._take(entry.parameters)
            for entry in message.outputs
            if SHARED_MEMORY in entry.parameters
        }

    def _take(self, parameters: Parameters) -> tuple[Region, slice]:
        region = self._regions.get(parameters[SHARED_MEMORY].string_param)
        if region is None:
            raise InvalidInputError(NOT_REGISTERED)
        size, offset = (
            parameters[name].int64_param if name in parameters else 0
            for name in ("shared_memory_byte_size", "shared_memory_offset")
        )
        if size < 0 or offset < 0 or offset + size > region.size:
            raise InvalidInputError(
                "shared_memory_offset and shared_memory_byte_size reach beyond the region"
            )
        del parameters[SHARED_MEMORY]
        return region, slice(offset, offset + size)


def deliver(placements: Placements, response: pb.ModelInferResponse) -> None:
    """Move outputs of `response` to the places that the request named, and say so in their parameters."""
    contents = response.raw_output_contents
    for position, entry in enumerate(response.outputs):
        if entry.name in placements:
            region, place = placements[entry.name]
            region.write(place, contents[position])
            entry.parameters["shared_memory_byte_size"].int64_param = len(contents[position])
            entry.parameters["shared_memory_offset"].int64_param = place.start
            # Clients count on one entry for each output.
            contents[position] = b""


class SharedMemoryService:
    """Registers regions; None where the settings allow none. permit: raises where admin calls are not allowed."""

    def __init__(self, regions: Regions | None, permit: Callable[[], None]) -> None:
        self._regions = regions
        self._permit = permit

    def _allowed(self) -> Regions:
        self._permit()
        if self._regions is None:
            raise UnsupportedError("system shared memory is off: server.shared_memory names what may be used")
        return self._regions

    async def SystemSharedMemoryStatus(
        self, message: pb.SystemSharedMemoryStatusRequest, context: Context
    ) -> pb.SystemSharedMemoryStatusResponse:
        response = pb.SystemSharedMemoryStatusResponse()
        async with ErrorsAsStatus(context):
            for name, region in self._allowed().registered(message.name).items():
                status = response.regions[name]
                status.name, status.key = name, region.key
                status.offset, status.byte_size = region.offset, region.size
        return response

    async def SystemSharedMemoryRegister(
        self, message: pb.SystemSharedMemoryRegisterRequest, context: Context
    ) -> pb.SystemSharedMemoryRegisterResponse:
        async with ErrorsAsStatus(context):
            self._allowed().register(message.name, message.key, message.offset, message.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, message: pb.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        async with ErrorsAsStatus(context):
            self._allowed().unregister(message.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(
        self, message: pb.CudaSharedMemoryStatusRequest, context: Context
    ) -> pb.CudaSharedMemoryStatusResponse:
        return await self._refuse_cuda(context)

    async def CudaSharedMemoryRegister(
        self, message: pb.CudaSharedMemoryRegisterRequest, context: Context
    ) -> pb.CudaSharedMemoryRegisterResponse:
        return await self._refuse_cuda(context)

    async def CudaSharedMemoryUnregister(
        self, message: pb.CudaSharedMemoryUnregisterRequest, context: Context
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        return await self._refuse_cuda(context)

    async def _refuse_cuda(self, context: Context) -> Any:
        async with ErrorsAsStatus(context):
            raise UnsupportedError("CUDA shared memory is not supported: send tensors in the message")
