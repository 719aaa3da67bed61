"""Solvers: what was simulated comes back, every loss falls, and what cannot be solved is named."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import Board, Centres, Grid, Optics, Settings, Slab, Solution, simulate, solve
from medgen_jax.fpm.backends import TILES, over_tiles, placed
from medgen_jax.fpm.forward import locate, object_of, spectrum_of
from medgen_jax.fpm.gradient import batch_loss, one_pass, optimiser
from medgen_jax.fpm.problem import Guess, Tile, correction, direction
from medgen_jax.fpm.pupils import known_pupil, support, window_size
from medgen_jax.fpm.solve import METHODS

SIZE, STEP = 32, 4
#: 25 LEDs on whole cells, pupils of 9.6 cells, 4 cells apart; the object is twice as fine as the frames.
CELLS = Centres(tuple((STEP * x, STEP * y) for y in range(-2, 3) for x in range(-2, 3)), SIZE)
OPTICS = Optics(0.5e-6, 0.15, 4, 4e-6, CELLS, upsampling=2)
QUICK = dict(passes=8, gains=False, pupil_step=0.0)


def specimen(size: int = SIZE, seed: int = 0, optics: Optics = OPTICS) -> np.ndarray:
    """A complex object without symmetry that holds only what the union of the pupils shows."""
    rng, side = np.random.default_rng(seed), size * optics.factor
    smooth = np.exp(-((np.hypot(*np.meshgrid(*[np.fft.fftfreq(side)] * 2)) / 0.12) ** 2))
    texture = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) * smooth).real for _ in range(2)]
    amplitude, phase = (t / np.abs(t).max() for t in texture)
    obj = (0.75 + 0.25 * amplitude) * np.exp(1j * phase)
    spectrum, seen = np.array(spectrum_of(jnp.asarray(obj))), np.zeros((side, side), bool)
    cells = np.arange(side) - side // 2
    for x, y in optics.centres(size):
        seen |= (cells[:, None] - y) ** 2 + (cells - x) ** 2 <= optics.radius(size) ** 2
    return np.asarray(object_of(jnp.asarray(np.where(seen, spectrum, 0))))


def error(found: np.ndarray, truth: np.ndarray) -> float:
    """Relative error after the best complex factor."""
    factor = np.vdot(found, truth) / np.vdot(found, found)
    return float(np.linalg.norm(factor * found - truth) / np.linalg.norm(truth))


@pytest.fixture(scope="module")
def stack() -> np.ndarray:
    """Frames of the specimen."""
    return np.asarray(simulate(OPTICS, specimen()))


def test_a_known_pupil_gives_the_object_back(stack: np.ndarray) -> None:
    got = solve(stack, OPTICS, passes=60, decay=1.0, gains=False, pupil_step=0.0)
    assert isinstance(got, Solution) and got.obj.shape == (64, 64) and got.passes == 60
    assert error(got.obj, specimen()) < 1e-3
    assert got.residual < 1e-6 and got.residual_best_gain <= got.residual * 1.01 and np.isnan(got.residual_heldout)
    # The phase itself, not its conjugate or mirror image.
    assert error(np.conj(got.obj), specimen()) > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_every_residual_falls(stack: np.ndarray, method: str) -> None:
    got = solve(stack, OPTICS, method=method, **{**QUICK, "pupil_step": 0.1})
    assert np.isfinite(got.curve).all() and got.curve[-1] < 0.3 * got.curve[0]
    start = error(np.kron(np.sqrt(stack[12]), np.ones((2, 2))), specimen())
    assert error(got.obj, specimen()) < 0.6 * start


def test_momentum_changes_the_way_not_the_place(stack: np.ndarray) -> None:
    got = solve(stack, OPTICS, momentum_every=9, momentum=0.3, **QUICK)
    assert got.curve[-1] < 0.3 * got.curve[0] and error(got.obj, specimen()) < 0.1


def test_brightness_of_leds_comes_back(stack: np.ndarray) -> None:
    gains = np.exp(np.random.default_rng(1).normal(0, 0.3, 25))
    gains /= np.exp(np.log(gains).mean())
    got = solve(stack * gains[:, None, None], OPTICS, passes=40, decay=0.95, pupil_step=0.0)
    plain = solve(stack * gains[:, None, None], OPTICS, passes=40, decay=0.95, pupil_step=0.0, gains=False)
    np.testing.assert_allclose(got.gains, gains, rtol=0.05)
    assert np.exp(np.log(got.gains).mean()) == pytest.approx(1, rel=1e-3)
    assert error(got.obj, specimen()) < 0.5 * error(plain.obj, specimen())
    np.testing.assert_array_equal(plain.gains, 1)


def test_an_unknown_pupil_is_found_beside_the_object() -> None:
    weak = specimen()
    obj = np.abs(weak) ** 2 * np.exp(3j * np.angle(weak))  # a pupil shows where the object scatters
    stack = np.asarray(simulate(OPTICS, obj, zernike={6: 0.6}))
    options = dict(passes=40, decay=0.97, gains=False)
    joint, blind = (solve(stack, OPTICS, pupil_step=step, **options) for step in (2.0, 0.0))
    assert joint.residual_best_gain < 0.3 * blind.residual_best_gain
    truth = np.asarray(known_pupil(OPTICS, SIZE, None, {6: 0.6})(jnp.zeros(2)))
    inside = np.asarray(support(len(truth), OPTICS.radius(SIZE), jnp.zeros(2))) > 0
    assert error(joint.pupil[inside], truth[inside]) < 0.7 * error(np.ones(inside.sum()), truth[inside])


def test_counts_amplitudes_and_intensities_are_one_stack(stack: np.ndarray) -> None:
    whole = np.round(stack * 3e4).astype(np.uint16)
    of_counts, of_floats = solve(whole, OPTICS, **QUICK), solve(whole.astype(np.float64), OPTICS, **QUICK)
    np.testing.assert_allclose(of_counts.obj, of_floats.obj, atol=1e-5)
    of_amplitudes = solve(np.sqrt(whole.astype(np.float64)), OPTICS, amplitude=True, **QUICK)
    np.testing.assert_allclose(of_amplitudes.obj, of_counts.obj, atol=1e-3)


def test_stray_light_that_is_known_is_taken_off(stack: np.ndarray) -> None:
    stray = np.linspace(0, 0.1, 25)
    lit = stack + stray[:, None, None]
    off, left = solve(lit, OPTICS, background=stray, **QUICK), solve(lit, OPTICS, **QUICK)
    np.testing.assert_allclose(off.obj, solve(stack, OPTICS, **QUICK).obj, atol=2e-3)
    assert error(left.obj, specimen()) > 1.5 * error(off.obj, specimen())


def test_saturated_pixels_do_not_count(stack: np.ndarray) -> None:
    ceiling = float(np.quantile(stack, 0.95))
    clipped = np.minimum(stack, ceiling)
    masked, believed = solve(clipped, OPTICS, saturation=ceiling, **QUICK), solve(clipped, OPTICS, **QUICK)
    assert error(masked.obj, specimen()) < 0.7 * error(believed.obj, specimen())
    size = np.asarray(correction(jnp.full((2, 2), 2j), jnp.ones((2, 2)), jnp.array([[1.0, 0], [0, 1]])))
    np.testing.assert_allclose(size, [[-1j, 0], [0, -1j]])


def test_the_direction_of_nothing_is_no_division_by_zero() -> None:
    np.testing.assert_allclose(direction(jnp.array([0, 3j, -2, 1e-30])), [1, 1j, -1, 1], atol=1e-6)


def test_leds_held_out_judge_and_stop(stack: np.ndarray) -> None:
    good = solve(stack, OPTICS, held_out=0.1, passes=10, gains=False, pupil_step=0.0)
    assert good.heldout.sum() == 3 and not good.heldout[12]
    assert good.curve_heldout[-1] < 0.3 * good.curve_heldout[0]
    assert good.residual_heldout == pytest.approx(np.nanmin(good.curve_heldout), rel=0.05)
    # Steps this long overshoot: the passes end early, and the best of them is what comes back.
    bad = solve(stack, OPTICS, held_out=0.1, passes=10, gains=False, step=2.4, pupil_step=0.0, decay=1.0)
    assert "diverged" in bad.ended and bad.passes < 10 and np.isnan(bad.curve_heldout[-1])
    assert bad.residual_heldout < 0.7 * bad.curve_heldout[bad.passes - 1]


def test_the_first_step_of_the_gradient_is_its_formula(stack: np.ndarray) -> None:
    rng, pupil = np.random.default_rng(3), known_pupil(OPTICS, SIZE)
    window, high = window_size(OPTICS.radius(SIZE), SIZE), SIZE * 2
    noise = rng.normal(size=(high, high, 2)) @ [1, 1j] * 0.02
    values = 1 + 0.1 * (rng.normal(size=(window, window, 2)) @ [1, 1j])
    guess = Guess(jnp.asarray(noise, jnp.complex64), jnp.asarray(values, jnp.complex64))
    windows, leds = locate(OPTICS, SIZE), len(stack)
    order = jnp.arange(leds, dtype=jnp.int32)
    ones = jnp.ones(leds)
    tile = Tile(jnp.asarray(stack), 0 * ones, 1.0, jnp.inf, jax.tree.map(jnp.asarray, windows), order, ones, ones > 0)
    ascent, turn = np.zeros((high, high), complex), np.zeros((window, window), complex)
    power, light = np.zeros((high, high)), np.zeros((window, window))
    known = np.asarray(pupil(jnp.zeros(2)))
    for frame, (row, column) in zip(stack, windows.start, strict=True):
        place = np.s_[row : row + window, column : column + window]
        field = np.fft.ifft2(values * known * noise[place], s=(SIZE, SIZE), norm="forward")
        missing = field - np.sqrt(frame) * field / np.abs(field)
        lack = np.fft.fft2(missing, norm="forward")[:window, :window]
        ascent[place] += np.conj(values * known) * lack
        power[place] += np.abs(values * known) ** 2
        turn += np.conj(known * noise[place]) * lack
        light += np.abs(known * noise[place]) ** 2
    memory = optimiser(0.0).init(guess)
    run = jax.jit(lambda g, m: one_pass(g, m, tile, ones, pupil, batch=leds, momentum=0.0, step=0.7, pupil_step=0.3))
    moved, _, sums = run(guess, memory)
    np.testing.assert_allclose(moved.spectrum - guess.spectrum, -0.7 * ascent / power.max(), atol=2e-6)
    np.testing.assert_allclose(moved.values - guess.values, -0.3 * turn / light.max(), atol=2e-4)
    loss = jax.jit(lambda g: batch_loss(g, tile, order, ones, ones, pupil, True)[0])
    before, after = loss(guess), loss(moved)
    assert after < before and float(before) == pytest.approx(float(sums.error.sum()) / 2 / SIZE**2, rel=1e-4)


def test_tiles_are_solved_as_if_alone(stack: np.ndarray) -> None:
    other = dataclasses.replace(OPTICS, leds=dataclasses.replace(CELLS, shift=(0.3, -0.2)))
    stacks = np.stack([stack, np.asarray(simulate(other, specimen(seed=4)))])
    both = solve(stacks, [OPTICS, other], **QUICK)
    alone = solve(stacks[1], other, **QUICK)
    assert both.obj.shape == (2, 64, 64) and len(both.ended) == 2 and both.gains.shape == (2, 25)
    np.testing.assert_allclose(both.obj[1], alone.obj, atol=1e-5)


def test_tiles_are_a_batch_or_a_loop_by_backend() -> None:
    values = jnp.arange(6.0).reshape(3, 2)
    assert TILES == {"cpu": "map", "gpu": "vmap", "tpu": "vmap"}
    for backend in ("cpu", "gpu", "unheard of"):
        np.testing.assert_array_equal(over_tiles(lambda v: v.sum(), values, backend), [1, 5, 9])
    loop, batch = (str(jax.make_jaxpr(lambda v, b=b: over_tiles(jnp.sin, v, b))(values)) for b in ("cpu", "gpu"))
    assert "scan" in loop and "scan" not in batch


def test_devices_share_tiles_and_tell_each_other_nothing() -> None:
    count = jax.local_device_count()
    values = np.arange(4.0 * count).reshape(2 * count, 2)
    cut = placed(values)
    assert {shard.data.shape for shard in cut.addressable_shards} == {(2, 2)}
    for backend in ("cpu", "gpu"):
        program = jax.jit(functools.partial(over_tiles, lambda v: jnp.sum(v**2), backend=backend)).lower(cut).compile()
        np.testing.assert_array_equal(program(cut), (values**2).sum(1))
        assert not re.search("all-reduce|all-gather|all-to-all|collective-permute", program.as_text())


def test_a_tile_for_each_device_is_the_tile_alone(stack: np.ndarray) -> None:
    cells = (dataclasses.replace(CELLS, shift=(0.1 * number, -0.2)) for number in range(jax.local_device_count()))
    others = [dataclasses.replace(OPTICS, leds=one) for one in cells]
    stacks = np.stack([stack] * len(others))
    shared = solve(stacks, others, **QUICK)
    for number in (0, len(others) - 1):
        alone = solve(stacks[number], others[number], **QUICK)
        np.testing.assert_allclose(shared.obj[number], alone.obj, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda s: s[:0], {}, "there are no frames, but optics.leds describe 25 LEDs"),
        (lambda s: s[:24], {}, "there are 24 frames, but optics.leds describe 25 LEDs"),
        (lambda s: 0 * s, {}, "all frames are dark; check the file"),
        (lambda s: np.where(np.arange(25)[:, None, None] == 7, np.nan, s), {}, r"frame 7 .* not finite"),
        (lambda s: np.where(np.arange(25)[:, None, None] == 12, 0, s), {}, "LED 12 .* nearest to the axis, is dark"),
        (lambda s: s - 1, {}, "counts cannot be negative"),
        (lambda s: s.astype(np.int32), {}, "stack of int32: expected uint8, uint16 or floats"),
        (lambda s: s[:, :20], {}, r"stack of shape \(25, 20, 32\): expected square frames"),
        (lambda s: s + 1, {"saturation": 0.5}, "every pixel is at or above saturation = 0.5"),
        (lambda s: s, {"background": np.ones(3)}, r"background of shape \(3,\): expected \(\) or \(25,\)"),
        (lambda s: s, {"background": 1e6}, "LED 12 .* is dark; check the order of the LEDs and the background"),
        (lambda s: s, {"method": "magic"}, "method = 'magic': expected one of projection, epry"),
        (lambda s: s, {"passes": 0}, "passes = 0: must lie between 1 and 10000"),
        (lambda s: s, {"pases": 3}, "setting 'pases' is unknown; known are method, passes"),
    ],
)
def test_what_cannot_be_solved_is_named(stack: np.ndarray, change: object, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        solve(change(stack), OPTICS, **options)


def test_tiles_and_optics_must_belong_together(stack: np.ndarray) -> None:
    with pytest.raises(UserError, match="1 tiles and 2 optics"):
        solve(stack[None], [OPTICS, OPTICS])
    with pytest.raises(UserError, match="optics of tiles may differ in LEDs, glass and tile only"):
        solve(np.stack([stack] * 2), [OPTICS, dataclasses.replace(OPTICS, na=0.14)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("colour", "shift", "defocus", "bar"),
    [("red", 0.0, -55e-6, 0.0064), ("green", 0.35e-3, 10e-6, 0.0077), ("blue", 0.65e-3, -15e-6, 0.0067)],
)
def test_real_stacks_with_one_set_of_defaults(
    shared: pathlib.Path, colour: str, shift: float, defocus: float, bar: float
) -> None:
    path = shared / "data" / "fpm" / f"bloodsmear_{colour}.mat"
    if not path.is_file():
        pytest.skip(f"needs {path.name} in the shared data folder")
    content = scipy.io.loadmat(path)
    board = Board(Grid(15, 15, 4e-3, "spiral"), 90.88e-3, offset=(0.0, shift))
    wavelength = content["wlength"].item()
    optics = Optics(wavelength, 0.1, 2, 3.69e-6, board, upsampling=4, defocus=defocus, glass=Slab(1e-3))
    got = solve(np.moveaxis(content["imlow_HDR"], 2, 0), optics, amplitude=True)
    assert Settings().passes == got.passes == 12
    assert got.residual_best_gain <= bar
