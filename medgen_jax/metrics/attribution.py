"""Where a classifier looks: class activation maps, and tests of whether such maps mean anything.

* CAM (Zhou, Khosla, Lapedriza, Oliva and Torralba, CVPR 2016, equation 2): M = sum_c w_c A_c, for
  classifiers that average the last convolution's maps A and apply one linear layer w.
* Grad-CAM (Selvaraju et al., ICCV 2017, equations 1 and 2): M = ReLU(sum_c a_c A_c) with a_c the
  mean of dy/dA_c over positions, for any classifier. With CAM's head it is ReLU(CAM) / (h w).

Maps come out raw, in units of the logit. Dividing each by its own maximum (`min_max`, `scaled_maps`)
makes a picture and destroys the scale: such maps cannot be compared between images, and a map of
nothing looks as bright as one of a lesion. Score raw maps: `anomaly_maps.pointing_hits` and
`anomaly_maps.energy_in_mask` against masks, `deletion_curve` and `insertion_curve` against the classifier
itself, and `randomisation_check`, without which a plausible map may be an edge detector.

A classifier is given as a `Tapped` function, so no framework is imported here. Of a Flax module with
two methods::

    tapped = tap(
        lambda variables, images: module.apply(variables, images, method="features"),
        lambda variables, activations: module.apply(variables, activations, method="head"),
    )

Of a Flax module that calls ``a = self.perturb("last", a); self.sow("intermediates", "last", a)``::

    def tapped(variables, images, perturbation):
        variables = {**variables, "perturbations": {"last": perturbation}}
        logits, state = module.apply(variables, images, mutable=["intermediates"])
        return logits, state["intermediates"]["last"][0]

Of a Flax module that was not written for it, at the submodule called ``conv5``::

    def tapped(variables, images, perturbation):
        seen = []

        def add(call, args, kwargs, context):
            out = call(*args, **kwargs)
            if context.module.name == "conv5" and context.method_name == "__call__":
                out = out + perturbation
                seen.append(out)
            return out

        with flax.linen.intercept_methods(add):
            return module.apply(variables, images), seen[0]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image, Labels

Maps = Float[Array, "b h w"]
Activations = Float[Array, "b h w c"]
#: (variables, images, perturbation) -> (logits (b, k), activations (b, h, w, c)): the activations
#: already hold the perturbation, which is an array of their shape, or the number 0 to ask for that.
Tapped = Callable[[Any, Image, Array], tuple[Float[Array, "b k"], Activations]]

EPSILON = 1e-7  # that of pytorch-grad-cam 1.5.7


def tap(features: Callable[[Any, Image], Activations], head: Callable[[Any, Activations], Array]) -> Tapped:
    """A `Tapped` function from the two halves of a classifier, before and after the tapped layer."""

    def tapped(variables: Any, images: Image, perturbation: Array) -> tuple[Array, Activations]:
        activations = features(variables, images) + perturbation
        return head(variables, activations), activations

    return tapped


def class_activation(activations: Activations, weights: Float[Array, "c k"], classes: Labels) -> Maps:
    """CAM, raw: the linear layer's weights of one class on the maps it averages. May be negative.

    Args:
      activations: (b, h, w, c), the last convolution's.
      weights: (c, k), without the bias, which no position owns.
      classes: (b,).

    Raises:
      UserError: when shapes do not fit, or, outside jit, a class does not exist; under jit its map
        is NaN.
    """
    _check_activations(activations)
    if weights.ndim != 2 or weights.shape[0] != activations.shape[-1]:
        raise UserError(
            f"CAM: weights {weights.shape} for activations {activations.shape}; (channels, classes) is needed"
        )
    classes = _checked_classes(classes, len(activations), weights.shape[1])
    of_class = weights.astype(jnp.float32).T[classes]
    maps = jnp.einsum("bhwc,bc->bhw", activations.astype(jnp.float32), of_class, precision="highest")
    return _nan_where_unknown(maps, classes, weights.shape[1])


def grad_cam(
    tapped: Tapped, variables: Any, images: Image, classes: Labels | None = None, *, rectify: bool = True
) -> Maps:
    """Grad-CAM, raw, float32 (b, h, w) at the size of the tapped layer.

    One pass forward and one backward, from the logits to the tapped layer, for the whole batch; so
    an image's logits must not depend on its neighbours (batch norm with running statistics).

    Args:
      tapped: the classifier.
      variables: its first argument.
      images: (b, H, W, channels), whatever the classifier takes.
      classes: (b,) whose logit to explain; the greatest if left out. A classifier with one logit
        has class 0 alone.
      rectify: the paper's ReLU. Without it negative evidence stays.

    Raises:
      UserError: when the tapped layer has no positions, the head no (b, k) logits, or, outside jit,
        a class does not exist; under jit its map is NaN.
    """
    logits_shape, layer = jax.eval_shape(tapped, variables, images, 0.0)
    _check_activations(layer)
    if len(logits_shape.shape) != 2 or logits_shape.shape[0] != layer.shape[0]:
        raise UserError(f"Grad-CAM: logits have shape {logits_shape.shape}; (images, classes) is needed")
    count = logits_shape.shape[1]

    def logits_of(perturbation: Array) -> tuple[Array, Activations]:
        return tapped(variables, images, perturbation)

    logits, backward, activations = jax.vjp(logits_of, jnp.zeros(layer.shape, layer.dtype), has_aux=True)
    classes = jnp.argmax(logits, axis=1) if classes is None else _checked_classes(classes, len(logits), count)
    (gradients,) = backward(jax.nn.one_hot(classes, count, dtype=logits.dtype))
    weights = jnp.mean(gradients.astype(jnp.float32), axis=(1, 2))
    maps = jnp.einsum("bhwc,bc->bhw", activations.astype(jnp.float32), weights, precision="highest")
    return _nan_where_unknown(jnp.maximum(maps, 0) if rectify else maps, classes, count)


def upsample(maps: Maps, size: tuple[int, int]) -> Maps:
    """Bilinear, pixel centres at half-integers, edges continued: what images themselves are resized by."""
    return jax.image.resize(maps, (len(maps), *size), "linear", antialias=False)


def min_max(maps: Maps) -> Maps:
    """Each map to [0, 1) by its own extremes, (m - min) / (max - min + 1e-7), a constant one to 0.

    For pictures: not comparable between images, and maps below about 1e-5 fade to nothing.
    """
    rise = maps - jnp.min(maps, axis=(1, 2), keepdims=True)
    return rise / (EPSILON + jnp.max(rise, axis=(1, 2), keepdims=True))


def scaled_maps(maps: Maps, size: tuple[int, int]) -> Maps:
    """What pytorch-grad-cam 1.5.7 returns for a raw map: `min_max`, `upsample`, and `min_max` again."""
    return min_max(upsample(min_max(maps), size))


def deletion_curve(
    score: Callable[[Image], Float[Array, "b"]], images: Image, maps: Maps, reference: Image, *, steps: int = 50
) -> Float[Array, "b n"]:
    """Scores while the pixels of the highest map are replaced by the reference, share 0, 1 / steps, ..., 1.

    The deletion metric of Petsiuk, Das and Saenko, BMVC 2018 (RISE). A map that names what the classifier
    uses makes the score fall at once: small `curve_area`. Pixels of equal map go in a fixed random
    order, so a constant map deletes at random, which is the row to compare with. The reference
    (blurred, mean, black) and the number of steps change the area: compare like with like.

    Args:
      score: images (b, h, w, c) -> (b,), the probability of the explained class.
      images: (b, h, w, c).
      maps: (b, h, w), at the images' size (`upsample`).
      reference: (b, h, w, c) or (1, 1, 1, c), what a deleted pixel becomes.
      steps: pieces into which the pixels are cut; the classifier runs steps + 1 times.

    Raises:
      UserError: when sizes differ, there are fewer steps than 1 or more than pixels, or, outside
        jit, naming the first map that is not finite; under jit its curve is NaN.
    """
    return _replacement_curve(score, images, reference, maps, steps)


def insertion_curve(
    score: Callable[[Image], Float[Array, "b"]], images: Image, maps: Maps, reference: Image, *, steps: int = 50
) -> Float[Array, "b n"]:
    """Scores while the pixels of the highest map are put into the reference: good maps have a large `curve_area`.

    The insertion metric of the same paper; arguments and errors as `deletion_curve`.
    """
    return _replacement_curve(score, reference, images, maps, steps)


def curve_area(curve: Float[Array, "b n"]) -> Float[Array, "b"]:
    """Area under each curve over shares from 0 to 1, by trapezoids."""
    return jnp.mean((curve[:, 1:] + curve[:, :-1]) / 2, axis=1)


def randomise_in_turn(params: Mapping, fresh: Mapping, layers: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """Parameters with one more layer replaced by newly initialised ones at each turn.

    Args:
      params: of the trained network, nested dictionaries.
      fresh: of the same network, initialised with another key.
      layers: paths such as ``"head"`` or ``"encoder/block3"``, from the output to the input.

    Yields:
      The layer's path, and a copy of ``params`` in which it and all before it are fresh.

    Raises:
      UserError: naming the first path that is not in both, or whose shapes differ.
    """
    for layer in layers:
        params = _replaced(params, fresh, layer.split("/"), layer)
        yield layer, params


def randomisation_check(
    maps_of: Callable[[Any], Maps], params: Mapping, fresh: Mapping, layers: Sequence[str]
) -> dict[str, Float[np.ndarray, "b"]]:
    """Rank correlation of each image's map with that of the network, layer by layer randomised.

    The cascading parameter randomisation test of Adebayo et al., NeurIPS 2018. A map that depends
    on what was learned loses its correlation; one that keeps it shows the image's edges, whatever
    the network. Maps are smooth and X-rays alike, so one fresh network agrees or disagrees by
    chance (between small untrained networks .6 of either sign is usual, alike for every image):
    what tells is the mean over a dozen networks, initialised with as many keys.

    Args:
      maps_of: parameters -> raw maps (b, h, w) of the same images and classes. Fix the classes:
        the randomised network predicts others.
      params: as `randomise_in_turn`.
      fresh: likewise.
      layers: likewise.

    Returns:
      For each layer Spearman's correlations (b,), see `rank_correlation`.

    Raises:
      UserError: as `randomise_in_turn`, and naming the first image with a map that is not finite.
    """
    trained = maps_of(params)
    turns = randomise_in_turn(params, fresh, layers)
    return {layer: rank_correlation(trained, maps_of(others)) for layer, others in turns}


def rank_correlation(a: Float[Array, "b ..."], b: Float[Array, "b ..."]) -> Float[np.ndarray, "b"]:
    """Spearman's correlation of each record, equal values sharing their mean rank, in [-1, 1].

    0 where either side is constant: it orders nothing. Float64 on the host.

    Raises:
      UserError: when shapes differ, and naming the first record that holds NaN or infinity.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim < 2:
        raise UserError(f"rank correlation: maps have shapes {a.shape} and {b.shape}; both must be one (b, h, w)")
    for side in (a, b):
        _refuse_not_finite(side, "rank correlation")
    return np.array([_correlation(_ranks(x), _ranks(y)) for x, y in zip(a, b, strict=True)])


