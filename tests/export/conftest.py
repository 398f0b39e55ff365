"""A state that never changes, and what exporters make of it. The console's tests build on the same one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from sidecar.drift import DriftMonitor
from sidecar.drift.between import Between
from sidecar.drift.causes import Cause
from sidecar.drift.groups import ClassShare, ShareChange
from sidecar.drift.instability import Narrowed
from sidecar.drift.sizes import EffectSizes
from sidecar.drift.state import DriftState, OutputDrift
from sidecar.export.activations import ActivationCollector, Watched
from sidecar.export.files import StaleFiles
from sidecar.export.gpu import GpuMemory
from sidecar.export.serving import ServingMetrics
from sidecar.export.store import StoreCollector
from sidecar.settings import DriftSettings
from sidecar.sketch import Reading, RequestRows, TapSketch
from sidecar.sketch.formats import Loss
from sidecar.timeline import StoreStatus, Timeline
from sidecar.types import Tap, TelemetryStatus

NOW = 1_000_000.0
WINDOW = 60.0


def make_taps(layers, sites=("resid",)):
    return tuple(Tap(layer, site, f"blocks.{layer}.{site}", 4) for layer in range(layers) for site in sites)


STATUS = TelemetryStatus(
    True,
    sample_rate=0.25,
    sampled=3,
    refused=5,
    dropped={"slots": 2, "stuck": 0},
    failures={"sampling": 0, "tap": 1, "drain": 0, "judge": 0},
    silent=(make_taps(2)[1],),
    telemetry_seconds=0.25,
    inference_seconds=8.5,
    last_drain=NOW,
    budget=0.25,
)

STORE = StoreStatus("panes.db", bytes=4096)


class FixedMonitor:
    """A drift monitor with one thing to say."""

    reference = None

    def __init__(self, state: DriftState) -> None:
        self._state = state

    def state(self, pace: object = None) -> DriftState:
        return self._state


EFFECTS = EffectSizes(
    psi=0.125, jensen_shannon=0.0625, kolmogorov_smirnov=0.375, wasserstein=0.75, mean_shift=-1.5,
    frechet=2.5, shifted=0, levels={"psi": 0.25}, times_level=6.5,
)  # fmt: skip
NARROWED = Narrowed(Loss(0.0, 0.5, 0.25), 4, Loss(0.0, 0.125, 0.0625))
HEADROOM = {"float16": 12.5, "bfloat16": 128.0, "e5m2": 12.25}
BETWEEN = Between(
    distinct_share=0.875, participation_ratio=2.5, effective_rank=3.5, self_similarity=0.25,
    variance_share=0.375, autocorrelation=-0.125, sign_changes=0.625,
)  # fmt: skip


def drifting(fresh: DriftState) -> DriftState:
    layers = tuple(
        replace(
            layer, evidence=2.5 + layer.tap.layer, active=layer.tap.layer == 1, alarms=layer.tap.layer,
            effects=EFFECTS, worst_channels=((3, -4.5), (0, 2.25)),
            instability=replace(
                layer.instability, absmax_growth=1.75, headroom=HEADROOM | {"e4m3": 5.5 - layer.tap.layer},
                narrowed=dict.fromkeys(("e4m3", "e5m2"), NARROWED), massive=2, dead_channels=1, always_on_channels=1,
                saturated_channels=2,
            ),
            between=BETWEEN,
        )
        for layer in fresh.layers
    )  # fmt: skip
    cause = Cause(
        "mix", layers[1].tap, "mean", -1.5, 0.25, ((3, -4.5),), (ShareChange("7", 0.1, 0.0, -5.0),),
        (("c0ffee", math.inf),), "drift begins at layer 1 (resid)",
    )  # fmt: skip
    return replace(
        fresh, reference_requests=5000, reference_ready=True, judged_requests=3, model_evidence=1.25,
        alarm_level=13.75, layer_alarm_level=15.5, model_alarms=0, layers=layers, cause=cause,
        reference_created=NOW - 3600.0, reference_widening=1.0625, direction_evidence=0.5,
        output=OutputDrift(0.25, 0.125, active=False, alarms=0, shares=SHARES),
    )  # fmt: skip


SHARES = (ClassShare("3", 0.25, 0.5), ClassShare("others", 0.75, 0.5))
VALUES = np.array([[0, 1, -2, 8], [2**-11, 3, -1, np.nan], [np.inf, -np.inf, 0, -7]], dtype=np.float32)


@pytest.fixture(scope="session")
def fresh_model():
    """A model of which nothing is known yet, with `layers` x `sites` taps."""

    def fresh(layers=2, sites=("resid",), name="digits"):
        taps = make_taps(layers, sites)
        timeline = Timeline(taps, 10.0, 6, lambda: NOW)
        rng = np.random.default_rng(0)
        monitor = DriftMonitor(name, "1", taps, DriftSettings(), timeline, None, rng)
        status = replace(
            STATUS,
            sampled=0,
            refused=0,
            silent=(),
            dropped=dict.fromkeys(STATUS.dropped, 0),
            failures=dict.fromkeys(STATUS.failures, 0),
            telemetry_seconds=0.0,
            inference_seconds=0.0,
            last_drain=0.0,
        )
        return Watched(name, "1", lambda: False, lambda: status, 1.5, 2048, timeline, monitor)

    return fresh


@pytest.fixture
def fixed_model(fresh_model):
    """A model of three taps, of which three requests were seen, and whose layer 1 drifts."""
    fresh = fresh_model(3)
    taps = fresh.timeline.taps
    sketches = {tap: TapSketch.from_array(VALUES, 2.0**-10, 3) for tap in taps}
    rows = dict.fromkeys(taps, RequestRows(np.zeros((3, 6))))
    fresh.timeline.add(Reading(NOW, sketches, rows, 3))
    monitor = FixedMonitor(drifting(fresh.monitor.state()))
    return replace(fresh, ready=lambda: True, status=lambda: STATUS, monitor=monitor)


@pytest.fixture(scope="session")
def plain_model():
    status = TelemetryStatus(False, "taps ['x'] saw nothing in the self-check", inference_seconds=1.5)
    return Watched("plain", "2", lambda: True, lambda: status, 0.25, 0, None, None)


class Exported:
    """A registry with everything a sidecar registers, and its serving metrics."""

    def __init__(self, *watched: Watched, max_series: int = 2000) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(ActivationCollector(watched, WINDOW, max_series))
        self.registry.register(StoreCollector(lambda: STORE))
        self.registry.register(StaleFiles(lambda: {"token_file": False, "tls_certificate, tls_key": True}))
        memory = {(0, "allocated"): 2**30, (0, "reserved"): 2**31, (0, "total"): 2**36}
        self.registry.register(GpuMemory(lambda: memory))
        self.serving = ServingMetrics([(one.model, one.version) for one in watched], self.registry)

    def samples(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        """Sample name -> labels and value of each of its series."""
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in self.registry.collect():
            for sample in family.samples:
                if sample.native_histogram is not None:
                    continue
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found


@pytest.fixture(scope="session")
def export():
    return Exported


@pytest.fixture(scope="session")
def is_nan():
    return lambda samples: bool(samples) and all(math.isnan(value) for _, value in samples)
