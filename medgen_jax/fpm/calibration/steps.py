"""Several calibrations of one stack, one after the other, each on what the last one left."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm.calibration.brightness import evened, measure_brightness
from medgen_jax.fpm.calibration.defocus import search_defocus
from medgen_jax.fpm.calibration.orders import check_order
from medgen_jax.fpm.calibration.position import fit_position
from medgen_jax.fpm.calibration.reports import Report
from medgen_jax.fpm.calibration.single_leds import fit_leds
from medgen_jax.fpm.optics import Optics
from medgen_jax.fpm.sampling import field_faults

#: What changes the optics.
OF_OPTICS: dict[str, Callable[..., tuple[Optics, Report]]] = {
    "order": check_order,
    "defocus": search_defocus,
    "position": fit_position,
    "leds": fit_leds,
}
#: All steps in the order in which they are done: each needs those before it more than those after. Brightness is fitted
#: in every trial anyway, and whether it was measured well only shows once the rest is right.
STEPS = ("order", "defocus", "position", "brightness", "leds")


class Calibrated(NamedTuple):
    """What is known after a calibration.

    Attributes:
      optics: the microscope.
      gains: (n,) brightness of the LEDs, ones where it was not measured; frames are divided by it, see
        `medgen_jax.fpm.calibration.evened`.
      reports: of every step.
    """

    optics: Optics
    gains: np.ndarray
    reports: tuple[Report, ...]


def check_steps(steps: Collection[str]) -> None:
    """Refuse a step that there is not.

    Raises:
      UserError: naming it.
    """
    for step in steps:
        if step not in STEPS:
            raise UserError(f"calibrate: {step!r} is unknown; known are {', '.join(STEPS)}")


def calibrate(
    stack: Any,
    optics: Optics,
    steps: Collection[str],
    *,
    told: Callable[[str], None] = lambda sentence: None,
    **light: Any,
) -> Calibrated:
    """Calibrate order, defocus, position, brightness and single LEDs, or some of these.

    Args:
      stack: (n, N, N) of one tile.
      optics: the nominal microscope.
      steps: names out of `STEPS`; done in that order.
      told: takes the sentence of every report.
      **light: ``amplitude``, ``background``, ``saturation`` as `medgen_jax.fpm.solve` takes them.

    Raises:
      UserError: as `medgen_jax.fpm.solve`; an unknown step.
    """
    check_steps(steps)
    stack, gains, reports = np.asarray(stack), np.ones(optics.count), []
    for name in (step for step in STEPS if step in steps):
        if name == "brightness":
            gains, report = measure_brightness(stack, optics, **light)
            stack, light = evened(stack, gains, **light) if report.kept else (stack, light)
        else:
            found, report = OF_OPTICS[name](stack, optics, **light)
            optics, report = _within_sampling(optics, found, report)
        reports.append(report)
        told(report.said)
    return Calibrated(optics, gains, tuple(reports))


def _within_sampling(before: Optics, found: Optics, report: Report) -> tuple[Optics, Report]:
    """What was found, unless a stated up-sampling cannot carry it: nothing could be solved with it."""
    faults = field_faults(found)
    if not report.kept or not faults:
        return found, report
    return before, report._replace(kept=False, said=f"{report.said}; not used after all: {faults[0]}")
