"""Baselines and differences as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.table import Table

from sidecar.drift import Reference
from sidecar.drift.comparison import LayerDifference, by_effect


def summary(reference: Reference) -> str:
    recorded = datetime.fromtimestamp(reference.created_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    parts = [
        f"{reference.model} version {reference.version}, recorded {recorded}",
        f"{reference.requests:,} requests, {len(reference.taps)} taps",
    ]
    if reference.stratified_by:
        parts.append(f"stratified by {reference.stratified_by}")
    return "; ".join(parts)


def layers(reference: Reference) -> Table:
    """What is normal at each tap, and the PSI that it stays under without drift in windows of 100 requests."""
    table = _table(
        "tap", "module", "channels", "values", "mean", "std", "absmax", "zeros", "kurtosis", "PSI 99.9%"
    )
    for tap, sketch, nodrift in sorted(
        zip(reference.taps, reference.sketches, reference.nodrift, strict=True), key=lambda one: one[0]
    ):
        moments = sketch.moments
        level = nodrift.level[0] * (1 / 100 + 1 / max(sketch.counts.requests, 1))
        table.add_row(
            tap.key,
            tap.module,
            str(tap.channels),
            f"{sketch.counts.values:,}",
            *map(
                _number,
                (moments.mean, moments.stddev, sketch.absmax, sketch.zero_share, sketch.kurtosis, level),
            ),
        )
    return table


def differences(found: Sequence[LayerDifference]) -> Table:
    """Layers by effect, the largest first."""
    sizes = ("times level", "PSI", "JS", "KS", "Wasserstein", "Frechet", "mean shift")
    table = _table("tap", *sizes, "of", "channels that moved most")
    for one in by_effect(found):
        effects = one.effects
        table.add_row(
            one.tap.key,
            *map(
                _number,
                (
                    effects.times_level,
                    effects.psi,
                    effects.jensen_shannon,
                    effects.kolmogorov_smirnov,
                    effects.wasserstein,
                    effects.frechet,
                    effects.mean_shift,
                ),
            ),
            one.statistic,
            ", ".join(f"{index} {shift:+.2f}" for index, shift in one.channels),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim")
    for name in columns:
        left = name in ("tap", "module", "of") or name.startswith("channels that")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"
