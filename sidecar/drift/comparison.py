"""Two sides beside each other, layer by layer: two baselines, two versions of a model, or two replicas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sidecar.drift.effects import worst_channels
from sidecar.drift.nodrift import NoDrift
from sidecar.drift.recent import Described
from sidecar.drift.reference import Reference
from sidecar.drift.scores import FEATURES, features
from sidecar.drift.sizes import EffectSizes, Expected, effect_sizes
from sidecar.drift.weighted import Weighted
from sidecar.types import Tap


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """How far the second side is from the first at one tap. statistic: the one whose mean shifted most, "" if none.

    channels: (index, shift in the first side's sigmas), largest first.
    """

    tap: Tap
    effects: EffectSizes
    statistic: str
    channels: tuple[tuple[int, float], ...]

    @property
    def size(self) -> float:
        """What layers are listed by: times the no-drift level, PSI where no level is known, -inf without either."""
        for value in (self.effects.times_level, self.effects.psi):
            if not math.isnan(value):
                return value
        return -math.inf


def expected_of(reference: Reference) -> tuple[Expected, ...]:
    """Each tap of a reference, with what is worked out from it once."""
    described = features(reference.rows)
    return tuple(
        Expected.of(sketch, Weighted(rows, reference.weights), nodrift)
        for sketch, rows, nodrift in zip(reference.sketches, described, reference.nodrift, strict=True)
    )


def compare(first: Reference, second: Reference) -> list[LayerDifference]:
    """Every tap in depth order. Raises BaselineError, naming what differs, for other models, taps or widths.

    The no-drift values are those of the first side, or of the second where the first has none.
    """
    second.check(first.model, first.taps, first.stratified_by)
    second = second.arranged(first.taps)
    expected = [
        replace(here, nodrift=known(here.nodrift, nodrift))
        for here, nodrift in zip(expected_of(first), second.nodrift, strict=True)
    ]
    sizes = effect_sizes(expected, second.sketches, Described(features(second.rows), second.weights))
    found = [
        LayerDifference(
            tap,
            effects,
            FEATURES[effects.shifted] if effects.shifted >= 0 else "",
            tuple(worst_channels(here, there)),
        )
        for tap, effects, here, there in zip(first.taps, sizes, first.sketches, second.sketches, strict=True)
    ]
    return sorted(found, key=lambda one: one.tap)


def known(first: NoDrift, second: NoDrift) -> NoDrift:
    """Each number of the first, or of the second where the first does not know it."""

    def either(ours: tuple[float, ...], theirs: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(b if math.isnan(a) else a for a, b in zip(ours, theirs, strict=True))

    return NoDrift(either(first.mean, second.mean), either(first.level, second.level))


def by_effect(differences: Sequence[LayerDifference]) -> list[LayerDifference]:
    """The largest first."""
    return sorted(differences, key=lambda one: (-one.size, one.tap))
