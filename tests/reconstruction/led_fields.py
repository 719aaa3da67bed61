"""Small fields of view, simulated under an LED array: what a microscope would save of them, with descriptions."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import yaml

from medgen_jax.fpm import Optics, simulate

#: Frames of 48 pixels and objects of 96, whose borders of 14 are not used.
SIZE, FACTOR, MARGIN = 48, 2, 14
OPTICS = {
    "wavelength": 0.5e-6, "na": 0.15, "magnification": 4, "camera_pixel": 4e-6, "upsampling": FACTOR,
    "leds": {"layout": "grid", "columns": 5, "rows": 5, "pitch": 6.3e-3, "height": 0.1},
}  # fmt: skip
COLOURS = {"red": 0.6e-6, "green": 0.5e-6, "blue": 0.45e-6}
#: Counts of a frame nearest to the axis through nothing.
COUNTS = 2e4


def smooth(key: int, side: int = SIZE * FACTOR, cut: float = 0.12) -> np.ndarray:
    """A random texture (side, side) in [0, 1] without fine detail."""
    noise = np.fft.fft2(np.random.default_rng(key).normal(size=(side, side)))
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    values = np.fft.ifft2(noise * np.exp(-((radius / cut) ** 2) * 4)).real
    return (values - values.min()) / np.ptp(values)


def specimen(key: int) -> np.ndarray:
    """A complex object (96, 96): amplitude 0.5 to 1, phase 0 to 1 rad of another texture."""
    return (0.5 + 0.5 * smooth(key)) * np.exp(1j * smooth(key + 1000))


def save_stack(path: pathlib.Path, obj: np.ndarray, wavelength: float = OPTICS["wavelength"]) -> pathlib.Path:
    """Frames of 16 bits in an NPZ file."""
    optics = dataclasses.replace(Optics.from_mapping(OPTICS), wavelength=wavelength)
    frames = np.rint(np.asarray(simulate(optics, obj)) * COUNTS).clip(0, 65535).astype(np.uint16)
    np.savez(path, low=frames)
    return path


def save_optics(path: pathlib.Path, wavelength: float = OPTICS["wavelength"], passes: int = 4) -> pathlib.Path:
    """The description of such stacks."""
    described = {
        "optics": {**OPTICS, "wavelength": wavelength}, "stack": {"values": "intensity"}, "solve": {"passes": passes}
    }  # fmt: skip
    path.write_text(yaml.safe_dump(described))
    return path


def save_plan(folder: pathlib.Path, fields: Mapping[str, Sequence[np.ndarray]]) -> pathlib.Path:
    """A plan of three colours: name of a field -> its objects in red, green and blue."""
    rows = []
    for name, objects in fields.items():
        stacks = {c: f"{name}_{c}.npz" for c in COLOURS}
        for (colour, wavelength), obj in zip(COLOURS.items(), objects, strict=True):
            save_stack(folder / stacks[colour], obj, wavelength)
        rows.append({"name": name, "stacks": stacks})
    for colour, wavelength in COLOURS.items():
        save_optics(folder / f"{colour}.yaml", wavelength)
    plan = {"colours": {c: f"{c}.yaml" for c in COLOURS}, "phase": "green", "fields": rows}
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    return folder / "plan.yaml"
