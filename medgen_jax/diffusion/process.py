"""The forward process, its posterior, and one reverse step, as functions of two noise levels.

A level is a `Level`, ``x = signal * x0 + noise * epsilon``. ``source`` is where ``x`` stands and ``target`` where
it goes. Sampling runs towards less noise; inversion is the same walk the other way. All steps use one
quantity, the root of the ratio of the signal-to-noise ratios,

    r = (signal_source * noise_target) / (signal_target * noise_source),   0 <= r < 1 towards less noise,

with which ``beta = noise_source**2 (1 - r**2)``: no difference of nearly equal alpha_bars is ever formed.
These coefficients are plain arithmetic: NumPy float64 levels give float64 coefficients, traced ones float32.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medgen_jax.diffusion.schedules import Level, Schedule

KINDS = ("epsilon", "x0", "v")


class Prediction(NamedTuple):
    """What a network's output says about ``x``: the clean image and the noise, both shaped like ``x``."""

    x0: jax.Array
    epsilon: jax.Array


class Gaussian(NamedTuple):
    """A diagonal normal distribution; ``variance`` broadcasts against ``mean``."""

    mean: jax.Array
    variance: Any


class HybridTerms(NamedTuple):
    """The two parts of the hybrid loss, (B,) each: the squared error, and the bound in bits per dimension."""

    mse: jax.Array
    bound: jax.Array


def take(table: Any, index: jax.Array, rank: int) -> Any:
    """Rows of float64 tables as float32, shaped to multiply a batch.

    Args:
      table: a pytree of 1-D tables, such as ``Schedule.levels``.
      index: () or (B,) integers.
      rank: of the batch; the result of a (B,) index has shape (B, 1, ..., 1).
    """
    shape = index.shape + (1,) * (rank - 1 if index.ndim else 0)
    return jax.tree.map(lambda rows: jnp.asarray(rows, jnp.float32)[index].reshape(shape), table)


def q_sample(x0: jax.Array, epsilon: jax.Array, level: Level) -> jax.Array:
    """A draw of q(x | x0), Ho et al. 2020 eq. (4), for standard normal ``epsilon``."""
    return level.signal * x0 + level.noise * epsilon


def network_target(x0: jax.Array, epsilon: jax.Array, level: Level, kind: str) -> jax.Array:
    """What a network of this ``kind`` should answer at ``q_sample(x0, epsilon, level)``.

    ``v = signal * epsilon - noise * x0`` (Salimans & Ho 2022, appendix D).
    """
    if kind == "epsilon":
        return epsilon
    if kind == "x0":
        return x0
    if kind == "v":
        return level.signal * epsilon - level.noise * x0
    raise ValueError(f"prediction {kind!r}: expected one of {', '.join(KINDS)}")


def predict(
    x: jax.Array, output: jax.Array, level: Level, kind: str = "epsilon", *, clip: bool = False, rederive: bool = True
) -> Prediction:
    """Clean image and noise from a network's output, whatever it predicts.

    Args:
      x: (B, ...) at ``level``.
      output: shape of ``x``; computed on in the dtype of ``x``.
      level: of ``x``. The clean node is allowed: an ``x0`` output says nothing about the noise there, which
        is then 0, its mean; the signal must not be 0.
      kind: what ``output`` is, one of `KINDS`.
      clip: limit ``x0`` to [-1, 1].
      rederive: let the noise follow a clipped ``x0``, so that both still add up to ``x``.
    """
    output = output.astype(x.dtype)
    visible = level.noise > 0
    inverse_noise = jnp.where(visible, 1 / jnp.where(visible, level.noise, 1), 0)
    if kind == "epsilon":
        x0, epsilon = (x - level.noise * output) / level.signal, output
    elif kind == "x0":
        x0, epsilon = output, (x - level.signal * output) * inverse_noise
    elif kind == "v":
        x0, epsilon = level.signal * x - level.noise * output, level.noise * x + level.signal * output
    else:
        raise ValueError(f"prediction {kind!r}: expected one of {', '.join(KINDS)}")
    if not clip:
        return Prediction(x0, epsilon)
    clipped = jnp.clip(x0, -1, 1)
    if rederive:
        # The change alone is carried over: where nothing was clipped the noise stays as it was, to the bit.
        epsilon = epsilon + (x0 - clipped) * level.signal * inverse_noise
    return Prediction(clipped, epsilon)


def split_output(output: jax.Array, channels: int) -> tuple[jax.Array, jax.Array | None]:
    """The prediction and, where the network has twice the ``channels``, its variance values (else None)."""
    if output.shape[-1] == channels:
        return output, None
    if output.shape[-1] != 2 * channels:
        raise ValueError(f"network output of {output.shape[-1]} channels: expected {channels} or {2 * channels}")
    return output[..., :channels], output[..., channels:]


