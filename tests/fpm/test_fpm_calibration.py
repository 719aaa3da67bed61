"""Calibrations of simulated stacks whose truth is known: what is off is found, what is not is left alone."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import pytest
import scipy.io

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import Board, Grid, Optics, simulate, solve
from medgen_jax.fpm.calibration import (
    STEPS,
    Report,
    calibrate,
    check_order,
    fit_circles,
    fit_leds,
    fit_position,
    measure_brightness,
    search_defocus,
    trials,
)
from medgen_jax.fpm.calibration.moves import Move, moved, towards
from medgen_jax.fpm.calibration.orders import candidates
from medgen_jax.fpm.calibration.steps import _within_sampling
from medgen_jax.reconstruction.description import optics_of, read_description

SIZE = 32
#: 25 LEDs, pupils of 7.7 cells, 2.6 cells apart.
OPTICS = Optics(0.5e-6, 0.12, 4, 4e-6, Board(Grid(5, 5, 4e-3), 0.1), upsampling=3)
CELL = OPTICS.wavelength * OPTICS.df(SIZE)
Step = Callable[..., tuple[object, Report]]


def specimen(seed: int = 0) -> np.ndarray:
    """Texture of amplitude and phase, (96, 96), without symmetry."""
    rng, side = np.random.default_rng(seed), SIZE * OPTICS.factor
    smooth = np.exp(-((np.hypot(*np.meshgrid(*[np.fft.fftfreq(side)] * 2)) / 0.2) ** 2))
    amplitude, phase = (np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) * smooth).real for _ in range(2))
    return (0.7 + 0.3 * amplitude / np.abs(amplitude).max()) * np.exp(1j * phase / np.abs(phase).max())


def frames(optics: Optics) -> np.ndarray:
    return np.asarray(simulate(optics, specimen()))


def uneven() -> tuple[np.ndarray, np.ndarray]:
    """Brightness of LEDs, geometric mean 1 over those whose light passes whole, and which these are."""
    gains = np.exp(np.random.default_rng(1).normal(0, 0.3, 25))
    whole = np.hypot(*OPTICS.sines.T) <= 0.9 * OPTICS.na
    return np.where(whole, gains / np.exp(np.log(gains[whole]).mean()), 1.0), whole


@pytest.fixture(scope="module")
def stack() -> np.ndarray:
    """Frames of the nominal microscope: nothing to be found."""
    return frames(OPTICS)


@pytest.fixture(scope="module")
def noise(stack: np.ndarray) -> np.ndarray:
    """Frames of nothing but shot noise."""
    return np.random.default_rng(1).poisson(100, stack.shape).astype(np.float32)


@pytest.fixture(scope="module")
def misplaced() -> tuple[Optics, np.ndarray]:
    """A board that is shifted, turned by 2 degrees and 3 % too near, and its frames."""
    optics = moved(OPTICS, Move(1.3, -0.6, 2.0, 0.03), CELL)
    return optics, frames(optics)


def test_the_board_is_found(misplaced: tuple[Optics, np.ndarray]) -> None:
    truth, shown = misplaced
    found, report = fit_position(shown, OPTICS)
    assert report.kept and report.after < 0.03 * report.before
    move = report.values["move"]
    assert move["x"] == pytest.approx(1.3, abs=0.15) and move["y"] == pytest.approx(-0.6, abs=0.15)
    assert move["degrees"] == pytest.approx(2.0, abs=0.4)
    assert found.leds.height == pytest.approx(truth.leds.height, rel=0.007)
    np.testing.assert_allclose(found.centres(SIZE), truth.centres(SIZE), atol=0.2)
    assert "turned by +" in report.said and report.said.endswith("in use")
    json.dumps(report.to_mapping(), allow_nan=False)


def test_circles_show_shift_and_rotation(misplaced: tuple[Optics, np.ndarray]) -> None:
    found, report = fit_circles(misplaced[1], OPTICS)
    assert report.kept and report.values["response"] > 2 * report.values["needed"]
    assert report.values["x"] == pytest.approx(1.3, abs=0.5) and report.values["y"] == pytest.approx(-0.6, abs=0.5)
    assert report.values["degrees"] == pytest.approx(2.0, abs=1.0)
    assert found.leds.rotation_degrees == report.values["degrees"] and found.leds.height == OPTICS.leds.height


def test_the_defocus_is_found() -> None:
    truth = dataclasses.replace(OPTICS, defocus=-32e-6)
    found, report = search_defocus(frames(truth), OPTICS)
    assert report.kept and found.defocus == pytest.approx(-32e-6, abs=0.5e-6)
    # What lies beyond the bound is not found, and its end is not taken for it.
    found, report = search_defocus(frames(truth), OPTICS, bound=10e-6)
    assert not report.kept and found == OPTICS and "at the end of what was searched" in report.said


def test_the_brightness_of_leds_is_found(stack: np.ndarray) -> None:
    gains, whole = uneven()
    found, report = measure_brightness(stack * gains[:, None, None], OPTICS)
    assert report.kept and report.values["leds"] == whole.sum() == 21
    np.testing.assert_allclose(found[whole], gains[whole], rtol=0.02)
    np.testing.assert_array_equal(found[~whole], 1)
    assert np.log(found).mean() == pytest.approx(0, abs=1e-5)
    wide = np.where(np.arange(25) == 7, 50.0, 1.0)
    _, report = measure_brightness(stack * wide[:, None, None], OPTICS)
    assert report.values["clipped"] == 1 and max(report.values["gains"]) == pytest.approx(4, rel=0.01)


def test_single_leds_are_found_within_their_bound() -> None:
    off = np.clip(np.random.default_rng(1).normal(0, 0.4, (25, 2)), -0.9, 0.9)
    off -= off.mean(axis=0)
    shown = frames(towards(OPTICS, off, SIZE))
    found, report = fit_leds(shown, OPTICS)
    cells = np.array(report.values["cells"])
    assert report.kept and np.sqrt(np.mean((cells - off) ** 2)) < 0.4 * np.sqrt(np.mean(off**2))
    np.testing.assert_allclose(found.centres(SIZE) - OPTICS.centres(SIZE), cells, atol=1e-3)
    _, report = fit_leds(shown, OPTICS, bound=0.2)
    assert np.abs(report.values["cells"]).max() <= 0.2 and " at the bound; " in report.said


@pytest.mark.parametrize("name", ["mirrored left to right", "x and y exchanged", "order serpentine"])
def test_a_wrong_order_is_named(name: str) -> None:
    truth = candidates(OPTICS)[name]
    found, report = check_order(frames(truth), OPTICS)
    assert report.kept and report.values["best"] == name and report.values["decided"]
    np.testing.assert_allclose(found.sines, truth.sines, atol=1e-9)
    assert "the conjugate object" in report.said


def test_a_right_order_is_confirmed_and_a_blank_one_cannot_be_decided(stack: np.ndarray) -> None:
    found, report = check_order(stack, OPTICS)
    assert found == OPTICS and report.values["decided"] and "order: as described, the next best is" in report.said
    blank = np.asarray(simulate(OPTICS, np.ones((96, 96))))
    found, report = check_order(blank, OPTICS)
    assert found == OPTICS and not report.values["decided"] and "cannot decide between" in report.said


@pytest.mark.parametrize("step", [fit_circles, fit_position, fit_leds, search_defocus, check_order, measure_brightness])
def test_nothing_is_changed_without_need(stack: np.ndarray, noise: np.ndarray, step: Step) -> None:
    for shown in (stack, noise):
        found, report = step(shown, OPTICS)
        unchanged = np.ones(25) if step is measure_brightness else OPTICS
        assert not report.kept and np.array_equal(found, unchanged)
        assert report.said.split("; ")[-1] in (
            "the nominal position stays", "all stay where they were", "the nominal defocus stays", "all count alike",
            "in focus, a board turned by 180 degrees shows the same frames of the conjugate object",
        )  # fmt: skip


def test_no_circles_in_noise(noise: np.ndarray) -> None:
    _, report = fit_circles(noise, OPTICS)
    assert report.values["response"] < report.values["needed"] and "no circles are seen" in report.said
    assert report.to_mapping()["before"] is None


def test_candidates_compile_nothing(stack: np.ndarray) -> None:
    ready = trials.prepare(stack, OPTICS)
    first = trials.residuals(ready, [OPTICS])
    compiled: list[str] = []

    def listen(event: str, _: float, **__: object) -> None:
        compiled.extend([event] if "backend_compile" in event else [])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        others = [moved(OPTICS, Move(0.3 * i, 0.1, i, 0.01 * i), CELL) for i in range(3)]
        other = dataclasses.replace(OPTICS, defocus=1e-5)
        values = trials.residuals(ready, [*others, other, None])
        trials.heldout(ready, [other])
        assert not compiled
        jax.jit(lambda x: x - 0.123)(1.0)
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert np.isfinite(values[:4]).all() and values[4] == np.inf and (values[:4] > 2 * first).all()


def test_steps_follow_each_other() -> None:
    said: list[str] = []
    gains, whole = uneven()
    shown = frames(dataclasses.replace(OPTICS, defocus=-32e-6)) * gains[:, None, None]
    got = calibrate(shown, OPTICS, ("brightness", "defocus"), told=said.append)
    assert [report.name for report in got.reports] == ["defocus", "brightness"]
    assert said == [report.said for report in got.reports]
    np.testing.assert_allclose(got.gains[whole], gains[whole], rtol=0.02)
    assert got.optics.defocus == pytest.approx(-32e-6, abs=0.5e-6) and got.optics.leds == OPTICS.leds


def test_what_a_stated_upsampling_cannot_carry_is_not_used(stack: np.ndarray) -> None:
    tight = dataclasses.replace(OPTICS, upsampling=OPTICS.upsampling_required)
    wide = moved(tight, Move(spread=3.0), CELL)
    report = Report("position", True, 0.2, 0.1, {}, "position: in use")
    assert _within_sampling(tight, wide, report)[0] == tight
    kept, said = _within_sampling(tight, wide, report)[1][1::4]
    assert not kept and "not used after all: upsampling = 1 is too little" in said
    assert _within_sampling(tight, tight, report) == (tight, report)


def test_what_cannot_be_calibrated_is_named(stack: np.ndarray) -> None:
    with pytest.raises(UserError, match=f"'positon' is unknown; known are {', '.join(STEPS)}"):
        calibrate(stack, OPTICS, ("positon",))
    with pytest.raises(UserError, match="there are 24 frames, but optics.leds describe 25 LEDs"):
        fit_position(stack[:24], OPTICS)
    with pytest.raises(UserError, match="all frames are dark"):
        search_defocus(0 * stack, OPTICS)
    with pytest.raises(UserError, match="bound = 0: must lie between 0 and 100 cells"):
        fit_leds(stack, OPTICS, bound=0)
    with pytest.raises(UserError, match="bound = 1: a defocus is sought within at most"):
        search_defocus(stack, OPTICS, bound=1)


@pytest.mark.slow
@pytest.mark.ci_slow
def test_a_real_stack_is_no_worse_afterwards(shared: pathlib.Path) -> None:
    path = shared / "data" / "fpm" / "bloodsmear_red.mat"
    if not path.is_file():
        pytest.skip(f"needs {path.name} in the shared data folder")
    optics = optics_of(read_description("bloodsmear_red"), path)
    shown = np.moveaxis(scipy.io.loadmat(path)["imlow_HDR"], 2, 0)[:, 40:88, 40:88]
    got = calibrate(shown, optics, ("defocus", "position"), amplitude=True)
    before, after = (solve(shown, o, amplitude=True, held_out=0.1).residual_heldout for o in (optics, got.optics))
    assert after <= 1.01 * before, [report.said for report in got.reports]
