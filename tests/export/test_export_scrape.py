"""What a scrape holds: all of the catalogue, from the start, within the cap."""

from __future__ import annotations

import difflib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.utils import floatToGoString

from sidecar import errors
from sidecar.capture import Governor, Spending
from sidecar.capture.routes import ROUTE
from sidecar.export.catalogue import (
    CATALOGUE,
    CLASS_SHARE,
    COARSE_BUCKETS,
    OF_FURTHER_VERSIONS,
    OF_OTEL,
    SECONDS_BUCKETS,
    TAP,
    VALUE_BUCKETS,
)
from sidecar.export.detail import ESSENTIAL, FULL, detail
from sidecar.export.serving import CODES, REASONS, ServingMetrics
from sidecar.export.text import openmetrics, text
from sidecar.export.triton import NAMES, TritonNames
from sidecar.export.triton import REASONS as TRITON_REASONS
from sidecar.settings import CaptureSettings
from sidecar.types import Cost, InferRequest
from tests.export.conftest import NOW

OF_ONE_VERSION = [metric for metric in CATALOGUE if metric not in (*OF_FURTHER_VERSIONS, *OF_OTEL)]
GOLDEN = Path(__file__).parent.parent / "golden" / "metrics.txt"


COST = Cost(0.0001220703125, 0.5, 0.00006103515625, 24, 40)


def serve_some(serving):
    serving.request_started("digits", "1")
    serving.request_started("digits", "1")
    serving.request_finished("digits", "1", "OK", 0.0078125, "")
    serving.batch_finished("digits", "1", 3, [0.0, 0.03125], COST)
    serving.queue_length("digits", "1", 4)
    serving.call_ended("/inference.GRPCInferenceService/ModelInfer", "OK")


def test_a_scrape_is_the_golden_file(export, fixed_model, plain_model):
    exported = export(fixed_model, plain_model)
    serve_some(exported.serving)
    found = b"".join(text(exported.registry.collect())).decode()
    golden = GOLDEN.read_text(encoding="utf-8")
    changes = difflib.unified_diff(
        golden.splitlines(), found.splitlines(), "golden", "found", lineterm="", n=0
    )
    assert found == golden, "\n".join(changes)


def spelled(metric):
    """Sample names that a family gives."""
    ends = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
    return {f"{metric.name}{end}" for end in ends}


def test_a_scrape_holds_the_catalogue_and_nothing_else(export, fixed_model):
    assert set(export(fixed_model).samples()) == set().union(*map(spelled, OF_ONE_VERSION))


@pytest.mark.parametrize("metric", OF_ONE_VERSION, ids=lambda metric: metric.name)
def test_a_family_is_of_the_kind_and_labels_that_the_catalogue_says(export, fixed_model, metric):
    families = {family.name: family for family in export(fixed_model).registry.collect()}
    family = families[metric.name.removesuffix("_total")]
    assert (family.type, family.documentation) == (metric.kind, metric.help)
    for sample in family.samples:
        assert tuple(label for label in sample.labels if label != "le") == metric.labels


@pytest.mark.parametrize(("generate", "parse"), [(text, parse_text), (openmetrics, parse_openmetrics)])
def test_both_formats_are_read_back_alike(export, fixed_model, plain_model, generate, parse):
    exported = export(fixed_model, plain_model)
    read = [
        (sample.name, sorted(sample.labels.items()), repr(sample.value))
        for family in parse(b"".join(generate(exported.registry.collect())).decode())
        for sample in family.samples
    ]
    written = [
        (name, sorted(labels.items()), repr(float(value)))
        for name, series in exported.samples().items()
        for labels, value in series
        # With buckets below 0 a histogram of OpenMetrics has no sum, and then no count either.
        if generate is text or name not in ("sidecar_activation_value_count", "sidecar_activation_value_sum")
    ]
    assert sorted(read) == sorted(written)


def label_sets(exported):
    return {
        (name, *sorted(labels.items())) for name, series in exported.samples().items() for labels, _ in series
    }


