"""Metrics of activations, drift and telemetry itself, computed when they are scraped."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from sidecar.drift import DriftMonitor, LayerDrift
from sidecar.drift.causes import Kind
from sidecar.drift.sizes import EffectSizes
from sidecar.export import catalogue
from sidecar.export.catalogue import KINDS, TAP, Metric
from sidecar.export.detail import FULL, WORST_CHANNELS, Detail, detail
from sidecar.export.families import add_histogram, histograms
from sidecar.export.instability import signs
from sidecar.export.native import values
from sidecar.export.pace import Pace
from sidecar.export.versions import Observed, version_differences
from sidecar.sketch import TapSketch
from sidecar.timeline import Strongest, Timeline
from sidecar.types import Replay, Tap, TelemetryStatus, TracedOutlier

OF_WINDOW = frozenset((catalogue.MEAN, catalogue.STDDEV, catalogue.ABSMAX, catalogue.KURTOSIS))


@dataclass(frozen=True, slots=True)
class Watched:
    """One model version as exporters see it.

    load_seconds: what loading, warming up and checking it took. weight_bytes: of its weights in memory.
    timeline, monitor, strongest: None while nothing is instrumented. replay: None where no inputs are kept.
    outliers: the last of each tap in a request with a trace.
    """

    model: str
    version: str
    ready: Callable[[], bool]
    status: Callable[[], TelemetryStatus]
    load_seconds: float
    weight_bytes: int
    timeline: Timeline | None
    monitor: DriftMonitor | None
    outliers: Callable[[], Mapping[Tap, TracedOutlier]] = dict
    strongest: Strongest | None = None
    replay: Replay | None = None


def observed(watched: Sequence[Watched]) -> list[Observed]:
    """Those of them whose activations are observed."""
    return [Observed(one.model, one.version, one.monitor) for one in tuple(watched) if one.monitor]


class _Page:
    """The families of one scrape, as far as there is something to say and room for it."""

    def __init__(self, detail: Detail) -> None:
        self.families: dict[Metric, Family] = {}
        self.detail = detail
        self.series = 0

    def add(self, metric: Metric, labels: Sequence[str], value: float) -> None:
        of_tap = metric.labels[:4] == TAP
        if of_tap and metric not in self.detail.metrics:
            return
        family = self.families.get(metric)
        if family is None:
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = self.families[metric] = kind(metric.name, metric.help, labels=metric.labels)
        family.add_metric(labels, value)  # type: ignore[attr-defined]
        self.series += of_tap

    def mark(self, metric: Metric, outlier: TracedOutlier) -> None:
        """Give the sample that was added last an exemplar."""
        samples = self.families[metric].samples
        exemplar = Exemplar({"trace_id": outlier.trace_id}, outlier.value, outlier.at)
        samples[-1] = samples[-1]._replace(exemplar=exemplar)

    def add_values(self, where: Sequence[str], sketch: TapSketch) -> None:
        """The histogram of all values."""
        metric, bounds = catalogue.VALUE, self.detail.buckets
        if metric not in self.detail.metrics:
            return
        family = self.families.setdefault(metric, histograms(metric))
        native = values(sketch)
        cumulative = [*sketch.histogram.cumulative_at(bounds).tolist(), int(native.count_value)]
        labels = dict(zip(metric.labels, where, strict=True))
        add_histogram(family, labels, bounds, cumulative, native.sum_value, native)
        self.series += len(bounds) + 3


class ActivationCollector(Collector):
    """Asks each watched model for its state.

    exemplars: counters of outliers carry the trace of a request that had one.
    With many taps less is said of each (`detail`); one that would pass `max_series` even so is left out whole.
    """

    def __init__(
        self, watched: Sequence[Watched], window_seconds: float, max_series: int, *, exemplars: bool = False
    ) -> None:
        self._exemplars = exemplars
        self._watched = watched
        self._window = window_seconds
        self._max_series = max_series

    def describe(self) -> Iterator[Family]:
        """Nothing: registering shall not run a scrape."""
        yield from ()

    def collect(self) -> Iterator[Family]:
        further = {
            (one.model, one.version): {layer.tap.key: layer.effects for layer in one.layers}
            for one in version_differences(observed(self._watched))
        }
        sources = tuple(self._watched)
        page = _Page(_detail(sources, further, self._max_series))
        left_out = 0
        pace = Pace()
        for source in sources:
            labels = (source.model, source.version)
            status = source.status()
            page.add(catalogue.MODEL_READY, labels, source.ready())
            page.add(catalogue.LOAD_SECONDS, labels, source.load_seconds)
            page.add(catalogue.WEIGHT_BYTES, labels, source.weight_bytes)
            _telemetry(page, labels, status)
            if source.timeline is None or source.monitor is None:
                continue
            drift = source.monitor.state(pace)
            page.add(catalogue.MODEL_EVIDENCE, labels, drift.model_evidence)
            page.add(catalogue.ALARM_LEVEL, labels, drift.alarm_level)
            page.add(catalogue.LAYER_ALARM_LEVEL, labels, drift.layer_alarm_level)
            page.add(catalogue.MODEL_ALARMS, labels, drift.model_alarms)
            page.add(catalogue.REFERENCE_REQUESTS, labels, drift.reference_requests)
            page.add(catalogue.REFERENCE_READY, labels, drift.reference_ready)
            page.add(catalogue.REFERENCE_CREATED, labels, drift.reference_created)
            page.add(catalogue.REFERENCE_WIDENING, labels, drift.reference_widening)
            page.add(catalogue.DIRECTION_EVIDENCE, labels, drift.direction_evidence)
            output = drift.output
            page.add(catalogue.OUTPUT_EVIDENCE, labels, output.evidence if output else math.nan)
            page.add(catalogue.CLASS_EVIDENCE, labels, output.class_evidence if output else math.nan)
            for one in output.shares if output else ():
                page.add(catalogue.CLASS_SHARE, (*labels, one.name, "reference"), one.reference)
                page.add(catalogue.CLASS_SHARE, (*labels, one.name, "window"), one.window)
            for kind in get_args(Kind):
                found = drift.cause is not None and drift.cause.kind == kind
                page.add(catalogue.CAUSE_KIND, (*labels, kind), found)
            for metric, extra, value in signs(drift):
                page.add(metric, (*labels, *extra), value)
            is_further = labels in further
            cost, all_of_it = page.detail.series(further=is_further), FULL.series(further=is_further)
            for layer in drift.layers:
                pace()
                before = page.series
                if before + cost > self._max_series:
                    left_out += all_of_it
                    continue
                where = (*labels, str(layer.tap.layer), layer.tap.site)
                page.add(catalogue.SILENT, where, layer.tap in status.silent)
                self._values(page, where, source.timeline, layer.tap)
                if self._exemplars and (outlier := source.outliers().get(layer.tap)):
                    page.mark(catalogue.OUTLIERS, outlier)
                _drift(page, where, layer)
                begins = drift.cause is not None and drift.cause.tap == layer.tap
                page.add(catalogue.CAUSE, where, begins)
                if labels in further:
                    beside = further[labels].get(layer.tap.key, EffectSizes.unknown())
                    page.add(catalogue.VERSION_PSI, where, beside.psi)
                    page.add(catalogue.VERSION_MEAN_SHIFT, where, beside.mean_shift)
                    page.add(catalogue.VERSION_TIMES_LEVEL, where, beside.times_level)
                left_out += all_of_it - (page.series - before)
        page.add(catalogue.SERIES, (), page.series)
        page.add(catalogue.SERIES_DROPPED, (), left_out)
        yield from page.families.values()

    def _values(self, page: _Page, where: tuple[str, ...], timeline: Timeline, tap: Tap) -> None:
        total = timeline.total(tap)
        page.add_values(where, total)
        counts = total.counts
        for metric, count in (
            (catalogue.VALUES, counts.values),
            (catalogue.ZEROS, counts.zeros),
            (catalogue.NEAR_ZEROS, counts.near_zeros),
            (catalogue.SUBNORMALS, counts.subnormals),
            (catalogue.OUTLIERS, counts.outliers),
            (catalogue.POSITIONS, counts.positions),
        ):
            page.add(metric, where, count)
        for kind, count in zip(KINDS, (counts.nan, counts.pos_inf, counts.neg_inf), strict=True):
            page.add(catalogue.NONFINITE, (*where, kind), count)
        page.add(catalogue.CHANNELS, where, tap.channels)
        if not page.detail.metrics.intersection(OF_WINDOW):
            return
        window = timeline.window(self._window, tap)
        empty = window.moments.n == 0
        page.add(catalogue.MEAN, where, math.nan if empty else window.moments.mean)
        page.add(catalogue.STDDEV, where, math.nan if empty else window.moments.stddev)
        page.add(catalogue.ABSMAX, where, math.nan if empty else window.absmax)
        page.add(catalogue.KURTOSIS, where, math.nan if empty else window.kurtosis)


def _detail(sources: Sequence[Watched], further: Collection[tuple[str, str]], max_series: int) -> Detail:
    taps = {(one.model, one.version): len(one.timeline.taps) for one in sources if one.timeline}
    return detail(sum(taps.values()), sum(taps.get(version, 0) for version in further), max_series)


def _telemetry(page: _Page, labels: tuple[str, str], status: TelemetryStatus) -> None:
    page.add(catalogue.INSTRUMENTED, labels, status.instrumented)
    page.add(catalogue.TELEMETRY_WANTED, labels, status.wanted)
    page.add(catalogue.SAMPLE_RATE, labels, status.sample_rate)
    page.add(catalogue.SAMPLED, labels, status.sampled)
    page.add(catalogue.REFUSED, labels, status.refused)
    for reason, count in status.dropped.items():
        page.add(catalogue.DROPPED, (*labels, reason), count)
    for part, count in status.failures.items():
        page.add(catalogue.TELEMETRY_FAILURES, (*labels, part), count)
    page.add(catalogue.TELEMETRY_SECONDS, labels, status.telemetry_seconds)
    page.add(catalogue.TELEMETRY_BUDGET, labels, status.budget)
    page.add(catalogue.INFERENCE_SECONDS, labels, status.inference_seconds)
    page.add(catalogue.LAST_DRAIN, labels, status.last_drain)


def _drift(page: _Page, where: tuple[str, ...], layer: LayerDrift) -> None:
    for metric, value in (
        (catalogue.EVIDENCE, layer.evidence),
        (catalogue.DRIFTING, layer.active),
        (catalogue.ALARMS, layer.alarms),
        (catalogue.PSI, layer.effects.psi),
        (catalogue.JENSEN_SHANNON, layer.effects.jensen_shannon),
        (catalogue.KOLMOGOROV_SMIRNOV, layer.effects.kolmogorov_smirnov),
        (catalogue.WASSERSTEIN, layer.effects.wasserstein),
        (catalogue.MEAN_SHIFT, layer.effects.mean_shift),
        (catalogue.FRECHET, layer.effects.frechet),
        (catalogue.TIMES_LEVEL, layer.effects.times_level),
        (catalogue.ABSMAX_GROWTH, layer.instability.absmax_growth),
        (catalogue.HEADROOM, layer.instability.headroom["float16"]),
        (catalogue.DEAD, layer.instability.dead_channels),
    ):
        page.add(metric, where, value)
    # Before the reference is complete no channel is the worst; the series exist all the same.
    ranked = [*layer.worst_channels, *[(math.nan, math.nan)] * WORST_CHANNELS][:WORST_CHANNELS]
    for rank, (channel, shift) in enumerate(ranked, start=1):
        page.add(catalogue.WORST_CHANNEL, (*where, str(rank)), channel)
        page.add(catalogue.WORST_CHANNEL_SHIFT, (*where, str(rank)), shift)
