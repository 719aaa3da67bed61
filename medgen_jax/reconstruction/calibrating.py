"""Calibration inside the command: on the middle of the field, for all of it, and written down to be read back.

What is found on a part of the middle holds for the whole field, since board and focus are the microscope's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import Optics, Settings, mapping
from medgen_jax.fpm.calibration import calibrate, check_steps
from medgen_jax.reconstruction.description import Recording
from medgen_jax.reconstruction.results import write_text
from medgen_jax.reconstruction.stacks import Opened, evenly_lit

CALIBRATED = "optics_calibrated.yaml"
#: Side of the part of the frames that is calibrated on, pixels: a calibration takes hundreds of short solutions.
SIDE = 96


def steps_of(typed: str | None) -> tuple[str, ...]:
    """The steps in ``brightness,position``; none for None.

    Raises:
      UserError: a step that there is not, or none at all.
    """
    if typed is None:
        return ()
    steps = tuple(step.strip() for step in typed.split(",") if step.strip())
    if not steps:
        raise UserError("--calibrate is empty: name steps, such as --calibrate position,defocus")
    check_steps(steps)
    return steps


def check_alone(typed: str | None, *, pairs: bool, preview: bool) -> None:
    """Refuse a calibration where nothing would be calibrated.

    Raises:
      UserError: ``--calibrate`` with ``--pairs`` or ``--preview``, and what to do instead.
    """
    if typed is not None and (pairs or preview):
        other = "--pairs" if pairs else "--preview"
        raise UserError(f"--calibrate and {other}: calibrate a stack by itself, then give its {CALIBRATED} to {other}")


def calibrated(
    opened: Opened, steps: Sequence[str], say: Callable[[str], None]
) -> tuple[Opened, Recording, dict[str, Any]]:
    """A stack with calibrated optics.

    Args:
      opened: the stack as it was described.
      steps: names out of `medgen_jax.fpm.calibration.STEPS`.
      say: takes sentences while it goes on.

    Raises:
      UserError: several LEDs in a frame, of which no frame alone tells anything.

    Returns:
      the stack with what was found in use, how it is stored (brightness included), and plain values for
      ``scores.json``.
    """
    if opened.recording.frames:
        raise UserError(
            "--calibrate: needs frames of one LED each; calibrate on such a stack, then use its optics here"
        )
    height, width = opened.stack.height, opened.stack.width
    side = min(height, width, SIDE)
    rows, columns = (slice((length - side) // 2, (length - side) // 2 + side) for length in (height, width))
    say(f"calibration on {side} x {side} pixels in the middle: {', '.join(steps)}")
    recording = opened.recording
    found = calibrate(
        opened.stack.read(rows, columns), opened.optics, steps, told=say, amplitude=recording.values == "amplitude",
        background=recording.background, saturation=recording.saturation,
    )  # fmt: skip
    scores = {report.name: report.to_mapping() for report in found.reports}
    opened = opened._replace(optics=found.optics)
    if np.all(found.gains == 1):
        return opened, opened.stored, {"side": side, **scores}
    gains = found.gains * np.array(opened.stored.gains or 1.0)
    stored = dataclasses.replace(opened.stored, gains=tuple(float(gain) for gain in gains))
    return evenly_lit(opened, found.gains), stored, {"side": side, **scores}


def write(folder: Path, optics: Optics, recording: Recording, settings: Settings) -> Path:
    """The description that gives the same solution without calibrating again, for ``--optics``.

    Raises:
      UserError: a place that cannot be written.
    """
    content = {"optics": optics.to_mapping(), "stack": mapping.write(recording), "solve": mapping.write(settings)}
    return write_text(folder / CALIBRATED, yaml.safe_dump(content, sort_keys=False))
