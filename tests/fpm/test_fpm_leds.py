"""LED layouts: order, place, direction."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.fpm.leds import Board, Centres, Dome, Grid, Points, Rings, Slab, direction_cosines

#: The first steps of the spiral of the public blood-smear stacks, as their notes give them.
SPIRAL = "+x +y -x -x -y -y +x +x +x +y +y +y -x -x -x -x"


def test_the_spiral_follows_the_rule_of_the_blood_smear() -> None:
    walk = {"+x": (1, 0), "+y": (0, 1), "-x": (-1, 0), "-y": (0, -1)}
    wanted = np.cumsum([(0, 0), *(walk[step] for step in SPIRAL.split())], axis=0)
    cells = Grid(15, 15, 1e-3, "spiral").points()[:, :2] / 1e-3
    np.testing.assert_allclose(cells[: len(wanted)], wanted, atol=1e-9)
    assert len({tuple(cell) for cell in np.round(cells)}) == 225 and np.abs(cells).max() == pytest.approx(7)


def test_a_spiral_off_the_middle_skips_what_lies_beside_the_grid() -> None:
    cells = Grid(3, 2, 1e-3, "spiral", origin=(0, 0), first=(0, 1)).points()[:, :2] / 1e-3
    np.testing.assert_allclose(cells, [(0, 1), (1, 1), (0, 0), (1, 0), (2, 0), (2, 1)], atol=1e-9)


@pytest.mark.parametrize(
    ("order", "cells"),
    [
        ("row_major", [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]),
        ("column_major", [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]),
        ("serpentine", [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (0, 1)]),
    ],
)
def test_orders_of_a_grid_around_its_middle(order: str, cells: list[tuple[int, int]]) -> None:
    points = Grid(3, 2, 2e-3, order).points()
    np.testing.assert_allclose(points[:, :2], 2e-3 * (np.array(cells) - (1, 0.5)), atol=1e-12)
    np.testing.assert_array_equal(points[:, 2], 1)


def test_rings_start_at_their_angle_and_turn_from_x_to_y() -> None:
    points = Rings((1, 8, 12), 9e-3, 90).points()[:, :2] * 1e3
    assert len(points) == 21
    np.testing.assert_allclose(points[:3], [(0, 0), (0, 9), (-6.36396103, 6.36396103)], atol=1e-7)
    np.testing.assert_allclose(points[9:11], [(0, 18), (-9, 15.5884573)], atol=1e-6)
    np.testing.assert_allclose(np.hypot(*Rings((4,), 5e-3).points()[:, :2].T), 5e-3)


def test_a_dome_is_a_sphere_around_the_object() -> None:
    positions = Board(Dome((1, 6), 30.0), 0.05).positions()
    np.testing.assert_allclose(np.linalg.norm(positions, axis=1), 0.05)
    np.testing.assert_allclose(positions[:2], [(0, 0, 0.05), (0.025, 0, 0.05 * np.cos(np.pi / 6))], atol=1e-12)
    np.testing.assert_allclose(np.hypot(*direction_cosines(positions)[1:].T), 0.5)


def test_a_board_is_flipped_scaled_turned_and_then_shifted() -> None:
    layout = Points(((1e-3, 0.0), (0.0, 2e-3)))
    place = dict(height=0.1, offset=(5e-3, -3e-3), rotation_degrees=90.0, scale=2.0, flip_x=True)
    # (1, 0) -> (-1, 0) -> (-2, 0) -> a quarter turn from x to y: (0, -2) -> (5, -5).
    # (0, 2) -> (0, 4) -> (-4, 0) -> (1, -3).
    np.testing.assert_allclose(Board(layout, **place).positions(), [(5e-3, -5e-3, 0.1), (1e-3, -3e-3, 0.1)], atol=1e-12)


def test_sines_point_from_the_tile_to_the_led() -> None:
    positions = np.array([(0.03, 0.0, 0.04), (0.0, -0.03, 0.04)])
    np.testing.assert_allclose(direction_cosines(positions), [(0.6, 0), (0, -0.6)])
    np.testing.assert_allclose(direction_cosines(positions, (0.03, 0.0))[0], (0, 0), atol=1e-15)


def test_light_through_glass_obeys_snell_and_meets_the_tile() -> None:
    glass, positions = Slab(5e-3, 1.5), np.array([(0.03, -0.02, 0.05), (0.0, 0.0, 0.05), (0.2, 0.0, 0.05)])
    sines = direction_cosines(positions, (1e-3, 0.0), glass)
    s = np.hypot(*sines.T)
    air, inside = np.tan(np.arcsin(s)), np.tan(np.arcsin(s / 1.5))
    lateral = positions[:, :2] - (1e-3, 0)
    np.testing.assert_allclose(0.05 * air + 5e-3 * inside, np.hypot(*lateral.T), rtol=1e-9)
    np.testing.assert_allclose(sines / s[:, None], lateral / np.hypot(*lateral.T)[:, None], rtol=1e-9)


def test_sines_may_be_differentiated() -> None:
    positions, glass = np.array([(0.03, -0.02, 0.05), (0.0, 0.0, 0.05)]), Slab(5e-3, 1.5)

    def weighted(positions: jax.Array, tile: jax.Array, xp: object) -> jax.Array:
        return (direction_cosines(positions, tile, glass, xp) * xp.asarray([(1.0, 2.0), (3.0, 4.0)])).sum()

    tile = np.array((1e-3, 2e-3))
    slope = jax.jit(jax.grad(lambda positions, tile: weighted(positions, tile, jnp), 1))
    got = slope(positions.astype(np.float32), tile.astype(np.float32))
    steps = 1e-7 * np.eye(2)
    wanted = [(weighted(positions, tile + d, np) - weighted(positions, tile - d, np)) / 2e-7 for d in steps]
    np.testing.assert_allclose(got, wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grid(3, 3, 4.0), "optics.leds.pitch = 4: lengths are in metres.*4 mm is 0.004"),
        (lambda: Grid(3, 3, 4e-3, "zigzag"), "order = 'zigzag': expected one of row_major"),
        (lambda: Grid(0, 3, 4e-3), "optics.leds.columns = 0"),
        (lambda: Grid(3, 3, 4e-3, "spiral", first=(3, 0)), r"first = \(3, 0\): lies outside"),
        (lambda: Rings((), 4e-3), "counts = "),
        (lambda: Rings((1, 0), 4e-3), "at least one LED in each"),
        (lambda: Dome((1, 6, 6, 6), 30.0), "outermost ring of optics.leds, degrees from the axis = 90"),
        (lambda: Points(()), "no LED is listed"),
        (lambda: Points(((1.0, 90.0),)), r"optics.leds.positions\[0\] = 90"),
        (lambda: Centres((), 32), "no LED is listed"),
        (lambda: Board(Grid(3, 3, 4e-3), 90.88), "optics.leds.height = 90.88: .*90.88 mm is 0.09088"),
        (lambda: Board(Grid(3, 3, 4e-3), 0.09, offset=(float("nan"), 0.0)), "optics.leds.offset = nan"),
        (lambda: Slab(1.0), "optics.glass.thickness = 1: .* 1 mm is 0.001"),
    ],
)
def test_impossible_leds_are_named(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
