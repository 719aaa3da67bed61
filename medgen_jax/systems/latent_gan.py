"""What ``gan`` and ``dcgan`` have in common: two players, a code of noise, one step for both.

The losses of Goodfellow et al. 2014 with the generator's non-saturating one (section 3): the discriminator minimises
-log D(x) - log(1 - D(G(z))), then the generator -log D(G(z)) against the new discriminator, on the same images.
"""

# No postponed annotations: config_flags reads the types of the configuration's fields.
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from medgen_jax.core import rng
from medgen_jax.core.config import DataConfig, TrainConfig, require, validate_shared, validate_types
from medgen_jax.core.parallel import over_batch
from medgen_jax.core.schedules import Schedule
from medgen_jax.core.streams import Field, Stream
from medgen_jax.losses.adversarial import gan_loss, generator_loss
from medgen_jax.ops.scale import to_unit
from medgen_jax.systems import numbered, options, updates
from medgen_jax.systems.base import Batch, Metrics, Preview, Sampler, System, TrainState, new_state
from medgen_jax.systems.options import OptimConfig

PyTree = Any

RECORDS = "records"


class Init(enum.Enum):
    """First values of the weights; see `medgen_jax.nn.initialisers`."""

    UNIFORM = "uniform"  # PyTorch's default: what the published training started from
    NORMAL = "normal"  # N(0, 0.02): that of the DCGAN paper


@dataclass(slots=True)
class ModelConfig:
    """What both have of generator and discriminator."""

    channels: int = 3
    latent: int = 100  # numbers in a code
    init: Init = Init.UNIFORM


def constant_rate() -> OptimConfig:
    """Adam as both baselines have it: a rate of 2e-4 that never falls."""
    return OptimConfig(decay_fraction=0.0)


