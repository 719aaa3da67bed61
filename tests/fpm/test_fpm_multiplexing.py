"""Several LEDs in a frame: intensities add up, steps share what a frame lacks, and one LED per frame is what it was."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import Centres, Optics, Settings, simulate, simulate_colours, solve, solve_colours
from medgen_jax.fpm import gradient as gradients
from medgen_jax.fpm.forward import Windows
from medgen_jax.fpm.multiplexing import lowest, nearest, patterns, single, straight, together
from medgen_jax.fpm.preparation import axial_lens, first_guess, make_tiles
from medgen_jax.fpm.problem import Guess, correction, light_of, views
from medgen_jax.fpm.pupils import known_pupil, window_size
from medgen_jax.fpm.sequential import epry, one_pass

SIZE = 32
#: 5 x 5 LEDs on whole cells, pupils of 9.6 cells, 4 cells apart; LED 12 is in the middle.
CELLS = Centres(tuple((4 * x, 4 * y) for y in range(-2, 3) for x in range(-2, 3)), SIZE)
OPTICS = Optics(0.5e-6, 0.15, 4, 4e-6, CELLS, upsampling=2)
#: Each LED of the rim beside one on the other side, those within alone.
PAIRED = (
    *((led, 24 - led) for led in (0, 1, 2, 3, 4, 5, 9, 10)),
    *((led,) for led in (6, 7, 8, 11, 12, 13, 16, 17, 18)),
)
QUICK = dict(passes=8, gains=False, pupil_step=0.0)


def specimen(seed: int = 0) -> np.ndarray:
    """A complex object without symmetry or fine detail."""
    rng, side = np.random.default_rng(seed), 2 * SIZE
    low = np.exp(-((np.hypot(*np.meshgrid(*[np.fft.fftfreq(side)] * 2)) / 0.1) ** 2))
    texture = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) * low).real for _ in range(2)]
    amplitude, phase = (t / np.abs(t).max() for t in texture)
    return (0.75 + 0.25 * amplitude) * np.exp(1j * phase)


def error(found: np.ndarray, truth: np.ndarray) -> float:
    """Relative error after the best complex factor."""
    factor = np.vdot(found, truth) / np.vdot(found, found)
    return float(np.linalg.norm(factor * found - truth) / np.linalg.norm(truth))


@pytest.fixture(scope="module")
def alone() -> np.ndarray:
    """Frames of one LED each."""
    return np.asarray(simulate(OPTICS, specimen()))


def test_frames_are_the_sums_of_their_leds(alone: np.ndarray) -> None:
    stack = np.asarray(simulate(OPTICS, specimen(), frames=PAIRED))
    wanted = [sum(alone[led] for led in leds) for leds in PAIRED]
    np.testing.assert_allclose(stack, wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(patterns([(1, 2), (0,)], 3), [[0, 1, 1], [1, 0, 0]])


@pytest.mark.parametrize("method", ["epry", "gradient"])
def test_one_led_per_frame_is_the_plain_path(alone: np.ndarray, method: str) -> None:
    options = {**QUICK, "pupil_step": 0.1, "passes": 3, "gains": True, "method": method}
    plain, listed = solve(alone, OPTICS, **options), solve(alone, OPTICS, frames=single(25), **options)
    for name in ("obj", "pupil", "gains", "curve"):
        np.testing.assert_allclose(getattr(listed, name), getattr(plain, name), atol=2e-5, err_msg=name)


def test_frames_may_come_in_any_order(alone: np.ndarray) -> None:
    # LEDs of one distance from the axis stay in their order, in which they are visited.
    order = np.argsort(-np.round(np.hypot(*OPTICS.sines.T), 9), kind="stable")
    plain, mixed = solve(alone, OPTICS, **QUICK), solve(alone[order], OPTICS, frames=order[:, None].tolist(), **QUICK)
    np.testing.assert_allclose(mixed.obj, plain.obj, atol=2e-5)


@pytest.mark.parametrize("method", ["epry", "rpie", "gradient"])
def test_the_object_comes_back_from_fewer_frames(method: str) -> None:
    stack = np.asarray(simulate(OPTICS, specimen(), frames=PAIRED))
    got = solve(stack, OPTICS, frames=PAIRED, method=method, **{**QUICK, "passes": 40, "decay": 1.0})
    assert got.gains.shape == got.heldout.shape == (17,) and got.curve[-1] < 0.05 * got.curve[0]
    believed = solve(stack[8:], dataclasses.replace(OPTICS, leds=_only(PAIRED[8:])), **{**QUICK, "passes": 40})
    assert error(got.obj, specimen()) < 0.5 * error(believed.obj, specimen())


def _only(frames: tuple[tuple[int, ...], ...]) -> Centres:
    """The first LED of each frame."""
    return dataclasses.replace(CELLS, cells=tuple(CELLS.cells[leds[0]] for leds in frames))


def guess_and_tile() -> tuple[Guess, object]:
    rng, window = np.random.default_rng(3), window_size(OPTICS.radius(SIZE), SIZE)
    spectrum = 0.02 * (rng.normal(size=(64, 64, 2)) @ [1, 1j])
    values = 1 + 0.1 * (rng.normal(size=(window, window, 2)) @ [1, 1j])
    guess = Guess(jnp.asarray(spectrum, jnp.complex64), jnp.asarray(values, jnp.complex64))
    stack = np.asarray(simulate(OPTICS, specimen(), frames=PAIRED))
    tiles, _ = make_tiles(stack[None], (OPTICS,), Settings(), False, 0.0, None, PAIRED)
    return guess, jax.tree.map(lambda values: values[0], tiles)


def test_all_fields_of_a_frame_get_the_same_factor() -> None:
    guess, tile = guess_and_tile()
    seen = views(guess, tile, known_pupil(OPTICS, SIZE), 0)
    size, amplitude = jnp.sqrt(light_of(seen)), jnp.full((SIZE, SIZE), 0.7)
    moved = [view.field + correction(view.field, amplitude, jnp.ones((SIZE, SIZE)), size) for view in seen]
    for view, after in zip(seen, moved, strict=True):
        np.testing.assert_allclose(after, view.field * 0.7 / size, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(sum(np.abs(after) ** 2 for after in moved), 0.49, rtol=1e-4)


def test_a_sequential_step_goes_down_the_gradient_of_its_frame() -> None:
    """One frame of two LEDs: EPRY's step is the gradient's, over the pupils that overlap and the light of both."""
    guess, tile = guess_and_tile()
    within, frame = known_pupil(OPTICS, SIZE), jnp.array([0])
    one = tile._replace(order=frame, together=tile.together._replace(crowd=jnp.full(17, 2.0)))
    moved, _, _ = one_pass(
        Guess(guess.spectrum, jnp.ones_like(guess.values)), None, one, jnp.ones(17), within,
        rule=epry, damping=0.0, step=0.5, pupil_step=0.0,
    )  # fmt: skip
    flat = Guess(guess.spectrum, jnp.ones_like(guess.values))
    down = jax.grad(lambda g: gradients.batch_loss(g, one, frame, jnp.ones(1), jnp.ones(17), within, True)[0])(flat)
    np.testing.assert_allclose(moved.spectrum - flat.spectrum, -0.25 * np.conj(down.spectrum), atol=2e-6)


def test_places_that_fill_up_a_frame_change_nothing(alone: np.ndarray) -> None:
    """The same frames, once beside a frame of three LEDs that is not solved for."""
    guess, tile = guess_and_tile()
    wider = tile.together._replace(
        leds=jnp.concatenate([tile.together.leds, tile.together.leds[:, :1]], axis=1),
        on=jnp.concatenate([tile.together.on, jnp.zeros((17, 1))], axis=1),
    )
    steps = dict(rule=epry, damping=0.0, step=0.5, pupil_step=0.3)
    runs = [
        one_pass(guess, None, one, jnp.ones(17), known_pupil(OPTICS, SIZE), **steps)
        for one in (tile, tile._replace(together=wider))
    ]
    for narrow, wide in zip(jax.tree.leaves(runs[0]), jax.tree.leaves(runs[1]), strict=True):
        np.testing.assert_allclose(wide, narrow, rtol=1e-4, atol=1e-5)


def test_what_arrays_say_of_frames() -> None:
    apertures = np.array([0.3, 0.1, 0.0, 0.2])
    frames = ((0, 2), (1,), (2,), (3, 1, 0))
    assert nearest(frames, apertures) == 2 and lowest(frames, apertures).tolist() == [0, 0.1, 0, 0.1]
    assert straight(frames, apertures < 0.15).tolist() == [1, 1, 1, 1]
    starts = np.array([[10, 10], [10, 12], [40, 40], [12, 10]])
    found = together(frames, Windows(starts, np.zeros((4, 2))), 9, 64, 0)
    assert found.leds.tolist() == [[0, 2, 0], [1, 1, 1], [2, 2, 2], [3, 1, 0]]
    assert found.on.sum(axis=1).tolist() == [2, 1, 1, 3] and found.crowd.tolist() == [1, 1, 1, 3]
    assert found.bright == 1


def test_brightness_is_that_of_one_led() -> None:
    """All light through nothing: the object is 1, however many LEDs of the bright field are lit at once."""
    frames = ((12, 7, 17), *((led,) for led in range(25) if led not in (12, 7, 17)))
    stack = simulate(OPTICS, np.ones((64, 64)), frames=frames)
    got = solve(stack, OPTICS, frames=frames, **QUICK)
    np.testing.assert_allclose(np.abs(got.obj), 1, atol=2e-3)
    tiles, _ = make_tiles(np.asarray(stack)[None, :1], (OPTICS,), Settings(), False, 0.0, None, frames[:1])
    start = first_guess(jax.tree.map(lambda values: values[0], tiles), axial_lens(OPTICS), (SIZE, 2 * SIZE), True)
    assert float(jnp.abs(start.spectrum[SIZE, SIZE])) == pytest.approx(1, rel=1e-4)


def test_colours_are_solved_with_their_own_optics() -> None:
    optics = [dataclasses.replace(OPTICS, wavelength=wavelength) for wavelength in (0.5e-6, 0.45e-6)]
    stacks = simulate_colours(optics, [specimen(0), specimen(1)])
    red, blue = solve_colours(stacks, optics, **QUICK)
    np.testing.assert_array_equal(red.obj, solve(stacks[0], optics[0], **QUICK).obj)
    assert error(blue.obj, specimen(1)) < 0.1
    with pytest.raises(UserError, match="2 stacks and 1 optics"):
        solve_colours(stacks, optics[:1])
    with pytest.raises(UserError, match=r"upsampling \[2, 3\]: expected one; set optics.upsampling to 3 in all"):
        solve_colours(stacks, [optics[0], dataclasses.replace(optics[1], upsampling=3)])


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        ((), {}, "no frame is listed; leave them out for one LED after the other"),
        (((0,), ()), {}, r"frames\[1\]: no LED is lit"),
        (((0, 0),), {}, r"frames\[0\] = \[0, 0\]: an LED is listed twice"),
        (((0, 25),), {}, r"frames\[0\]: there is no LED 25; optics.leds describe 0 to 24"),
        (((0, 1.5),), {}, r"frames\[0\]: there is no LED 1.5"),
        (((0,), (1,)), {}, "there are 25 frames, but frames list the LEDs of 2"),
        (single(25), {"method": "admm"}, "method = 'admm': needs one LED per frame; take epry or gradient"),
    ],
)
def test_lists_that_make_no_sense_are_named(alone: np.ndarray, frames: tuple, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        solve(alone, OPTICS, frames=frames, **options)


def test_a_dark_start_is_told_by_its_frame(alone: np.ndarray) -> None:
    dark = np.where(np.arange(25)[:, None, None] == 12, 0, alone)
    with pytest.raises(UserError, match=r"stack: frame 12 \(counted from 0\), nearest to the axis, is dark"):
        solve(dark, OPTICS, frames=single(25))
    with pytest.raises(UserError, match="patterns and frames both say which LEDs are lit"):
        simulate(OPTICS, specimen(), frames=single(25), patterns=np.eye(25))
