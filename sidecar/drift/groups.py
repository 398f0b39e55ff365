"""What kind of request each was: the class that was predicted, or the route that the client named."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidecar.drift.weighted import Weighted
from sidecar.sketch import Reading

ROUTE = "sidecar_route"
MOST_NAMES = 64
OTHERS = "others"
_LONGEST_NAME = 128
_NOTICED = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """One name a request, str[n] each, "" where it has none.

    classes: predicted by a classifier. routes: values of the request parameter `sidecar_route`, the 64 most frequent by
    name and "others" for the rest.
    """

    classes: npt.NDArray[np.str_]
    routes: npt.NDArray[np.str_]

    @classmethod
    def of(cls, readings: Sequence[Reading]) -> Groups:
        classes: list[str] = []
        routes: list[str] = []
        for reading in readings:
            predicted = reading.outputs.predicted.tolist() if reading.outputs else [-1] * reading.requests
            classes += ["" if one < 0 else str(one) for one in predicted]
            named = [str(one.get(ROUTE, ""))[:_LONGEST_NAME] for one in reading.parameters]
            routes += named or [""] * reading.requests
        known = {name for name, _ in Counter(routes).most_common(MOST_NAMES)}
        return cls(np.array(classes, "U"), np.array([one if one in known else OTHERS for one in routes], "U"))

    def part(self, chosen: npt.NDArray[np.bool_]) -> Groups:
        return Groups(self.classes[chosen], self.routes[chosen])

    @property
    def deciding(self) -> npt.NDArray[np.str_]:
        """By which a mix is compared: the classes of a classifier, else the routes."""
        return self.classes if (self.classes != "").any() else self.routes


@dataclass(frozen=True, slots=True)
class ShareChange:
    """Shares, 0 to 1, of a group in the reference and in the window. z: of the difference, in standard errors."""

    group: str
    expected: float
    seen: float
    z: float


def share_changes(reference: npt.NDArray[np.str_], window: npt.NDArray[np.str_]) -> tuple[ShareChange, ...]:
    """Groups whose share changed by four standard errors of a binomial share or more, largest change first.

    Names, str[n] and str[m], one a request; each request counts once.
    """
    if not len(reference) or not len(window):
        return ()
    before, now = Counter(reference.tolist()), Counter(window.tolist())
    changes = []
    for group in before.keys() | now.keys():
        expected, seen = before[group] / len(reference), now[group] / len(window)
        pooled = (before[group] + now[group]) / (len(reference) + len(window))
        error = math.sqrt(pooled * (1 - pooled) * (1 / len(reference) + 1 / len(window)))
        z = (seen - expected) / error if error else 0.0
        if abs(z) >= _NOTICED:
            changes.append(ShareChange(group, expected, seen, z))
    return tuple(sorted(changes, key=lambda change: (-abs(change.z), change.group)))


def with_mix_of(
    reference: Weighted, groups: npt.NDArray[np.str_], window: Weighted, seen: npt.NDArray[np.str_]
) -> tuple[Weighted, Weighted]:
    """Both sides in the groups that both have, the window's weights changed so that it has the reference's mix.

    A group that one side lacks can be made up for by no weight, so it is left out. Post-stratification: Holt and
    Smith, JRSS A 142, 1979.
    """
    common = np.intersect1d(groups, seen)
    ours, theirs = np.isin(groups, common), np.isin(seen, common)
    reference, window, names = reference.part(ours), window.part(theirs), seen[theirs]
    weights = window.weights.copy()
    for group in common.tolist():
        member = names == group
        target = reference.weights[groups[ours] == group].sum()
        weights[member] *= target / max(weights[member].sum(), np.finfo(np.float64).tiny)
    return reference, Weighted(window.values, weights)