def _replacement_curve(score: Callable, start: Image, end: Image, maps: Maps, steps: int) -> Float[Array, "b n"]:
    shape = np.broadcast_shapes(start.shape, end.shape)
    if shape[:3] != maps.shape:
        raise UserError(f"deletion: maps {maps.shape} for images {shape}; upsample the maps to the images' size")
    pixels = maps.shape[1] * maps.shape[2]
    if not 1 <= steps <= pixels:
        raise UserError(f"deletion: {steps} steps over {pixels} pixels; take 1 to {pixels}")
    if not isinstance(maps, jax.core.Tracer):
        _refuse_not_finite(np.asarray(maps), "deletion")
    ranks = _falling_ranks(maps.reshape(len(maps), -1)).reshape(*maps.shape, 1)

    def scored(replaced: Array) -> Float[Array, "b"]:
        return score(jnp.where(ranks < replaced, end, start))

    curve = jax.lax.map(scored, jnp.asarray(np.arange(steps + 1) * pixels // steps)).T
    finite = jnp.all(jnp.isfinite(maps), axis=(1, 2))
    return jnp.where(finite[:, None], curve, jnp.nan)


def _falling_ranks(values: Float[Array, "b n"]) -> Int[Array, "b n"]:
    """0 for the greatest; equal values in one fixed random order."""
    shuffled = jnp.asarray(np.random.default_rng(0).permutation(values.shape[1]))
    order = shuffled[jnp.argsort(values[:, shuffled], axis=1, descending=True, stable=True)]
    return jnp.argsort(order, axis=1)


def _replaced(params: Mapping, fresh: Mapping, path: Sequence[str], layer: str) -> dict:
    name, rest = path[0], path[1:]
    if not (isinstance(params, Mapping) and isinstance(fresh, Mapping) and name in params and name in fresh):
        raise UserError(f"randomisation: no layer {layer!r} in both sets of parameters; there is {_known(params)}")
    if rest:
        return {**params, name: _replaced(params[name], fresh[name], rest, layer)}
    shapes = [jax.tree.map(jnp.shape, side[name]) for side in (params, fresh)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"randomisation: layer {layer!r} has other shapes in the fresh parameters; init one network twice"
        )
    return {**params, name: fresh[name]}


def _known(params: Any) -> str:
    return ", ".join(map(str, params)) if isinstance(params, Mapping) else "an array"


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place.ravel()]


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    spread = np.sqrt(np.sum(x * x) * np.sum(y * y))
    return float(np.clip(np.sum(x * y) / spread, -1, 1)) if spread > 0 else 0.0


def _refuse_not_finite(maps: np.ndarray, what: str) -> None:
    finite = np.isfinite(maps).reshape(len(maps), -1).all(axis=1)
    if not finite.all():
        raise UserError(f"{what}: the map of record {np.argmin(finite)} holds NaN or infinity; mend what made it")


def _check_activations(activations: Any) -> None:
    if len(activations.shape) != 4:
        raise UserError(
            f"class activation: the tapped layer gives {activations.shape}; tap one with positions, (b, h, w, channels)"
        )


def _checked_classes(classes: Labels, images: int, count: int) -> Labels:
    if np.shape(classes) != (images,):
        raise UserError(f"class activation: classes have shape {np.shape(classes)}; each of {images} images needs one")
    if not isinstance(classes, jax.core.Tracer):
        unknown = np.flatnonzero((np.asarray(classes) < 0) | (np.asarray(classes) >= count))
        if len(unknown):
            record = unknown[0]
            raise UserError(
                f"class activation: record {record} asks for class {np.asarray(classes)[record]}; "
                f"there are {count}, counted from 0"
            )
    return jnp.asarray(classes)


def _nan_where_unknown(maps: Maps, classes: Labels, count: int) -> Maps:
    known = (classes >= 0) & (classes < count)
    return jnp.where(known[:, None, None], maps, jnp.nan)
