"""Tensors in system shared memory, which another library made."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

from sidecar.errors import InvalidInputError
from sidecar.server.memory import NOT_REGISTERED, Regions
from sidecar.types import TensorSpec

KEY = f"/sidecar-test-{os.getpid()}"
VALUES = np.array([[0.1, np.nan, -np.inf]], np.float32)
SPECS = [TensorSpec("a", "FP32", (-1, 3)), TensorSpec("b", "FP32", (-1, 3))]


@contextmanager
def region(size=24, key=KEY):
    memory = SharedMemory(key, create=True, size=size)
    try:
        yield memory.buf
    finally:
        memory.close()
        memory.unlink()


def plain(name):
    entry = tritonclient.grpc.aio.InferInput(name, [1, 3], "FP32")
    entry.set_data_from_numpy(VALUES)
    return entry


def shared(name, size=12, offset=0, known_as="region"):
    entry = tritonclient.grpc.aio.InferInput(name, [1, 3], "FP32")
    entry.set_shared_memory(known_as, size, offset)
    return entry


def wanted(name, size=12, offset=0):
    entry = tritonclient.grpc.aio.InferRequestedOutput(name)
    entry.set_shared_memory("region", size, offset)
    return entry


@pytest.fixture
def connect(serve, model, make_servable):
    class Connected:
        def __init__(self, **settings):
            self._server = serve(
                make_servable(model.execute, SPECS), **{"admin": True, "shared_memory": [KEY], **settings}
            )

        async def __aenter__(self):
            return tritonclient.grpc.aio.InferenceServerClient(await self._server.__aenter__())

        async def __aexit__(self, *error):
            await self._server.__aexit__(*error)

    return Connected


async def refusal(call):
    with pytest.raises(InferenceServerException) as failed:
        await call
    # Nothing of a region's name or key is ever in an error.
    assert not {"region", "mine", "sidecar-test"} & set(failed.value.message().split("'"))
    assert KEY not in failed.value.message()
    return failed.value.status().removeprefix("StatusCode."), failed.value.message()


@pytest.mark.parametrize("shared_one", ["a", "b"])
async def test_an_input_in_shared_memory_stands_beside_one_in_the_message(connect, shared_one):
    async with connect() as client:
        with region() as handle:
            handle[8:20] = VALUES.tobytes()
            await client.register_system_shared_memory("region", KEY, 24)
            inputs = [shared(name, offset=8) if name == shared_one else plain(name) for name in "ab"]
            reply = await client.infer("echo", inputs)
    for name in "ab":
        assert reply.as_numpy(name).tobytes() == VALUES.tobytes()


async def test_an_output_goes_to_the_place_it_was_asked_for(connect):
    async with connect() as client:
        with region() as handle:
            await client.register_system_shared_memory("region", KEY, 20, 4)
            outputs = [wanted("a", offset=8), tritonclient.grpc.aio.InferRequestedOutput("b")]
            reply = await client.infer("echo", [plain("a"), plain("b")], outputs=outputs)
            assert bytes(handle) == bytes(12) + VALUES.tobytes()
    assert reply.as_numpy("b").tobytes() == VALUES.tobytes()
    first = reply.get_response().outputs[0]
    assert (first.name, first.parameters["shared_memory_byte_size"].int64_param) == ("a", 12)
    assert list(reply.get_response().raw_output_contents) == [b"", VALUES.tobytes()]


async def test_status_tells_what_is_registered_until_it_is_not(connect):
    async with connect() as client:
        with region():
            await client.register_system_shared_memory("one", KEY, 8)
            await client.register_system_shared_memory("two", KEY[1:], 8, 16)
            both = (await client.get_system_shared_memory_status()).regions
            (two,) = (await client.get_system_shared_memory_status("two")).regions.values()
            await client.unregister_system_shared_memory("one")
            left = (await client.get_system_shared_memory_status()).regions
            await client.unregister_system_shared_memory()
            none = (await client.get_system_shared_memory_status()).regions
            await client.unregister_system_shared_memory("one")
            assert await refusal(client.get_system_shared_memory_status("one")) == (
                "NOT_FOUND",
                NOT_REGISTERED,
            )
    assert (set(both), set(left), set(none)) == ({"one", "two"}, {"two"}, set())
    assert (two.name, two.key, two.offset, two.byte_size) == ("two", KEY[1:], 16, 8)


async def test_only_what_the_settings_name_can_be_registered(connect):
    async with connect(shared_memory=["another"]) as client:
        with region():
            for key in (KEY, "/../etc/passwd", "..", "", "/nowhere"):
                code, text = await refusal(client.register_system_shared_memory("region", key, 8))
                assert (code, text.partition(":")[0]) == (
                    "INVALID_ARGUMENT", "that shared memory may not be used",
                )  # fmt: skip
            missing = client.register_system_shared_memory("region", "/another", 8)
            assert await refusal(missing) == ("INVALID_ARGUMENT", "that shared memory cannot be opened")


async def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(8))
    (tmp_path / "key").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidInputError, match="cannot be opened"):
        Regions(["key"], 100, tmp_path).register("region", "key", 0, 8)


@pytest.mark.parametrize(
    ("name", "size", "offset", "text"),
    [
        ("region", 25, 0, "shorter than offset and byte_size"),
        ("region", 8, 2**63, "shorter than offset and byte_size"),
        ("region", 0, 0, "needs a name and a size above 0"),
        ("", 8, 0, "needs a name and a size above 0"),
        ("taken", 8, 0, "registered already"),
    ],
)
async def test_a_registration_that_makes_no_sense_is_refused(*, connect, name, size, offset, text):
    async with connect() as client:
        with region():
            await client.register_system_shared_memory("taken", KEY, 8)
            code, found = await refusal(client.register_system_shared_memory(name, KEY, size, offset))
    assert code == "INVALID_ARGUMENT"
    assert text in found


@pytest.mark.parametrize(
    ("inputs", "outputs", "text"),
    [
        ([shared("a", known_as="nope"), plain("b")], None, NOT_REGISTERED),
        ([shared("a", 12, 13), plain("b")], None, "reach beyond the region"),
        ([shared("a", 12, -1), plain("b")], None, "reach beyond the region"),
        ([shared("a", 8), plain("b")], None, "input 'a' has 8 bytes, shape [1, 3] of FP32 needs 12"),
        ([plain("a"), plain("b")], [wanted("b", 8)], "an output of 12 bytes does not fit the 8 set aside"),
        ([plain("a"), plain("b")], [wanted("b", 99)], "reach beyond the region"),
    ],
)
async def test_a_place_that_does_not_fit_is_refused(*, connect, inputs, outputs, text):
    async with connect() as client:
        with region():
            await client.register_system_shared_memory("region", KEY, 24)
            code, found = await refusal(client.infer("echo", inputs, outputs=outputs))
    assert code == "INVALID_ARGUMENT"
    assert text in found


async def test_values_that_come_both_ways_are_refused(connect):
    async with connect() as client:
        with region():
            await client.register_system_shared_memory("region", KEY, 24)
            both = shared("a")
            both._raw_content = VALUES.tobytes()
            code, text = await refusal(client.infer("echo", [both, plain("b")]))
    assert (code, text.partition(" must")[0]) == ("INVALID_ARGUMENT", "raw_input_contents")


async def test_a_request_brings_in_no_more_than_a_message_may(connect):
    async with connect(max_message_bytes=1024) as client:
        with region(2048):
            await client.register_system_shared_memory("region", KEY, 2048)
            inputs = [shared("a", 600), shared("b", 600)]
            code, text = await refusal(client.infer("echo", inputs))
    assert (code, text) == (
        "INVALID_ARGUMENT", "the inputs in shared memory are larger than 1024 bytes together",
    )  # fmt: skip


async def test_a_region_that_its_owner_shortens_is_an_error_of_the_request(connect):
    async with connect() as client:
        with region():
            await client.register_system_shared_memory("region", KEY, 24)
            os.truncate(f"/dev/shm{KEY}", 4)
            code, text = await refusal(client.infer("echo", [shared("a"), plain("b")]))
            assert (await client.infer("echo", [plain("a"), plain("b")])).as_numpy("a").shape == (1, 3)
    assert (code, text) == ("INVALID_ARGUMENT", "the shared memory has become shorter than it was registered")


async def test_a_region_that_is_unregistered_meanwhile_is_not_written(connect, model):
    async with connect() as client:
        with region() as handle:
            await client.register_system_shared_memory("region", KEY, 24)
            model.gate.clear()
            running = asyncio.create_task(
                client.infer("echo", [plain("a"), plain("b")], outputs=[wanted("a")])
            )
            await model.entered.wait()
            await client.unregister_system_shared_memory()
            model.gate.set()
            assert await refusal(running) == ("INVALID_ARGUMENT", NOT_REGISTERED)
            assert bytes(handle) == bytes(24)


async def test_without_the_setting_everything_about_it_is_refused(connect):
    async with connect(shared_memory=[]) as client:
        code, text = await refusal(client.register_system_shared_memory("region", KEY, 8))
        assert (code, text.partition(":")[0]) == ("UNIMPLEMENTED", "system shared memory is off")
        code, text = await refusal(client.infer("echo", [shared("a"), plain("b")]))
        assert code == "INVALID_ARGUMENT"
    async with connect(admin=False, shared_memory=[]) as client:
        code, _ = await refusal(client.register_system_shared_memory("region", KEY, 8))
        assert code == "PERMISSION_DENIED"


async def test_the_extension_is_named_when_it_is_on(connect):
    async with connect() as client:
        assert "system_shared_memory" in (await client.get_server_metadata()).extensions