def _snr_root(source: Level, target: Level) -> Any:
    return source.signal * target.noise / (target.signal * source.noise)


def posterior(x: jax.Array, x0: jax.Array, source: Level, target: Level) -> Gaussian:
    """q(x at target | x at source, x0): Ho et al. 2020 eqs. (6) and (7), for strides of any length.

    With a predicted ``x0`` this is the reverse step of DDPM under the smaller of its fixed variances; the
    others are in `Schedule.log_variances` and `learned_log_variance`.

    Args:
      x: (B, ...) at ``source``.
      x0: shape of ``x``.
      source: not the clean node.
      target: less noise than ``source``.
    """
    r = _snr_root(source, target)
    gap = (1 - r) * (1 + r)
    mean = target.signal * gap * x0 + r * (target.noise / source.noise) * x
    return Gaussian(mean, target.noise**2 * gap)


def learned_log_variance(values: jax.Array, small: jax.Array, beta: jax.Array) -> jax.Array:
    """Log variance between ``small`` (``values`` = -1) and ``beta`` (1): Nichol & Dhariwal 2021 eq. (15)."""
    share = (values.astype(jnp.float32) + 1) / 2
    return share * beta + (1 - share) * small


def ddpm_step(mean: jax.Array, log_variance: jax.Array, target: Level, noise: jax.Array) -> jax.Array:
    """A draw of the reverse step; the step onto the clean node returns the mean.

    Args:
      mean: (B, ...), as `posterior` gives it.
      log_variance: broadcasts against ``mean``.
      target: the level that ``mean`` stands for.
      noise: standard normal, shape of ``mean``.
    """
    return mean + jnp.where(target.noise > 0, jnp.exp(0.5 * log_variance), 0) * noise


def ddim_step(
    prediction: Prediction, source: Level, target: Level, eta: Any = 0.0, noise: jax.Array | None = None
) -> jax.Array:
    """One step of DDIM, Song et al. 2021 eq. (12), from ``source`` to the less noisy ``target``.

    ``signal * x0 + sqrt(noise**2 - sigma**2) * epsilon + sigma * z`` at the target, where ``sigma`` is ``eta``
    times the deviation of `posterior`: eq. (16). Onto the clean node that is ``x0``.

    Args:
      prediction: made at ``source``.
      source: where ``x`` stands; used with ``noise`` only.
      target: where it goes.
      eta: in [0, 1], may be traced: 0 is deterministic, 1 has the variance of DDPM.
      noise: ``z``, standard normal and shaped like ``x``; needed unless ``eta`` is the constant 0.
    """
    if noise is None:
        if not (isinstance(eta, int | float) and eta == 0):
            raise ValueError("eta other than the constant 0: expected noise")
        return q_sample(prediction.x0, prediction.epsilon, target)
    r = _snr_root(source, target)
    sigma = eta * target.noise * ((1 - r) * (1 + r)) ** 0.5
    direction = target.noise * (1 - eta**2 + (eta * r) ** 2) ** 0.5
    return target.signal * prediction.x0 + direction * prediction.epsilon + sigma * noise


def inverse_ddim_step(prediction: Prediction, target: Level) -> jax.Array:
    """One step of DDIM towards more noise: the Euler step of its ODE (Song et al. 2021 eq. (14)), backwards.

    Inverts `ddim_step` exactly only if the network answers alike at both ends; by how much it does not is
    the round-trip error. From the clean node too, so that encoding starts at the image itself.

    Args:
      prediction: made at the level of ``x``; the network may have been asked at the target's ``t``.
      target: more noise than ``x`` has.
    """
    return q_sample(prediction.x0, prediction.epsilon, target)


def _example_mean(values: jax.Array) -> jax.Array:
    return jnp.mean(values.astype(jnp.float32), axis=tuple(range(1, values.ndim)))


def mse_loss(output: jax.Array, x0: jax.Array, epsilon: jax.Array, level: Level, kind: str = "epsilon") -> jax.Array:
    """(B,) float32: mean squared error of each example, so that steps can be weighted."""
    target = network_target(x0, epsilon, level, kind)
    return _example_mean(jnp.square(output.astype(jnp.float32) - target))


def min_snr_weight(level: Level, gamma: float = 5.0, kind: str = "epsilon") -> jax.Array:
    """Weight of `mse_loss`, shape of the level's arrays: Hang et al. 2023, whatever the network predicts.

    ``min(snr, gamma)`` on the error of x0, hence ``/ snr`` for epsilon and ``/ (snr + 1)`` for v.
    """
    snr = jnp.square(level.signal / level.noise)
    if kind == "epsilon":
        return jnp.minimum(1, gamma / snr)
    if kind == "x0":
        return jnp.minimum(snr, gamma)
    if kind == "v":
        return jnp.minimum(snr, gamma) * jnp.square(level.noise)
    raise ValueError(f"prediction {kind!r}: expected one of {', '.join(KINDS)}")


