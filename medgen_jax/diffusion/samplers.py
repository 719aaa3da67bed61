"""From noise to images: DDIM, DDPM and DPM-Solver++ (2M), each one ``lax.scan`` over the nodes of a schedule.

All samplers share one form, ``sampler(model, x, condition, ...) -> Walk``: ``x`` stands at node ``start`` of
``model.schedule`` (the last one unless said otherwise) and walks to the clean node 0. The grid is the schedule's, so
fewer steps mean a schedule thinned by `schedules.respace`. Guidance comes with the model: classifier-free as another
``denoise`` (`guidance.classifier_free_denoise`), by a classifier as ``guide``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.diffusion.guidance import Denoise
from medgen_jax.diffusion.process import (
    Prediction,
    ddim_step,
    ddpm_step,
    learned_log_variance,
    posterior,
    predict,
    split_output,
    take,
)
from medgen_jax.diffusion.schedules import Level, Schedule

Guide = Callable[[Prediction, jax.Array, jax.Array, Level], Prediction]


class Walk(NamedTuple):
    """Where a walk over the nodes ended.

    Attributes:
      x: (B, H, W, C) float32; a pair of such arrays where a method carries two states.
      trajectory: ``x`` after each step, leading axis = steps in the order walked; None unless asked for.
    """

    x: Any
    trajectory: Any = None


class Answer(NamedTuple):
    """A model's prediction and its variance values in [-1, 1], None where it learns no variance."""

    prediction: Prediction
    values: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Model:
    """A denoiser on a grid: all that samplers and inversions need to know of it.

    Built inside the traced function, so that scales and variables closed over by ``denoise`` may be traced.

    Attributes:
      denoise: ``denoise(x, t, condition)``, see the package's docstring.
      schedule: the grid; its ``labels`` are the ``t`` that the denoiser sees.
      kind: what the denoiser predicts, one of `process.KINDS`.
      clip: limit every predicted clean image to [-1, 1].
      guide: ``guide(prediction, x, t, level)``, the prediction to use instead, such as one made by
        `guidance.classifier_guided`; not clipped again.
      rederive: let the noise follow a clipped image, as guided-diffusion does; False leaves it as it was predicted,
        as the diffusers package does unless told otherwise.
    """

    denoise: Denoise
    schedule: Schedule
    kind: str = "epsilon"
    clip: bool = False
    guide: Guide | None = None
    rederive: bool = True

    def level(self, node: jax.Array, rank: int) -> Level:
        """The level of a node as float32 scalars."""
        return take(self.schedule.levels, jnp.asarray(node), rank)

    def answer(self, x: jax.Array, node: jax.Array, condition: Any, asked: jax.Array | None = None) -> Answer:
        """What the denoiser says about ``x``.

        Args:
          x: (B, H, W, C) at ``node``.
          node: () integer.
          condition: as ``denoise`` takes it.
          asked: () integer, the node whose label the denoiser is given; ``node`` unless said otherwise.
        """
        level = self.level(node, x.ndim)
        label = jnp.asarray(self.schedule.labels, jnp.int32)[node if asked is None else asked]
        t = jnp.broadcast_to(label, x.shape[:1])
        output, values = split_output(self.denoise(x, t, condition), x.shape[-1])
        prediction = predict(x, output, level, self.kind, clip=self.clip, rederive=self.rederive)
        return Answer(prediction if self.guide is None else self.guide(prediction, x, t, level), values)

    def depth(self, node: int | None) -> int:
        """``node``, or the last one for None.

        Raises:
          ValueError: a node that the schedule does not have, or the clean one, from which no step leads down.
        """
        node = len(self.schedule) if node is None else node
        if not 1 <= node <= len(self.schedule):
            raise ValueError(f"node {node}: expected 1 to {len(self.schedule)}, the steps of the schedule")
        return node


def scan_nodes(step: Callable[[Any, Any], Any], state: Any, nodes: Any, trajectory: bool) -> tuple[Any, Any]:
    """``state = step(state, row)`` over the rows of ``nodes``: the last state, and all of them if asked for."""

    def body(state: Any, row: Any) -> tuple[Any, Any]:
        state = step(state, row)
        return state, state if trajectory else None

    return jax.lax.scan(body, state, nodes)


def down(depth: int) -> jax.Array:
    """Nodes left in turn by a walk to the clean node: ``depth`` ... 1."""
    return jnp.arange(depth, 0, -1)


