"""Pupils: exact between the cells, Zernike modes in Noll's order, free forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import Board, Grid, Optics
from medgen_jax.fpm.pupils import (
    aperture,
    free_pupil,
    known_pupil,
    noll,
    support,
    window_size,
    zernike_mode,
    zernike_modes,
)
from medgen_jax.ops.pupil import pupil

OPTICS = Optics(0.5e-6, 0.2, 4, 4e-6, Board(Grid(3, 3, 4e-3), 0.1), index=1.33)
SIZE = 48
MIDDLE = jnp.zeros(2)


def test_around_a_cell_it_is_the_pupil_of_ops() -> None:
    z = -80e-6
    plane = np.fft.fftshift(pupil((SIZE, SIZE), OPTICS.pixel, OPTICS.wavelength, OPTICS.na, z, OPTICS.index))
    got = np.asarray(jax.jit(known_pupil(OPTICS, SIZE, z))(MIDDLE))
    half = len(got) // 2
    assert got.shape == (2 * half + 1,) * 2 and (plane != 0).sum() == (got != 0).sum()
    inside = slice(SIZE // 2 - half, SIZE // 2 + half + 1)
    np.testing.assert_allclose(got, plane[inside, inside], atol=2e-5)


def test_between_cells_it_is_the_pupil_of_a_finer_grid() -> None:
    z, rest = 60e-6, jnp.array([0.5, -0.25])  # two and one cells of a grid four times as fine
    fine = np.asarray(jax.jit(known_pupil(OPTICS, 4 * SIZE, z, {2: 0.4, 7: 0.3}))(MIDDLE))
    got = np.asarray(jax.jit(known_pupil(OPTICS, SIZE, z, {2: 0.4, 7: 0.3}))(rest))
    fine = np.pad(fine, 8)
    steps = 4 * (np.arange(len(got)) - len(got) // 2) + len(fine) // 2
    np.testing.assert_allclose(got, fine[np.ix_(steps - 2, steps + 1)], atol=2e-5)


def test_a_window_holds_the_support_wherever_it_moves() -> None:
    assert window_size(3.0, 64) == 9 and window_size(3.01, 64) == 11 and window_size(31.5, 64) == 64
    at = jax.jit(lambda rest: support(9, 3.0, rest))
    for rest in ((0.5, 0.5), (-0.5, 0.5), (0.5, -0.5)):
        plane = np.asarray(at(jnp.array(rest)))
        assert plane.sum() == 32  # cells of half-integer coordinates within 3: 4 (3 + 3 + 2)
        assert not plane[0].any() and not plane[-1].any() and not plane[:, 0].any() and not plane[:, -1].any()
    assert np.asarray(at(MIDDLE)).sum() == 29  # whole coordinates within 3, the four on the rim included


def test_a_soft_rim_has_the_area_and_a_gradient() -> None:
    def area(radius: jax.Array) -> jax.Array:
        return support(33, radius, jnp.array([0.3, -0.1]), 1.0).sum()

    value, slope = jax.jit(jax.value_and_grad(area))(jnp.float32(12.0))
    assert value == pytest.approx(np.pi * 12**2, rel=5e-3) and slope == pytest.approx(2 * np.pi * 12, rel=0.05)

    def cell(rest: jax.Array) -> jax.Array:
        return support(33, 12.0, rest, 1.0)[16, 28]  # on the rim, to the right

    np.testing.assert_allclose(jax.jit(jax.grad(cell))(jnp.array([0.0, 0.1])), (0, 1), atol=1e-5)
    assert np.isfinite(jax.jit(jax.grad(lambda rest: support(33, 12.0, rest, 1.0).sum()))(MIDDLE)).all()


def test_noll_indices_as_published() -> None:
    table = [(0, 0), (1, 1), (1, -1), (2, 0), (2, -2), (2, 2), (3, -1), (3, 1), (3, -3), (3, 3), (4, 0)]
    table += [(4, 2), (4, -2), (4, 4), (4, -4), (5, 1)]
    assert [noll(index) for index in range(1, 17)] == table
    with pytest.raises(UserError, match="zernike index 0"):
        noll(0)


def test_modes_are_orthonormal_over_the_disc() -> None:
    modes = np.asarray(jax.jit(lambda: zernike_modes(tuple(range(1, 16)), 301, 149.0))()).reshape(15, -1)
    inside = modes[0] > 0
    np.testing.assert_allclose(modes @ modes.T / inside.sum(), np.eye(15), atol=0.02)
    assert np.abs(modes[:, ~inside]).max() == 0


def test_modes_by_hand_and_their_axes() -> None:
    x, y = np.float32(0.6), np.float32(0.3)
    squares = 0.45
    wanted = {2: 2 * x, 3: 2 * y, 4: np.sqrt(3) * (2 * squares - 1), 5: 2 * np.sqrt(6) * x * y}
    wanted |= {6: np.sqrt(6) * (x**2 - y**2), 8: np.sqrt(8) * (3 * squares - 2) * x}
    wanted |= {11: np.sqrt(5) * (6 * squares**2 - 6 * squares + 1)}
    for index, value in wanted.items():
        assert zernike_mode(index, x, y) == pytest.approx(float(value), rel=1e-5), index


def test_a_free_pupil_has_its_values_in_the_exact_support() -> None:
    values = jnp.asarray(np.random.default_rng(0).normal(size=(11, 11, 2)) @ [1, 1j], jnp.complex64)
    rest = jnp.array([0.4, -0.3])
    inside = np.asarray(support(11, 3.7, rest))
    np.testing.assert_array_equal(free_pupil(values, aperture(11, 3.7))(rest), values * inside)
    known = known_pupil(OPTICS, SIZE, 60e-6)
    ones = jnp.ones_like(known(rest))
    np.testing.assert_allclose(free_pupil(2j * ones, known)(rest), 2j * known(rest), rtol=1e-6)
