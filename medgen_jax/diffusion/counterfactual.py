"""Counterfactuals: an image encoded as it is and decoded as it might have been, beside the control that was not guided.

Everything is a pure function of a `Recipe` (what is fixed when a program is compiled), of networks and of arrays: the
images, the conditions they are encoded and decoded under, the guidance and, where the recipe leaves it open, the depth
of encoding, one for each image if wanted. Nothing of a walk is kept but its end.

    trip = encode(recipe, denoise, images, source)                    # the latent, and what the method loses
    image = decode(recipe, denoise, None, trip.latent, Guidance(target, scale=3.0))
    both = counterfactual(recipe, denoise, None, images, source, Guidance(target, scale=3.0))
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medgen_jax.core.errors import UserError
from medgen_jax.diffusion.guidance import (
    Classifier,
    Denoise,
    class_gradient,
    classifier_free_denoise,
    classifier_guided,
    within,
)
from medgen_jax.diffusion.inversion import INVERSIONS, FixedPointWalk, round_trip
from medgen_jax.diffusion.process import KINDS
from medgen_jax.diffusion.samplers import Model
from medgen_jax.diffusion.schedules import Level, Schedule

#: Options of each method, as `inversion` documents them: those of encoding, and those that decoding shares.
_OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "source": ((), ()),
    "destination": ((), ()),
    "fixed_point": (("iterations", "damping", "tolerance"), ()),
    "edict": (("p",), ("p",)),
    "bdia": (("gamma",), ("gamma",)),
}
#: A step beyond every process: the end of an interval without an end.
ENDLESS = 2**31 - 1


class Guidance(NamedTuple):
    """Where to decode to, and how strongly; arrays, so that nothing here needs a new compilation.

    Attributes:
      condition: of the target, as ``denoise`` takes it.
      scale: () or (B,), classifier-free, as in `guidance.classifier_free`: 0 is the plain conditional prediction.
      label: () or (B,) integers, the class that a classifier is asked for.
      classifier_scale: () or (B,), as in `guidance.classifier_guided`.
      start: () first guided step of the trained process; both scales are 0 before it.
      stop: () the step after the last guided one.
    """

    condition: Any = None
    scale: Any = 0.0
    label: Any = None
    classifier_scale: Any = 0.0
    start: Any = 0
    stop: Any = ENDLESS


class Monitor(NamedTuple):
    """How the fixed-point method went: fields of `inversion.FixedPointWalk`, (steps, B) each."""

    residuals: jax.Array
    iterations: jax.Array
    stalled: jax.Array


class Encoded(NamedTuple):
    """An image encoded, and the unguided round trip from the same latent: the control.

    Attributes:
      latent: (B, H, W, C) float32, or a pair of such arrays (EDICT, BDIA).
      control: (B, H, W, C), the latent decoded under the condition it was encoded with, without guidance.
      rms: (B,) root mean square of ``images - control``, the method's own error.
      maximum: (B,) its largest absolute value.
      monitor: of the fixed-point method, else None.
    """

    latent: Any
    control: jax.Array
    rms: jax.Array
    maximum: jax.Array
    monitor: Monitor | None


class Counterfactual(NamedTuple):
    """What guidance changed, and what the method would have changed without it.

    Attributes:
      counterfactual: (B, H, W, C) float32, around [-1, 1].
      residual: ``images - counterfactual``, signed: positive where the counterfactual is darker, such as where an
        opacity was taken away.
      control: (B, H, W, C), the unguided round trip from the same latent.
      control_residual: ``images - control``; a residual that is no larger says nothing.
      latent, rms, maximum, monitor: as in `Encoded`.
    """

    counterfactual: jax.Array
    residual: jax.Array
    control: jax.Array
    control_residual: jax.Array
    latent: Any
    rms: jax.Array
    maximum: jax.Array
    monitor: Monitor | None


@dataclasses.dataclass(frozen=True)
class _Depths:
    """The nodes of a walk whose depth is an array: what `samplers.Model` reads of a `Schedule`.

    Attributes:
      levels: two float32 arrays (steps + 1, B, 1, 1, 1).
      labels: (steps + 1, B) int32.
    """

    levels: Level
    labels: jax.Array

    def __len__(self) -> int:
        return self.labels.shape[0] - 1


class _DepthModel(Model):
    """A `Model` on `_Depths`: each image stands at its own level."""

    def level(self, node: jax.Array, rank: int) -> Level:
        return jax.tree.map(lambda rows: rows[node], self.schedule.levels)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a compiled counterfactual is made for.

    Attributes:
      schedule: the grid that is walked, or with ``steps`` the process that a grid is laid over.
      method: how images are encoded, one of `inversion.INVERSIONS`.
      steps: None to walk the nodes of ``schedule``; else the number of equal strides to a depth that is given with
        the images, as `schedules.uniform_timesteps` lays them.
      null: as in `guidance.classifier_free_denoise`, or a function that makes it of the target's condition, such as one
        that forgets the class and keeps the view; None where nothing is guided that way.
      kind: what the denoiser predicts, one of `process.KINDS`.
      clip: limit every predicted clean image to [-1, 1].
      options: ``(name, value)`` pairs: iterations, damping, tolerance (fixed_point), p (edict), gamma (bdia).

    Raises:
      UserError: an unknown method, kind or option, or a combination that the method does not allow.
    """

    schedule: Schedule
    method: str = "fixed_point"
    steps: int | None = None
    null: Any = None
    kind: str = "epsilon"
    clip: bool = False
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.method not in INVERSIONS:
            raise UserError(f"method {self.method!r}: expected one of {', '.join(INVERSIONS)}")
        if self.kind not in KINDS:
            raise UserError(f"kind {self.kind!r}: expected one of {', '.join(KINDS)}")
        known = _OPTIONS[self.method][0]
        if wrong := [name for name, _ in self.options if name not in known]:
            raise UserError(f"{wrong[0]!r}: method {self.method!r} takes {', '.join(known) or 'no options'}")
        if self.method == "edict" and self.clip:
            raise UserError("method 'edict' inverts affine steps only: leave clip off, or take method 'bdia'")
        if self.steps is not None and not 1 <= self.steps <= len(self.schedule):
            raise UserError(f"steps {self.steps}: the schedule allows 1 to {len(self.schedule)}")

    def pair(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The method's encoder and decoder with their options."""
        options = dict(self.options)
        return tuple(
            functools.partial(function, **{name: options[name] for name in names if name in options})
            for function, names in zip(INVERSIONS[self.method], _OPTIONS[self.method], strict=True)
        )

    def model(self, denoise: Denoise, depth: Any = None, batch: int = 1) -> Model:
        """The unguided model on the grid to ``depth``, () or (B,); without ``steps``, on the schedule's own nodes."""
        if self.steps is None:
            return Model(denoise, self.schedule, self.kind, self.clip)
        deep = node_depths(self.steps, jnp.broadcast_to(depth, (batch,)))
        levels = Level(
            *(jnp.asarray(table, jnp.float32)[deep][..., None, None, None] for table in self.schedule.levels)
        )
        labels = jnp.asarray(self.schedule.labels, jnp.int32)[deep]
        return _DepthModel(denoise, _Depths(levels, labels), self.kind, self.clip)


def guided_model(model: Model, null: Any, classifier: Classifier | None, guidance: Guidance) -> Model:
    """The same model under guidance: classifier-free where ``null`` is given, by ``classifier`` where there is one."""

    def gated(scale: Any) -> Callable[[jax.Array], jax.Array]:
        return lambda t: within(scale, t, guidance.start, guidance.stop)

    def guide(prediction: Any, x: jax.Array, t: jax.Array, level: Level) -> Any:
        labels = jnp.broadcast_to(jnp.asarray(guidance.label), x.shape[:1])
        gradient = class_gradient(classifier, x, t, labels)
        return classifier_guided(prediction, x, gradient, level, gated(guidance.classifier_scale)(t))

    denoise = model.denoise
    if null is not None:
        nothing = null(guidance.condition) if callable(null) else null
        denoise = classifier_free_denoise(denoise, nothing, gated(guidance.scale))
    return dataclasses.replace(model, denoise=denoise, guide=None if classifier is None else guide)


def node_depths(steps: int, depth: jax.Array) -> jax.Array:
    """Noising steps at the nodes 0 ... ``steps`` of a walk to each ``depth``: (B,) -> (steps + 1, B) int32.

    Laid as `schedules.uniform_timesteps` lays them. Where a depth is less than ``steps`` nodes repeat, and the steps
    between equal ones change nothing.
    """
    nodes = jnp.arange(steps + 1, dtype=jnp.int32)[:, None]
    return (2 * nodes * jnp.asarray(depth, jnp.int32)[None] + steps) // (2 * steps)


def encode(recipe: Recipe, denoise: Denoise, images: jax.Array, source: Any, depth: Any = None) -> Encoded:
    """Encode images and measure what comes back without guidance.

    Args:
      recipe: method and grid.
      denoise: see the package's docstring.
      images: (B, H, W, C) in [-1, 1].
      source: condition of the images, as ``denoise`` takes it; the null condition to assume nothing.
      depth: () or (B,) integers, where the recipe has ``steps``: how many noising steps deep to encode, from 1 to the
        schedule's length.
    """
    model = recipe.model(denoise, depth, images.shape[0])
    trip = round_trip(*recipe.pair(), model, images, source)
    walk = trip.encoded
    monitor = Monitor(walk.residuals, walk.iterations, walk.stalled) if isinstance(walk, FixedPointWalk) else None
    return Encoded(walk.x, trip.image, trip.rms, trip.maximum, monitor)


def decode(
    recipe: Recipe,
    denoise: Denoise,
    classifier: Classifier | None,
    latent: Any,
    guidance: Guidance,
    depth: Any = None,
) -> jax.Array:
    """Decode a latent under guidance: (B, H, W, C) float32.

    Args:
      recipe, denoise: those that the latent was encoded with.
      classifier: ``classifier(x, t) -> logits (B, K)``, trained on noisy images, or None.
      latent: of `Encoded`.
      guidance: target and strength.
      depth: the one that the latent was encoded to.
    """
    batch = jax.tree.leaves(latent)[0].shape[0]
    model = guided_model(recipe.model(denoise, depth, batch), recipe.null, classifier, guidance)
    return recipe.pair()[1](model, latent, guidance.condition).x


def counterfactual(
    recipe: Recipe,
    denoise: Denoise,
    classifier: Classifier | None,
    images: jax.Array,
    source: Any,
    guidance: Guidance,
    depth: Any = None,
) -> Counterfactual:
    """Encode, decode under guidance, and decode the same latent without: arguments of `encode` and `decode`."""
    images = jnp.asarray(images, jnp.float32)
    encoded = encode(recipe, denoise, images, source, depth)
    image = decode(recipe, denoise, classifier, encoded.latent, guidance, depth)
    latent, control, *errors = encoded
    return Counterfactual(image, images - image, control, images - control, latent, *errors)
