"""What the scenarios do to an image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.demo.shifts import MISSING_CLASS, PIXEL_MAX, Scenario, shifted

seeds = st.integers(0, 2**32 - 1)


def one(scenario, image, seed=0):
    draw = shifted(scenario, image[None], np.array([7]))
    return draw(np.random.default_rng(seed))


def an_image(seed):
    return np.random.default_rng(seed).integers(0, 17, 64).astype(np.float32)


@pytest.mark.parametrize("scenario", [s for s in Scenario if s is not Scenario.MISSING_CLASS])
def test_a_shifted_image_keeps_its_label(scenario):
    assert one(scenario, an_image(1))[1] == 7


@given(seeds)
def test_no_shift_sends_the_image_as_it_is(seed):
    image = an_image(seed)
    np.testing.assert_array_equal(one(Scenario.NONE, image)[0], image)


@given(seeds)
def test_noise_stays_within_what_a_pixel_may_be(seed):
    noisy, _ = one(Scenario.NOISE, an_image(seed), seed)
    assert noisy.min() >= 0
    assert noisy.max() <= PIXEL_MAX


@given(seeds)
def test_inverting_twice_gives_the_image_back(seed):
    image = an_image(seed)
    np.testing.assert_array_equal(one(Scenario.INVERTED, one(Scenario.INVERTED, image)[0])[0], image)


@given(seeds)
def test_four_quarter_turns_give_the_image_back(seed):
    turned = image = an_image(seed)
    for _ in range(4):
        turned, _ = one(Scenario.ROTATION, turned)
    np.testing.assert_array_equal(turned, image)


def test_the_missing_class_is_never_drawn():
    images, labels = np.zeros((20, 64), np.float32), np.arange(20) % 10
    draw, random = shifted(Scenario.MISSING_CLASS, images, labels), np.random.default_rng(0)
    assert MISSING_CLASS not in {draw(random)[1] for _ in range(500)}


def test_a_numeric_fault_is_one_finite_pixel_whose_square_overflows():
    draw, random = shifted(Scenario.NUMERIC_FAULT, an_image(3)[None], np.array([1])), np.random.default_rng(0)
    faulty = [image for image, _ in (draw(random) for _ in range(1000)) if image.max() > PIXEL_MAX]
    assert 20 < len(faulty) < 100
    for image in faulty:
        assert np.isfinite(image).all()
        assert (image > PIXEL_MAX).sum() == 1
