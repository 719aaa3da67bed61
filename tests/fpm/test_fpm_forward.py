"""The forward model: closed forms, its adjoint, its gradient, and the sign of everything that has one."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import Board, Centres, Grid, Optics, Points
from medgen_jax.fpm.forward import (
    adjoint,
    ascent,
    fields,
    frames,
    from_field,
    intensities,
    locate,
    object_of,
    spectrum_of,
    to_field,
)
from medgen_jax.fpm.pupils import aperture, free_pupil, known_pupil, window_size

SIZE, UP = 24, 3
#: Pixels of 1 um, pupil of 7.2 cells, LEDs half a pupil apart.
OPTICS = Optics(0.5e-6, 0.15, 4, 4e-6, Board(Grid(3, 3, 7.5e-3), 0.1, offset=(1e-3, 2e-3)), UP)
RNG = np.random.default_rng(7)


def noise(*shape: int) -> jax.Array:
    """Complex normal numbers."""
    return jnp.asarray(RNG.normal(size=(*shape, 2)) @ [1, 1j], jnp.complex64)


def lit_by(sine_x: float, sine_y: float, **changes: object) -> Optics:
    """The same microscope with one LED."""
    height = 0.1
    axial = np.sqrt(1 - sine_x**2 - sine_y**2)
    place = Board(Points(((height * sine_x / axial, height * sine_y / axial),)), height)
    return dataclasses.replace(OPTICS, leds=place, **changes)


def seen(optics: Optics, obj: object, **options: object) -> np.ndarray:
    """Frames of an object, without the checks of `simulate`."""
    size = np.shape(obj)[-1] // optics.factor
    pupil = known_pupil(optics, size)
    run = jax.jit(lambda obj: intensities(spectrum_of(obj), pupil, locate(optics, size), size, **options))
    return np.asarray(run(jnp.asarray(obj, jnp.complex64)))


@pytest.mark.parametrize(("size", "up"), [(24, 3), (25, 3)])
def test_the_adjoint_passes_the_dot_test(size: int, up: int) -> None:
    optics = dataclasses.replace(OPTICS, upsampling=up)
    window, windows = window_size(optics.radius(size), size), locate(optics, size)
    pupil = free_pupil(noise(window, window), aperture(window, optics.radius(size)))
    obj, values = noise(size * up, size * up), noise(optics.count, size, size)
    forward = jax.jit(lambda s: fields(s, pupil, windows, size))
    back = jax.jit(lambda v: adjoint(v, pupil, windows, size * up))(values)
    left, right = np.vdot(values, forward(obj)), np.vdot(back, obj)
    assert abs(left) > 1 and abs(left - right) < 1e-5 * abs(left)
    # and it is what differentiation finds, up to the conjugates of JAX
    (by_vjp,) = jax.jit(lambda v: jax.vjp(lambda s: fields(s, pupil, windows, size), obj)[1](jnp.conj(v)))(values)
    np.testing.assert_allclose(np.conj(by_vjp), back, atol=1e-4 * float(jnp.abs(back).max()))


def test_the_ascent_is_the_gradient_of_finite_differences() -> None:
    windows, radius = locate(OPTICS, SIZE), OPTICS.radius(SIZE)
    window = window_size(radius, SIZE)
    disc = aperture(window, radius)
    measured = jnp.asarray(RNG.uniform(0.5, 1.5, (OPTICS.count, SIZE, SIZE)), jnp.float32)

    def loss(spectrum: jax.Array, values: jax.Array) -> jax.Array:
        light = intensities(spectrum, free_pupil(values, disc), windows, SIZE)
        return jnp.mean((jnp.sqrt(light + 1e-3) - measured) ** 2)

    point = (noise(SIZE * UP, SIZE * UP) * 0.05, noise(window, window))
    value, directions = jax.jit(ascent(loss, (0, 1)))(*point)
    run = jax.jit(loss)
    assert run(*point) == pytest.approx(float(value), rel=1e-5)
    for which in (0, 1):
        for turn in (1.0, 1j):
            step = 1e-3 * turn * directions[which] / jnp.linalg.norm(directions[which])
            ends = [run(*(p + s * step if i == which else p for i, p in enumerate(point))) for s in (1, -1)]
            slope = float(ends[0] - ends[1]) / 2
            predicted = float(jnp.real(jnp.vdot(directions[which], step)))
            # Along the ascent the loss rises by its norm; at a right angle to it, by nothing.
            scale = 1e-3 * float(jnp.linalg.norm(directions[which]))
            assert slope == pytest.approx(predicted, abs=0.02 * scale)
            assert predicted == pytest.approx(scale if turn == 1.0 else 0.0, abs=1e-3 * scale)
    # Without the conjugate the same step would go elsewhere.
    assert abs(jnp.real(jnp.vdot(jnp.conj(directions[0]), directions[0]))) < 0.5 * jnp.linalg.norm(directions[0]) ** 2


def test_energy_of_a_frame_is_that_of_the_cells_in_its_pupil() -> None:
    obj, windows = noise(SIZE * UP, SIZE * UP), locate(OPTICS, SIZE)
    got = seen(OPTICS, obj).mean(axis=(1, 2))
    spectrum = np.fft.fftshift(np.fft.fft2(obj)) / obj.size
    cells = np.arange(SIZE * UP) - SIZE * UP // 2
    for led, (x, y) in enumerate(OPTICS.centres(SIZE)):
        inside = (cells[:, None] - y) ** 2 + (cells - x) ** 2 <= OPTICS.radius(SIZE) ** 2
        assert got[led] == pytest.approx((np.abs(spectrum[inside]) ** 2).sum(), rel=1e-4)
    assert windows.start.shape == windows.rest.shape == (9, 2)
    np.testing.assert_allclose(
        windows.start + 19 // 2 - SIZE * UP // 2 + windows.rest, OPTICS.centres(SIZE)[:, ::-1], atol=1e-5
    )


def test_a_flat_object_is_bright_within_the_na_and_dark_outside() -> None:
    optics = dataclasses.replace(OPTICS, leds=Board(Grid(5, 5, 7.5e-3), 0.1))
    light, bright = seen(optics, np.full((SIZE * UP, SIZE * UP), 2.0)), optics.bright_field
    assert bright.sum() == 13
    np.testing.assert_allclose(light[bright], 4, rtol=1e-5)
    assert light[~bright].max() < 1e-10


def test_a_tilted_wave_shines_straight_where_its_led_is() -> None:
    """exp(i 2 pi f x) is a carrier: of all LEDs, the one at sine = lambda f turns it into light along the axis."""
    side, cells = SIZE * UP, Centres(((9.0, 0.0), (-9.0, 0.0), (0.0, 9.0), (0.0, -9.0), (9.0, -4.0)), SIZE)
    optics = dataclasses.replace(OPTICS, leds=cells, na=0.05)  # 2.4 cells
    y, x = np.mgrid[:side, :side] / side
    for led, (column, row) in enumerate(cells.cells):
        light = seen(optics, np.exp(2j * np.pi * (column * x + row * y)))
        np.testing.assert_allclose(light[led], 1, rtol=1e-4)
        assert np.delete(light, led, axis=0).max() < 1e-8


def test_what_a_frame_shows_lies_where_the_object_has_it() -> None:
    """Two gratings, left above and right below; each LED lights up its own, in its own place."""
    side = 96
    y, x = np.mgrid[:side, :side]
    left = np.exp(-((x - 24) ** 2 + (y - 30) ** 2) / 128) * np.exp(2j * np.pi * 22 * x / side)
    right = np.exp(-((x - 66) ** 2 + (y - 75) ** 2) / 128) * np.exp(-2j * np.pi * 22 * y / side)
    optics = dataclasses.replace(OPTICS, leds=Centres(((22.0, 0.0), (0.0, -22.0), (-22.0, 0.0)), side // UP))
    light = seen(optics, left + right)
    peaks = [np.unravel_index(frame.argmax(), frame.shape) for frame in light[:2]]
    assert peaks == [(10, 8), (25, 22)]  # pixel (r, c) of a frame lies over pixel (3 r, 3 c) of the object
    assert light[2].max() < 0.01 * light[:2].max()


def test_centres_between_cells_are_exact() -> None:
    """The same repeating object seen twice as wide has cells half as large, on which these centres fall."""
    cells = np.array([(0.5, 0.0), (3.5, -2.0), (-4.0, 6.5), (5.5, 5.5)])
    optics = dataclasses.replace(OPTICS, leds=Centres(tuple(map(tuple, cells)), SIZE), defocus=30e-6)
    obj = np.exp(0.6 * np.asarray(noise(SIZE * UP, SIZE * UP)))
    narrow, wide = seen(optics, obj), seen(optics, np.tile(obj, (2, 2)))
    assert np.abs(locate(optics, SIZE).rest).max() == 0.5 and np.abs(locate(optics, 2 * SIZE).rest).max() < 1e-12
    np.testing.assert_allclose(np.tile(narrow, (1, 2, 2)), wide, atol=2e-4 * wide.max())
    rounded = dataclasses.replace(optics, leds=Centres(tuple(map(tuple, np.rint(cells))), SIZE))
    assert np.abs(seen(rounded, obj) - narrow).max() > 0.05 * narrow.max()


def test_positive_defocus_brings_a_converging_wave_to_its_point() -> None:
    side, pixel, focal = 96, OPTICS.pixel / UP, 60e-6
    y, x = pixel * (np.mgrid[:side, :side] - side // 2)
    wave = np.exp(-(x**2 + y**2) / (2 * (4e-6) ** 2) - 1j * np.pi * (x**2 + y**2) / (OPTICS.wavelength * focal))
    peaks = [seen(lit_by(0, 0, defocus=z), wave).max() for z in (focal, 0.0, -focal)]
    assert peaks[0] > 1.5 * peaks[1] > 1.5 * peaks[2]


def test_a_spot_out_of_focus_moves_away_from_its_led() -> None:
    """Light of an LED at +x, -y travels towards -x, +y: after z it has arrived z s beside where it started."""
    side, z, sines = 96, 120e-6, (0.06, -0.03)
    y, x = np.mgrid[:side, :side] - side // 2
    spot = np.exp(-(x**2 + y**2) / (2 * 9**2))
    light = seen(lit_by(*sines, defocus=z), spot)[0]
    rows, columns = np.mgrid[: len(light), : len(light)] - side // UP // 2
    moved = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum() * OPTICS.pixel
    np.testing.assert_allclose(moved, -z * np.array(sines), rtol=0.05)


def test_objects_and_fields_go_there_and_back() -> None:
    obj, cells = noise(15, 15), noise(5, 5)
    np.testing.assert_allclose(object_of(spectrum_of(obj)), obj, atol=1e-5)
    np.testing.assert_allclose(from_field(to_field(cells, 11), 5), cells, atol=1e-5)
    assert spectrum_of(jnp.ones((8, 8)))[4, 4] == pytest.approx(1)


def test_tiles_are_a_batch_and_leds_may_be_chunked() -> None:
    objects, tiles = noise(2, SIZE * UP, SIZE * UP), [OPTICS.at_pixel(40 * i, 10, (200, 300)) for i in (1, 3)]
    alone = np.stack([seen(optics, obj) for optics, obj in zip(tiles, objects, strict=True)])
    np.testing.assert_allclose(seen(tiles[0], objects[0], chunk=4), alone[0], rtol=1e-4, atol=1e-6)
    windows = jax.tree.map(lambda *leaves: np.stack(leaves), *(locate(optics, SIZE) for optics in tiles))
    pupil = known_pupil(OPTICS, SIZE)
    batch = jax.jit(jax.vmap(lambda s, w: intensities(s, pupil, w, SIZE)))(spectrum_of(objects), windows)
    np.testing.assert_allclose(batch, alone, rtol=1e-4, atol=1e-6)


def test_frames_add_up_leds_brightness_losses_and_stray_light() -> None:
    alone = jnp.asarray(RNG.uniform(size=(3, 4, 4)), jnp.float32)
    gains, dim = jnp.array([1.0, 2.0, 0.5]), jnp.linspace(0.5, 1, 16).reshape(4, 4)
    patterns = jnp.array([[1.0, 1, 0], [0, 0, 2]])
    got = frames(alone, gains, jnp.array([0.1, 0.2]), dim, patterns)
    np.testing.assert_allclose(got[0], (alone[0] + 2 * alone[1]) * dim + 0.1, rtol=1e-5)
    np.testing.assert_allclose(got[1], alone[2] * dim + 0.2, rtol=1e-5)
    np.testing.assert_array_equal(frames(alone), alone)


def test_a_window_beyond_the_spectrum_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"window of LED 7 .* spectrum of 24 x 24 cells: .* = 1 is too little .* 2 is enough"
    ):
        locate(dataclasses.replace(OPTICS, upsampling=1), SIZE)
