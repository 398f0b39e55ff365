"""What goes wrong in the demo: each scenario turns a drawn image into the one that is sent."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

PIXEL_MAX = 16.0
NOISE_SIGMAS = 6.0
MISSING_CLASS = 3
FAULTY_SHARE = 0.05
FAULTY_PIXEL = 3e38
"""Near float32's end: the first layer's products overflow."""


class Scenario(StrEnum):
    NONE = "none"
    NOISE = "noise"
    INVERTED = "inverted"
    ROTATION = "rotation"
    MISSING_CLASS = "missing-class"
    NUMERIC_FAULT = "numeric-fault"


Draw = Callable[[np.random.Generator], tuple[Images, int]]
"""One image [64] and its label."""


def draws(images: Images, labels: Labels) -> Draw:
    """Images drawn with replacement, as independent requests would come."""

    def draw(random: np.random.Generator) -> tuple[Images, int]:
        index = int(random.integers(len(images)))
        return images[index], int(labels[index])

    return draw


def shifted(scenario: Scenario, images: Images, labels: Labels) -> Draw:
    """Draws as `scenario` makes them; the labels stay those of the images."""
    if scenario is Scenario.MISSING_CLASS:
        kept = labels != MISSING_CLASS
        return draws(images[kept], labels[kept])
    plain = draws(images, labels)
    change = _CHANGES[scenario]

    def draw(random: np.random.Generator) -> tuple[Images, int]:
        image, label = plain(random)
        return change(image, random), label

    return draw


def _noise(image: Images, random: np.random.Generator) -> Images:
    noisy = image + random.normal(0, NOISE_SIGMAS, image.shape).astype(np.float32)
    return np.clip(noisy, 0, PIXEL_MAX)


def _fault(image: Images, random: np.random.Generator) -> Images:
    broken = image.copy()
    if random.random() < FAULTY_SHARE:
        broken[random.integers(len(image))] = FAULTY_PIXEL
    return broken


_CHANGES: dict[Scenario, Callable[[Images, np.random.Generator], Images]] = {
    Scenario.NONE: lambda image, _: image,
    Scenario.NOISE: _noise,
    Scenario.INVERTED: lambda image, _: PIXEL_MAX - image,
    Scenario.ROTATION: lambda image, _: np.rot90(image.reshape(8, 8)).reshape(-1),
    Scenario.NUMERIC_FAULT: _fault,
}
