"""Simulated stacks, the messages for what cannot be simulated, and real stacks beside the prediction."""

from __future__ import annotations

import dataclasses
import pathlib

import h5py
import jax
import numpy as np
import pytest
import scipy.io

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import Board, Camera, Centres, Grid, Optics, Rings, Slab, simulate, simulate_colours

OPTICS = Optics(0.5e-6, 0.15, 4, 4e-6, Board(Grid(3, 2, 7.5e-3), 0.1, offset=(1e-3, 2e-3)), upsampling=3)
SIDE = 36


def specimen(seed: int) -> np.ndarray:
    """An object without symmetry."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 1, (SIDE, SIDE)) * np.exp(1j * rng.uniform(-1.5, 1.5, (SIDE, SIDE)))


def test_it_is_the_formula_written_out() -> None:
    """Every cell of the spectrum, in double precision, with the phase of the pupil from its definition."""
    z, astigmatism, obj, size = 40e-6, 0.5, specimen(0), SIDE // 3
    stack = np.asarray(simulate(OPTICS, obj, defocus=z, zernike={6: astigmatism}, gains=[1, 2, 3, 4, 5, 6], chunk=4))
    assert stack.shape == (6, size, size) and stack.dtype == np.float32
    spectrum, f = np.fft.fft2(obj) / obj.size, np.fft.fftfreq(SIDE, OPTICS.pixel / 3)
    grid = OPTICS.pixel * np.arange(size)
    for led, (sine_x, sine_y) in enumerate(OPTICS.sines):
        fx, fy = f - sine_x / OPTICS.wavelength, f - sine_y / OPTICS.wavelength
        x, y = (np.meshgrid(fx, fy)[i] * OPTICS.wavelength / OPTICS.na for i in (0, 1))
        axial = np.sqrt(np.maximum(OPTICS.wavelength**-2 - fx**2 - fy[:, None] ** 2, 0))
        phase = 2 * np.pi * z * axial + astigmatism * np.sqrt(6) * (x**2 - y**2)
        seen = spectrum * np.exp(1j * phase) * (x**2 + y**2 <= 1)
        field = np.exp(2j * np.pi * np.outer(grid, fy)) @ seen @ np.exp(2j * np.pi * np.outer(fx, grid))
        np.testing.assert_allclose(stack[led], (led + 1) * np.abs(field) ** 2, atol=3e-4 * stack[led].max())


def test_leds_lit_together_add_up() -> None:
    obj, rng = specimen(1), np.random.default_rng(2)
    patterns, dim = rng.uniform(size=(4, 6)), rng.uniform(0.5, 1, (12, 12))
    alone = np.asarray(simulate(OPTICS, obj))
    together = simulate(OPTICS, obj, patterns=patterns, vignetting=dim, background=[0, 1, 2, 3])
    wanted = np.einsum("fi,ihw->fhw", patterns, alone) * dim + np.arange(4)[:, None, None]
    np.testing.assert_allclose(together, wanted, rtol=1e-4)


def test_noise_belongs_to_the_key() -> None:
    camera, obj = Camera(photons=1000.0, gain=50.0, saturation=255.0, whole=True), specimen(3)
    first, same, other = (np.asarray(simulate(OPTICS, obj, jax.random.key(k), camera=camera)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any() and first.max() <= 255 and (first == np.round(first)).all()
    clean = 50 * np.asarray(simulate(OPTICS, obj))
    assert (first - clean).std() == pytest.approx(np.sqrt(np.mean(50 * clean / 1000) + 1 / 12), rel=0.1)


def test_colours_are_stacks_of_their_own_optics() -> None:
    optics = [dataclasses.replace(OPTICS, wavelength=wavelength) for wavelength in (0.63e-6, 0.53e-6, 0.47e-6)]
    objects = np.stack([specimen(seed) for seed in (4, 5, 6)])
    stacks = np.asarray(simulate_colours(optics, objects))
    assert stacks.shape == (3, 6, 12, 12)
    np.testing.assert_allclose(stacks[2], simulate(optics[2], objects[2]), rtol=1e-5)
    noisy = simulate_colours([OPTICS] * 2, objects[[0, 0]], jax.random.key(0), camera=Camera(gaussian=0.1))
    assert not np.array_equal(noisy[0], noisy[1])
    with pytest.raises(UserError, match="3 optics and 2 objects"):
        simulate_colours(optics, objects[:2])
    with pytest.raises(UserError, match=r"upsampling \[3, 4, 3\] and .* to 4 in all"):
        simulate_colours([optics[0], dataclasses.replace(optics[1], upsampling=4), optics[2]], objects)


@pytest.mark.parametrize(
    ("optics", "options", "message"),
    [
        ({"camera_pixel": 8e-6}, {}, "optics: the pixels of 2 um .* undersample the field 1.20 times"),
        ({"upsampling": 1}, {}, "optics: upsampling = 1 is too little"),
        ({}, {"obj": np.ones((SIDE, 30))}, r"object of shape \(36, 30\): expected a square"),
        ({}, {"obj": np.ones((37, 37))}, "object of side 37: expected a multiple of optics.upsampling = 3"),
        ({}, {"obj": np.full((SIDE, SIDE), np.nan)}, "object: contains values that are not finite"),
        ({}, {"gains": np.ones(5)}, r"gains of shape \(5,\): expected \(\) or \(6,\) for 6 LEDs and 6 frames"),
        ({}, {"gains": -1.0}, "gains: must be finite and not negative"),
        ({}, {"patterns": np.ones((4, 5))}, r"patterns of shape \(4, 5\): expected \(4, 6\)"),
        ({}, {"patterns": np.ones(6)}, r"patterns of shape \(6,\)"),
        ({}, {"vignetting": np.ones((9, 9))}, r"vignetting of shape \(9, 9\): expected \(\) or \(12, 12\)"),
        ({}, {"camera": Camera(gaussian=0.1)}, "needs a key, such as simulate"),
        ({}, {"zernike": {0: 1.0}}, "zernike index 0"),
    ],
)
def test_what_cannot_be_simulated_is_named(optics: dict, options: dict, message: str) -> None:
    obj = options.pop("obj", np.ones((SIDE, SIDE)))
    with pytest.raises(UserError, match=message):
        simulate(dataclasses.replace(OPTICS, **optics), obj, **options)


def stack_file(shared: pathlib.Path, name: str) -> pathlib.Path:
    """A real stack; skips where it is absent."""
    path = shared / "data" / "fpm" / name
    if not path.is_file():
        pytest.skip(f"needs {name} in the shared data folder")
    return path


@pytest.mark.parametrize(("colour", "shift"), [("red", 0.0), ("green", 0.35e-3), ("blue", 0.65e-3)])
def test_real_frames_are_bright_where_predicted(shared: pathlib.Path, colour: str, shift: float) -> None:
    content = scipy.io.loadmat(stack_file(shared, f"bloodsmear_{colour}.mat"))
    light = np.square(content["imlow_HDR"].astype(np.float64)).mean(axis=(0, 1))
    board = Board(Grid(15, 15, 4e-3, "spiral"), 90.88e-3, offset=(0.0, shift))
    optics = Optics(content["wlength"].item(), 0.1, 2, 3.69e-6, board, glass=Slab(1e-3))
    optics.check_frames(len(light))
    light = light / light[:9].mean()
    apertures = np.hypot(*optics.sines.T)
    assert light[apertures < 0.094].min() > 0.7 and light[apertures > 0.11].max() < 0.02
    if colour == "blue":  # its shift tells the sides apart: eight LEDs on the rim, half of them within
        np.testing.assert_array_equal(light > 0.5, optics.bright_field)
        mirrored = dataclasses.replace(optics, leds=dataclasses.replace(board, offset=(0.0, -shift)))
        assert ((light > 0.5) != mirrored.bright_field).sum() == 8


def test_real_rings_are_the_layout(shared: pathlib.Path) -> None:
    with h5py.File(stack_file(shared, "hololab_usaf_ring93.h5")) as file:
        sines, light = file["sin_xy"][:], file["images"][:, ::16, ::16].mean(axis=(1, 2))
    optics = Optics(0.523e-6, 0.1, 4, 4e-6, Board(Rings((1, 8, 12, 16, 24, 32), 9e-3, 90), 0.11))
    np.testing.assert_allclose(optics.sines, sines, atol=1e-12)
    np.testing.assert_array_equal(light > 20, optics.bright_field)


def test_real_measured_centres_fill_the_circle_of_the_na(shared: pathlib.Path) -> None:
    """Up to a common shift, which their publication leaves open."""
    with h5py.File(stack_file(shared, "glasgow_usaf32_441.hdf5")) as file:
        section = file["section0"]
        cells, light = section["positions"][:][:, ::-1], section["ptychogram"][:].mean(axis=(1, 2))
    leds = Centres(tuple(map(tuple, cells.tolist())), 32, shift=(-2.5, -3.25))
    optics = Optics(0.625e-6, 0.067, 1.53, 3.45e-6, leds)
    np.testing.assert_array_equal(light > light.max() / 2, optics.bright_field)