def test_every_label_set_exists_from_the_start(export, fresh_model, fixed_model):
    later = export(fixed_model)
    # Which classes there are is known from the reference on.
    classes = {one for one in label_sets(later) if one[0] == CLASS_SHARE.name}
    for code in CODES:
        later.serving.request_started("digits", "1")
        later.serving.request_finished("digits", "1", code, 0.1, "")
    later.serving.batch_finished("digits", "1", 3, [0.1], COST)
    assert label_sets(export(fresh_model(3))) == label_sets(later) - classes


def test_every_counter_starts_at_0(export, fresh_model):
    samples = export(fresh_model()).samples()
    counters = [metric.name for metric in OF_ONE_VERSION if metric.kind == "counter"]
    assert all(value == 0 for name in counters for _, value in samples[name])


@pytest.mark.parametrize(
    "name", ["mean", "stddev", "absmax", "kurtosis", "float16_headroom_octaves", "absmax_growth_ratio"]
)
def test_a_gauge_of_values_is_nan_before_there_are_any(export, fresh_model, is_nan, name):
    assert is_nan(export(fresh_model()).samples()[f"sidecar_activation_{name}"])


@pytest.mark.parametrize(
    "name", ["psi", "jensen_shannon", "mean_shift_sigmas", "worst_channel", "worst_channel_shift_sigmas"]
)
def test_an_effect_size_is_nan_before_there_is_a_reference(export, fresh_model, is_nan, name):
    assert is_nan(export(fresh_model()).samples()[f"sidecar_drift_{name}"])


def tap_series(samples):
    """Series of taps, by the names that they are scraped under."""
    names = set().union(*(spelled(metric) for metric in CATALOGUE if metric.labels[:4] == TAP))
    return sum(len(series) for name, series in samples.items() if name in names)


def test_32_layers_with_two_sites_cost_at_most_2000_series(export, fresh_model):
    samples = export(fresh_model(32, ("attn_out", "mlp_out"))).samples()
    assert tap_series(samples) == 64 * 31 <= 2000
    assert samples["sidecar_series"] == [({}, 64 * 31)]
    assert samples["sidecar_series_dropped"] == [({}, 64 * (FULL.series(further=False) - 31))]
    for metric in ESSENTIAL:
        assert len({(one["layer"], one["site"]) for one, _ in samples[metric.name]}) == 64
    bounds = {one["le"] for one, _ in samples["sidecar_activation_value_bucket"]}
    assert bounds == {*map(floatToGoString, COARSE_BUCKETS), "+Inf"}


def test_32_layers_have_everything_but_the_last_steps(export, fresh_model):
    samples = export(fresh_model(32)).samples()
    assert len(samples["sidecar_activation_value_bucket"]) == 32 * (len(VALUE_BUCKETS) + 1)
    assert tap_series(samples) <= 2000


@pytest.mark.parametrize("layers", [1, 8, 30, 33, 40, 64, 65, 125, 200])
@pytest.mark.parametrize("cap", [100, 2000])
def test_no_number_of_taps_passes_the_cap(export, fresh_model, layers, cap):
    samples = export(fresh_model(layers), max_series=cap).samples()
    found = tap_series(samples)
    assert samples["sidecar_series"] == [({}, found)]
    assert found <= cap
    assert samples["sidecar_series_dropped"] == [({}, layers * FULL.series(further=False) - found)]


@pytest.mark.parametrize("cap", [100, 2000, 4000])
def test_whatever_is_said_of_one_tap_is_said_of_all_that_are_there(export, fresh_model, cap):
    models = fresh_model(8, name="a"), fresh_model(40, name="b")
    samples = export(*models, max_series=cap).samples()
    taps = {
        name: {(one["model"], one["layer"]) for one, _ in series}
        for name, series in samples.items()
        if series and "layer" in series[0][0]
    }
    assert len(set(map(frozenset, taps.values()))) == 1


def test_with_more_room_nothing_leaves():
    kept = [detail(64, 0, cap) for cap in range(100, 6000, 50)]
    for less, more in pairwise(kept):
        assert less.metrics <= more.metrics
        assert set(less.buckets) <= set(more.buckets)
    assert kept[-1] == FULL


