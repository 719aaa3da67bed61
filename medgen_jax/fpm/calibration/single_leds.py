"""The place of every LED by itself, within a bound: boards are bent, and LEDs are soldered beside their pads.

Rounds of two steps (Sun 2016, without the annealing): the stack is solved with the centres as they are, then every
centre moves to where its frame fits best what all frames show together. What all LEDs share is not theirs to move, see
`medgen_jax.fpm.calibration.position`: the mean displacement stays 0.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm.calibration.moves import towards
from medgen_jax.fpm.calibration.reports import Report, judged
from medgen_jax.fpm.calibration.search import bottom
from medgen_jax.fpm.calibration.trials import Place, Trials, place_of, prepare, solved
from medgen_jax.fpm.forward import Windows, cut, intensity, to_field
from medgen_jax.fpm.optics import Optics
from medgen_jax.fpm.problem import Guess, Tile, measurement
from medgen_jax.fpm.pupils import known_pupil, window_size
from medgen_jax.fpm.residuals import misfit

#: Rounds, and the step of each in cells: the first ones find, the last ones settle.
STEPS = (0.5, 0.4, 0.3, 0.3, 0.25, 0.2, 0.15)


def fit_leds(stack: Any, optics: Optics, bound: float = 1.0, **light: Any) -> tuple[Optics, Report]:
    """Find the place of each LED.

    Args:
      stack: (n, N, N) of one tile.
      optics: the microscope, its board in place as a whole.
      bound: of every displacement along x and y, cells of the spectrum of this tile.
      **light: ``amplitude``, ``background``, ``saturation`` as `medgen_jax.fpm.solve` takes them.

    Returns:
      the microscope with LEDs where they were found (flat boards become a list of points), or as it was where the
      residual of LEDs held out did not fall; and what was found.

    Raises:
      UserError: as `medgen_jax.fpm.solve`, or a bound that is not positive.
    """
    if not 0 < bound < 100:
        raise UserError(f"bound = {bound:g}: must lie between 0 and 100 cells")
    trials = prepare(stack, optics, **light)
    cells = displacements(trials, bound)
    best = towards(optics, cells, trials.size)
    values = {"bound": bound, "cells": np.round(cells, 4).tolist()}
    if best is None:
        said = "leds: a dome with LEDs beside their rings cannot be written down; describe it by centres; as it was"
        return optics, Report("leds", False, float("nan"), float("nan"), values, said)
    # LEDs that judge were moved by what their own frames said, by two numbers each. That this cannot pass for a better
    # prediction shows in noise and on boards that are right already: their held-out residual rises.
    verdict, far = judged(trials, optics, best), np.hypot(*cells.T)
    kept = verdict.fell
    at_bound = int((np.abs(cells).max(axis=1) >= 0.99 * bound).sum())
    said = (
        f"leds: moved by {far.mean():.2f} cells on average, {far.max():.2f} at most, {at_bound} of {len(far)} at the "
        f"bound; {verdict.words()}; {'in use' if kept else 'all stay where they were'}"
    )
    return (best if kept else optics), Report("leds", kept, verdict.before, verdict.after, values, said)


def displacements(trials: Trials, bound: float) -> np.ndarray:
    """(n, 2) displacements along x and y in cells, of mean 0, within ``bound``."""
    centres = trials.optics.centres(trials.size)
    cells = np.zeros_like(centres)
    for step in STEPS:
        place = place_of(trials, trials.optics)
        place = place._replace(windows=_windows(trials, centres + cells))
        guess, scales = solved(trials, place)
        errors = np.asarray(_around(trials, place, guess, scales, centres + cells, step), np.float64)
        here, right, left, below, above = errors
        move = step * np.stack([bottom(left, here, right), bottom(above, here, below)], axis=1)
        cells = np.clip(cells + move, -bound, bound)
        cells = np.clip(cells - cells.mean(axis=0), -bound, bound)
    return cells


def _around(
    trials: Trials, place: Place, guess: Guess, scales: jax.Array, centres: np.ndarray, step: float
) -> jax.Array:
    """(5, n) errors of each frame with its LED here, to the right, left, below and above."""
    moves = step * np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)], np.float64)
    windows = [_windows(trials, centres + move) for move in moves]
    stacked = jax.tree.map(lambda *values: np.stack(values), *windows)
    form = {"lens": trials.lens, "shape": trials.shape, "squared": trials.squared}
    return _errors(trials.tile, guess, scales, stacked, place.defocus, **form)


def _windows(trials: Trials, centres: np.ndarray) -> Windows:
    """Windows around centres (n, 2), x and y in cells, kept within the spectrum."""
    high, middle = trials.shape[1], np.rint(centres[:, ::-1])
    window = window_size(trials.lens.radius(trials.size), trials.size)
    start = np.clip(middle + high // 2 - window // 2, 0, high - window)
    return Windows(start.astype(np.int32), (centres[:, ::-1] - middle).astype(np.float32))


@functools.partial(jax.jit, static_argnames=("lens", "shape", "squared"))
def _errors(
    tile: Tile,
    guess: Guess,
    scales: jax.Array,
    windows: Windows,
    defocus: jax.Array,
    *,
    lens: Optics,
    shape: tuple[int, int],
    squared: bool,
) -> jax.Array:
    within = known_pupil(lens, shape[0], defocus)

    def one(at: tuple[jax.Array, Windows]) -> jax.Array:
        led, places = at
        measured = measurement(tile, led, squared)

        def there(start: jax.Array, rest: jax.Array) -> jax.Array:
            known = within(rest)
            size = jnp.sqrt(intensity(to_field(known * cut(guess.spectrum, start, known.shape[-1]), shape[0])))
            return misfit(size, measured.amplitude, measured.weight, scales[led]).best_error

        return jax.vmap(there)(places.start, places.rest)

    by_led = jax.tree.map(lambda values: jnp.moveaxis(values, 0, 1), windows)
    return jax.lax.map(one, (jnp.arange(len(tile.order)), by_led)).T
