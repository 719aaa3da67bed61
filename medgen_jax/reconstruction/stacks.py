"""A stack that fits its description, and what is odd about the two."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data import led_stacks
from medgen_jax.data.led_stacks import LedStack
from medgen_jax.fpm import Optics, sampling_faults
from medgen_jax.fpm.sampling import camera_sampling, check_sampling
from medgen_jax.reconstruction.description import Description, Recording, optics_of

#: Stacks up to this size are read once and held, bytes; parts of larger ones are read as tiles need them.
HELD_BYTES = 2**30


class Opened(NamedTuple):
    """A stack and its microscope.

    Attributes:
      stack: whose frames belong to the LEDs of ``optics``.
      optics: of the middle of the frames.
      recording: how it is stored.
      axial: number of the LED nearest to the axis.
      notes: sentences about what is odd.
    """

    stack: LedStack
    optics: Optics
    recording: Recording
    axial: int
    notes: tuple[str, ...]


def open_described(path: str | Path, description: Description) -> Opened:
    """Open a stack, compare it with its description, and look at every pixel once.

    Raises:
      UserError: the first thing that does not fit.
    """
    recording, optics = description.recording, optics_of(description, path)
    stack = led_stacks.open_stack(path, recording.field, recording.axis, optics.count)
    try:
        optics.check_frames(stack.frames)
        check_sampling(optics)
    except UserError as error:
        raise UserError(f"{stack.label}: {error} ({description.path})") from error
    if min(stack.height, stack.width) < 4:
        raise UserError(f"{stack.label}: frames of {stack.height} x {stack.width} pixels are too small")
    stack = stack.held() if stack.nbytes <= HELD_BYTES else stack
    seen = led_stacks.survey(stack, recording.saturation)
    axial = int(np.argmin(np.hypot(*optics.sines.T)))
    light = seen.means**2 if recording.values == "amplitude" else seen.means
    notes = [*sampling_faults(optics), *seen.notes, *_order_notes(optics, light)]
    return Opened(stack, optics, recording, axial, tuple(notes))


def summary(opened: Opened) -> str:
    """What will be solved, in a sentence."""
    optics, stack = opened.optics, opened.stack
    return (
        f"{stack.frames} frames of {stack.height} x {stack.width}, {stack.dtype.name} {opened.recording.values}: NA "
        f"{optics.na:g} becomes {optics.synthetic_na:.3g}, up-sampling {optics.factor} (required "
        f"{optics.upsampling_required}), pixels {optics.pixel / optics.factor * 1e9:.0f} nm, overlap of pupils "
        f"{optics.overlap:.0%}, R_cam {camera_sampling(optics):.2f}"
    )


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
