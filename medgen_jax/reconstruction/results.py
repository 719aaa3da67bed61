"""The files of a reconstruction.

    reconstruction.h5    object (complex64) with its pixel and optics, pupils, gains, LEDs held out, places of tiles
    amplitude.tif        16 bits; phase.tif: unwrapped. Both say in their description what a level stands for
    panel.png            to be looked at; preview.png: circles over measured spectra
    scores.json          numbers

A level n of a TIFF stands for ``low + n * step``: both are in the JSON of its description, beside quantity and unit.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import tifffile

from medgen_jax.core.errors import UserError
from medgen_jax.fpm.field_of_view import Field
from medgen_jax.ops.unwrap import unwrap

SCORES, OBJECT, PANEL, PREVIEW = "scores.json", "reconstruction.h5", "panel.png", "preview.png"
AMPLITUDE, PHASE = "amplitude.tif", "phase.tif"
_LEVELS = 65535


class Images(NamedTuple):
    """Amplitude and unwrapped phase (radians, median 0), (h, w) float32 each."""

    amplitude: np.ndarray
    phase: np.ndarray


def images_of(obj: np.ndarray) -> Images:
    """Amplitude and phase of an object (h, w); dark places have little say in how the phase is unwrapped."""
    amplitude = np.abs(obj)
    phase = unwrap(np.angle(obj), amplitude)
    return Images(amplitude.astype(np.float32), (phase - np.median(phase)).astype(np.float32))


def write(folder: Path, field: Field, images: Images, about: Mapping[str, Any]) -> None:
    """Object, pupils, gains, amplitude and phase.

    Args:
      folder: exists.
      field: what was solved.
      images: of its object.
      about: plain values that become attributes.

    Raises:
      UserError: a place that cannot be written.
    """
    optics = field.optics[field.middle]
    pixel = optics.pixel / optics.factor
    _write_hdf5(folder / OBJECT, field, {**about, "pixel": pixel, "optics": json.dumps(optics.to_mapping())})
    write_levels(folder / AMPLITUDE, images.amplitude, "amplitude", "1", pixel, low=0.0)
    write_levels(folder / PHASE, images.phase, "phase", "rad", pixel)


def write_levels(
    path: Path, values: np.ndarray, quantity: str, unit: str, pixel: float, low: float | None = None
) -> None:
    """Values (h, w) as 16 bits over their range.

    Args:
      path: ends in .tif.
      values: finite.
      quantity, unit: in words.
      pixel: side of a pixel, m.
      low: value of level 0. None: the lowest.

    Raises:
      UserError: a place that cannot be written.
    """
    low = float(values.min()) if low is None else low
    step = (float(values.max()) - low) / _LEVELS or 1.0
    levels = np.clip(np.rint((values.astype(np.float64) - low) / step), 0, _LEVELS).astype(np.uint16)
    said = json.dumps({"quantity": quantity, "unit": unit, "low": low, "step": step, "pixel_m": pixel})
    per_centimetre = 1e-2 / pixel
    with _replacing(path) as scratch:
        tifffile.imwrite(
            scratch, levels, description=said, metadata=None, photometric="minisblack", compression="zlib",
            resolution=(per_centimetre, per_centimetre), resolutionunit="CENTIMETER", software="medgen_jax",
        )  # fmt: skip


def read_levels(path: Path) -> np.ndarray:
    """What `write_levels` has written, (h, w) float32.

    Raises:
      UserError: a file that is not there, or not one of these.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            said, levels = json.loads(tiff.pages[0].description), tiff.asarray()
        return (said["low"] + levels * said["step"]).astype(np.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); reconstruct its stack again") from error


def write_scores(folder: Path, scores: Mapping[str, Any]) -> Path:
    """``scores.json``, last of all: where it is, the rest is whole. Numbers that are none become null."""
    path = folder / SCORES
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in scores.items()}
    return write_text(path, json.dumps(plain, indent=2) + "\n")


def write_text(path: Path, text: str) -> Path:
    """A file of text, whole or not at all.

    Raises:
      UserError: a place that cannot be written.
    """
    with _replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
    return path


def prepared(output: str, overwrite: bool) -> Path:
    """The folder for results, made when missing.

    Raises:
      UserError: it holds results already, or cannot be made.
    """
    folder = Path(output).expanduser()
    if (folder / SCORES).exists() and not overwrite:
        raise UserError(f"--output {output}: holds results already; choose another folder, or give --overwrite")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be made ({error.strerror or error}); choose another") from error
    return folder


def _write_hdf5(path: Path, field: Field, about: Mapping[str, Any]) -> None:
    solution = field.solution
    with _replacing(path) as scratch, h5py.File(scratch, "w") as file:
        data = file.create_dataset("object", data=field.obj, chunks=True)
        for name, value in about.items():
            data.attrs[name] = value
        file["pupil"], file["gains"], file["heldout"] = solution.pupil, solution.gains, solution.heldout
        file["curve"], file["curve_heldout"] = solution.curve, solution.curve_heldout
        file["corners"] = np.array(field.cover.corners)
        file["corners"].attrs["meaning"] = "first row and column of each tile in a frame, pixels"
        file["corners"].attrs["tile"] = field.cover.tile


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A scratch file that takes the place of ``path`` once it is written."""
    scratch = path.with_name(path.stem + ".part" + path.suffix)
    try:
        yield scratch
        os.replace(scratch, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); check the disk") from error
    finally:
        scratch.unlink(missing_ok=True)
