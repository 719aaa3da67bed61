"""One field in all its colours, on one grid: level phase, amplitudes in step, and where to believe them.

What a reconstruction leaves open is settled here, so that pixels of two fields compare: the phase has no tilt and
median 0; an amplitude is in roots of camera counts, not in units of its own field; colours lie over each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import Optics
from medgen_jax.fpm.field_of_view import Cover
from medgen_jax.reconstruction.pairs.shifts import ColourShift, moved, shift_between
from medgen_jax.reconstruction.stacks import Opened

#: Share of the median amplitude below which a pixel has no phase.
_DARK = 0.05
#: Values to which a plane of phase is fitted, at most; deviations beyond which they do not count, in sigma.
_FITTED, _FAR = 200_000, 2.5


class Registered(NamedTuple):
    """Maps of one field.

    Attributes:
      phase: (h, w) float32, radians.
      amplitude: (h, w, colours) float32, roots of camera counts.
      valid: (h, w) bool.
      corner: row and column of their first pixel in the whole object.
      shifts: of each colour but the one of the phase.
    """

    phase: np.ndarray
    amplitude: np.ndarray
    valid: np.ndarray
    corner: tuple[int, int]
    shifts: dict[str, ColourShift]


def spread(optics: Optics) -> int:
    """Pixels of the object from its border whose light comes from beyond it: twice lambda / NA, and the defocus."""
    blur = 2 * optics.wavelength / optics.na + abs(optics.defocus) * optics.na
    return math.ceil(blur / (optics.pixel / optics.factor))


def register(
    objects: Mapping[str, np.ndarray],
    phase: np.ndarray,
    lit: Mapping[str, np.ndarray],
    brightness: Mapping[str, float],
    reference: str,
    margin: int,
) -> Registered:
    """Bring the colours of a field together.

    Args:
      objects: colour -> (H, W) complex, all on one grid.
      phase: (H, W) of the reference, unwrapped.
      lit: colour -> (H, W) bool, where its frames are not saturated.
      brightness: colour -> root of the counts that its amplitude 1 stands for.
      reference: the colour that stays where it is.
      margin: pixels to leave out at each border, beside those that shifts uncover.

    Raises:
      UserError: nothing is left of the field.
    """
    fixed = np.abs(objects[reference])
    shifts = {name: shift_between(fixed, np.abs(obj)) for name, obj in objects.items() if name != reference}
    margin += math.ceil(max((abs(s) for shift in shifts.values() for s in shift[:2]), default=0))
    height, width = (side - 2 * margin for side in phase.shape)
    if min(height, width) < 1:
        raise UserError(
            f"the object of {phase.shape[0]} x {phase.shape[1]} pixels has no part {margin} pixels or more from its "
            "border; use larger frames, or check the optics and the shifts between colours"
        )
    inside = slice(margin, margin + height), slice(margin, margin + width)
    planes, seen = [], believable(phase, fixed)
    for name, obj in objects.items():
        rows, columns = (0.0, 0.0) if name == reference else shifts[name][:2]
        plane = np.abs(obj) if not (rows or columns) else np.abs(moved(obj, rows, columns))
        planes.append(plane[inside] * brightness[name])
        seen &= np.roll(lit[name], (-round(rows), -round(columns)), (0, 1))
    valid = seen[inside]
    amplitude = np.stack(planes, axis=-1).astype(np.float32)
    return Registered(level(phase[inside], valid), amplitude, valid, (margin, margin), shifts)


def believable(phase: np.ndarray, amplitude: np.ndarray) -> np.ndarray:
    """(h, w) bool: bright enough to have a phase, and beside no cut that unwrapping has left."""
    fine = amplitude > _DARK * np.median(amplitude)
    for axis in (0, 1):
        cut = np.abs(np.diff(phase, axis=axis)) > np.pi
        for side in ((1, 0), (0, 1)):
            fine &= ~np.pad(cut, [side if a == axis else (0, 0) for a in (0, 1)])
    return fine


def level(phase: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """A phase (h, w) without tilt and with median 0 where it is valid, float32.

    The plane follows what most pixels have in common: those far from it do not count in the next fit.
    """
    rows, columns = np.nonzero(valid)
    if len(rows) < 3:
        return (phase - np.median(phase)).astype(np.float32)
    step = -(-len(rows) // _FITTED)
    rows, columns = rows[::step], columns[::step]
    design, values = np.stack([np.ones(len(rows)), rows, columns], axis=1), phase[rows, columns].astype(np.float64)
    near = np.ones(len(values), bool)
    for _ in range(4):
        plane = np.linalg.lstsq(design[near], values[near], rcond=None)[0]
        off = np.abs(values - design @ plane)
        near = off <= _FAR * 1.4826 * np.median(off) + 1e-9
    height, width = phase.shape
    flat = phase - plane[1] * np.arange(height)[:, None] - plane[2] * np.arange(width)
    return (flat - np.median(flat[valid])).astype(np.float32)


def brightness_of(opened: Opened, cover: Cover) -> float:
    """Root of the counts for which amplitude 1 stands: the frame nearest to the axis, in the geometric mean over tiles.

    A tile is solved in units of that frame, of one LED of it where several are lit, and tiles are aligned to a mean
    factor of 1.
    """
    light = opened.stack.frame(opened.axial).astype(np.float64)
    light = light**2 if opened.recording.values == "amplitude" else light
    means = [light[top : top + cover.tile, left : left + cover.tile].mean() for top, left in cover.corners]
    stray = np.broadcast_to(opened.recording.background, opened.stack.frames)[opened.axial]
    light = np.maximum(np.array(means) - stray, 1e-12) / max(opened.straight[opened.axial], 1)
    return float(np.exp(np.mean(np.log(light)) / 2))


def lit_of(opened: Opened) -> np.ndarray:
    """(H, W) bool on the object's grid: where the frame nearest to the axis is not saturated."""
    frame, ceiling = opened.stack.frame(opened.axial), opened.recording.saturation
    fine = np.ones(frame.shape, bool) if ceiling is None else frame < ceiling
    return fine.repeat(opened.optics.factor, axis=0).repeat(opened.optics.factor, axis=1)


def write(path: Path, maps: Registered, about: Mapping[str, Any]) -> None:
    """Keep the maps of a field, and plain facts about it."""
    shifts = {name: shift._asdict() for name, shift in maps.shifts.items()}
    try:
        with h5py.File(path, "w") as file:
            file.create_dataset("phase", data=maps.phase).attrs["unit"] = "rad"
            file.create_dataset("amplitude", data=maps.amplitude).attrs["unit"] = "root of camera counts"
            file["valid"] = maps.valid
            file.attrs["corner"] = maps.corner
            file.attrs["shifts"] = json.dumps(shifts)
            file.attrs["about"] = json.dumps(about)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error}); check the disk") from error


def read(path: Path) -> tuple[Registered, dict[str, Any]]:
    """What `write` has kept: the maps, and the facts."""
    with h5py.File(path, "r") as file:
        shifts = {name: ColourShift(**shift) for name, shift in json.loads(file.attrs["shifts"]).items()}
        corner = tuple(int(side) for side in file.attrs["corner"])
        maps = Registered(file["phase"][:], file["amplitude"][:], file["valid"][:], corner, shifts)
        return maps, json.loads(file.attrs["about"])


def facts_of(path: Path) -> dict[str, Any]:
    """The facts alone; none of a file that is missing or was cut short."""
    try:
        with h5py.File(path, "r") as file:
            return json.loads(file.attrs["about"])
    except (OSError, KeyError):
        return {}