def ddim_sample(
    model: Model,
    x: jax.Array,
    condition: Any = None,
    *,
    eta: Any = 0.0,
    key: jax.Array | None = None,
    start: int | None = None,
    trajectory: bool = False,
) -> Walk:
    """DDIM from ``start`` to the clean image: Song et al. 2021 eqs. (12) and (16).

    Args:
      model: denoiser, grid, guidance.
      x: (B, H, W, C), at node ``start``; standard normal at the last node of a full schedule.
      condition: as ``denoise`` takes it.
      eta: in [0, 1], may be traced: 0 is deterministic, 1 has the variance of DDPM.
      key: PRNG key; needed unless ``eta`` is the constant 0. The noise of a step depends on its node alone.
      start: node at which ``x`` stands, 1 to N; N for None.
      trajectory: also return ``x`` after every step.
    """

    def step(x: jax.Array, node: jax.Array) -> jax.Array:
        noise = None if key is None else jax.random.normal(jax.random.fold_in(key, node), x.shape)
        source, target = model.level(node, x.ndim), model.level(node - 1, x.ndim)
        return ddim_step(model.answer(x, node, condition).prediction, source, target, eta, noise)

    return Walk(*scan_nodes(step, jnp.asarray(x, jnp.float32), down(model.depth(start)), trajectory))


def ddpm_sample(
    model: Model,
    x: jax.Array,
    condition: Any = None,
    *,
    key: jax.Array,
    variance: str = "small",
    start: int | None = None,
    trajectory: bool = False,
) -> Walk:
    """Ancestral sampling: Ho et al. 2020 algorithm 2, with the posterior of each stride.

    Args:
      model: denoiser, grid, guidance. A denoiser of 2C channels brings its own variance: Nichol & Dhariwal
        2021 eq. (15).
      x: (B, H, W, C), at node ``start``.
      condition: as ``denoise`` takes it.
      key: PRNG key. The noise of a step depends on its node alone.
      variance: of a denoiser that learns none, "small" or "large": the two of Ho et al. 2020 section 3.2.
      start: node at which ``x`` stands, 1 to N; N for None.
      trajectory: also return ``x`` after every step.
    """
    if variance not in ("small", "large"):
        raise ValueError(f"variance {variance!r}: expected 'small' or 'large'")

    def step(x: jax.Array, node: jax.Array) -> jax.Array:
        source, target = model.level(node, x.ndim), model.level(node - 1, x.ndim)
        prediction, values = model.answer(x, node, condition)
        logs = take(model.schedule.log_variances, node - 1, x.ndim)
        log_variance = logs[variance] if values is None else learned_log_variance(values, logs["small"], logs["beta"])
        noise = jax.random.normal(jax.random.fold_in(key, node), x.shape)
        return ddpm_step(posterior(x, prediction.x0, source, target).mean, log_variance, target, noise)

    return Walk(*scan_nodes(step, jnp.asarray(x, jnp.float32), down(model.depth(start)), trajectory))


def _extrapolation(levels: Level, depth: int) -> np.ndarray:
    """(depth,) float64: how far each step of the 2M rule reaches beyond its own prediction, ``1 / (2 r)``.

    ``r`` is the ratio of the step before to this one in half-log-SNR. The first step has no predecessor and the
    last one, onto the clean node, is infinitely long: both are of first order.
    """
    half_log_snr = np.log(levels.signal[1 : depth + 1] / levels.noise[1 : depth + 1])[::-1]
    lengths = np.diff(half_log_snr)
    return np.concatenate([[0.0], lengths[1:] / (2 * lengths[:-1]), [0.0]])[:depth]


def dpm_solver_sample(
    model: Model,
    x: jax.Array,
    condition: Any = None,
    *,
    start: int | None = None,
    trajectory: bool = False,
) -> Walk:
    """DPM-Solver++ (2M): Lu et al. 2022 (arXiv 2211.01095), algorithm 2; one call of the denoiser per step.

    Deterministic and of second order in the half-log-SNR, where DDIM is of first: it wants fewer steps.

    Args:
      model: denoiser, grid, guidance.
      x: (B, H, W, C), at node ``start``.
      condition: as ``denoise`` takes it.
      start: node at which ``x`` stands, 1 to N; N for None.
      trajectory: also return ``x`` after every step.
    """
    depth = model.depth(start)
    reach = jnp.asarray(_extrapolation(model.schedule.levels, depth), jnp.float32)
    x = jnp.asarray(x, jnp.float32)

    def step(state: tuple[jax.Array, jax.Array], row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        (x, before), (node, reach) = state, row
        source, target = model.level(node, x.ndim), model.level(node - 1, x.ndim)
        x0 = model.answer(x, node, condition).prediction.x0
        extrapolated = x0 + reach * (x0 - before)
        decay = source.signal * target.noise / (target.signal * source.noise)
        x = (target.noise / source.noise) * x + target.signal * (1 - decay) * extrapolated
        return x, x0

    (x, _), states = scan_nodes(step, (x, jnp.zeros_like(x)), (down(depth), reach), trajectory)
    return Walk(x, states[0] if trajectory else None)
