"""Tiles in step: factors, phases and ramps that were put on are taken off, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.fpm.alignment import Alignment, align, compare, disagreement

RNG = np.random.default_rng(0)
#: A complex field whose phase is rough and whose amplitude is far from constant.
WHOLE = np.exp(0.3 * RNG.normal(size=(100, 130)) + 0.5j * RNG.normal(size=(100, 130)))
SIDE = 48
CORNERS = [(row, column) for row in (0, 30, 52) for column in (0, 33, 60, 82)]


def cut(corner: tuple[int, int]) -> np.ndarray:
    """A tile as it is."""
    return WHOLE[corner[0] : corner[0] + SIDE, corner[1] : corner[1] + SIDE]


def ramped(part: np.ndarray, corner: tuple[int, int], log_scale: float, phase: float, ramp: np.ndarray) -> np.ndarray:
    """A tile with what a solution leaves open, in the field's coordinates."""
    rows, columns = np.mgrid[corner[0] : corner[0] + SIDE, corner[1] : corner[1] + SIDE]
    return part * np.exp(log_scale + 1j * (phase + ramp[0] * rows + ramp[1] * columns))


def test_a_difference_is_what_was_put_between() -> None:
    part = WHOLE[:20, :31]
    rows, columns = np.mgrid[:20, :31]
    ramp = np.array([1.3, -0.02])
    tilted = 1.5 * part * np.exp(1j * (0.7 + ramp[0] * (rows - 9.5) + ramp[1] * (columns - 15)))
    found = compare(tilted, part)
    assert found.log_scale == pytest.approx(np.log(1.5)) and found.phase == pytest.approx(0.7)
    np.testing.assert_allclose(found.ramp, ramp, atol=1e-12)
    nothing = compare(0 * part, part)
    assert nothing.log_scale == 0 and np.isfinite(nothing.ramp).all()


def test_noise_moves_a_ramp_by_little() -> None:
    part, noise = np.exp(0.3 * RNG.normal(size=(64, 16))), RNG.normal(size=(2, 64, 16, 2)) @ [1, 1j]
    ramp = compare(part * np.exp(0.11j * np.arange(64)[:, None]) + 0.2 * noise[0], part + 0.2 * noise[1]).ramp
    assert abs(ramp[0] - 0.11) < 2e-3 and abs(ramp[1]) < 1e-2


def test_tiles_come_back_up_to_what_belongs_to_the_field() -> None:
    scales, phases, ramps = RNG.normal(0, 0.2, 12), RNG.uniform(-3, 3, 12), RNG.normal(0, 0.1, (12, 2))
    given = list(zip(CORNERS, scales, phases, ramps, strict=True))
    objects = [ramped(cut(corner), corner, scale, phase, ramp) for corner, scale, phase, ramp in given]
    found = align(objects, CORNERS)
    assert np.abs([found.log_scale.mean(), found.phase.mean(), *found.ramp.mean(0)]).max() < 1e-9
    fixed = [found.applied(o, number, corner) for number, (o, corner) in enumerate(zip(objects, CORNERS, strict=True))]
    # What is left is one factor and one ramp of the whole field.
    left = [
        ramped(f / cut(corner), corner, -scales.mean(), 0.0, -ramps.mean(0))
        for f, corner in zip(fixed, CORNERS, strict=True)
    ]
    np.testing.assert_allclose(np.abs(left), 1, rtol=1e-4)
    np.testing.assert_allclose(np.array(left) / left[0][0, 0], 1, atol=1e-3)
    assert fixed[0].dtype == np.complex64


def test_tiles_alone_stay_as_they_are() -> None:
    for corners in ([(0, 0)], [(0, 0), (52, 82)]):
        found = align([cut(corner) for corner in corners], corners)
        assert not found.log_scale.any() and not found.phase.any() and not found.ramp.any()
        np.testing.assert_allclose(found.applied(cut((0, 0)), 0, (0, 0)), cut((0, 0)), rtol=1e-6)


def as_they_are(count: int) -> Alignment:
    """Nothing is taken off."""
    return Alignment(np.zeros(count), np.zeros(count), np.zeros((count, 2)))


def test_tiles_that_agree_differ_by_nothing_and_a_tile_alone_too() -> None:
    assert max(disagreement([cut(corner) for corner in CORNERS], CORNERS, as_they_are(12))) < 1e-6
    assert disagreement([cut((0, 0))], [(0, 0)], as_they_are(1)) == (0, 0)
    assert disagreement([np.zeros((8, 8))] * 2, [(0, 0), (0, 4)], as_they_are(2)) == (0, 0)


@pytest.mark.parametrize(
    ("factor", "expected"), [(np.exp(0.3j), 2 * np.sin(0.15)), (1.2, 0.2 / np.sqrt((1.2**2 + 1) / 2)), (-1, 2)]
)
def test_a_constant_step_is_its_closed_form(factor: complex, expected: float) -> None:
    corners = [(0, 0), (0, 24), (0, 48)]
    tiles = [cut(corner) * (factor if number == 2 else 1) for number, corner in enumerate(corners)]
    found = disagreement(tiles, corners, as_they_are(3))
    assert found.worst == pytest.approx(expected, rel=1e-5)  # between the second and the third
    assert 0.5 * expected < found.mean < 0.9 * expected  # the first overlap, which agrees, counts as well
    assert max(disagreement(tiles, corners, align(tiles, corners))) < 1e-4
