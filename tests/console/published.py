"""The two published pictures as activations: a layer of 4,096 units, and 12 layers over training steps."""

from __future__ import annotations

import numpy as np

LAYER_UNITS = 4096
PEAKS = {150: 26.0, 1550: 28.0, 2500: 20.0, 3100: 14.0, 800: -25.0, 2450: -35.0, 2700: -12.0}
"""Unit -> its mean, as read from the published chart."""

SMALL_SPIKES = 30
LAYERS = 12
HIGHEST = 0.008
COURSE = {
    30_000: 0.04, 60_000: 0.10, 90_000: 0.22, 120_000: 0.42, 150_000: 0.66,
    180_000: 0.86, 210_000: 0.985, 240_000: 1.0, 270_000: 0.94, 300_000: 0.90,
}  # fmt: skip
"""Step -> the share of its peak that a late layer has reached."""


def unit_means(rng):
    """float64[4096]: nearly all within 3 of zero, fewer than 1% beyond 6."""
    means = rng.normal(0, 0.98, LAYER_UNITS)
    small = rng.choice(LAYER_UNITS, SMALL_SPIKES, replace=False)
    means[small] = rng.uniform(6.2, 8, SMALL_SPIKES) * rng.choice([-1, 1], SMALL_SPIKES)
    means[list(PEAKS)] = list(PEAKS.values())
    return means


def layer_values(rng, means, requests=24, tokens=2):
    """float32[requests, tokens, 4096] around the means of the units."""
    return (means + rng.normal(0, 0.25, (requests, tokens, means.size))).astype(np.float32)


def step_level(layer, step):
    """Mean activation of layer 1..12: 1-4 flat near 0, 5-8 rising, 9-12 with a peak and a slight fall."""
    if layer <= 4:
        return 0.0002
    if layer <= 8:
        return (0.0004 + 0.0009 * (layer - 4)) * step / max(COURSE)
    return HIGHEST * (1 - 0.07 * (LAYERS - layer)) * COURSE[step]


def step_values(rng, layer, step, requests=24, units=64):
    """float32[requests, units] of one layer at one step."""
    level = step_level(layer, step)
    return rng.normal(level, 0.15 * level, (requests, units)).astype(np.float32)
