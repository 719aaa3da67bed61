"""Stray light that was put on is found where an object leaves empty places; elsewhere nothing is made up."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.fpm.calibration import estimate_background
from medgen_jax.fpm.calibration.background import MOST

SIDE, BRIGHT = 96, 5
RNG = np.random.default_rng(0)


def scattered(level: float, empty: bool = True) -> np.ndarray:
    """A frame of the dark field: speckle of a mean, in a disc or everywhere."""
    speckle = level * RNG.exponential(size=(SIDE, SIDE))
    disc = np.hypot(*(np.mgrid[:SIDE, :SIDE] - SIDE / 2)) < SIDE / 3
    return np.where(disc, speckle, 0.0) if empty else speckle


def frames(stray: np.ndarray, empty: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Five bright frames of 100 counts, the others dark with 2 counts on average, and which are bright."""
    bright = np.arange(len(stray)) < BRIGHT
    light = np.stack([np.full((SIDE, SIDE), 100.0) if b else scattered(2.0, empty) for b in bright])
    return light + stray[:, None, None], bright


def test_stray_light_of_every_dark_frame_is_found() -> None:
    stray = np.concatenate([np.full(BRIGHT, 0.5), np.linspace(0.5, 2.5, 20)])
    stack, bright = frames(stray)
    found, report = estimate_background(stack, bright)
    np.testing.assert_allclose(found, np.where(bright, 0.5 + 0.05, stray), atol=0.1)
    assert report.kept and report.values["frames_with_empty_places"] == report.values["frames_dark"] == 20
    assert "20 of 20 dark frames have empty places" in report.said
    json.dumps(report.to_mapping(), allow_nan=False)


def test_noise_hardly_pulls_it_down_and_roots_are_squared() -> None:
    stack, bright = frames(np.full(25, 1.0))
    noisy = np.maximum(stack + 0.2 * RNG.normal(size=stack.shape), 0)
    found, _ = estimate_background(noisy, bright)
    np.testing.assert_allclose(found, 1.0, atol=0.12)
    of_roots, _ = estimate_background(np.sqrt(noisy), bright, amplitude=True)
    np.testing.assert_allclose(of_roots, found, rtol=1e-6)


def test_speckle_everywhere_is_no_stray_light() -> None:
    """Frames without an empty place take what the darkest ones have: here a frame that nothing scatters into."""
    stack, bright = frames(np.full(25, 0.3), empty=False)
    stack[-2:] = 0.3
    found, report = estimate_background(stack, bright)
    np.testing.assert_allclose(found, 0.3, atol=0.02)
    assert report.values["frames_with_empty_places"] == 2


def test_what_is_found_is_bounded_by_a_bright_frame() -> None:
    stack, bright = frames(np.full(25, 30.0))
    found, report = estimate_background(stack, bright)
    np.testing.assert_allclose(found, MOST * 130)
    assert "the bound: 5% of a bright frame (found: 30" in report.said
    rim = np.concatenate([np.full(24, 0.2), [40.0]])  # an LED at the rim, whose straight light leaks in
    found, report = estimate_background(*frames(rim))
    assert found[-1] < 0.4 and report.values["frames_above_the_bound"] == 1


def test_frames_that_tell_nothing_have_none() -> None:
    found, report = estimate_background(np.full((3, 16, 16), 7.0), np.ones(3, bool))
    assert not found.any() and not report.kept and "none is taken off" in report.said
    constant, _ = estimate_background(np.zeros((3, 8, 8), np.uint8), np.zeros(3, bool))
    assert not constant.any()
    with pytest.raises(UserError, match=r"stack of shape \(3, 7, 9\): expected 3 frames of 8 x 8 pixels or more"):
        estimate_background(np.zeros((3, 7, 9)), np.zeros(3, bool))
