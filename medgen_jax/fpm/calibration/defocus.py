"""How far out of focus: a bounded scan of solutions in closed form, refined where it is lowest.

A free pupil absorbs a defocus and would make all of them alike: trials keep the pupil as it is known. Other aberrations
of the same symmetry are then taken for defocus, which is what a single number can do about them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm.calibration.reports import Report, judged
from medgen_jax.fpm.calibration.search import compass
from medgen_jax.fpm.calibration.trials import prepare, residuals
from medgen_jax.fpm.optics import Optics

#: Depths of the scan; the search around the lowest one starts with half of their distance.
SCAN = 13
#: Rounds of that search.
ROUNDS = 5


def search_defocus(stack: Any, optics: Optics, bound: float | None = None, **light: Any) -> tuple[Optics, Report]:
    """Find the defocus.

    Args:
      stack: (n, N, N) of one tile.
      optics: the microscope with its nominal defocus.
      bound: how far from there to look, m. None: twice the depth of field, ``2 index wavelength / NA^2``.
      **light: ``amplitude``, ``background``, ``saturation`` as `medgen_jax.fpm.solve` takes them.

    Returns:
      the microscope with the defocus that was found, or the nominal one where the residual of LEDs held out did not
      fall or where the lowest value lies at the bound; and what was found.

    Raises:
      UserError: as `medgen_jax.fpm.solve`, or a bound that is not positive.
    """
    depth = optics.index * optics.wavelength / optics.na**2
    bound = 2 * depth if bound is None else bound
    if not 0 < bound <= 5e-3:
        raise UserError(f"bound = {bound:g}: a defocus is sought within at most 5e-3 m of the nominal one")
    trials = prepare(stack, optics, **light)

    def at(steps: float) -> Optics:
        # Steps are shares of the bound: numbers of order 1, as the search likes them.
        return dataclasses.replace(optics, defocus=optics.defocus + float(steps) * bound)

    def evaluate(points: np.ndarray) -> np.ndarray:
        return residuals(trials, [at(point) for point in points[:, 0]])

    grid = np.linspace(-1, 1, SCAN)
    curve = evaluate(grid[:, None])
    coarse, spacing = grid[np.argmin(curve)], grid[1] - grid[0]
    found = compass(lambda p: evaluate(p + coarse), np.zeros(1), np.full(1, spacing), ROUNDS)
    best = at(coarse + found.point[0])
    verdict = judged(trials, optics, best)
    at_end = abs(coarse) == 1
    kept = verdict.fell and not at_end
    values = {
        "nominal": optics.defocus, "found": best.defocus, "bound": bound, "depth_of_field": depth,
        "scan": [[float(at(step).defocus), float(value)] for step, value in zip(grid, curve, strict=True)],
    }  # fmt: skip
    where = ", at the end of what was searched" if at_end else ""
    said = (
        f"defocus: {best.defocus * 1e6:+.2f} um{where}, nominal {optics.defocus * 1e6:+.2f} um, {verdict.words()}; "
        f"{'in use' if kept else 'the nominal defocus stays'}"
    )
    return (best if kept else optics), Report("defocus", kept, verdict.before, verdict.after, values, said)
