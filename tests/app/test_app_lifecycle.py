"""Building, starting, stopping; what is refused, and what is served without telemetry."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import threading

import httpx
import pytest

from sidecar.app import Sidecar
from sidecar.errors import BaselineError, ConfigError, ModelError
from sidecar.model import Model

SMALL = {
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 3]}],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
}


def factory(name, **more):
    return {**SMALL, "source": f"tests.app.factories:{name}", "taps": ["layer"], **more}


async def ready(port):
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.get(f"http://127.0.0.1:{port}/readyz")


async def test_a_model_that_answers_differently_when_observed_is_served_plain_and_says_so(serve, configure):
    async with serve(configure(factory("Noisy"))) as client:
        reply = await client.http.get("/readyz")
        counts = await client.metrics()
    (model,) = reply.json()["models"]
    assert reply.status_code == 200
    assert (model["ready"], model["instrumented"]) == (True, False)
    assert "output logits of the instrumented variant differs by" in model["detail"]
    assert counts("sidecar_instrumented") == 0


def test_a_tolerance_lets_a_small_difference_pass(configure):
    assert Model(configure(factory("Noisy", tolerance=2.0)).models[0], configure(), lambda: 0.0).observation


def test_a_difference_in_bfloat16_is_one_between_numbers(configure):
    half = {kind: [{**SMALL[kind][0], "datatype": "BF16"}] for kind in SMALL}
    assert Model(
        configure(factory("Noisy", **half, tolerance=2.0)).models[0], configure(), lambda: 0.0
    ).observation


def test_the_smallest_batch_is_checked_as_well_as_the_largest(configure):
    model = Model(configure(factory("NoisyAlone")).models[0], configure(), lambda: 0.0)
    assert "output logits of the instrumented variant differs by" in model.detail


def test_a_silent_tap_is_named_and_the_model_served_plain(configure):
    model = Model(configure(factory("Gram")).models[0], configure(), lambda: 0.0)
    assert model.observation is None
    assert model.detail == "taps ['layer'] saw nothing in the self-check"
    assert not model.status().instrumented


def test_an_instrumented_variant_that_raises_at_load_is_served_plain(configure, monkeypatch):
    def instrumented(*_):
        raise RuntimeError("a copy is not the same")

    monkeypatch.setattr("sidecar.runtime.torch.TorchRuntime.instrumented", instrumented)
    model = Model(configure().models[0], configure(), lambda: 0.0)
    assert model.detail == "the instrumented variant failed in the self-check: a copy is not the same"


def test_capture_that_is_switched_off_is_told(configure):
    model = Model(configure().models[0], configure(capture={"enabled": False}), lambda: 0.0)
    assert (model.observation, model.status().detail) == (None, "capture.enabled is false")


@pytest.mark.parametrize("enabled", [True, False])
def test_a_model_without_telemetry_tells_whether_it_was_to_have_some(configure, enabled):
    settings = configure(factory("Gram"), capture={"enabled": enabled})
    assert Model(settings.models[0], settings, lambda: 0.0).status().wanted is enabled


def test_the_self_check_is_in_no_count(configure):
    status = Model(configure().models[0], configure(), lambda: 0.0).status()
    assert (status.instrumented, status.sampled, status.telemetry_seconds) == (True, 0, 0)
    assert not any([*status.dropped.values(), *status.failures.values()])


def test_seconds_of_inference_never_fall_while_a_tap_reports_before_its_run_does(configure):
    model = Model(configure().models[0], configure(), lambda: 0.0)
    model.executor.seconds = 2.0
    assert model.status().inference_seconds == 2.0
    model.observation.recorder.nanoseconds = 500_000_000
    assert model.status().inference_seconds == 2.0
    model.executor.seconds = 3.0
    assert model.status().inference_seconds == 2.5


def test_choosing_who_is_observed_counts_as_telemetry_and_not_as_inference(configure):
    model = Model(configure().models[0], configure(), lambda: 0.0)
    model.executor.seconds = 2.0
    model.observation.recorder.opening = 250_000_000
    assert (model.status().telemetry_seconds, model.status().inference_seconds) == (0.25, 2.0)


def test_taps_that_match_nothing_end_the_start(configure):
    with pytest.raises(ConfigError, match=r"taps \['nope\.\*'\] match nothing"):
        Sidecar(configure({"taps": ["nope.*"]}), lambda: 0.0)


def test_inputs_that_the_model_cannot_take_end_the_start(configure):
    wrong = [{"name": "pixels", "datatype": "FP32", "shape": [-1, 63]}]
    with pytest.raises(ModelError, match=r"model digits does not run on pixels \[1, 63\]: "):
        Sidecar(configure({"inputs": wrong}), lambda: 0.0)


@pytest.mark.parametrize("content", [None, b"", b"not a baseline"])
def test_a_baseline_that_cannot_be_read_ends_the_start(configure, tmp_path, content):
    path = tmp_path / "baseline"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BaselineError, match=r"baseline"):
        Sidecar(configure({"baseline": str(path)}), lambda: 0.0)


async def test_readiness_is_false_before_start_and_after_stop(configure):
    sidecar = Sidecar(configure(), lambda: 0.0)
    sidecar.http_port = sidecar._http.start()
    assert (await ready(sidecar.http_port)).status_code == 503
    await asyncio.to_thread(sidecar._http.stop, 5)
    sidecar = Sidecar(configure(), lambda: 0.0)
    await sidecar.start()
    assert (await ready(sidecar.http_port)).json()["ready"] is True
    stop_http, answers = sidecar._http.stop, []

    def last_word(timeout):
        answers.append(httpx.get(f"http://127.0.0.1:{sidecar.http_port}/readyz", trust_env=False))
        stop_http(timeout)

    sidecar._http.stop = last_word
    await sidecar.stop()
    assert answers[0].status_code == 503
    assert answers[0].json()["models"][0]["ready"] is False


def ours():
    return {thread for thread in threading.enumerate() if thread.name.startswith("sidecar")}


async def test_starting_and_stopping_leaves_no_thread_and_no_port(serve, configure):
    before = ours()
    for _ in range(2):
        async with serve(configure()) as client:
            await client.send(20)
            ports = client.sidecar.grpc_port, client.sidecar.http_port
            assert len(ours() - before) >= 3
        for thread in ours() - before:
            await asyncio.to_thread(thread.join, 60)
        assert not ours() - before
        for port in ports:
            socket.create_server(("127.0.0.1", port)).close()


async def test_a_taken_http_port_is_a_config_error_and_frees_the_grpc_port(configure):
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        grpc_port = free.getsockname()[1]
        free.close()
        http_port = taken.getsockname()[1]
        sidecar = Sidecar(configure(server={"http_port": http_port, "grpc_port": grpc_port}), lambda: 0.0)
        with pytest.raises(ConfigError, match=rf"http_port: cannot listen on 127\.0\.0\.1:{http_port}"):
            await sidecar.start()
        socket.create_server(("127.0.0.1", grpc_port)).close()


async def test_stopping_brings_the_last_requests_home(serve, configure):
    async with serve(configure(capture={"drain_seconds": 60})) as client:
        await client.send(40)
        tap = client.model.observation.taps[0]
        assert client.model.observation.timeline.total(tap).counts.requests == 0
    assert client.model.observation.timeline.total(tap).counts.requests == 40


async def test_a_token_guards_both_ports_alike(serve, configure, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    async with serve(configure(server={"token_file": str(token)})) as client:
        assert (await client.http.get("/metrics")).status_code == 401
        given = {"authorization": "Bearer s3cret"}
        assert (await client.http.get("/metrics", headers=given)).status_code == 200


async def test_with_a_certificate_the_http_port_speaks_tls_only(configure, certificate):
    tls = {"tls_certificate": str(certificate / "cert.pem"), "tls_key": str(certificate / "key.pem")}
    sidecar = Sidecar(configure(server=tls), lambda: 0.0)
    await sidecar.start()
    try:
        trusted = ssl.create_default_context(cafile=certificate / "cert.pem")
        async with httpx.AsyncClient(verify=trusted, trust_env=False) as http:
            reply = await http.get(f"https://127.0.0.1:{sidecar.http_port}/readyz")
        assert reply.status_code == 200
        with pytest.raises(httpx.HTTPError):
            await ready(sidecar.http_port)
    finally:
        await sidecar.stop()


def test_a_certificate_that_is_none_ends_the_start(configure, tmp_path):
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("nothing")
    tls = {"tls_certificate": str(tmp_path / "cert.pem"), "tls_key": str(tmp_path / "key.pem")}
    with pytest.raises(ConfigError, match="tls_certificate and tls_key are no PEM pair"):
        Sidecar(configure(server=tls), lambda: 0.0)


async def test_a_new_certificate_of_no_use_is_a_metric_and_a_detail_of_readiness(
    configure, certificate, tmp_path
):
    tls = {"tls_certificate": str(tmp_path / "cert.pem"), "tls_key": str(certificate / "key.pem")}
    shutil.copy(certificate / "cert.pem", tls["tls_certificate"])
    sidecar = Sidecar(configure(server=tls), lambda: 0.0)
    await sidecar.start()
    try:
        trusted = ssl.create_default_context(cafile=certificate / "cert.pem")
        async with httpx.AsyncClient(verify=trusted, trust_env=False) as http:
            url = f"https://127.0.0.1:{sidecar.http_port}"
            stale = 'sidecar_files_stale{setting="tls_certificate, tls_key"}'
            assert f"{stale} 0.0" in (await http.get(f"{url}/metrics")).text
            (tmp_path / "cert.pem").write_text("nothing")
            async with asyncio.timeout(10):
                while f"{stale} 1.0" not in (await http.get(f"{url}/metrics")).text:
                    await asyncio.sleep(0.05)
            reply = await http.get(f"{url}/readyz")
        assert (reply.status_code, reply.json()["stale_files"]) == (200, ["tls_certificate, tls_key"])
        assert str(tmp_path) not in reply.text
    finally:
        await sidecar.stop()


async def test_a_sidecar_that_leaves_is_not_ready_and_still_answers(serve, configure):
    async with serve(configure()) as client:
        assert (await client.http.get("/readyz")).status_code == 200
        await client.sidecar.leave()
        assert (await client.http.get("/readyz")).json()["stopping"] is True
        await client.send(20)
