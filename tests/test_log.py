"""What a line of the log looks like, and what a client can do to it."""

from __future__ import annotations

import io
import json
import logging
import re

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import log
from sidecar.settings import LogSettings
from tests.server import http2


@pytest.fixture
def written():
    """`written(format)` makes a stream that the whole log goes to, until the test ends."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level

    def written(format, level="info"):
        stream = io.StringIO()
        log.configure(LogSettings(format=format, level=level), stream)
        return stream

    yield written
    logging.captureWarnings(False)
    root.handlers[:] = before
    root.setLevel(level)


logger = logging.getLogger("sidecar.test")


def test_a_json_line_has_time_level_logger_message_and_what_is_known_of_the_request(written):
    stream = written("json")
    with log.request({"request_id": "r1", "trace_id": "", "model": "digits"}):
        logger.warning("%s is odd", "this")
    line = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "warning",
        "logger": "sidecar.test",
        "message": "this is odd",
        "request_id": "r1",
        "model": "digits",
    }


def test_a_console_line_is_for_people(written):
    stream = written("console")
    with log.request({"request_id": "r1", "model": "digits"}):
        logger.warning("odd")
    _, line = stream.getvalue().split(" ", 1)
    assert line == "warning sidecar.test: odd request_id=r1 model=digits\n"


def test_what_is_known_of_a_request_ends_with_it(written):
    stream = written("json")
    with log.request({"request_id": "r1"}):
        pass
    logger.warning("after")
    assert "r1" not in stream.getvalue()


def test_lines_below_the_level_are_not_written(written):
    stream = written("console", level="error")
    logger.warning("no")
    logger.error("yes")
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("layout", [log.Console(), log.Json()])
@given(words=st.text(), id=st.text(max_size=300))
def test_no_id_and_no_text_forges_a_line(layout, words, id):
    with log.request({"request_id": id}):
        line = layout.format(logging.LogRecord("x", logging.INFO, "", 0, "%s", (words,), None))
    assert line.isprintable()
    if isinstance(layout, log.Json):
        found = json.loads(line)
        assert found["message"] == words
        assert found.get("request_id", "") == id[: log.LONGEST]


def test_an_id_with_blanks_is_one_value_on_the_console():
    with log.request({"request_id": 'r1" code=OK'}):
        line = log.Console().format(logging.LogRecord("x", logging.INFO, "", 0, "y", None, None))
    assert line.endswith(r'y request_id="r1\" code=OK"')


def fail(text):
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("failed")


def test_a_traceback_is_one_field_of_a_json_line(written):
    stream = written("json")
    fail("why\nforged")
    assert "ValueError: why\nforged" in json.loads(stream.getvalue())["exception"]


def test_a_traceback_on_the_console_starts_no_line_of_its_own(written):
    stream = written("console")
    fail("why\n2026-01-01T00:00:00.000Z error sidecar: forged\x1b[2J")
    first, *others = stream.getvalue().splitlines()
    assert first.endswith("failed")
    assert others
    assert all(line.startswith("  | ") and line.isprintable() for line in others)


def test_python_warnings_are_lines_like_any_other(written, recwarn):
    import warnings

    stream = written("json")
    warnings.simplefilter("always")
    warnings.warn("take care", UserWarning, stacklevel=1)
    assert json.loads(stream.getvalue())["logger"] == "py.warnings"


def test_what_clients_can_cause_is_written_at_a_rate_and_the_rest_is_counted():
    now = 0.0
    limited = log.Limited(["access"], per_second=2, burst=3, clock=lambda: now)

    def passes(name="access", level=logging.WARNING):
        record = logging.LogRecord(name, level, "", 0, "x", None, None)
        return limited.filter(record) and record

    assert [bool(passes()) for _ in range(5)] == [True, True, True, False, False]
    assert passes("other")
    assert passes(level=logging.ERROR)
    now = 0.5
    assert passes().suppressed == 2
    assert not passes()
    now = 100.0
    assert [bool(passes()) for _ in range(4)] == [True, True, True, False]


def test_the_number_of_lines_left_out_stands_in_the_next_one(written):
    stream = written("json")
    for number in range(150):
        logging.getLogger("sidecar.access").warning("%d", number)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert 100 <= len(lines) <= 110
    assert [line["message"] for line in lines[:100]] == [str(number) for number in range(100)]


def test_what_a_model_cannot_do_is_written_ten_times_at_once_with_its_traceback(written):
    stream = written("json")
    for number in range(1000):
        logging.getLogger("sidecar.model").error("%d", number, exc_info=ValueError("odd"))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines] == [str(number) for number in range(10)]
    assert all("ValueError: odd" in line["exception"] for line in lines)


async def test_metadata_that_grpcio_cannot_read_is_not_written(written):
    """Over a real port, because the words are grpcio's."""
    stream = written("json", level="debug")
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with http2.connect(f"127.0.0.1:{port}") as connection:
        await connection.send(http2.PREFACE, http2.call(http2.LIVE, b"", ("authorization", b"s3cret \xff")))
        await connection.frames(until=http2.HEADERS)
    await server.stop(None)
    assert "s3cret" not in stream.getvalue()
