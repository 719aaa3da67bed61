"""Alternating directions (ADMM) on the amplitude loss: for noise, since no single frame is ever believed outright.

With fields z_i of their own and scaled multipliers l_i (Boyd 2011, section 3.1.1; for amplitudes Wen 2012), per pass:

    l_i += psi_i - z_i
    z_i  = (c_i A_i + r |v_i|) / (1 + r) v_i / |v_i|,    v_i = psi_i + l_i
    O    = sum_i conj(P_i) F(z_i - l_i) / sum_i |P_i|^2,    pupil likewise

r, the penalty, is how much the common object weighs against each measurement. Object and pupil are least squares
over all LEDs, so that noise averages out and the order of LEDs does not matter. One LED is lit in each frame.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medgen_jax.fpm.forward import from_field, intensity
from medgen_jax.fpm.problem import Guess, Tile, direction, measurement, views
from medgen_jax.fpm.pupils import PupilAt
from medgen_jax.fpm.residuals import Misfit, misfit

#: Part of the largest power by which the least squares are damped towards the guess before.
DAMPING = 1e-2


def start(guess: Guess, tile: Tile) -> jax.Array:
    """``l - z`` (n, N, N) before the first pass, which reads no value of it."""
    return jnp.zeros(tile.stack.shape, jnp.complex64)


def one_pass(
    guess: Guess,
    gap: jax.Array,
    tile: Tile,
    scales: jax.Array,
    within: PupilAt,
    *,
    penalty: float,
    first: jax.Array,
    step: jax.Array,
    pupil_step: jax.Array,
    squared: bool = True,
) -> tuple[Guess, jax.Array, Misfit]:
    """One round of all directions.

    Args:
      guess: of object and pupil.
      gap: (n, N, N) complex64, ``l_i - z_i`` of the pass before.
      tile: measurements.
      scales: (n,) of their amplitudes.
      within: the known part of the pupil.
      penalty: r.
      first: whether there was no pass before, so that multipliers are 0.
      step, pupil_step: share of the way to the least squares that object and pupil go.
      squared: whether the stack holds intensities.

    Returns:
      guess and gaps afterwards, and the misfits (n,) of the guess before.
    """
    window = guess.values.shape[-1]
    zeros = (jnp.zeros_like(guess.spectrum), jnp.zeros(guess.spectrum.shape, jnp.float32))
    zeros = (*zeros, jnp.zeros_like(guess.values), jnp.zeros(guess.values.shape, jnp.float32))

    def visit(sums: tuple[jax.Array, ...], at: tuple[jax.Array, jax.Array]):
        (moves, power, turns, light), (led, gap) = sums, at
        measured = measurement(tile, led, squared)
        ((known, cells, field, start, _),) = views(guess, tile, within, led)
        multiplier = jnp.where(first, 0.0, gap + field)
        aim = field + multiplier
        # Pixels that do not count follow the common object.
        pull = measured.weight * (scales[led] * measured.amplitude - jnp.abs(aim)) / (1 + penalty)
        split = aim + pull * direction(aim)
        lack = measured.used * from_field(split - multiplier - field, window)
        through = guess.values * known
        moves = _add(moves, jnp.conj(through) * lack, start)
        power = _add(power, measured.used * intensity(through), start)
        turns = turns + jnp.conj(known * cells) * lack
        light = light + measured.used * intensity(known * cells)
        found = misfit(jnp.abs(field), measured.amplitude, measured.weight, scales[led])
        return (moves, power, turns, light), (multiplier - split, found)

    leds = jnp.arange(len(tile.order))
    (moves, power, turns, light), (gap, sums) = jax.lax.scan(visit, zeros, (leds, gap))
    spectrum = guess.spectrum + step * moves / _damped(power)
    values = guess.values + pupil_step * turns / _damped(light)
    return Guess(spectrum, values), gap, sums


def _add(total: jax.Array, part: jax.Array, start: jax.Array) -> jax.Array:
    place = (start[0], start[1])
    return jax.lax.dynamic_update_slice(total, jax.lax.dynamic_slice(total, place, part.shape) + part, place)


def _damped(power: jax.Array) -> jax.Array:
    return jnp.maximum(power + DAMPING * power.max(), 1e-30)
