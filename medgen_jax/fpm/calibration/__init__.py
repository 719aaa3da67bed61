"""Calibration: what a stack itself says about the microscope that recorded it.

    from medgen_jax.fpm.calibration import fit_position

    optics, report = fit_position(stack, optics)      # as it was, where nothing better was found
    print(report.said)

Each step is a function of a stack of one tile and its nominal optics, bounded, and returns what is to be used beside a
`Report`. LEDs that were held out decide: unless they are predicted better than by the nominal optics, beyond
noise and by more than nothing, the nominal optics come back.

* ``orders``: order and orientation of the LEDs; may say that it cannot decide.
* ``defocus``: scan and refinement.
* ``circles``: where the board stands, from the spectra of bright frames; nothing is solved.
* ``position``: shift, rotation, height, from the residual of short solutions; starts from the circles.
* ``brightness``: of LEDs, from the means of bright frames.
* ``single_leds``: every LED by itself, bounded.
* ``steps``: several of them, one after the other.

Beside these, `estimate_background` measures stray light, from frames alone: nothing is solved, nothing judges it.

Underneath: ``trials`` (candidates as arrays of one program), ``search``, ``moves`` (what may change) and ``reports``
(what is believed).
"""

from medgen_jax.fpm.calibration.background import estimate_background
from medgen_jax.fpm.calibration.brightness import evened, measure_brightness
from medgen_jax.fpm.calibration.circles import fit_circles
from medgen_jax.fpm.calibration.defocus import search_defocus
from medgen_jax.fpm.calibration.orders import check_order
from medgen_jax.fpm.calibration.position import Bounds, fit_position
from medgen_jax.fpm.calibration.reports import Report
from medgen_jax.fpm.calibration.single_leds import fit_leds
from medgen_jax.fpm.calibration.steps import STEPS, Calibrated, calibrate, check_steps

__all__ = [
    "STEPS",
    "Bounds",
    "Calibrated",
    "Report",
    "calibrate",
    "check_order",
    "check_steps",
    "estimate_background",
    "evened",
    "fit_circles",
    "fit_leds",
    "fit_position",
    "measure_brightness",
    "search_defocus",
]
