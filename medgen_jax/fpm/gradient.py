"""Mini-batch gradient descent on the amplitude loss, object and pupil together.

    loss = 1/2 sum_{frames of the batch} mean_pixels w (|psi_i| - c_i A_i)^2

Coefficients are those of ``norm="forward"``, so the ascent by the spectrum is, with u the direction of the field,
``sum_i conj(P_i) F(psi_i - c_i A_i u_i)`` (amplitude cost of Yeh 2015, section 2): divided by the largest
``sum_i |P_i|^2`` over the cells, a step of 1 without momentum is stable. Of several LEDs in a frame,
`medgen_jax.fpm.multiplexing`, ``|psi_i|`` is the root of the sum of their intensities.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from medgen_jax.fpm.forward import intensity
from medgen_jax.fpm.problem import Guess, Tile, light_of, lit_in, measurement, views
from medgen_jax.fpm.pupils import PupilAt
from medgen_jax.fpm.residuals import Misfit, misfit
from medgen_jax.fpm.sequential import in_stack_order


def optimiser(momentum: float) -> optax.GradientTransformation:
    """Nesterov's momentum, without a learning rate: steps are scaled by the curvature."""
    return optax.trace(decay=momentum, nesterov=True)


def batch_loss(
    guess: Guess, tile: Tile, numbers: jax.Array, counts: jax.Array, scales: jax.Array, within: PupilAt, squared: bool
) -> tuple[jax.Array, Misfit]:
    """The amplitude loss of some frames, and their misfits.

    Args:
      guess: of object and pupil.
      tile: measurements.
      numbers: (b,) of the frames.
      counts: (b,) float32, 0 for frames that only fill up the batch.
      scales: (n,) of the amplitudes.
      within: the known part of the pupil.
      squared: whether the stack holds intensities.
    """

    def one(frame: jax.Array, count: jax.Array) -> tuple[jax.Array, Misfit]:
        measured = measurement(tile, frame, squared)
        # The root has no derivative at 0; what is added is far below any count.
        size = jnp.sqrt(light_of(views(guess, tile, within, frame)) + 1e-14)
        lost = jnp.mean(measured.weight * (size - scales[frame] * measured.amplitude) ** 2)
        return count * measured.used * lost / 2, misfit(size, measured.amplitude, measured.weight, scales[frame])

    lost, sums = jax.vmap(one)(numbers, counts)
    return jnp.sum(lost), jax.lax.stop_gradient(sums)


def one_pass(
    guess: Guess,
    memory: Any,
    tile: Tile,
    scales: jax.Array,
    within: PupilAt,
    *,
    batch: int,
    momentum: float,
    step: jax.Array,
    pupil_step: jax.Array,
    squared: bool = True,
) -> tuple[Guess, Any, Misfit]:
    """All frames once, ``batch`` of them at a time.

    Args:
      guess: of object and pupil.
      memory: of `optimiser`.
      tile: measurements.
      scales: (n,) of their amplitudes.
      within: the known part of the pupil.
      batch: frames per step.
      momentum: of `optimiser`.
      step, pupil_step: over the curvature of object and pupil.
      squared: whether the stack holds intensities.

    Returns:
      as `medgen_jax.fpm.sequential.one_pass`.
    """
    batches, counts = _batches(tile.order, batch)
    ascend = _with_misfit(tile, scales, within, squared)
    moves = optimiser(momentum)

    def visit(carry: tuple[Guess, Any], at: tuple[jax.Array, jax.Array]):
        guess, memory = carry
        sums, up = ascend(guess, *at)
        rates = curvatures(guess, tile, *at, within)
        scaled = Guess(step * up.spectrum / rates[0], pupil_step * up.values / rates[1])
        updates, memory = moves.update(scaled, memory)
        return (jax.tree.map(jnp.subtract, guess, updates), memory), sums

    (guess, memory), sums = jax.lax.scan(visit, (guess, memory), (batches, counts))
    flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: len(tile.order)], sums)
    return guess, memory, in_stack_order(flat, batches.reshape(-1)[: len(tile.order)])


def curvatures(
    guess: Guess, tile: Tile, numbers: jax.Array, counts: jax.Array, within: PupilAt
) -> tuple[jax.Array, jax.Array]:
    """Largest ``sum_i |P_i|^2`` over cells of the spectrum, largest ``sum_i |O_i|^2`` over those of the pupil."""
    power, light = jnp.zeros(guess.spectrum.shape, jnp.float32), jnp.zeros(guess.values.shape, jnp.float32)

    def add(sums: tuple[jax.Array, jax.Array], at: tuple[jax.Array, jax.Array]):
        (power, light), (number, count) = sums, at
        for led, on in lit_in(tile, number):
            place = tile.windows.start[led]
            known = within(tile.windows.rest[led])
            cells = jax.lax.dynamic_slice(guess.spectrum, (place[0], place[1]), known.shape)
            there = jax.lax.dynamic_slice(power, (place[0], place[1]), known.shape)
            there = there + count * on * intensity(guess.values * known)
            power = jax.lax.dynamic_update_slice(power, there, (place[0], place[1]))
            light = light + count * on * intensity(known * cells)
        return (power, light), None

    (power, light), _ = jax.lax.scan(add, (power, light), (numbers, counts))
    return jnp.maximum(power.max(), 1e-30), jnp.maximum(light.max(), 1e-30)


def _with_misfit(tile: Tile, scales: jax.Array, within: PupilAt, squared: bool):
    """Misfits and ascent of one batch from one evaluation of the loss."""

    def both(guess: Guess, numbers: jax.Array, counts: jax.Array):
        def loss(guess: Guess):
            return batch_loss(guess, tile, numbers, counts, scales, within, squared)

        (_, sums), gradient = jax.value_and_grad(loss, has_aux=True)(guess)
        return sums, jax.tree.map(jnp.conj, gradient)

    return both


def _batches(order: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
    """(steps, b) numbers of frames, (steps, b) whether they count: the last batch is filled up with the first frame."""
    steps = -(-len(order) // batch)
    spare = steps * batch - len(order)
    numbers = jnp.concatenate([order, jnp.full(spare, order[0])])
    counts = (jnp.arange(steps * batch) < len(order)).astype(jnp.float32)
    return numbers.reshape(steps, batch), counts.reshape(steps, batch)
