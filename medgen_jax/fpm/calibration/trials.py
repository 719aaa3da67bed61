"""Candidates for where LEDs are and how far out of focus it is, each tried in a few passes of one compiled program.

A trial solves the stack anew. While something is sought, it takes few passes and keeps the pupil as it is known, since
a free one would absorb what is sought. When LEDs held out judge what was found, pupil and passes are those of a whole
solution: what a free pupil absorbs as well needs no calibration. What a candidate changes are arrays of the program, so
that another one compiles nothing, and the stack is on the device once. On accelerators candidates are a batch, on CPUs
a loop (`medgen_jax.fpm.backends`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import sequential, stopping
from medgen_jax.fpm.backends import at_once, over_tiles
from medgen_jax.fpm.forward import Windows, locate
from medgen_jax.fpm.gains import fitted_scales
from medgen_jax.fpm.optics import Optics
from medgen_jax.fpm.preparation import axial_lens, check_stack, first_guess, make_tiles
from medgen_jax.fpm.problem import Guess, Tile
from medgen_jax.fpm.pupils import known_pupil
from medgen_jax.fpm.residuals import Misfit
from medgen_jax.fpm.solve import Settings, misfits

#: Passes of a trial in a search: a wrong place shows long before a solution settles.
PASSES = 6
#: Groups of LEDs that are held out in turn, together half of all; each judges a solution of the others.
FOLDS = 5
#: Candidates per call where they are a batch.
BATCH = 8

_DEFAULTS = Settings()


class Effort(NamedTuple):
    """How much a trial does: passes, and ``pupil_step`` of `medgen_jax.fpm.Settings`; both arguments of the program."""

    passes: int
    pupil_step: float


SEARCH = Effort(PASSES, 0.0)
JUDGE = Effort(_DEFAULTS.passes, _DEFAULTS.pupil_step)


class Place(NamedTuple):
    """What a candidate changes; of several, every array has them as its first axis.

    Attributes:
      windows: of the LEDs.
      order: (n,) int32, the LEDs as they are visited.
      used: (n,) float32, 0 for LEDs that are held out.
      defocus: () float32, m.
    """

    windows: Windows
    order: Any
    used: Any
    defocus: Any


@dataclass(frozen=True, eq=False)
class Trials:
    """A stack on the device, to be tried with one candidate after the other.

    Attributes:
      tile: the measurements.
      optics: the nominal microscope.
      lens: what shapes the program.
      shape: N and M; M has room for windows that move outwards.
      squared: whether the stack holds intensities.
      folds: (FOLDS, n) bool, LEDs to be held out together.
      fit_gains: whether the brightness of LEDs is found in the trial; else all count alike, see `tried`.
    """

    tile: Tile
    optics: Optics
    lens: Optics
    shape: tuple[int, int]
    squared: bool
    folds: np.ndarray
    fit_gains: bool = True

    @property
    def size(self) -> int:
        """N."""
        return self.shape[0]

    @property
    def cell(self) -> float:
        """Side of a cell of the spectrum as a sine."""
        return self.optics.wavelength * self.optics.df(self.size)


def prepare(
    stack: Any,
    optics: Optics,
    *,
    amplitude: bool = False,
    background: Any = 0.0,
    saturation: float | None = None,
    fit_gains: bool = True,
    seed: int = 0,
) -> Trials:
    """Check a stack and put it on the device.

    Args:
      stack, optics, amplitude, background, saturation: as `medgen_jax.fpm.solve` takes them for one tile.
      fit_gains: see `Trials`.
      seed: of the folds.

    Raises:
      UserError: as `medgen_jax.fpm.solve`.
    """
    stack = np.asarray(stack)[None]
    check_stack(stack, (optics,), saturation)
    room = dataclasses.replace(optics, upsampling=optics.factor + 1)
    tiles, _ = make_tiles(stack, (room,), _DEFAULTS, amplitude, background, saturation)
    tile = jax.tree.map(lambda values: values[0], tiles)
    shape = (stack.shape[-1], room.factor * stack.shape[-1])
    apart = stopping.held_out(optics.bright_field, 0.5, seed, int(np.argmin(np.hypot(*optics.sines.T))))
    folds = apart & (np.cumsum(apart) % FOLDS == np.arange(FOLDS)[:, None])
    return Trials(tile, room, axial_lens(room), shape, not amplitude, folds, fit_gains)


def residuals(trials: Trials, candidates: Sequence[Optics | None]) -> np.ndarray:
    """(k,) float64: residual of each candidate over all LEDs, infinite for None and where windows leave the spectrum.

    It is that of `medgen_jax.fpm.residuals`, with best gains and with LEDs weighted by the root of their light: between
    counting light, of which the bright field has nearly all, and counting frames, of which the dark field has most.
    """
    places = [None if one is None else place_of(trials, one) for one in candidates]
    found = np.full(len(places), np.inf)
    usable = [number for number, place in enumerate(places) if place is not None]
    if usable:
        relative, weights = tried(trials, [places[number] for number in usable])
        found[usable] = (relative * weights).sum(1) / weights.sum(1)
    return found


def heldout(trials: Trials, candidates: Sequence[Optics]) -> tuple[np.ndarray, np.ndarray]:
    """How well each candidate predicts the LEDs that its solution has not seen, fold by fold.

    Returns:
      relative errors (k, m) and weights (k, m) of all m LEDs that are held out in turn, see `tried`; infinite errors
      where windows leave the spectrum.
    """
    judges = [np.flatnonzero(fold) for fold in trials.folds]
    relative, weights = [], []
    for one in candidates:
        places = [place_of(trials, one, fold) for fold in trials.folds]
        if any(place is None for place in places):
            found = [np.full(sum(map(len, judges)), value) for value in (np.inf, 1.0)]
        else:
            of_folds = tried(trials, places, JUDGE)
            found = [np.concatenate([row[leds] for row, leds in zip(v, judges, strict=True)]) for v in of_folds]
        relative.append(found[0])
        weights.append(found[1])
    return np.stack(relative), np.stack(weights)


def place_of(trials: Trials, optics: Optics, out: np.ndarray | None = None) -> Place | None:
    """The arrays of a candidate; None where a window leaves the spectrum.

    Args:
      trials: what it is tried on.
      optics: the candidate.
      out: (n,) bool, LEDs held out.
    """
    out = np.zeros(optics.count, bool) if out is None else out
    try:
        windows = locate(dataclasses.replace(optics, upsampling=trials.optics.factor), trials.size)
    except UserError:
        return None
    apertures = np.round(np.hypot(*optics.sines.T), 9)
    order = np.lexsort((np.arange(len(out)), apertures, out)).astype(np.int32)
    return Place(windows, order, (~out).astype(np.float32), np.float32(optics.defocus))


def tried(trials: Trials, places: Sequence[Place], effort: Effort = SEARCH) -> tuple[np.ndarray, np.ndarray]:
    """Relative errors (k, n) of every LED, and weights (k, n): the roots of measured light.

    With gains fitted, each LED has the gain that fits best; without, all have gain 1, and what is wrong with the
    brightness of a frame is an error.
    """
    chunk = at_once(BATCH)
    parts = []
    for start in range(0, len(places), chunk):
        some = list(places[start : start + chunk])
        # Calls are of one size, or the last would compile anew.
        padded = some + [some[-1]] * (chunk - len(some))
        stacked = jax.tree.map(lambda *values: np.stack(values), *padded)
        sums = jax.device_get(_misfits(trials.tile, stacked, effort, **_form(trials)))
        parts.append(jax.tree.map(lambda values, some=some: values[: len(some)], sums))
    sums = Misfit(*(np.concatenate(values).astype(np.float64) for values in zip(*parts, strict=True)))
    errors, energies = (sums.best_error, sums.best_energy) if trials.fit_gains else (sums.error, sums.energy)
    told = energies > 0
    relative = np.where(told, errors / np.where(told, energies, 1), 1.0)
    scales = sums.best_scale if trials.fit_gains else np.ones_like(sums.best_scale)
    light = np.where(told, energies / np.where(told, scales, 1) ** 2, 0.0)
    return np.where(np.isfinite(relative), relative, np.inf), np.sqrt(light)


def solved(trials: Trials, place: Place) -> tuple[Guess, jax.Array]:
    """Guess and scales (n,) of a trial, on the device."""
    return _solved(trials.tile, place, SEARCH, **_form(trials))


def _form(trials: Trials) -> dict[str, Any]:
    return {
        "lens": trials.lens, "shape": trials.shape, "squared": trials.squared, "fit_gains": trials.fit_gains,
    }  # fmt: skip


@functools.partial(jax.jit, static_argnames=("lens", "shape", "squared", "fit_gains"))
def _misfits(
    tile: Tile,
    places: Place,
    effort: Effort,
    *,
    lens: Optics,
    shape: tuple[int, int],
    squared: bool,
    fit_gains: bool,
) -> Misfit:
    def one(place: Place) -> Misfit:
        here = _at(tile, place)
        guess, scales = _trial(here, place.defocus, effort, lens, shape, squared, fit_gains)
        return misfits(guess, here, scales, known_pupil(lens, shape[0], place.defocus), squared)

    return over_tiles(one, places)


@functools.partial(jax.jit, static_argnames=("lens", "shape", "squared", "fit_gains"))
def _solved(
    tile: Tile,
    place: Place,
    effort: Effort,
    *,
    lens: Optics,
    shape: tuple[int, int],
    squared: bool,
    fit_gains: bool,
) -> tuple[Guess, jax.Array]:
    return _trial(_at(tile, place), place.defocus, effort, lens, shape, squared, fit_gains)


def _at(tile: Tile, place: Place) -> Tile:
    windows, order, used = jax.tree.map(jnp.asarray, (place.windows, place.order, place.used))
    return tile._replace(windows=windows, order=order, used=used, lit=tile.lit & (used > 0))


def _trial(
    tile: Tile,
    defocus: jax.Array,
    effort: Effort,
    lens: Optics,
    shape: tuple[int, int],
    squared: bool,
    fit_gains: bool,
) -> tuple[Guess, jax.Array]:
    """Passes of EPRY, steps and gains as `medgen_jax.fpm.solve` has them by default."""
    within, own = known_pupil(lens, shape[0], defocus), _DEFAULTS

    def one(number: jax.Array, run: tuple[Guess, jax.Array]) -> tuple[Guess, jax.Array]:
        guess, scales = run
        shrunk = own.decay ** jnp.maximum(number - own.constant + 1, 0).astype(jnp.float32)
        guess, _, sums = sequential.one_pass(
            guess, None, tile, scales, within, rule=sequential.epry, damping=own.damping,
            step=own.step * shrunk, pupil_step=effort.pupil_step * shrunk, squared=squared,
        )  # fmt: skip
        scales = fitted_scales(sums.best_scale, tile.lit, own.gain_bound) if fit_gains else scales
        return guess, scales

    start = (first_guess(tile, lens, shape, squared), jnp.ones(tile.order.shape, jnp.float32))
    return jax.lax.fori_loop(0, effort.passes, one, start)
