"""References conditioned on what a request says of itself, so that a mix that swings is no drift."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from sidecar.drift.ranks import EVERYONE, Integers
from sidecar.sketch import Reading

Labels = npt.NDArray[np.str_]

PREDICTED_CLASS = "predicted_class"
"""What to stratify by where it is not a request parameter."""

MOST_STRATA = 64
LEAST_REQUESTS = 200
_LONGEST_LABEL = 128


def labels(reading: Reading, stratify_by: str) -> Labels:
    """Of each request the value that it is stratified by, str[n]; "" where it has none, or nothing is stratified by."""
    if stratify_by == PREDICTED_CLASS and reading.outputs:
        found = [str(number) for number in reading.outputs.predicted.tolist()]
    elif stratify_by and reading.parameters:
        found = [str(given.get(stratify_by, ""))[:_LONGEST_LABEL] for given in reading.parameters]
    else:
        found = [""] * reading.requests
    return np.array(found, dtype=np.str_)


class Strata:
    """The labels that at least 200 reference requests have, the 63 most frequent of them, each with a number.

    All others share EVERYONE: a request of theirs is judged by the whole reference.
    """

    def __init__(self, reference: Labels) -> None:
        frequent = Counter(reference.tolist()).most_common(MOST_STRATA - 1)
        names = sorted(name for name, requests in frequent if name and requests >= LEAST_REQUESTS)
        self._numbers = {name: number for number, name in enumerate(names, start=EVERYONE + 1)}

    def __len__(self) -> int:
        """With EVERYONE."""
        return len(self._numbers) + 1

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._numbers)

    def numbers(self, labels: Labels) -> Integers:
        """int64[n], the stratum of each request."""
        return np.array([self._numbers.get(label, EVERYONE) for label in labels.tolist()], dtype=np.int64)