@pytest.mark.parametrize("names", [10_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_flood_of_route_names_adds_no_series(export, fresh_model, names):
    governor = Governor(CaptureSettings(sample_rate=0.5), lambda: Spending(1.0, 0.0, 0.0), lambda: NOW)
    fresh = fresh_model()
    flooded = replace(fresh, status=lambda: replace(fresh.status(), refused=governor.refused))
    before = label_sets(export(flooded))
    for number in range(names):
        governor.sample(InferRequest(f"{number}", {}, 1, {ROUTE: f"route {number}"}))
    assert label_sets(export(flooded)) == before


def test_a_model_without_telemetry_has_no_series_of_taps_and_says_so(export, plain_model):
    samples = export(plain_model).samples()
    labels = {"model": "plain", "version": "2"}
    assert samples["sidecar_instrumented"] == [(labels, 0)]
    assert samples["sidecar_inference_seconds_total"] == [(labels, 1.5)]
    assert "sidecar_activation_mean" not in samples


def test_layers_are_plain_integers_and_nobody_is_a_label(export, fixed_model):
    samples = export(fixed_model).samples()
    assert {labels["layer"] for labels, _ in samples["sidecar_activation_mean"]} == {"0", "1", "2"}
    used = {label for series in samples.values() for labels, _ in series for label in labels}
    assert used == {
        "model",
        "version",
        "layer",
        "site",
        "kind",
        "rank",
        "reason",
        "part",
        "code",
        "setting",
        "le",
        "format",
        "method",
        "state",
        "class",
        "side",
        "device",
    }


def test_a_module_name_that_needs_quoting_survives_a_scrape(export, fresh_model):
    site = 'a"b\\c\n{d}'
    exported = export(fresh_model(1, (site,)))
    read = {
        sample.labels["site"]
        for family in parse_text(b"".join(text(exported.registry.collect())).decode())
        for sample in family.samples
        if "site" in sample.labels
    }
    assert read == {site}


@pytest.mark.parametrize("code", CODES)
def test_a_request_is_counted_by_its_code(export, plain_model, code):
    exported = export(plain_model)
    exported.serving.request_started("plain", "2")
    exported.serving.request_finished("plain", "2", code, 0.3, "")
    samples = exported.samples()
    assert {labels["code"] for labels, value in samples["sidecar_requests_total"] if value} == {code}
    assert samples["sidecar_requests_in_flight"][0][1] == 0
    assert samples["sidecar_request_duration_seconds_sum"][0][1] == pytest.approx(0.3)


def test_a_code_that_is_not_listed_is_an_internal_error(export, plain_model):
    exported = export(plain_model)
    exported.serving.request_started("plain", "2")
    exported.serving.request_finished("plain", "2", "DATA_LOSS", 0.3, "")
    codes = {labels["code"]: value for labels, value in exported.samples()["sidecar_requests_total"]}
    assert codes["INTERNAL"] == 1
    assert set(codes) == set(CODES)


def test_no_metric_is_in_the_catalogue_twice():
    names = [metric.name for metric in CATALOGUE]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric):
    assert metric.name.startswith("sidecar_")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert metric.unit not in ("seconds", "sigmas", "octaves", "ratio") or metric.unit in metric.name
    assert metric.help.endswith((".", ")."))


@given(st.lists(st.floats(0, 20), max_size=50), st.lists(st.sampled_from(SECONDS_BUCKETS), max_size=10))
def test_a_bucket_counts_every_value_up_to_its_bound(values, on_bounds):
    registry = CollectorRegistry()
    serving = ServingMetrics([("m", "1")], registry)
    seen = values + on_bounds
    for value in seen:
        serving.request_started("m", "1")
        serving.request_finished("m", "1", "OK", value, "")
    name = "sidecar_request_duration_seconds"
    for bound in SECONDS_BUCKETS:
        labels = {"model": "m", "version": "1", "le": str(bound)}
        assert registry.get_sample_value(f"{name}_bucket", labels) == sum(value <= bound for value in seen)
    assert registry.get_sample_value(f"{name}_count", {"model": "m", "version": "1"}) == len(seen)
    assert registry.get_sample_value(f"{name}_sum", {"model": "m", "version": "1"}) == pytest.approx(
        sum(seen)
    )


def test_a_call_is_counted_by_its_method_and_nobody_can_add_a_label(export, plain_model):
    exported = export(plain_model)
    exported.serving.call_ended("/inference.GRPCInferenceService/ModelInfer", "OK")
    exported.serving.call_ended("/inference.GRPCInferenceService/ModelConfig", "OK")
    exported.serving.call_ended("/made/up", "DATA_LOSS")
    counted = [(labels, value) for labels, value in exported.samples()["sidecar_calls_total"] if value]
    assert counted == [
        ({"method": "ModelInfer", "code": "OK"}, 1),
        ({"method": "other", "code": "OK"}, 1),
        ({"method": "other", "code": "UNKNOWN"}, 1),
    ]


@pytest.mark.parametrize("reason", REASONS)
def test_a_request_that_is_not_answered_is_counted_by_its_reason(export, plain_model, reason):
    exported = export(plain_model)
    exported.serving.request_started("plain", "2")
    exported.serving.request_finished("plain", "2", "INTERNAL", 0.3, reason)
    counted = exported.samples()["sidecar_rejected_requests_total"]
    assert {labels["reason"]: value for labels, value in counted if value} == {reason: 1}


def test_every_reason_of_an_error_is_exported():
    kinds = [errors.RequestError, *errors.RequestError.__subclasses__()]
    instances = [kind("text") for kind in kinds]
    assert {error.reason for error in instances} <= set(REASONS)


def test_a_batch_that_failed_has_no_stages_and_no_bytes(export, plain_model):
    exported = export(plain_model)
    exported.serving.batch_finished("plain", "2", 3, [0.1], None)
    samples = exported.samples()
    assert samples["sidecar_batch_rows_count"][0][1] == 1
    assert samples["sidecar_batch_compute_duration_seconds_count"][0][1] == 0


def test_triton_names_say_what_triton_would(export, plain_model):
    exported = export(plain_model)
    exported.registry.register(TritonNames(exported.serving))
    for code, reason in (
        ("OK", ""),
        ("OK", ""),
        ("RESOURCE_EXHAUSTED", "queue_full"),
        ("CANCELLED", "cancelled"),
    ):
        exported.serving.request_started("plain", "2")
        exported.serving.request_finished("plain", "2", code, 0.25, reason)
    exported.serving.batch_finished("plain", "2", 3, [0.5, 0.125], Cost(0.001, 0.01, 0.0001))
    exported.serving.batch_finished("plain", "2", 7, [0.5], None)
    exported.serving.queue_length("plain", "2", 9)
    found = {
        (name, labels.get("reason", "")): value
        for name, series in exported.samples().items()
        for labels, value in series
        if name.startswith("nv_") and labels["model"] == "plain" and labels["version"] == "2"
    }
    assert found == {
        ("nv_inference_request_success", ""): 2,
        ("nv_inference_request_failure", "REJECTED"): 1,
        ("nv_inference_request_failure", "CANCELED"): 1,
        ("nv_inference_request_failure", "BACKEND"): 0,
        ("nv_inference_request_failure", "OTHER"): 0,
        ("nv_inference_count", ""): 3,
        ("nv_inference_exec_count", ""): 1,
        ("nv_inference_request_duration_us", ""): 500_000,
        ("nv_inference_queue_duration_us", ""): 1_125_000,
        ("nv_inference_compute_input_duration_us", ""): 2_000,
        ("nv_inference_compute_infer_duration_us", ""): 20_000,
        ("nv_inference_compute_output_duration_us", ""): 200,
        ("nv_inference_pending_request_count", ""): 9,
    }


def test_every_reason_of_ours_is_one_of_tritons():
    assert sorted(reason for ours in TRITON_REASONS.values() for reason in ours) == sorted(REASONS)


@pytest.mark.parametrize(("generate", "parse"), [(text, parse_text), (openmetrics, parse_openmetrics)])
def test_triton_names_keep_their_spelling_in_both_formats(export, plain_model, generate, parse):
    exported = export(plain_model)
    exported.registry.register(TritonNames(exported.serving))
    read = {
        sample.name: tuple(sample.labels)
        for family in parse(b"".join(generate(exported.registry.collect())).decode())
        for sample in family.samples
        if sample.name.startswith("nv_")
    }
    assert read == {metric.name: metric.labels for metric in NAMES}
