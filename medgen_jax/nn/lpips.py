"""AlexNet and VGG16 features, and the perceptual distance LPIPS that is built on them.

Zhang, Isola, Efros, Shechtman and Wang, CVPR 2018, equation 1, in the released version 0.1:

    d(x, y) = sum_l 1/(H_l W_l) sum_hw sum_c w_lc (u_lhwc(x) - u_lhwc(y))^2,   u = f / (|f| + 1e-10)

f_l are a network's activations after the ReLUs that `Backbone.TAPS` names, |f| their length over the channels of one
position, w_l >= 0 the learned head of layer l. LPIPS is therefore the squared Euclidean distance of
two vectors, one per image, that `embed` returns: whoever compares many images embeds each only once.

``variables`` of the functions below are ``{"params": backbone, "heads": {tap: (c,)}}``, as
`medgen_jax.interop.lpips_layout.variables_from_pack` makes them; `features` needs no heads. Images are float NHWC
in [-1, 1] with 1 channel (taken as grey) or 3 (RGB).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from medgen_jax.core.errors import UserError
from medgen_jax.core.precision import whole_products
from medgen_jax.core.types import Image
from medgen_jax.nn.blocks import Conv
from medgen_jax.ops.pool import max_pool

#: Mean and standard deviation of ImageNet's colours, once pixel values run from -1 to 1.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPSILON = 1e-10  # added to the length of a feature vector


class Layer(NamedTuple):
    """A convolution and its ReLU: ``conv<name>`` in the parameters, ``relu<name>`` among the taps."""

    name: str
    features: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0  # side of the max-pool of stride 2 in front of it; 0: none


class Backbone(nn.Module):
    """Convolutions, ReLUs and max-pools in a row, which hand out activations on the way.

    Attributes:
      dtype: compute dtype.

    Call: ``(x, taps)`` with x (n, h, w, 3), standardised colours (`standardise`), and names of ReLUs ->
    ``{tap: (n, h', w', c) float32}``. Nothing behind the deepest of the taps is computed. Raises
    `UserError` for an unknown tap or an image that a layer on the way would reduce to nothing.
    """

    dtype: Any = jnp.float32

    LAYERS = ()  # of the network, in order
    TAPS = ()  # those that LPIPS compares

    @nn.compact
    def __call__(self, x: Image, taps: Sequence[str] | None = None) -> dict[str, jax.Array]:
        wanted = self.TAPS if taps is None else tuple(taps)
        layers = self.until(wanted)
        self._check(x, layers)
        found = {}
        h = x.astype(self.dtype)
        for layer in layers:
            h = max_pool(h, layer.pool) if layer.pool else h
            convolution = Conv(
                layer.features, layer.kernel, layer.stride, layer.padding, dtype=self.dtype, name=f"conv{layer.name}"
            )
            h = nn.relu(convolution(h))
            if f"relu{layer.name}" in wanted:
                found[f"relu{layer.name}"] = h.astype(jnp.float32)
        return found

    @classmethod
    def until(cls, taps: Sequence[str]) -> tuple[Layer, ...]:
        """The layers up to the deepest of ``taps``."""
        names = [f"relu{layer.name}" for layer in cls.LAYERS]
        unknown = [tap for tap in taps if tap not in names]
        if unknown or not taps:
            wrong = repr(unknown[0]) if unknown else "asked for"
            raise UserError(f"{cls.__name__}: no tap {wrong}; there are {', '.join(names)}")
        return cls.LAYERS[: 1 + max(names.index(tap) for tap in taps)]

    def _check(self, x: Image, layers: Sequence[Layer]) -> None:
        if x.ndim != 4 or x.shape[-1] != 3:
            raise UserError(f"{type(self).__name__} input of shape {x.shape}: expected (batch, height, width, 3)")
        height, width, smallest = *x.shape[1:3], smallest_side(layers)
        if min(height, width) < smallest:
            raise UserError(
                f"{type(self).__name__} input of {height} x {width} pixels: relu{layers[-1].name} needs at least "
                f"{smallest} in both directions; enlarge the images"
            )


class AlexNetFeatures(Backbone):
    """The five convolutions of AlexNet in the one-tower form (Krizhevsky 2014), taps ``relu1`` to ``relu5``.

    At least 31 pixels for all five. Call: see `Backbone`.
    """

    LAYERS = (
        Layer("1", 64, kernel=11, stride=4, padding=2),
        Layer("2", 192, kernel=5, padding=2, pool=3),
        Layer("3", 384, pool=3),
        Layer("4", 256),
        Layer("5", 256),
    )
    TAPS = ("relu1", "relu2", "relu3", "relu4", "relu5")


class Vgg16Features(Backbone):
    """The thirteen convolutions of VGG16 (Simonyan and Zisserman, ICLR 2015, table 1, D), ``relu1_1`` to ``relu5_3``.

    At least 16 pixels for ``relu5_3``, 4 for ``relu3_3``. Call: see `Backbone`.
    """

    LAYERS = tuple(
        Layer(f"{block}_{i}", width, pool=2 if block > 1 and i == 1 else 0)
        for block, (width, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1)
        for i in range(1, depth + 1)
    )
    TAPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")


NETS: dict[str, type[Backbone]] = {"alex": AlexNetFeatures, "vgg": Vgg16Features}


def smallest_side(layers: Sequence[Layer]) -> int:
    """Pixels of the smallest image of which the last layer still has one position."""
    side = 1
    for layer in reversed(layers):
        side = max(1, (side - 1) * layer.stride + layer.kernel - 2 * layer.padding)
        side = 2 * (side - 1) + layer.pool if layer.pool else side
    return side


def standardise(x: Image) -> Image:
    """Images in [-1, 1], grey or RGB, as RGB (b, h, w, 3) of zero mean and unit variance over ImageNet.

    Raises:
      UserError: on integers, and on a shape that is not (b, h, w, 1 or 3).
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(f"perceptual features of {x.dtype} images: scale them to floats in [-1, 1] first")
    if x.ndim != 4 or x.shape[-1] not in (1, 3):
        raise UserError(f"perceptual features of images {x.shape}: expected (batch, height, width, 1 or 3 channels)")
    shift, scale = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 3) for v in (SHIFT, SCALE))
    return (x.astype(jnp.float32) - shift) / scale


