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
from medgen_jax.fpm.calibration import Report, estimate_background, evened
from medgen_jax.fpm.multiplexing import nearest, single, straight
from medgen_jax.fpm.preparation import check_count
from medgen_jax.fpm.sampling import camera_sampling, check_sampling
from medgen_jax.reconstruction.description import AUTO, Description, Recording, optics_of

#: Stacks up to this size are read once and held, bytes; parts of larger ones are read as tiles need them.
HELD_BYTES = 2**30
#: Side of the part in the middle on which stray light is estimated, pixels.
SIDE = 512


class Opened(NamedTuple):
    """A stack and its microscope.

    Attributes:
      stack: whose frames belong to the LEDs of ``optics``, as ``recording`` says.
      optics: of the middle of the frames.
      recording: how the frames of ``stack`` are to be read, those of LEDs of equal brightness.
      axial: number of the frame whose LED is nearest to the axis.
      notes: sentences about what is odd.
      stored: how the file has them: what its description says, and what was estimated beside it.
      estimated: what was estimated when it was opened, by name.
    """

    stack: LedStack
    optics: Optics
    recording: Recording
    axial: int
    notes: tuple[str, ...]
    stored: Recording
    estimated: tuple[Report, ...] = ()

    @property
    def lit(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of the LEDs of every frame."""
        return self.recording.frames or single(self.optics.count)

    @property
    def straight(self) -> np.ndarray:
        """How many LEDs of every frame lie within the aperture, (n,)."""
        return straight(self.lit, self.optics.bright_field)


def open_headers(path: str | Path, description: Description) -> tuple[LedStack, Optics]:
    """Open a stack and compare it with its description; no pixel is read yet.

    Raises:
      UserError: the first thing that does not fit.
    """
    optics, recording = optics_of(description, path), description.recording
    count = len(recording.frames) or optics.count
    stack = led_stacks.open_stack(path, recording.field, recording.axis, count)
    try:
        check_count(optics, stack.frames, recording.frames or None)
        check_sampling(optics)
        _check_lengths(recording, stack.frames)
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
    axial = nearest(recording.frames or single(optics.count), np.hypot(*optics.sines.T))
    opened = Opened(stack, optics, recording, axial, (), recording)
    light = seen.means**2 if recording.values == "amplitude" else seen.means
    notes = [*sampling_faults(optics), *seen.notes, *_order_notes(opened.straight > 0, light)]
    opened = with_background(opened._replace(notes=tuple(notes)))
    return evenly_lit(opened, recording.gains)


def with_background(opened: Opened) -> Opened:
    """The stack with its stray light estimated where its description leaves that open; else as it is.

    Raises:
      UserError: frames that are too small for that.
    """
    if opened.recording.background != AUTO:
        return opened
    stack = opened.stack
    rows, columns = (slice((full - side) // 2, (full + side) // 2) for full, side in _middle(stack))
    amplitude = opened.recording.values == "amplitude"
    levels, report = estimate_background(stack.read(rows, columns), opened.straight > 0, amplitude=amplitude)
    recording = dataclasses.replace(opened.recording, background=tuple(float(level) for level in levels))
    return opened._replace(
        recording=recording, stored=recording, estimated=(report,), notes=(*opened.notes, report.said)
    )


def _middle(stack: LedStack) -> list[tuple[int, int]]:
    """Length of either side, and of its part in the middle."""
    return [(full, min(full, SIDE)) for full in (stack.height, stack.width)]


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
    most = max(map(len, opened.lit))
    several = f" under up to {most} LEDs each" if most > 1 else ""
    return (
        f"{stack.frames} frames of {stack.height} x {stack.width}{several}, {stack.dtype.name} "
        f"{opened.recording.values}: NA {optics.na:g} becomes {optics.synthetic_na:.3g}, up-sampling {optics.factor} "
        f"(required {optics.upsampling_required}), pixels {optics.pixel / optics.factor * 1e9:.0f} nm, overlap of "
        f"pupils {optics.overlap:.0%}, R_cam {camera_sampling(optics):.2f}"
    )


def _check_lengths(recording: Recording, frames: int) -> None:
    if recording.gains and len(recording.gains) != frames:
        there = f"there are {frames} frames" if recording.frames else f"optics.leds describe {frames}"
        raise UserError(f"stack.gains lists {len(recording.gains)} LEDs, but {there}")
    if isinstance(recording.background, tuple) and len(recording.background) != frames:
        raise UserError(f"stack.background lists {len(recording.background)} frames, but there are {frames}")


def _order_notes(bright: np.ndarray, light: np.ndarray) -> list[str]:
    """Bright frames belong to LEDs within the NA: a wrong order shows before anything is solved."""
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
