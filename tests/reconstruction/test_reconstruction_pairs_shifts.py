"""Shifts between colours: known ones are found to a twentieth of a pixel, and none is made up."""

from __future__ import annotations

import led_fields
import numpy as np
import pytest

from medgen_jax.reconstruction.pairs.shifts import moved, shift_between

IMAGE = led_fields.smooth(0, 96, cut=0.25)


def test_whole_pixels_move_as_a_roll() -> None:
    np.testing.assert_allclose(moved(IMAGE, 3, -5), np.roll(IMAGE, (-3, 5), (0, 1)), atol=1e-6)


def test_what_is_moved_comes_back() -> None:
    there = moved(IMAGE * np.exp(1j * IMAGE), 0.3, 1.7)
    np.testing.assert_allclose(moved(there, -0.3, -1.7), IMAGE * np.exp(1j * IMAGE), atol=1e-5)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (2.0, -3.0), (0.35, 4.6), (-1.25, -0.4)])
@pytest.mark.parametrize("contrast", [1.0, -0.4])
def test_known_shifts_are_found(shift: tuple[float, float], contrast: float) -> None:
    other = 1 + contrast * moved(IMAGE, -shift[0], -shift[1]).real  # below and to the right of the image
    found = shift_between(IMAGE, other)
    assert found.believed
    np.testing.assert_allclose((found.rows, found.columns), shift, atol=0.051)
    assert found.after > 0.97 and (found.before < found.after or shift == (0, 0))


def test_different_images_are_left_where_they_are() -> None:
    found = shift_between(IMAGE, led_fields.smooth(1, 96, cut=0.25))
    assert not found.believed and (found.rows, found.columns) == (0, 0) and found.before == found.after < 0.5


def test_constant_images_have_no_shift() -> None:
    found = shift_between(np.ones((64, 64)), np.full((64, 64), 0.7))
    assert not found.believed and (found.rows, found.columns, found.after) == (0, 0, 0)