def normal_kl(mean: jax.Array, log_variance: jax.Array, other_mean: jax.Array, other_log: jax.Array) -> jax.Array:
    """KL divergence in nats, per element, of a normal from another."""
    gap = log_variance - other_log
    return 0.5 * (jnp.expm1(gap) - gap + jnp.square(mean - other_mean) * jnp.exp(-other_log))


def _normal_cdf(x: jax.Array) -> jax.Array:
    """Page's 1977 approximation (error < 2e-4), with which published bounds are computed."""
    return 0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def discretized_nll(x0: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Negative log-likelihood in nats, per element, of 8-bit pixels under a normal: Ho et al. 2020 eq. (13).

    Each of the 256 grey levels owns the interval 1/255 to either side; those of -1 and 1 reach to infinity.
    Probabilities are floored at 1e-12.

    Args:
      x0: 8-bit values scaled to [-1, 1].
      mean: shape of ``x0``.
      log_variance: broadcasts against ``x0``.
    """
    sharpness = jnp.exp(-0.5 * log_variance)
    below = _normal_cdf((x0 - mean - 1 / 255) * sharpness)
    above = _normal_cdf((x0 - mean + 1 / 255) * sharpness)
    inside = jnp.where(x0 < -0.999, above, jnp.where(x0 > 0.999, 1 - below, above - below))
    return -jnp.log(jnp.maximum(inside, 1e-12))


def bound_loss(
    schedule: Schedule, output: jax.Array, x: jax.Array, x0: jax.Array, t: jax.Array, kind: str = "epsilon"
) -> jax.Array:
    """(B,) float32, bits per dimension: each example's term of the variational bound at its step.

    KL(q(x before | x, x0) || p(x before | x)) and, at the first step, the likelihood of the pixels: Nichol &
    Dhariwal 2021 eqs. (4) to (6). The predicted ``x0`` is not clipped.

    Args:
      schedule: N steps.
      output: (B, H, W, 2C): prediction, then variance values in [-1, 1].
      x: (B, H, W, C) at step ``t``.
      x0: (B, H, W, C) in [-1, 1].
      t: (B,) integers, 0 to N - 1: positions in ``schedule``.
      kind: what the network predicts.
    """
    mean_output, values = split_output(output, x.shape[-1])
    if values is None:
        raise ValueError("the bound needs a network with variance channels")
    source, target = take(schedule.levels, t + 1, x.ndim), take(schedule.levels, t, x.ndim)
    logs = take(schedule.log_variances, t, x.ndim)
    log_variance = learned_log_variance(values, logs["small"], logs["beta"])
    mean = posterior(x, predict(x, mean_output, source, kind).x0, source, target).mean
    truth = posterior(x, x0, source, target).mean
    divergence = normal_kl(truth, logs["small"], mean, log_variance)
    likelihood = discretized_nll(x0, mean, log_variance)
    first = (t == 0).reshape(t.shape + (1,) * (x.ndim - 1))
    return _example_mean(jnp.where(first, likelihood, divergence)) / math.log(2)


def hybrid_terms(
    schedule: Schedule,
    output: jax.Array,
    x0: jax.Array,
    epsilon: jax.Array,
    t: jax.Array,
    kind: str = "epsilon",
) -> HybridTerms:
    """Squared error and bound of a network with learned variance: Nichol & Dhariwal 2021 eq. (16).

    The bound moves the variance only: its gradient stops at the prediction. Add the terms up, the bound times
    ``N / 1000`` (rescaled so that it weighs the same whatever the number of steps).

    Args:
      schedule: N steps.
      output: (B, H, W, 2C), the network at ``q_sample(x0, epsilon, level of t)``.
      x0: (B, H, W, C) in [-1, 1].
      epsilon: (B, H, W, C), the noise that was drawn.
      t: (B,) integers, 0 to N - 1.
      kind: what the network predicts.
    """
    level = take(schedule.levels, t + 1, x0.ndim)
    mean_output, values = split_output(output, x0.shape[-1])
    if values is None:
        raise ValueError("the hybrid loss needs a network with variance channels")
    frozen = jnp.concatenate([jax.lax.stop_gradient(mean_output), values], axis=-1)
    x = q_sample(x0, epsilon, level)
    return HybridTerms(mse_loss(mean_output, x0, epsilon, level, kind), bound_loss(schedule, frozen, x, x0, t, kind))
