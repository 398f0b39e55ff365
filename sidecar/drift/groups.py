"""What kind of request each was: the class that was predicted, or the route that the client named."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sidecar.drift.ranks import Integers
from sidecar.drift.scores import FIT_STRIDE
from sidecar.drift.strata import Labels, labels
from sidecar.drift.weighted import Weighted, ratio
from sidecar.sketch import OutputRows, Reading

ROUTE = "sidecar_route"
MOST_NAMES = 64
MOST_CLASSES = 10
OTHERS = "others"
NAMELESS: Labels = np.array([], "U")
_NOTICED = 4.0
LEAST_REQUESTS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """One name a request, str[n] each, "" where it has none.

    classes: predicted by a classifier. routes: values of the request parameter `sidecar_route`, see `frequent`.
    """

    classes: Labels
    routes: Labels

    @classmethod
    def of(cls, readings: Sequence[Reading], known: Labels) -> Groups:
        """known: the routes of what these are compared with."""
        none = [NAMELESS]
        classes = [class_names(one.outputs, one.requests) for one in readings]
        routes = [labels(one, ROUTE) for one in readings]
        return cls(np.concatenate(classes or none), frequent(np.concatenate(routes or none), known))

    @property
    def deciding(self) -> Labels:
        """By which a mix is compared: the classes of a classifier, else the routes."""
        return self.classes if (self.classes != "").any() else self.routes


def class_names(outputs: OutputRows | None, requests: int) -> Labels:
    """Of each request the predicted class, str[requests]; "" where none was."""
    if outputs is None:
        return np.full(requests, "")
    return np.array(["" if one < 0 else str(one) for one in outputs.predicted.tolist()], dtype=np.str_)


def frequent(names: Labels, known: Labels = NAMELESS) -> Labels:
    """Up to 64 names as they are, and "others" for all further ones: the `known`, then the most frequent.

    With what they are compared with as `known`, a name is never among the others on one side only. Frequent is what is
    among every fourth request: shares of the rest are not too large for having been chosen by them.
    """
    kept = set(known.tolist())
    requests = Counter(names[::FIT_STRIDE].tolist())
    new = sorted(set(names.tolist()) - kept, key=lambda name: (-requests[name], name))
    kept.update(new[: max(MOST_NAMES - len(kept), 0)])
    return np.array([one if one in kept else OTHERS for one in names.tolist()], dtype=np.str_)


@dataclass(frozen=True, slots=True)
class ShareChange:
    """Shares, 0 to 1, of a group in the reference and in the window. z: of the difference, in standard errors."""

    group: str
    expected: float
    seen: float
    z: float


def share_changes(reference: Labels, window: Labels) -> tuple[ShareChange, ...]:
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


@dataclass(frozen=True, slots=True)
class ClassShare:
    """Shares, 0 to 1, of a predicted class among the requests with one; the window's is NaN without any.

    name: its number, or "others" for all that are not among the reference's ten most frequent.
    """

    name: str
    reference: float
    window: float


def class_shares(reference: Integers, window: Integers, classes: int) -> tuple[ClassShare, ...]:
    """Most frequent class first. reference, window: int64[n] and [m], predicted classes, -1 where none was.

    classes: how many there are at least; up to ten of them are named even if the reference has none.

    As with `frequent`, every fourth request of the reference says which classes, and the rest what their shares are.
    """
    choosing = reference[::FIT_STRIDE]
    requests = np.bincount(choosing[choosing >= 0], minlength=classes)
    chosen = np.argsort(-requests, kind="stable")[:MOST_CLASSES]
    sides = []
    for side in (np.delete(reference, slice(None, None, FIT_STRIDE)), window):
        known = side[side >= 0]
        named = (known[:, None] == chosen).sum(axis=0)
        sides.append(ratio(np.append(named, len(known) - named.sum()), np.array(len(known))).tolist())
    return tuple(map(ClassShare, [*map(str, chosen.tolist()), OTHERS], *sides))


def _ample(names: Labels) -> Labels:
    found, requests = np.unique(names, return_counts=True)
    return found[requests >= LEAST_REQUESTS]


def with_mix_of(
    reference: Weighted, groups: Labels, window: Weighted, seen: Labels
) -> tuple[Weighted, Weighted]:
    """Both sides in the groups that both have, the window's weights changed so that it has the reference's mix.

    A group of which one side has fewer than twenty is left out: a few requests cannot stand for a whole class.
    Post-stratification: Holt and Smith, JRSS A 142, 1979.
    """
    common = np.intersect1d(_ample(groups), _ample(seen))
    ours, theirs = np.isin(groups, common), np.isin(seen, common)
    reference, window, names = reference.part(ours), window.part(theirs), seen[theirs]
    weights = window.weights.copy()
    for group in common.tolist():
        member = names == group
        target = reference.weights[groups[ours] == group].sum()
        weights[member] *= target / max(weights[member].sum(), np.finfo(np.float64).tiny)
    return reference, Weighted(window.values, weights)
