"""Every path of the HTTP port, and who may see it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.responses import Response
from starlette.routing import Route

from sidecar.console.access import INPUTS_PATH, names_us
from sidecar.console.api import METHODS
from sidecar.export.catalogue import CATALOGUE, OF_FURTHER_VERSIONS, OF_OTEL
from sidecar.settings import ServerSettings
from tests.export.conftest import NOW

OF_ONE_VERSION = {
    metric.name.removesuffix("_total")
    for metric in CATALOGUE
    if metric not in (*OF_FURTHER_VERSIONS, *OF_OTEL)
}
GUARDED = ("/metrics", "/api/v1/status")
PATHS = ("/", *GUARDED)
PROBES = ("/livez", "/readyz")


@pytest.mark.parametrize("path", [*PATHS, *PROBES])
async def test_every_path_answers(browse, fixed_model, plain_model, path):
    async with browse(fixed_model, plain_model) as http:
        assert (await http.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/nope", "/metrics/x", "/api/v1"])
async def test_any_other_path_is_not_found(browse, fixed_model, path):
    async with browse(fixed_model) as http:
        assert (await http.get(path)).status_code == 404


@pytest.mark.parametrize("path", PATHS)
async def test_nothing_is_written_here(browse, fixed_model, path):
    async with browse(fixed_model) as http:
        assert (await http.post(path, content=b"x")).status_code == 405


@pytest.mark.parametrize("accept", [None, "*/*", "text/plain; version=0.0.4", "application/json"])
async def test_metrics_are_plain_text_for_whoever_does_not_ask_for_more(browse, fixed_model, accept):
    async with browse(fixed_model) as http:
        reply = await http.get("/metrics", headers={"accept": accept} if accept else {})
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in parse_text(reply.text)}
    assert names == OF_ONE_VERSION


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        "application/openmetrics-text;version=1.0.0;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
        "text/plain;version=0.0.4;q=0.4,*/*;q=0.3",
    ],
)
async def test_metrics_are_openmetrics_for_a_server_that_asks_for_them(browse, fixed_model, accept):
    async with browse(fixed_model) as http:
        reply = await http.get("/metrics", headers={"accept": accept})
    assert reply.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in parse_openmetrics(reply.text)}
    assert names == OF_ONE_VERSION


async def test_live_is_live_while_models_are_not_ready(browse, fresh_model):
    async with browse(fresh_model()) as http:
        assert (await http.get("/livez")).text == "ok\n"
        reply = await http.get("/readyz")
    assert reply.status_code == 503
    assert reply.json()["ready"] is False


async def test_one_model_that_is_not_ready_makes_all_unready(browse, fresh_model, fixed_model):
    async with browse(fixed_model, fresh_model()) as http:
        reply = await http.get("/readyz")
    assert reply.status_code == 503
    assert [model["ready"] for model in reply.json()["models"]] == [True, False]


async def test_telemetry_that_is_off_is_told_and_does_not_make_a_model_unready(browse, plain_model):
    async with browse(plain_model) as http:
        reply = await http.get("/readyz")
    assert reply.status_code == 200
    assert reply.json()["models"] == [
        {
            "model": "plain",
            "version": "2",
            "ready": True,
            "instrumented": False,
            "detail": "taps ['x'] saw nothing in the self-check",
        }
    ]


@pytest.fixture
def admin_token_file(tmp_path):
    path = tmp_path / "admins"
    path.write_text("operator\n")
    return path


@pytest.mark.parametrize(("token", "status"), [("wrong", 401), ("s3cret", 403), ("operator", 200)])
async def test_kept_inputs_are_shown_to_admins_alone(browse, fixed_model, admin_token_file, token, status):
    more = [Route(INPUTS_PATH, lambda _: Response("inputs"))]
    headers = {"authorization": f"Bearer {token}"}
    async with browse(fixed_model, token="s3cret", admins=admin_token_file, more=more) as http:
        reply = await http.get(INPUTS_PATH, headers=headers)
        others = await http.get("/api/v1/status", headers=headers)
    assert reply.status_code == status
    assert others.status_code == (401 if status == 401 else 200)


async def test_kept_inputs_are_shown_to_any_token_where_no_other_is_an_admins(browse, fixed_model):
    more = [Route(INPUTS_PATH, lambda _: Response("inputs"))]
    async with browse(fixed_model, token="s3cret", more=more) as http:
        reply = await http.get(INPUTS_PATH, headers={"authorization": "Bearer s3cret"})
    assert reply.status_code == 200


def test_the_path_that_shows_inputs_is_that_of_the_api():
    assert f"/api/v1/{METHODS['GetInputs'].path}" == INPUTS_PATH


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


async def status_of(browse, *watched):
    async with browse(*watched) as http:
        reply = await http.get("/api/v1/status")
    assert reply.headers["content-type"] == "application/json"
    return json.loads(reply.text, parse_constant=refuse_constant)["models"]


async def test_the_status_of_a_model_of_which_nothing_is_known_has_null_for_it(browse, fresh_model):
    (model,) = await status_of(browse, fresh_model())
    assert (model["reference_ready"], model["judged_requests"], model["sampled_requests"]) == (False, 0, 0)
    for layer in model["layers"]:
        assert layer["requests"] == 0
        for name in (
            "zero_share",
            "near_zero_share",
            "outlier_share",
            "absmax",
            "kurtosis",
            "psi",
            "mean_shift",
        ):
            assert layer[name] is None


async def test_the_status_tells_each_layer(browse, fixed_model):
    (model,) = await status_of(browse, fixed_model)
    assert [(layer["layer"], layer["site"], layer["active"]) for layer in model["layers"]] == [
        (0, "resid", False),
        (1, "resid", True),
        (2, "resid", False),
    ]
    layer = model["layers"][1]
    assert (layer["module"], layer["channels"], layer["requests"], layer["nonfinite"]) == (
        "blocks.1.resid",
        4,
        3,
        3,
    )
    assert (layer["absmax"], layer["evidence"], layer["psi"]) == (8, 3.5, 0.125)
    assert layer["worst_channels"] == [[3, -4.5], [0, 2.25]]
    assert model["telemetry_failures"]["tap"] == 1
    assert layer["no_drift_levels"] == {"psi": 0.25}
    assert layer["between_requests"]["effective_rank"] == 3.5
    assert layer["instability"]["narrowed"]["e4m3"]["best_exponent"] == 4


OF_WINDOW = (
    "mean", "stddev", "zero_share", "near_zero_share", "outlier_share", "absmax", "kurtosis", "psi",
    "jensen_shannon", "kolmogorov_smirnov", "wasserstein", "mean_shift", "frechet", "times_level",
)  # fmt: skip


@pytest.mark.parametrize(("least", "shown"), [(3, True), (4, False)])
async def test_the_status_withholds_what_is_of_few_requests(browse, fixed_model, least, shown):
    async with browse(fixed_model, min_requests=least) as http:
        (model,) = (await http.get("/api/v1/status")).json()["models"]
    layer = model["layers"][1]
    assert [layer[name] is not None for name in OF_WINDOW] == [shown] * len(OF_WINDOW)
    assert bool(layer["worst_channels"]) is shown
    assert (layer["instability"]["absmax_growth"] is not None) is shown
    assert (layer["between_requests"]["effective_rank"] is not None) is shown
    assert (layer["requests"], layer["nonfinite"], layer["evidence"]) == (3, 3, 3.5)


async def test_what_is_not_finite_is_counted_over_the_window_and_since_the_start(browse, fixed_model):
    (now,) = await status_of(browse, fixed_model)
    fixed_model.timeline._clock = lambda: NOW + 3600.0
    (later,) = await status_of(browse, fixed_model)
    assert [
        [(one["nonfinite"], one["nonfinite_now"]) for one in each["layers"]] for each in (now, later)
    ] == [
        [(3, 3)] * 3,
        [(3, 0)] * 3,
    ]


async def test_the_status_tells_the_cause_while_drift_is_active(browse, fixed_model, fresh_model):
    drifting, quiet = await status_of(browse, fixed_model, fresh_model(name="quiet"))
    assert (drifting["cause"]["kind"], drifting["cause"]["tap"]["layer"]) == ("mix", 1)
    assert drifting["cause"]["groups"] == [{"group": "7", "expected": 0.1, "seen": 0.0, "z": -5.0}]
    assert drifting["cause"]["requests"] == [["c0ffee", None]]
    assert quiet["cause"] is None


@pytest.mark.parametrize("strange", [float("nan"), float("inf"), -float("inf")])
async def test_numbers_that_json_does_not_have_are_null(browse, fixed_model, strange):
    state = fixed_model.monitor.state()
    effects = replace(state.layers[0].effects, psi=strange)
    layer = replace(state.layers[0], evidence=strange, effects=effects, worst_channels=((2, strange),))
    fixed_model.monitor._state = replace(state, layers=(layer,), model_evidence=strange)
    (model,) = await status_of(browse, fixed_model)
    assert model["model_evidence"] is None
    assert model["layers"][0]["psi"] is None
    assert model["layers"][0]["evidence"] is None
    assert model["layers"][0]["worst_channels"] == [[2, None]]


async def test_the_status_of_a_model_without_telemetry_has_no_layers(browse, plain_model):
    (model,) = await status_of(browse, plain_model)
    assert (model["instrumented"], model["layers"], model["inference_seconds"]) == (False, [], 1.5)


async def test_a_hostile_module_name_is_only_ever_json(browse, fresh_model):
    async with browse(fresh_model(1, ("<img onerror=x>",))) as http:
        status = await http.get("/api/v1/status")
    assert status.headers["content-type"] == "application/json"
    assert status.json()["models"][0]["layers"][0]["site"] == "<img onerror=x>"


async def test_the_page_links_to_nothing_outside_and_to_nothing_that_is_not_there(browse, fixed_model):
    async with browse(fixed_model) as http:
        page = (await http.get("/")).text
        links = re.findall(r"""(?:href|src|action)=["']?([^"' >]+)""", page)
        assert links
        assert "//" not in page.replace("<!doctype html>", "")
        for link in links:
            assert (await http.get(f"/{link}")).status_code == 200


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_right_token_is_let_through(browse, fixed_model, path, scheme):
    async with browse(fixed_model, token="s3cret") as http:
        assert (await http.get(path, headers={"authorization": f"{scheme} s3cret"})).status_code == 200


@pytest.mark.parametrize("path", [*GUARDED, "/nope", "/livez/", "//livez", "/readyz/x", "//", "/index.html"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer s3cret2"},
        {"authorization": "Bearer s3cre"},
        {"authorization": "s3cret"},
        {"authorization": "Basic s3cret"},
        {"authorization": "Bearer "},
        {"authorization": ""},
        {"token": "Bearer s3cret"},
        {"authorization": b"Bearer \xff\xfe"},
    ],
)
async def test_anything_else_is_refused_and_told_what_is_missing(browse, fixed_model, path, headers):
    async with browse(fixed_model, token="s3cret") as http:
        reply = await http.get(f"http://sidecar{path}", headers=headers)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert "authorization: Bearer <token>" in reply.text
    assert "s3cret" not in reply.text
    assert "digits" not in reply.text


async def test_a_token_need_not_be_ascii(browse, fixed_model):
    async with browse(fixed_model, token="schlüssel") as http:
        given = {"authorization": b"Bearer " + "schlüssel".encode()}
        assert (await http.get("/metrics", headers=given)).status_code == 200


OURS = (
    "localhost",
    "localhost:8002",
    "LOCALHOST.",
    "127.0.0.1",
    "127.9.9.9:80",
    "[::1]:8002",
    "board.example:1",
)
STRANGE = (
    "evil.example", "evil.example:8002", "127.0.0.1.evil.example", "localhost.evil.example", "[::2]", "10.0.0.1",
    "::1x", "xboard.example", "unix:/x",
)  # fmt: skip


@pytest.mark.parametrize(
    ("host", "status"), [*((one, 200) for one in OURS), *((one, 421) for one in STRANGE)]
)
async def test_on_loopback_without_a_token_only_names_of_the_machine_are_answered(
    browse, fixed_model, host, status
):
    async with browse(fixed_model, names=("Board.example",)) as http:
        for path in ("/api/v1/status", "/metrics", "/"):
            assert (await http.get(path, headers={"host": host})).status_code == status
        for path in PROBES:
            assert (await http.get(path, headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        {"token": "s3cret"},
        {"tls_certificate": "a.pem", "tls_key": "b.pem"},
        {"http_host": "10.0.0.1", "insecure": True},
    ],
)
def test_where_something_else_guards_the_port_any_name_will_do(given):
    assert names_us(ServerSettings(**given))(b"evil.example")
    assert not names_us(ServerSettings())(b"evil.example")


def test_a_request_that_names_no_host_is_not_answered():
    assert not names_us(ServerSettings())(None)


@pytest.mark.parametrize("path", PROBES)
async def test_probes_need_no_token(browse, fixed_model, path):
    async with browse(fixed_model, token="s3cret") as http:
        assert (await http.get(path)).status_code == 200


async def test_a_server_that_is_about_to_stop_is_not_ready_and_still_live(browse, fixed_model):
    async with browse(fixed_model, leaving=True) as http:
        reply = await http.get("/readyz")
        assert (await http.get("/livez")).status_code == 200
    assert (reply.status_code, reply.json()["ready"], reply.json()["stopping"]) == (503, False, True)


async def test_a_certificate_that_could_not_be_renewed_is_told_and_does_not_make_unready(browse, fixed_model):
    async with browse(fixed_model, stale=["tls_certificate, tls_key"]) as http:
        reply = await http.get("/readyz")
    assert reply.status_code == 200
    assert reply.json()["stale_files"] == ["tls_certificate, tls_key"]
