"""Solvers that take one frame after the other: one scan, whose update rule is a function of what light passed through.

With D the Fourier coefficients of what a field lacks to have the measured amplitude, object and pupil P move by

    O += step w(P) D,        values += pupil_step conj(known) w(O) D

and a rule is the weight w: alternating projection replaces (Zheng 2013), ePIE and EPRY divide by the largest power
(Maiden 2009, Ou 2014), rPIE by a mixture of largest and local power (Maiden 2017), the quasi-Newton rule by the
damped local power, less where little light passes (Tian 2014). Momentum: every so many LEDs the whole spectrum
continues along its recent way (Maiden 2017).

Of several LEDs in a frame (`medgen_jax.fpm.multiplexing`) each moves its own cells, all from the same guess. Where
their pupils overlap the steps add up and are shorter by as many; the pupil's own step is over the power of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from medgen_jax.fpm.forward import cut, from_field, intensity
from medgen_jax.fpm.problem import Guess, Tile, View, cells_of, correction, magnitude_of, measurement, views
from medgen_jax.fpm.pupils import PupilAt
from medgen_jax.fpm.residuals import Misfit, misfit

#: Power below which a cell counts as unlit, over the largest.
UNLIT = 1e-3

Rule = Callable[[jax.Array, float], jax.Array]


def projection(through: jax.Array, damping: float) -> jax.Array:
    """``conj(P) / |P|^2`` where light passes: cells are replaced."""
    power = intensity(through)
    return jnp.conj(through) / jnp.maximum(power, _positive(UNLIT * power.max()))


def epry(through: jax.Array, damping: float) -> jax.Array:
    """``conj(P) / max |P|^2``."""
    return jnp.conj(through) / _positive(intensity(through).max())


def rpie(through: jax.Array, damping: float) -> jax.Array:
    """``conj(P) / ((1 - a) |P|^2 + a max |P|^2)``, a the damping."""
    power = intensity(through)
    return jnp.conj(through) / _positive((1 - damping) * power + damping * power.max())


def quasi_newton(through: jax.Array, damping: float) -> jax.Array:
    """``|P| conj(P) / (max |P| (|P|^2 + a max |P|^2))``, a the damping."""
    power = intensity(through)
    largest = power.max()
    share = jnp.sqrt(power / _positive(largest))
    return share * jnp.conj(through) / _positive(power + damping * largest)


RULES: dict[str, Rule] = {"projection": projection, "epry": epry, "rpie": rpie, "quasi_newton": quasi_newton}


class Momentum(NamedTuple):
    """Velocity of the spectrum and where it was when that was last taken, both (M, M) complex64."""

    velocity: jax.Array
    anchor: jax.Array


def start(guess: Guess) -> Momentum:
    """At rest."""
    return Momentum(jnp.zeros_like(guess.spectrum), guess.spectrum)


def one_pass(
    guess: Guess,
    momentum: Momentum | None,
    tile: Tile,
    scales: jax.Array,
    within: PupilAt,
    *,
    rule: Rule,
    damping: float,
    step: jax.Array,
    pupil_step: jax.Array,
    friction: float = 0.5,
    every: int = 0,
    squared: bool = True,
) -> tuple[Guess, Momentum | None, Misfit]:
    """All frames once, in the order of the tile.

    Args:
      guess: of object and pupil.
      momentum: of `start`; None without.
      tile: measurements.
      scales: (n,) of their amplitudes.
      within: the known part of the pupil.
      rule: of the object; the pupil moves as by `epry`, of which no LED alone can move a cell much.
      damping: of the rule.
      step, pupil_step: of object and pupil; 0 leaves them as they are.
      friction: share of its velocity that the spectrum keeps.
      every: frames between two kicks of momentum.
      squared: whether the stack holds intensities.

    Returns:
      guess and momentum afterwards, and the misfits (n,) in the order of the stack, each found just before its frame
      moved anything; frames held out come last and so see the pass as a whole.
    """

    def visit(carry: tuple[Guess, Momentum | None, list[jax.Array]], at: tuple[jax.Array, jax.Array, jax.Array]):
        (guess, momentum, shown), (number, frame, following) = carry, at
        measured = measurement(tile, frame, squared)
        seen = views(guess, tile, within, frame, shown)
        size = magnitude_of(seen)
        sums = misfit(size, measured.amplitude, measured.weight, scales[frame])
        aim = scales[frame] * measured.amplitude
        own = step if tile.together is None else step / tile.together.crowd[frame]
        light = _positive(sum(view.on * intensity(view.cells) for view in seen).max())
        spectrum, values = guess
        for view in seen:
            lack = correction(view.field, aim, measured.weight, size)
            lack = measured.used * (view.known != 0) * from_field(lack, view.known.shape[-1])
            spectrum = _moved(spectrum, view, own * rule(guess.values * view.known, damping) * lack)
            values = values + pupil_step * jnp.conj(view.known) * (jnp.conj(view.cells) / light) * lack
        if momentum is not None:
            due = (number + 1) % every == 0
            spectrum, momentum = jax.lax.cond(
                due, lambda s, m: kick(s, m, friction), lambda s, m: (s, m), spectrum, momentum
            )
        guess = Guess(spectrum, values)
        return (guess, momentum, cells_of(guess, tile, following)), sums

    # Each frame's cells are taken out before its turn: reading and moving the spectrum in one would copy all of it.
    carry, steps = (guess, momentum, cells_of(guess, tile, tile.order[0])), jnp.arange(len(tile.order))
    (guess, momentum, _), sums = jax.lax.scan(visit, carry, (steps, tile.order, jnp.roll(tile.order, -1)))
    return guess, momentum, in_stack_order(sums, tile.order)


def _moved(spectrum: jax.Array, view: View, by: jax.Array) -> jax.Array:
    """The spectrum with the cells of one LED moved."""
    cells = cut(spectrum, view.start, by.shape[-1]) + by
    return jax.lax.dynamic_update_slice(spectrum, cells, (view.start[0], view.start[1]))


def kick(spectrum: jax.Array, momentum: Momentum, friction: float) -> tuple[jax.Array, Momentum]:
    """The spectrum moved on by its velocity ``v = friction v + (spectrum - anchor)``, of which it has gone one part."""
    velocity = friction * momentum.velocity + spectrum - momentum.anchor
    ahead = momentum.anchor + velocity
    return ahead, Momentum(velocity, ahead)


def in_stack_order(values, order: jax.Array):
    """Trees of arrays (n, ...) found in ``order`` as arrays in the order of the stack."""
    return jax.tree.map(lambda found: jnp.zeros_like(found).at[order].set(found), values)


def _positive(values: jax.Array) -> jax.Array:
    return jnp.maximum(values, 1e-30)
