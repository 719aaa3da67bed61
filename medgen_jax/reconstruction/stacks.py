"""A stack that fits its description, and what is odd about the two."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data import led_stacks
from medgen_jax.data.led_stacks import LedStack
from medgen_jax.fpm import Optics, sampling_faults
from medgen_jax.fpm.calibration import evened
from medgen_jax.fpm.sampling import camera_sampling, check_sampling
from medgen_jax.reconstruction.description import Description, Recording, optics_of

#: Stacks up to this size are read once and held, bytes; parts of larger ones are read as tiles need them.
HELD_BYTES = 2**30


class Opened(NamedTuple):
    """A stack and its microscope.

    Attributes:
      stack: whose frames belong to the LEDs of ``optics``.
      optics: of the middle of the frames.
      recording: how the frames of ``stack`` are to be read, those of LEDs of equal brightness.
      axial: number of the LED nearest to the axis.
      notes: sentences about what is odd.
      stored: how the file has them: what its description says.
    """

    stack: LedStack
    optics: Optics
    recording: Recording
    axial: int
    notes: tuple[str, ...]
    stored: Recording


def open_headers(path: str | Path, description: Description) -> tuple[LedStack, Optics]:
    """Open a stack and compare it with its description; no pixel is read yet.

    Raises:
      UserError: the first thing that does not fit.
    """
    optics = optics_of(description, path)
    stack = led_stacks.open_stack(path, description.recording.field, description.recording.axis, optics.count)
    try:
        optics.check_frames(stack.frames)
        check_sampling(optics)
        _check_gains(description.recording, optics)
    except UserError as error:
        raise UserError(f"{stack.label}: {error} ({description.path})") from error
    if min(stack.height, stack.width) < 4:
        raise UserError(f"{stack.label}: frames of {stack.height} x {stack.width} pixels are too small")
    return stack, optics


def open_described(path: str | Path, description: Description) -> Opened:
    """Open a stack, compare it with its description, and look at every pixel once.

    Raises:
      UserError: the first thing that does not fit.
    """
    recording, (stack, optics) = description.recording, open_headers(path, description)
    stack = stack.held() if stack.nbytes <= HELD_BYTES else stack
    seen = led_stacks.survey(stack, recording.saturation)
    axial = int(np.argmin(np.hypot(*optics.sines.T)))
    light = seen.means**2 if recording.values == "amplitude" else seen.means
    notes = [*sampling_faults(optics), *seen.notes, *_order_notes(optics, light)]
    return evenly_lit(Opened(stack, optics, recording, axial, tuple(notes), recording), recording.gains)


def evenly_lit(opened: Opened, gains: Sequence[float]) -> Opened:
    """The stack as LEDs of equal brightness would have made it, without stray light.

    Args:
      opened: before.
      gains: brightness of every LED; empty to leave all as it is.
    """
    if not len(gains):
        return opened
    recording, stack, values = opened.recording, opened.stack, np.asarray(gains, np.float64)
    light = {
        "amplitude": recording.values == "amplitude",
        "background": recording.background,
        "saturation": recording.saturation,
    }

    def part(rows: slice, columns: slice) -> np.ndarray:
        return evened(stack.read(rows, columns), values, **light)[0]

    _, changed = evened(np.empty((len(values), 0, 0)), values, **light)
    even = dataclasses.replace(stack, dtype=np.dtype(np.float32), part=part)
    recording = dataclasses.replace(recording, background=0.0, saturation=changed["saturation"], gains=())
    return opened._replace(stack=even, recording=recording)


def summary(opened: Opened) -> str:
    """What will be solved, in a sentence."""
    optics, stack = opened.optics, opened.stack
    return (
        f"{stack.frames} frames of {stack.height} x {stack.width}, {stack.dtype.name} {opened.recording.values}: NA "
        f"{optics.na:g} becomes {optics.synthetic_na:.3g}, up-sampling {optics.factor} (required "
        f"{optics.upsampling_required}), pixels {optics.pixel / optics.factor * 1e9:.0f} nm, overlap of pupils "
        f"{optics.overlap:.0%}, R_cam {camera_sampling(optics):.2f}"
    )


def _check_gains(recording: Recording, optics: Optics) -> None:
    if recording.gains and len(recording.gains) != optics.count:
        raise UserError(f"stack.gains lists {len(recording.gains)} LEDs, but optics.leds describe {optics.count}")


def _order_notes(optics: Optics, light: np.ndarray) -> list[str]:
    """Bright frames belong to LEDs within the NA: a wrong order shows before anything is solved."""
    bright = optics.bright_field
    if not bright.any() or bright.all():
        return []
    dimmest = float(np.median(light[bright])) / 4
    stray = [int(led) for led in np.flatnonzero(~bright & (light > dimmest))]
    dark = [int(led) for led in np.flatnonzero(bright & (light < dimmest / 4))]
    if len(stray) + len(dark) <= 0.1 * bright.sum() + 1:
        return []
    return [
        f"{len(stray)} frames are bright though their LEDs lie outside of the NA, {len(dark)} dark though inside (such "
        f"as {(stray + dark)[0]}, counted from 0): check order and place of the LEDs with --preview"
    ]
