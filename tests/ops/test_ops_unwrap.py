"""Phase without jumps: closed forms come back exactly, noise where weights are 0 does no harm."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.ops.unwrap import _cosines, _from_cosines, unwrap, wrap

Y, X = np.mgrid[:60, :47]
#: Twelve turns of a plane, and a bump of three.
TRUTH = 0.9 * X - 0.5 * Y + 20 * np.exp(-((X - 20) ** 2 + (Y - 30) ** 2) / 300)


def apart(found: np.ndarray, truth: np.ndarray) -> float:
    """Largest difference up to a constant."""
    return float(np.ptp(found - truth))


def test_wrapping_keeps_angles() -> None:
    np.testing.assert_allclose(wrap(np.array([-np.pi, 0, 3, np.pi, 7.0])), [-np.pi, 0, 3, -np.pi, 7 - 2 * np.pi])


def test_a_steep_surface_comes_back() -> None:
    assert apart(wrap(TRUTH), TRUTH) > 6
    found = unwrap(wrap(TRUTH))
    assert apart(found, TRUTH) < 1e-9
    np.testing.assert_allclose(np.exp(1j * found), np.exp(1j * TRUTH), atol=1e-9)


@pytest.mark.parametrize("size", [(60, 47), (59, 46), (1, 47), (60, 1)])
def test_without_weights_one_round_is_the_solution(size: tuple[int, int]) -> None:
    part = TRUTH[: size[0], : size[1]]
    assert apart(unwrap(wrap(part), rounds=1), part) < 1e-9


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9])
def test_cosines_are_their_definition_and_come_back(count: int) -> None:
    values = np.random.default_rng(0).normal(size=(4, count))
    angles = np.pi / count * np.arange(count)[:, None] * (np.arange(count) + 0.5)
    np.testing.assert_allclose(_cosines(values), values @ np.cos(angles).T, atol=1e-12)
    np.testing.assert_allclose(_from_cosines(_cosines(values)), values, atol=1e-12)


def test_a_wrapped_input_may_be_wrapped_anywhere() -> None:
    assert apart(unwrap(wrap(TRUTH) + 2 * np.pi * (X % 3)), TRUTH) < 1e-9


def test_pixels_without_weight_do_no_harm() -> None:
    wrapped, weight = wrap(TRUTH), np.ones_like(TRUTH)
    wrapped[10:30, 5:20] = np.random.default_rng(0).uniform(-3, 3, (20, 15))
    weight[10:30, 5:20] = 0
    inside = weight > 0
    assert apart(unwrap(wrapped, weight)[inside], TRUTH[inside]) < 1e-9
    assert apart(unwrap(wrapped)[inside], TRUTH[inside]) > 6


def test_every_value_differs_by_whole_turns_even_around_a_vortex() -> None:
    vortex = np.arctan2(Y - 29.5, X - 22.5)
    turns = (unwrap(vortex) - vortex) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.rint(turns), atol=1e-9)


def test_tiny_and_constant_planes() -> None:
    assert unwrap(np.array([[1.0]])) == pytest.approx(1.0)
    assert apart(unwrap(np.array([[0, 3, 6 - 2 * np.pi, 9 - 4 * np.pi]])), np.array([[0, 3, 6, 9]])) < 1e-9
    np.testing.assert_allclose(unwrap(np.full((4, 3), 2.0)), 2.0)
    np.testing.assert_allclose(unwrap(np.full((4, 3), 2.0), np.zeros((4, 3))), 2.0)


@pytest.mark.parametrize(
    ("phase", "weight"),
    [
        (np.zeros(4), None),
        (np.zeros((2, 2)), np.zeros((2, 3))),
        (np.full((2, 2), np.nan), None),
        (np.eye(2), -np.eye(2)),
    ],
)
def test_what_cannot_be_unwrapped_is_refused(phase: np.ndarray, weight: np.ndarray | None) -> None:
    with pytest.raises(UserError, match="expected two equal planes|must be finite, weights not negative"):
        unwrap(phase, weight)
