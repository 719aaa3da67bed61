"""The four networks of StarGAN v2 (Choi et al., CVPR 2020, section 2 and appendix E), for any number of domains.

A generator gives an image a style; a mapping network makes the style of a domain from noise, a style encoder reads
it off an image, and a discriminator judges whether an image is a real one of a domain. What depends on the domain
has one branch per domain: all are computed, and every image picks that of its own.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from medgen_jax.core.errors import UserError
from medgen_jax.nn.blocks import Conv
from medgen_jax.nn.stargan_v2_blocks import (
    KERNEL_INIT,
    AdaptiveBlock,
    InstanceNorm,
    ResBlock,
    Sized,
    activate,
    check_domains,
    check_vectors,
    conv3,
    dense,
    halvings,
    high_pass,
    pick,
)
from medgen_jax.ops.resize import resize

#: Sides of the feature maps whose detail skips from the encoder to the decoder.
SKIP_SIZES = (32, 64, 128)
#: Blocks at the smallest size, of the encoder and again of the decoder.
BOTTLENECKS = 2
#: Linear layers that the domains of a mapping network share, and hidden ones that each has of its own.
SHARED_LAYERS, OWN_LAYERS = 4, 3


class Generator(Sized, kw_only=True):
    """Translates an image into a style; the domain is in the style alone.

    An encoder with instance norms, down to 16 x 16 pixels (8 x 8 with high-pass skips), and a decoder that the style
    modulates. There is no output activation: images are about [-1, 1] because those of training are.

    Attributes:
      w_hpf: 0: the decoder's blocks are residual and nothing skips. Above 0: they are not, and the encoder's
        features of 32, 64 and 128 pixels, high-pass filtered and divided by ``w_hpf``, are added to the decoder's,
        which keeps the detail of the input.

      The others are those of `medgen_jax.nn.stargan_v2_blocks.Sized`.

    Call: ``(x, style, mask)``

    * x: (n, size, size, channels) in [-1, 1].
    * style: (n, s) float32.
    * mask: (n, h, w, 1 or 2) in [0, 1], only with high-pass skips: where the detail is to be kept, resized to the
      features. Of two channels the first is for 32 pixels, the second for the finer ones. None: everywhere.

    Returns (n, size, size, channels) float32. Raises `UserError` for fields out of range, inputs of other shapes, and
    a mask without high-pass skips.
    """

    w_hpf: float = 0.0

    @property
    def levels(self) -> int:
        """How often the encoder halves the image."""
        return halvings(self.size, 8 if self.w_hpf else 16)

    @nn.compact
    def __call__(self, x: jax.Array, style: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        self._check_call(x, style, mask)
        widths = self.widths(self.levels)
        h = conv3(widths[0], self.dtype, "from_image")(x)
        detail = {}
        for number in range(self.levels + BOTTLENECKS):
            detail[h.shape[1]] = h
            width = widths[min(number + 1, self.levels)]
            h = ResBlock(width, number < self.levels, norm=True, dtype=self.dtype, name=f"encode_{number}")(h)
        outwards = (*[widths[-1]] * BOTTLENECKS, *widths[-2::-1])
        for number, width in enumerate(outwards):
            block = AdaptiveBlock(width, number >= BOTTLENECKS, not self.w_hpf, self.dtype, name=f"decode_{number}")
            h = block(h, style)
            if self.w_hpf and h.shape[1] in SKIP_SIZES:
                h = h + self._skip(detail[h.shape[1]], mask).astype(h.dtype)
        h = activate(InstanceNorm(jnp.float32, name="to_image_norm")(h))
        return Conv(self.channels, 1, kernel_init=KERNEL_INIT, name="to_image")(h)

    def _skip(self, features: jax.Array, mask: jax.Array | None) -> jax.Array:
        """High-pass filtered features (n, h, w, c) where the mask is 1."""
        features = features.astype(jnp.float32)
        if mask is not None:
            own = mask[..., :1] if features.shape[1] == SKIP_SIZES[0] else mask[..., -1:]
            features = features * resize(own, features.shape[1:3], "torch-bilinear")
        return high_pass(features) / self.w_hpf

    def _check_call(self, x: jax.Array, style: jax.Array, mask: jax.Array | None) -> None:
        what = "StarGAN v2 generator"
        self._check(what, x)
        check_vectors(what, "style", style, x.shape[0])
        if not 0 <= self.w_hpf < float("inf"):
            raise UserError(f"{what} w_hpf={self.w_hpf!r}: must be 0 (no high-pass skips) or a positive number")
        if mask is None:
            return
        if not self.w_hpf:
            raise UserError(f"{what}: a mask is for high-pass skips, of which w_hpf=0 has none; leave it out")
        if mask.ndim != 4 or mask.shape[0] != x.shape[0] or mask.shape[3] not in (1, 2):
            raise UserError(f"{what} mask of shape {mask.shape}: expected ({x.shape[0]}, height, width, 1 or 2)")


class MappingNetwork(nn.Module):
    """Makes a style of a domain from noise.

    Four layers that the domains share, then three and a linear one of each domain's own, ReLU between them. Float32.

    Attributes:
      domains: number of domains.
      style_width: length of a style.
      hidden: width of the layers.

    Call: ``(z, domain)`` with z (n, k) ~ N(0, 1), 16 numbers in the paper, and domain (n,) integers from 0; a number
    beyond them counts as the nearest -> styles (n, style_width) float32. Raises `UserError` for inputs of other shapes.
    """

    domains: int
    style_width: int = 64
    hidden: int = 512

    @nn.compact
    def __call__(self, z: jax.Array, domain: jax.Array) -> jax.Array:
        what = "StarGAN v2 mapping network"
        check_vectors(what, "latent", z, z.shape[0])
        check_domains(what, self.domains, domain, z.shape[0])
        h = z.astype(jnp.float32)
        for layer in range(SHARED_LAYERS):
            h = nn.relu(dense(self.hidden, f"shared_{layer}")(h))
        return pick(jnp.stack([self._own(h, number) for number in range(self.domains)], axis=1), domain)

    def _own(self, h: jax.Array, number: int) -> jax.Array:
        for layer in range(OWN_LAYERS):
            h = nn.relu(dense(self.hidden, f"domain_{number}_{layer}")(h))
        return dense(self.style_width, f"domain_{number}_{OWN_LAYERS}")(h)


class StyleEncoder(Sized, kw_only=True):
    """Reads the style of a domain off an image.

    Attributes:
      domains: number of domains.
      style_width: length of a style.

      The others are those of `medgen_jax.nn.stargan_v2_blocks.Sized`.

    Call: ``(x, domain)`` with x (n, size, size, channels) in [-1, 1] and domain (n,) integers from 0; a number beyond
    them counts as the nearest -> styles (n, style_width) float32. Raises `UserError` for fields out of range and
    inputs of other shapes.
    """

    domains: int
    style_width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, domain: jax.Array) -> jax.Array:
        what = "StarGAN v2 style encoder"
        self._check(what, x)
        check_domains(what, self.domains, domain, x.shape[0])
        h = self._trunk(x)[:, 0, 0].astype(jnp.float32)
        styles = [dense(self.style_width, f"domain_{number}")(h) for number in range(self.domains)]
        return pick(jnp.stack(styles, axis=1), domain)


class Discriminator(Sized, kw_only=True):
    """Judges whether an image is a real one of a domain.

    Attributes:
      domains: number of domains.

      The others are those of `medgen_jax.nn.stargan_v2_blocks.Sized`.

    Call: ``(x, domain)`` with x (n, size, size, channels) in [-1, 1] and domain (n,) integers from 0; a number beyond
    them counts as the nearest -> logits (n,) float32. Raises `UserError` for fields out of range and inputs of other
    shapes.
    """

    domains: int

    @nn.compact
    def __call__(self, x: jax.Array, domain: jax.Array) -> jax.Array:
        what = "StarGAN v2 discriminator"
        self._check(what, x)
        check_domains(what, self.domains, domain, x.shape[0])
        h = self._trunk(x).astype(jnp.float32)
        logits = Conv(self.domains, 1, kernel_init=KERNEL_INIT, name="judge")(h)
        return pick(logits[:, 0, 0], domain)
