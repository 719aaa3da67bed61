"""Diffusion models as functions from images to counterfactuals; the public face is `medgen_jax.sampling`.

    healthy = make_counterfactual(denoise, schedule=make_schedule("linear", 1000), steps=100, null=2)
    result = healthy(images, source=2, target=0, scale=3.0, depth=500)

    trip = healthy.encode(images, source=2, depth=500)               # the latent may be saved
    stronger = healthy.decode(trip.latent, target=0, scale=6.0, depth=500)

jax and NumPy only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.diffusion import counterfactual, depths
from medgen_jax.diffusion.counterfactual import Counterfactual, Encoded, Guidance, Recipe
from medgen_jax.diffusion.depths import Ensemble
from medgen_jax.diffusion.guidance import Classifier, Denoise
from medgen_jax.diffusion.schedules import Schedule
from medgen_jax.ops.scale import to_unit

PyTree = Any


class Networks(NamedTuple):
    """What a counterfactual asks: pytrees, so that their parameters are arguments of a program, not constants in it.

    Attributes:
      denoise: ``denoise(x, t, condition)``, a ``jax.tree_util.Partial``.
      classifier: ``classifier(x, t) -> logits``, a ``jax.tree_util.Partial``, or None.
    """

    denoise: Any
    classifier: Any


@dataclass(frozen=True, eq=False)
class CounterfactualSampler:
    """Counterfactuals of images; made by `make_counterfactual`. Each method compiles once per set of shapes.

    Scales, labels, conditions, interval and depth may be single values or one per image; either way they are arrays
    of the program, and another value needs no new compilation.

    Attributes:
      recipe: method and grid.
      networks: denoiser and classifier.
      function: ``(networks, images, source, guidance, depth) -> Counterfactual``, pure and un-jitted, for embedding
        in other jitted code; `diffusion.counterfactual.Guidance` holds target and scales.
      jitted: by name, what the methods call.
      classes: of images of a shape, how many classes the classifier knows.
    """

    recipe: Recipe
    networks: Networks
    function: Callable[..., Counterfactual]
    jitted: Mapping[str, Callable[..., Any]]
    classes: Callable[[tuple[int, ...]], int]

    def __repr__(self) -> str:
        steps = self.recipe.steps or len(self.recipe.schedule)
        return f"CounterfactualSampler(method={self.recipe.method!r}, steps={steps})"

    def __call__(
        self, images: Any, source: PyTree = None, target: PyTree = None, *, depth: Any = None, **guidance: Any
    ) -> Counterfactual:
        """Counterfactual, residual, control and its residual, latent, round-trip error: one compiled function.

        Args:
          images: (b, h, w, c) uint8, uint16, or float in [-1, 1].
          source: condition to encode under, as ``denoise`` takes it but also of single values: the images' own, or
            the null one to assume nothing. Encoding and the control are unguided.
          target: condition to decode under.
          depth: (b,) or one integer, with ``steps``: noising steps to encode, 1 to the schedule's length.
          **guidance: ``scale`` (classifier-free; 0 is the plain conditional prediction, elsewhere called 1),
            ``label`` and ``classifier_scale`` (the classifier's class and strength), ``interval``
            ``(start, stop)``: guide from step start to before step stop only.

        Raises:
          UserError: images that are no batch or outside [-1, 1]; a value per image for another number of images; a
            depth outside the schedule; guidance without what it needs (``null``, a classifier, a label).
        """
        return self.jitted["counterfactual"](*self._arguments(images, source, target, depth, guidance))

    def encode(self, images: Any, source: PyTree = None, *, depth: Any = None) -> Encoded:
        """Latent, control and round-trip error; arguments as in a call. The latent may be kept for `decode`."""
        batch = _batch(images)
        source = _per_image("source", source, batch)
        return self.jitted["encode"](self.networks, images, source, self._depth(depth, batch))

    def decode(self, latent: PyTree, target: PyTree = None, *, depth: Any = None, **guidance: Any) -> jax.Array:
        """The counterfactual (b, h, w, c) of a kept latent; other arguments as in a call, ``depth`` as encoded."""
        shape = self._latent_shape(latent)
        made = self._guidance(shape, target, **guidance)
        return self.jitted["decode"](self.networks, latent, made, self._depth(depth, shape[0]))

    def forward_gap(
        self, images: Any, source: PyTree = None, target: PyTree = None, *, depth: Any = None, **guidance: Any
    ) -> jax.Array:
        """How much guidance would change at each node, (steps, b) float32; arguments as in a call.

        `diffusion.depths.choose_depth` and `choose_scale` make of it each image's own depth and scale.
        """
        return self.jitted["forward_gap"](*self._arguments(images, source, target, depth, guidance))

    def ensemble(
        self, images: Any, source: PyTree = None, target: PyTree = None, *, depth: Any, **guidance: Any
    ) -> Ensemble:
        """Mean residual and its deviation over several depths, one compiled loop.

        Args:
          depth: (d,) depths for all images, or (d, b).
          images, source, target, **guidance: as in a call.
        """
        if np.ndim(depth) not in (1, 2) or not len(depth):
            raise UserError(f"depth {depth}: an ensemble takes several, (d,) for all images or (d, b)")
        depth = list(np.asarray(depth))
        *arguments, first = self._arguments(images, source, target, depth[0], guidance)
        return self.jitted["ensemble"](*arguments, np.stack([first, *(self._depth(d, len(first)) for d in depth[1:])]))

    def _arguments(
        self, images: Any, source: PyTree, target: PyTree, depth: Any, guidance: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        batch = _batch(images)
        made = self._guidance(np.shape(images), target, **guidance)
        return self.networks, images, _per_image("source", source, batch), made, self._depth(depth, batch)

    def _guidance(
        self,
        shape: tuple[int, ...],
        target: PyTree,
        *,
        scale: Any = None,
        label: Any = None,
        classifier_scale: Any = None,
        interval: tuple[int, int] | None = None,
    ) -> Guidance:
        if scale is not None and self.recipe.null is None:
            raise UserError("scale: classifier-free guidance needs null, the condition that says nothing is known")
        if self.recipe.null is not None and target is None:
            raise UserError("target: needed, the condition to decode under")
        if self.networks.classifier is None and (label is not None or classifier_scale is not None):
            raise UserError("label, classifier_scale: this sampler was made without a classifier")
        start, stop = (0, counterfactual.ENDLESS) if interval is None else interval
        return Guidance(
            _per_image("target", target, shape[0]),
            _per_image("scale", 0.0 if scale is None else scale, shape[0], np.float32),
            self._labels(label, shape),
            _per_image("classifier_scale", 0.0 if classifier_scale is None else classifier_scale, shape[0], np.float32),
            np.int32(start),
            np.int32(stop),
        )

    def _labels(self, label: Any, shape: tuple[int, ...]) -> np.ndarray | None:
        if self.networks.classifier is None:
            return None
        if label is None:
            raise UserError("label: needed, the class that the classifier is asked for")
        labels, known = _per_image("label", label, shape[0]), self.classes(shape)
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= known:
            raise UserError(f"label {label}: the classifier knows the classes 0 to {known - 1}")
        return labels.astype(np.int32)

    def _depth(self, depth: Any, batch: int) -> np.ndarray | None:
        length = len(self.recipe.schedule)
        if self.recipe.steps is None:
            if depth is not None:
                raise UserError("depth: this sampler walks the nodes of its schedule; make it with steps to choose one")
            return None
        if depth is None:
            raise UserError(f"depth: needed, how many noising steps to encode, 1 to {length}")
        chosen = _per_image("depth", depth, batch)
        if chosen.dtype.kind not in "iu" or chosen.min() < 1 or chosen.max() > length:
            raise UserError(f"depth {depth}: expected a whole number of noising steps, 1 to {length}")
        return chosen.astype(np.int32)

    def _latent_shape(self, latent: PyTree) -> tuple[int, ...]:
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(latent)]
        states = 2 if self.recipe.method in ("edict", "bdia") else 1
        if len(shapes) != states or len(shapes[0]) != 4 or len(set(shapes)) > 1:
            wanted = "one array" if states == 1 else "a pair of arrays"
            raise UserError(f"latent of shapes {shapes}: method {self.recipe.method!r} decodes {wanted} (b, h, w, c)")
        return shapes[0]


def _batch(images: Any) -> int:
    if np.ndim(images) != 4 or not np.size(images):
        raise UserError(f"images have shape {np.shape(images)}; a batch (b, h, w, c) is needed")
    # Only host arrays: looking at device arrays would wait for them.
    if isinstance(images, np.ndarray) and images.dtype.kind == "f" and not np.abs(images).max() <= 1.001:
        raise UserError("images hold NaN or floats outside [-1, 1]: scale them, or pass uint8 or uint16")
    return np.shape(images)[0]


def _per_image(name: str, values: PyTree, batch: int, dtype: Any = None) -> PyTree:
    """Every leaf with a leading axis of ``batch``, on the host, so that no value's form asks for a compilation.

    A list is a leaf, as it is to NumPy; a condition of several parts is a dict or a tuple.
    """

    def spread(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf, dtype)
        if leaf.ndim and leaf.shape[0] != batch:
            raise UserError(f"{name} has shape {leaf.shape}: expected one value, or one for each of {batch} images")
        if leaf.dtype.kind == "f" and not np.all(np.isfinite(leaf)):
            raise UserError(f"{name} {leaf}: expected finite values")
        return leaf if leaf.ndim else np.broadcast_to(leaf, (batch,))

    return jax.tree.map(spread, values, is_leaf=lambda node: isinstance(node, list))


def make_counterfactual(
    denoise: Denoise,
    classifier: Classifier | None = None,
    *,
    schedule: Schedule,
    method: str = "fixed_point",
    steps: int | None = None,
    null: PyTree = None,
    kind: str = "epsilon",
    clip: bool = False,
    **options: Any,
) -> CounterfactualSampler:
    """A function from images to counterfactuals: encode, guided decode, residual and control as one program.

    Args:
      denoise: ``denoise(x, t, condition)``, see `medgen_jax.diffusion`. Parameters that it closes over become
        constants of the program; ``jax.tree_util.Partial(function, parameters)`` keeps them arguments.
      classifier: ``classifier(x, t) -> logits (b, k)``, trained on noisy images; likewise.
      schedule: of the process that ``denoise`` was trained on, with ``steps``; else the grid to walk.
      method: how to encode: source, destination, fixed_point, edict or bdia (`medgen_jax.diffusion.inversion`). The
        last two come back exactly without guidance; under strong guidance on few steps bdia overshoots the target by
        far (on a mixture of two normals at 40 steps and scale 3 tenfold, at 200 steps hardly), edict a little.
      steps: strides of every walk, to a depth given with the images. Without, the walk goes over all nodes of
        ``schedule``, as edict must.
      null: the condition that says nothing is known, such as ``{"finding": 2, "view": 2}``, for classifier-free
        guidance, or a function that makes it of the target's; without, decoding is plainly conditional (and guided by
        the classifier, if any).
      kind: what ``denoise`` predicts: epsilon, x0 or v.
      clip: limit every predicted clean image to [-1, 1].
      **options: of the method: iterations, damping, tolerance (fixed_point), p (edict), gamma (bdia).

    Raises:
      UserError: an unknown method, kind or option, or a combination that the method does not allow.
    """
    recipe = Recipe(schedule, method, steps, null, kind, clip, tuple(options.items()))
    networks = Networks(_as_tree(denoise), None if classifier is None else _as_tree(classifier))

    @functools.cache
    def classes(shape: tuple[int, ...]) -> int:
        x, t = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape[:1], jnp.int32)
        return jax.eval_shape(classifier, x, t).shape[-1]

    def function(
        networks: Networks, images: jax.Array, source: PyTree, guidance: Guidance, depth: Any = None
    ) -> Counterfactual:
        return counterfactual.counterfactual(recipe, *networks, to_unit(images), source, guidance, depth)

    def encode(networks: Networks, images: jax.Array, source: PyTree, depth: Any) -> Encoded:
        return counterfactual.encode(recipe, networks.denoise, to_unit(images), source, depth)

    def decode(networks: Networks, latent: PyTree, guidance: Guidance, depth: Any) -> jax.Array:
        return counterfactual.decode(recipe, *networks, latent, guidance, depth)

    def forward_gap(networks: Networks, images: jax.Array, source: PyTree, guidance: Guidance, depth: Any) -> jax.Array:
        return depths.forward_gap(recipe, *networks, to_unit(images), source, guidance, depth)

    def ensemble(networks: Networks, images: jax.Array, source: PyTree, guidance: Guidance, depth: Any) -> Ensemble:
        return depths.ensemble(functools.partial(function, networks, images, source, guidance), depth)

    others = {each.__name__: jax.jit(each) for each in (encode, decode, forward_gap, ensemble)}
    jitted = {"counterfactual": jax.jit(function)} | others
    return CounterfactualSampler(recipe, networks, function, jitted, classes)


def _as_tree(function: Callable[..., Any]) -> jax.tree_util.Partial:
    return function if isinstance(function, jax.tree_util.Partial) else jax.tree_util.Partial(function)
