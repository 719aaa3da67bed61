"""StyleGAN2's generator at work: images of mixed styles in training, images by number or code in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from medgen_jax.core import rng
from medgen_jax.core.parallel import over_batch
from medgen_jax.core.streams import LABEL, Field
from medgen_jax.nn.stylegan2 import Generator, mix_styles, spread, truncate
from medgen_jax.systems import numbered

PyTree = Any


@dataclass(frozen=True)
class ImageMaker:
    """A generator, and how it is used.

    Attributes:
      generator: the network, which knows the classes; its variables are arguments.
      mixing: chance that a batch mixes styles.
      noise: what feeds the noise inputs in training; see `medgen_jax.nn.stylegan2_blocks.StyledConv`.
    """

    generator: Generator
    mixing: float
    noise: str = "random"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: (size, size, channels)."""
        return self.generator.size, self.generator.size, self.generator.channels

    # -- in training -----------------------------------------------------------------------------

    def codes(self, key: jax.Array, labels: jax.Array) -> PyTree:
        """What images of these classes (b,) are made of: codes, others to mix styles with, and the classes."""
        keys = rng.named(key, "z", "mixed")
        shape = (labels.shape[0], self.generator.z_dim)
        return over_batch({LABEL: labels, **{name: jax.random.normal(k, shape) for name, k in keys.items()}})

    def crossover(self, key: jax.Array) -> jax.Array:
        """First layer of a batch that takes its style from the other codes; beyond the last one where none does."""
        keys = rng.named(key, "mixes", "where")
        layers = self.generator.styles
        where = jax.random.randint(keys["where"], (), 1, layers)
        return jnp.where(jax.random.uniform(keys["mixes"]) < self.mixing, where, layers)

    def styles(self, params: PyTree, mutable: PyTree, codes: PyTree, crossover: jax.Array) -> tuple[jax.Array, PyTree]:
        """Styles (b, layers, w_dim) of codes, mixed; and the new average of w."""
        variables = {"params": params, **mutable}

        def mapped(name: str, **options: Any) -> Any:
            return self.generator.apply(variables, codes[name], codes[LABEL], method="latents", **options)

        w, new = mapped("z", mutable=["averages"])
        ws = spread(w, self.generator.styles)
        if self.mixing:
            ws = mix_styles(ws, spread(mapped("mixed"), self.generator.styles), crossover)
        return ws, new["averages"]

    def synthesise(self, params: PyTree, mutable: PyTree, ws: jax.Array, key: jax.Array) -> jax.Array:
        """Images (b, *shape) of styles; the key is that of the noise."""
        variables = {"params": params, **mutable}
        return self.generator.apply(variables, ws, self.noise, method="synthesise", rngs={"noise": key})

    def make(
        self, params: PyTree, mutable: PyTree, codes: PyTree, crossover: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, PyTree]:
        """Images of codes, and the new average of w."""
        ws, averages = self.styles(params, mutable, codes, crossover)
        return self.synthesise(params, mutable, ws, key), averages

    # -- in use ----------------------------------------------------------------------------------

    def latent(self, variables: PyTree, inputs: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        """``z`` (b, z_dim), ``label`` (b,) and ``truncation`` (b,) -> (b, size, size, channels) in [-1, 1].

        Truncation pulls w towards its average over all classes: 1 leaves it, 0 makes one mean image of all codes and
        classes. The noise inputs are constant.
        """
        w = self.generator.apply(variables, inputs["z"], inputs[LABEL], method="latents")
        ws = spread(w, self.generator.styles)
        ws = truncate(ws, variables["averages"]["mapping"]["w"], inputs["truncation"][:, None, None])
        return jnp.clip(self.generator.apply(variables, ws, "const", method="synthesise"), -1, 1)

    def sample(self, variables: PyTree, inputs: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        """``number`` (b,): which of the key's images; ``label`` and ``truncation`` as in `latent`.

        Its code is that of `medgen_jax.systems.numbered`: of one number, the same in every batch and for all classes.
        """
        z = numbered.codes(key, inputs["number"], (self.generator.z_dim,))
        return self.latent(variables, {**inputs, "z": z}, key)

    @property
    def inputs(self) -> dict[str, dict[str, Field]]:
        """What `sample` and `latent` take: the number of an image or its code, the class and the truncation."""
        told = {LABEL: Field((), "int32"), "truncation": Field((), "float32")}
        z = Field((self.generator.z_dim,), "float32")
        return {"sample": {"number": Field((), "int32"), **told}, "latent": {"z": z, **told}}