def unit_vectors(x: jax.Array) -> jax.Array:
    """Vectors along the last axis brought to length 1; those of length 0 stay, and have no gradient."""
    power = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    dead = power == 0
    length = jnp.sqrt(jnp.where(dead, 1.0, power))  # the root has no slope at 0
    return x * jnp.where(dead, 0.0, 1 / (length + EPSILON))


def features(
    variables: Mapping[str, Any],
    x: Image,
    net: str = "vgg",
    taps: Sequence[str] = ("relu3_3",),
    dtype: Any = jnp.float32,
) -> dict[str, jax.Array]:
    """Activations of a pretrained network, the space of a content loss.

    Args:
      variables: see the module; only ``params`` is read.
      x: (b, h, w, 1 or 3) in [-1, 1].
      net: ``alex`` or ``vgg``.
      taps: ``relu1`` to ``relu5``, or ``relu1_1`` to ``relu5_3``.
      dtype: compute dtype. With float32 the products are those of float32 on every backend.

    Returns:
      ``{tap: (b, h', w', c) float32}``, never negative.

    Raises:
      UserError: on a bad image, an unknown network or tap.
    """
    with whole_products(dtype):
        return _backbone(net)(dtype).apply({"params": variables["params"]}, standardise(x), taps)


def embed(variables: Mapping[str, Any], x: Image, net: str = "alex", dtype: Any = jnp.float32) -> tuple[jax.Array, ...]:
    """Every image as a point, so that LPIPS of two images is the squared distance of their points.

    Arguments and errors as in `distance`.

    Returns:
      One (b, h_l, w_l, c_l) float32 per layer; LPIPS is the sum over all of them of the squared differences.
      Megabytes per image of 256 x 256 pixels: 2.6 (``alex``), 32 (``vgg``).
    """
    return tuple(part / jnp.sqrt(part.shape[1] * part.shape[2]) for part in _weighted(variables, x, net, dtype))


def distance(
    variables: Mapping[str, Any],
    x: Image,
    y: Image,
    net: str = "alex",
    spatial: bool = False,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """LPIPS of each pair of images; 0 for equal images, symmetric, larger for less alike.

    Args:
      variables: see the module.
      x, y: one shape (b, h, w, 1 or 3), in [-1, 1]; at least 31 (``alex``) or 16 (``vgg``) pixels a side.
      net: ``alex``, the default of published numbers, or ``vgg``.
      spatial: return a map instead of its mean over the positions.
      dtype: compute dtype of the convolutions. With float32 the products are those of float32 on every
        backend.

    Returns:
      (b,) float32; if ``spatial`` (b, h, w), every layer's map enlarged bilinearly and added up.

    Raises:
      UserError: on shapes that differ, integers, images that are too small, an unknown network.
    """
    if x.shape != y.shape:
        raise UserError(f"LPIPS compares images of one shape, not {x.shape} and {y.shape}")
    # Two passes, not one over x and y together: as fast forwards; backwards only the image that varies is
    # paid for; and the features of a pair stay on one device however the batch is sharded.
    pairs = zip(_weighted(variables, x, net, dtype), _weighted(variables, y, net, dtype), strict=True)
    maps = [jnp.sum(jnp.square(a - b), axis=-1) for a, b in pairs]
    if not spatial:
        return sum(jnp.mean(m, axis=(1, 2)) for m in maps)
    return sum(jax.image.resize(m, x.shape[:3], "bilinear", antialias=False) for m in maps)


def _weighted(variables: Mapping[str, Any], x: Image, net: str, dtype: Any) -> list[jax.Array]:
    """Unit vectors of every tap times the root of their head, (b, h_l, w_l, c_l) each."""
    taps = _backbone(net).TAPS
    activations = features(variables, x, net, taps, dtype)
    return [unit_vectors(activations[tap]) * jnp.sqrt(variables["heads"][tap]).reshape(1, 1, 1, -1) for tap in taps]


def _backbone(net: str) -> type[Backbone]:
    if net not in NETS:
        raise UserError(f"LPIPS network {net!r}: expected one of {', '.join(NETS)}")
    return NETS[net]