@dataclass(slots=True)
class Config:
    """Everything about a run of either; each has a ``model`` of its own."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=constant_rate)
    num_train: Optional[int] = None  # written by the engine
    steps_per_epoch: Optional[int] = None  # written by the engine


def validate(config: Config) -> None:
    """Check what both configurations share.

    Raises:
      UserError: naming the field.
    """
    validate_types(config)
    validate_shared(config.data, config.train)
    options.require_channels(config.model, "channels")
    options.require_positive(config.model, "latent")
    rule = "must be at least 2: the generator normalises by the statistics of the batch"
    require(config.train.batch_size >= 2, "train.batch_size", config.train.batch_size, rule)
    options.validate_optim(config.optim)


@dataclass(frozen=True)
class LatentGan(System):
    """Networks ``g`` (code -> image) and ``d`` (image -> logit); no class is told to either.

    Attributes:
      generator: called as ``(z (n, latent), stats=...)``.
      discriminator: called as ``(x (n, size, size, channels), stats=...)`` -> (n,).
      adam: of each network its own state.
      lr: rate by step.
      latent: numbers in a code, N(0, 1).
      size: side of the images.
      channels: of the images.
      wire: dtype of the records.
      batch_size: of real and of made images.
      ema_decay: of the averaged generator; 0 for none.
    """

    generator: nn.Module
    discriminator: nn.Module
    adam: optax.GradientTransformation
    lr: Schedule
    latent: int
    size: int
    channels: int
    wire: str
    batch_size: int
    ema_decay: float

    @staticmethod
    def of(config: Config, generator: nn.Module, discriminator: nn.Module) -> "LatentGan":
        """The system of a checked configuration and its two networks."""
        return LatentGan(
            generator=generator,
            discriminator=discriminator,
            adam=options.adam(config.optim),
            lr=options.learning_rate(config),
            latent=config.model.latent,
            size=config.data.crop_size,
            channels=config.model.channels,
            wire=f"uint{config.data.bits}",
            batch_size=config.train.batch_size,
            ema_decay=config.optim.ema,
        )

    # -- what it eats ----------------------------------------------------------------------------

    @property
    def streams(self) -> dict[str, Stream]:
        """``records``: images of all classes together."""
        image = Field((self.size, self.size, self.channels), self.wire, "config.model.channels")
        return {RECORDS: Stream((("image", image),), self.batch_size)}

    # -- state -----------------------------------------------------------------------------------

    def init(self, key: jax.Array) -> TrainState:
        """Fresh networks."""
        keys = rng.named(key, "g", "d", "state")
        g = self.generator.init(keys["g"], jnp.zeros((1, self.latent)))
        d = self.discriminator.init(keys["d"], jnp.zeros((1, self.size, self.size, self.channels)))
        params = {"g": g["params"], "d": d["params"]}
        return new_state(
            keys["state"],
            params=params,
            mutable={"g": {"batch_stats": g.get("batch_stats", {})}, "d": {"batch_stats": d.get("batch_stats", {})}},
            opt={name: self.adam.init(p) for name, p in params.items()},
            ema={"g": params["g"]} if self.ema_decay else {},
        )

    # -- network passes --------------------------------------------------------------------------

    @staticmethod
    def _pass(network: nn.Module, params: PyTree, mutable: PyTree, x: jax.Array) -> tuple[jax.Array, PyTree]:
        """Training pass: the answer, and the new running statistics."""
        answer, new = network.apply({"params": params, **mutable}, x, stats="batch", mutable=["batch_stats"])
        return answer, {**mutable, **new}

    def _judge(self, params: PyTree, mutable: PyTree, image: jax.Array) -> tuple[jax.Array, PyTree]:
        return self._pass(self.discriminator, params, mutable, image)

    # -- the step --------------------------------------------------------------------------------

    def codes(self, state: TrainState) -> jax.Array:
        """What the next step makes its images of, (batch_size, latent)."""
        keys = rng.named(jax.random.fold_in(state.key, state.step), "codes")
        return over_batch(jax.random.normal(keys["codes"], (self.batch_size, self.latent)))

    def _update_discriminator(self, state: TrainState, real: jax.Array, fake: jax.Array) -> tuple[TrainState, Metrics]:
        """The loss on real images and that on made ones, each batch normalised by itself, in the reference's order."""

        def loss(params: PyTree) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
            on_real, mutable = self._judge(params, state.mutable["d"], real)
            on_fake, mutable = self._judge(params, mutable, fake)
            terms = {"d_real": gan_loss(on_real, True), "d_fake": gan_loss(on_fake, False)}
            believed = {
                "real_believed": jnp.mean(jax.nn.sigmoid(on_real)),
                "fake_believed": jnp.mean(jax.nn.sigmoid(on_fake)),
            }
            return terms["d_real"] + terms["d_fake"], (mutable, {**terms, **believed})

        grads, (mutable, metrics) = jax.grad(loss, has_aux=True)(state.params["d"])
        return updates.descend(state, {"d": grads}, self.adam, self.lr(state.step), {"d": mutable}), metrics

    def train_step(self, state: TrainState, batch: Batch, frozen: Mapping[str, PyTree]) -> tuple[TrainState, Metrics]:
        """D, then G against the new D, with one forward pass of G for both."""
        z, rate = self.codes(state), self.lr(state.step)

        def generate(params: PyTree) -> tuple[jax.Array, PyTree]:
            return self._pass(self.generator, params, state.mutable["g"], z)

        fake, pull_back, g_mutable = jax.vjp(generate, state.params["g"], has_aux=True)
        real = to_unit(batch[RECORDS]["image"])
        new, metrics = self._update_discriminator(state, real, jax.lax.stop_gradient(fake))

        def loss(image: jax.Array) -> tuple[jax.Array, PyTree]:
            logits, mutable = self._judge(new.params["d"], new.mutable["d"], image)
            return generator_loss(logits), mutable

        (g_gan, d_mutable), gradient = jax.value_and_grad(loss, has_aux=True)(fake)
        mutable = {"g": g_mutable, "d": d_mutable}
        new = updates.descend(new, {"g": pull_back(gradient)[0]}, self.adam, rate, mutable)
        return updates.average(new, self.ema_decay), {**metrics, "g_gan": g_gan, "lr": rate}

    # -- use -------------------------------------------------------------------------------------

    def inference_variables(self, state: TrainState) -> PyTree:
        """Averaged (else raw) generator parameters, and its running statistics."""
        params = (state.ema if self.ema_decay else state.params)["g"]
        return {"params": params, "batch_stats": state.mutable["g"]["batch_stats"]}

    def _latent(self, variables: PyTree, inputs: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        """``z`` (b, latent) -> (b, size, size, channels) in [-1, 1].

        Running statistics, so that no image depends on its neighbours in the batch.
        """
        return self.generator.apply(variables, inputs["z"], stats="running")

    def _sample(self, variables: PyTree, inputs: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        """``number`` (b,): which of the key's images -> (b, size, size, channels) in [-1, 1].

        Its code is that of `medgen_jax.systems.numbered`: the same in every batch.
        """
        z = numbered.codes(key, inputs["number"], (self.latent,))
        return self._latent(variables, {"z": z}, key)

    @property
    def samplers(self) -> dict[str, Sampler]:
        """``sample``: images by their number; ``latent``: of codes that are given, as for a walk between two."""
        return {"sample": self._sample, "latent": self._latent}

    @property
    def sampler_inputs(self) -> dict[str, dict[str, Field]]:
        """``number`` of an image among all that a key stands for; or its code."""
        return {"sample": {"number": Field((), "int32")}, "latent": {"z": Field((self.latent,), "float32")}}

    @property
    def preview(self) -> Preview:
        """The first images of a fixed key beside real ones, which they have nothing to do with."""

        def inputs(record: Mapping[str, jax.Array], key: jax.Array) -> Mapping[str, jax.Array]:
            return {"number": jnp.arange(record["image"].shape[0], dtype=jnp.int32)}

        return Preview("sample", RECORDS, inputs, (("image", "real"),))
