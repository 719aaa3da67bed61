"""What calibrations are made of: the search, moves of LEDs, verdicts, evened frames, ways to turn a board."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from medgen_jax.fpm import Board, Centres, Dome, Grid, Optics, Points, Rings, Slab
from medgen_jax.fpm.calibration import evened
from medgen_jax.fpm.calibration.moves import Move, moved, placement, towards
from medgen_jax.fpm.calibration.orders import candidates, misplaced
from medgen_jax.fpm.calibration.reports import Report, Verdict, compared
from medgen_jax.fpm.calibration.search import bottom, compass

SIZE = 32
OPTICS = Optics(0.5e-6, 0.12, 4, 4e-6, Board(Grid(5, 5, 4e-3), 0.1), upsampling=3)
CELL = OPTICS.wavelength * OPTICS.df(SIZE)


def test_the_bottom_of_parabolas() -> None:
    x = np.array([-1.0, 0, 1])
    behind, here, ahead = (x[:, None] - np.array([0.3, -0.8, 4.0])) ** 2
    np.testing.assert_allclose(bottom(behind, here, ahead), [0.3, -0.8, 1.0])
    np.testing.assert_array_equal(bottom(np.array([2.0, 0.0, 1.0]), 1.0, np.array([0.0, 2.0, 1.0])), [1, -1, 0])
    np.testing.assert_array_equal(bottom(np.array([np.inf]), 1.0, np.array([0.0])), [0])


def test_the_search_finds_a_tilted_valley_and_stays_in_its_box() -> None:
    seen = []

    def evaluate(points: np.ndarray) -> np.ndarray:
        seen.append(points)
        x, y = points.T - np.array([[0.7], [-1.1]])
        values = x**2 + 3 * y**2 + x * y + 1
        return np.where(points[:, 0] < -1.5, np.nan, values)

    bounds = np.array([2.0, 2.0])
    found = compass(evaluate, np.zeros(2), bounds, 12)
    np.testing.assert_allclose(found.point, [0.7, -1.1], atol=0.02)
    assert found.value == pytest.approx(1, abs=1e-3)
    points = np.concatenate(seen)
    assert len(points) == 1 + 12 * 5 and (np.abs(points) <= bounds).all()
    # The lowest point may lie at the edge, and a function of nothing leads nowhere.
    assert compass(lambda p: p[:, 0], np.zeros(1), np.ones(1), 12).point[0] == pytest.approx(-1)
    assert compass(lambda p: np.full(len(p), np.nan), np.zeros(1), np.ones(1), 3).point[0] == 0


def test_moves_are_those_of_the_centres() -> None:
    centres = OPTICS.centres(SIZE)
    shifted = moved(OPTICS, Move(x=0.5, y=-0.25), CELL).centres(SIZE)
    np.testing.assert_allclose(shifted - centres, np.broadcast_to([0.5, -0.25], (25, 2)), atol=0.02)
    turned = moved(OPTICS, Move(degrees=90.0), CELL).centres(SIZE)
    np.testing.assert_allclose(turned, np.stack([-centres[:, 1], centres[:, 0]], axis=1), atol=1e-9)
    np.testing.assert_allclose(moved(OPTICS, Move(spread=0.03), CELL).centres(SIZE), 1.03 * centres, rtol=1e-3)
    assert placement(OPTICS) == {"offset": [0, 0], "rotation_degrees": 0, "height": 0.1}
    assert moved(OPTICS, Move(x=1e6), CELL) is None


@pytest.mark.parametrize(
    "leds", [Centres(((0.0, 0.0), (3.0, 1.0), (-2.0, 4.0)), 2 * SIZE, (1.0, -1.0)), Board(Dome((1, 4), 3.0), 0.1)]
)
def test_centres_and_domes_move_as_well(leds: Board | Centres) -> None:
    optics = dataclasses.replace(OPTICS, leds=leds)
    centres, got = optics.centres(SIZE), moved(optics, Move(0.5, -0.25, 0.0, 0.02), CELL).centres(SIZE)
    middle = np.array([0.5, -0.5]) if isinstance(leds, Centres) else 0.0
    np.testing.assert_allclose(got, (centres - middle) * 1.02 + middle + [0.5, -0.25], atol=0.01)


def test_single_leds_go_where_they_are_sent() -> None:
    cells = np.random.default_rng(0).uniform(-1, 1, (25, 2))
    for change in ({}, {"glass": Slab(1e-3)}, {"tile": (2e-3, -1e-3)}):
        optics = dataclasses.replace(OPTICS, **change)
        got = towards(optics, cells, SIZE)
        np.testing.assert_allclose(got.centres(SIZE) - optics.centres(SIZE), cells, atol=1e-6)
        assert isinstance(got.leds.layout, Points) and got.leds.height == 0.1
        assert Optics.from_mapping(got.to_mapping()) == got
    measured = dataclasses.replace(OPTICS, leds=Centres(((0.0, 0.0), (3.0, 1.0)), 2 * SIZE))
    got = towards(measured, np.array([[0.5, 0], [0, -1]]), SIZE)
    assert got.leds.cells == ((1.0, 0.0), (3.0, -1.0))
    assert towards(dataclasses.replace(OPTICS, leds=Board(Dome((1, 4), 3.0), 0.1)), np.zeros((5, 2)), SIZE) is None


def test_a_verdict_needs_more_than_noise_and_more_than_nothing() -> None:
    rng, weights = np.random.default_rng(0), np.ones((2, 40))
    base = 0.01 * np.exp(rng.normal(0, 0.3, 40))
    better = compared(np.stack([base, 0.8 * base * np.exp(rng.normal(0, 0.05, 40))]), weights)
    assert (
        better.fell and better.errors > 10 and better.words().endswith(f"lower by {better.errors:.1f} standard errors")
    )
    same = compared(np.stack([base, base * np.exp(rng.normal(0, 0.2, 40))]), weights)
    assert not same.fell and abs(same.errors) < 3
    tiny = compared(np.stack([base, 0.995 * base]), weights)
    assert not tiny.fell and tiny.errors > 3
    lost = compared(np.stack([base, np.full(40, np.inf)]), weights)
    assert not lost.fell and lost.words() == "what was found leaves the spectrum"
    assert compared(np.stack([base, base]), weights) == Verdict(
        pytest.approx(base.mean()), pytest.approx(base.mean()), 0
    )
    # One LED that gains much against many that lose a little decides nothing.
    one = np.where(np.arange(40) == 3, 0.1, 1.1) * base
    assert not compared(np.stack([base, one]), np.where(np.arange(40) == 3, 100.0, 1.0) * weights).fell


def test_a_report_is_plain_values() -> None:
    report = Report("circles", False, float("nan"), 0.5, {"frames": 3}, "circles: none")
    mapping = {"kept": False, "before": None, "after": 0.5, "frames": 3, "said": "circles: none"}
    assert report.to_mapping() == mapping


@pytest.mark.parametrize("amplitude", [False, True])
def test_evened_frames_are_those_of_equal_leds(amplitude: bool) -> None:
    light = np.array([[[1.0, 4.0]], [[3.0, 9.0]]])
    gains, stray = np.array([2.0, 0.5]), 0.25
    recorded = light * gains[:, None, None] + stray
    recorded = np.sqrt(recorded) if amplitude else recorded
    got, said = evened(recorded, gains, amplitude=amplitude, background=stray)
    np.testing.assert_allclose(got, np.sqrt(light) if amplitude else light, rtol=1e-6)
    assert got.dtype == np.float32 and said == {"amplitude": amplitude, "saturation": None}
    top = recorded[0, 0, 1]
    got, said = evened(recorded, gains, amplitude=amplitude, background=stray, saturation=top)
    np.testing.assert_array_equal(got >= said["saturation"], recorded >= top)
    recorded[1, 0, 1] = np.nextafter(top, 0)
    got, said = evened(recorded, gains, amplitude=amplitude, background=stray, saturation=top)
    np.testing.assert_array_equal(got >= said["saturation"], recorded >= top)
    assert (evened(recorded, gains, amplitude=amplitude, background=100.0)[0] == 0).all()


def test_ways_to_turn_a_board_are_different_ones() -> None:
    ways = candidates(OPTICS)
    assert next(iter(ways)) == "as described" and ways["as described"] is OPTICS and len(ways) == 12
    exchanged = ways["x and y exchanged"].sines
    np.testing.assert_allclose(exchanged, OPTICS.sines[:, ::-1], atol=1e-12)
    # Out of focus, a half turn is another candidate; rows and columns exchanged are the other order.
    assert len(candidates(dataclasses.replace(OPTICS, defocus=1e-5))) == 24
    rings = dataclasses.replace(OPTICS, leds=Board(Rings((1, 6), 4e-3, 10.0), 0.1))
    assert list(candidates(rings)) == ["as described", *list(ways)[1:4]]
    cells = dataclasses.replace(OPTICS, leds=Centres(((0.0, 0.0), (3.0, 1.0), (-1.0, 2.0)), SIZE, (0.5, 0.0)))
    np.testing.assert_allclose(candidates(cells)["x and y exchanged"].sines, cells.sines[:, ::-1], atol=1e-12)


def test_frames_on_the_wrong_side_of_the_rim_are_counted() -> None:
    optics = dataclasses.replace(OPTICS, na=0.06)
    means = np.where(np.hypot(*optics.sines.T) < 0.06, 1.0, 0.01)
    assert misplaced(optics, means) == 0
    assert misplaced(optics, means[::-1]) == 0 and misplaced(optics, np.roll(means, 2)) > 4
