"""Pair: one image translated into another, learned from registered pairs (pix2pix).

Two schedules. ``joint`` is pix2pix (Isola et al. 2017): every step updates the discriminator, then
the generator. ``seed`` is the staining paper's: the discriminator learns alone until it is accurate,
is then frozen while the generator learns, and so on in turn; see `phases`.
"""

# No postponed annotations: config_flags reads the types of the configuration's fields.
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from medgen_jax.core import rng
from medgen_jax.core.config import DataConfig, Monitor, TrainConfig, require, validate_shared, validate_types
from medgen_jax.core.precision import compute_dtype
from medgen_jax.core.schedules import Schedule
from medgen_jax.core.streams import Stream
from medgen_jax.losses.adversarial import gan_loss, generator_loss
from medgen_jax.losses.pixel import l1
from medgen_jax.nn.patchgan import PatchGAN
from medgen_jax.nn.unet import MIN_DOWNS, UNet, valid_size
from medgen_jax.ops.scale import to_unit
from medgen_jax.systems import options, phases, registered_pairs, updates
from medgen_jax.systems.base import Batch, Evaluator, Metrics, Preview, Sampler, Step, System, TrainState, new_state
from medgen_jax.systems.options import Gan, Norm, OptimConfig, Stats, Upsample

PyTree = Any


@dataclass(slots=True)
class ModelConfig:
    """U-Net generator and PatchGAN discriminator."""

    in_channels: int = 3
    out_channels: int = 3
    ngf: int = 64  # width of the generator's first layer
    ndf: int = 64  # width of the discriminator's first layer
    downs: int = 8  # image sides must be multiples of 2^downs
    disc_layers: int = 3  # 3: a field of view of 70 x 70 pixels
    norm: Norm = Norm.BATCH
    upsample: Upsample = Upsample.CONVT
    dropout: float = 0.5


@dataclass(slots=True)
class LossConfig:
    """Terms of the generator's loss."""

    gan: Gan = Gan.VANILLA
    l1: float = 100.0  # weight of |G(a) - b|; the adversarial term has weight 1


@dataclass(slots=True)
class InferenceConfig:
    """How the generator runs once trained."""

    stats: Stats = Stats.RUNNING
    dropout: bool = False


@dataclass(slots=True)
class Config:
    """Everything about a Pair run."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: phases.ScheduleConfig = field(default_factory=phases.ScheduleConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    num_train: Optional[int] = None  # written by the engine
    steps_per_epoch: Optional[int] = None  # written by the engine


def _validate(config: Config) -> None:
    validate_types(config)
    validate_shared(config.data, config.train)
    model = config.model
    options.require_channels(model, "in_channels", "out_channels")
    options.require_positive(model, "ngf", "ndf", "disc_layers")
    require(model.downs >= MIN_DOWNS, "model.downs", model.downs, f"must be at least {MIN_DOWNS}")
    require(0 <= model.dropout < 1, "model.dropout", model.dropout, "must lie in [0, 1)")
    size, nearest = config.data.crop_size, valid_size(config.data.crop_size, model.downs)
    rule = f"must be a multiple of 2^model.downs = {2**model.downs}; the nearest valid size is {nearest}"
    require(size == nearest, "data.crop_size", size, rule)
    require(config.loss.l1 >= 0, "loss.l1", config.loss.l1, "must not be negative")
    options.validate_optim(config.optim)
    phases.validate(config.schedule, config.train.batch_size)


def build(config: Config) -> "Pix2Pix":
    """A Pair system from a resolved configuration.

    Raises:
      UserError: naming the first field that is out of range.
    """
    _validate(config)
    model = config.model
    dtype = compute_dtype(config.train.precision)
    return Pix2Pix(
        generator=UNet(
            out_channels=model.out_channels,
            ngf=model.ngf,
            downs=model.downs,
            norm=model.norm.value,
            dropout=model.dropout,
            upsample=model.upsample.value,
            dtype=dtype,
        ),
        discriminator=PatchGAN(ndf=model.ndf, layers=model.disc_layers, norm=model.norm.value, dtype=dtype),
        adam=options.adam(config.optim),
        lr=options.learning_rate(config),
        channels=(model.in_channels, model.out_channels),
        size=config.data.crop_size,
        wire=f"uint{config.data.bits}",
        batch_size=config.train.batch_size,
        gan=config.loss.gan.value,
        l1_weight=config.loss.l1,
        ema_decay=config.optim.ema,
        schedule=phases.Schedule.from_config(config.schedule),
        stats=config.inference.stats.value,
        inference_dropout=config.inference.dropout,
    )


@dataclass(frozen=True)
class Pix2Pix(System):
    """Networks ``g`` (a -> b) and ``d`` (judges the pair, concatenated along the channels)."""

    generator: nn.Module
    discriminator: nn.Module
    adam: optax.GradientTransformation
    lr: Schedule
    channels: tuple[int, int]
    size: int
    wire: str
    batch_size: int
    gan: str
    l1_weight: float
    ema_decay: float
    schedule: phases.Schedule
    stats: str
    inference_dropout: bool

    # -- what it eats ----------------------------------------------------------------------------

    @property
    def streams(self) -> dict[str, Stream]:
        """``pairs``, and for the seed's schedule ``heldout`` pairs of the val split."""
        settings = ("config.model.in_channels", "config.model.out_channels")
        fields = registered_pairs.fields(self.size, self.channels, self.wire, settings)
        stream = Stream(tuple(fields.items()), self.batch_size)
        if not self.schedule.alternating:
            return {"pairs": stream}
        return {"pairs": stream, "heldout": dataclasses.replace(stream, table="pairs", split="val")}

    @property
    def flag_every(self) -> int:
        """The host looks at the phase this often."""
        return self.schedule.flag_every if self.schedule.alternating else 0

    # -- state -----------------------------------------------------------------------------------

    def init(self, key: jax.Array) -> TrainState:
        """Fresh networks: N(0, 0.02) kernels, zero biases, N(1, 0.02) norm scales."""
        keys = rng.named(key, "g", "d", "state")
        a, b = (jnp.zeros((1, self.size, self.size, c)) for c in self.channels)
        g = self.generator.init(keys["g"], a)
        d = self.discriminator.init(keys["d"], jnp.concatenate([a, b], -1))
        params = {"g": g["params"], "d": d["params"]}
        mutable = {"g": {"batch_stats": g.get("batch_stats", {})}, "d": {"batch_stats": d.get("batch_stats", {})}}
        extra = {}
        if self.schedule.alternating:
            mutable["d"]["given_stats"] = self._judge(d["params"], mutable["d"], a, b)[1]["given_stats"]
            extra = phases.initial()
        return new_state(
            keys["state"],
            params=params,
            mutable=mutable,
            opt={name: self.adam.init(p) for name, p in params.items()},
            ema={"g": params["g"]} if self.ema_decay else {},
            extra=extra,
        )

    # -- network passes --------------------------------------------------------------------------

    def _translate(
        self, params: PyTree, mutable: PyTree, a: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, dict[str, PyTree]]:
        """Training pass of the generator: the image, and the new running statistics."""
        image, new = self.generator.apply(
            {"params": params, **mutable},
            a,
            stats="batch",
            dropout=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return image, {**mutable, **new}

    def _judge(
        self, params: PyTree, mutable: PyTree, a: jax.Array, b: jax.Array
    ) -> tuple[jax.Array, dict[str, PyTree]]:
        """Training pass of the discriminator: logits, and the statistics it ran with."""
        logits, new = self.discriminator.apply(
            {"params": params, **mutable},
            jnp.concatenate([a, b], -1),
            stats="batch",
            mutable=["batch_stats", "given_stats"],
        )
        kept = ("batch_stats", "given_stats") if self.schedule.alternating else ("batch_stats",)
        return logits, {**mutable, **{name: new.get(name, {}) for name in kept}}

    def _judge_frozen(self, params: PyTree, mutable: PyTree, a: jax.Array, b: jax.Array) -> jax.Array:
        """Logits of a frozen discriminator, normalised as in its last pass over real pairs."""
        return self.discriminator.apply({"params": params, **mutable}, jnp.concatenate([a, b], -1), stats="given")

    # -- updates ---------------------------------------------------------------------------------

    def _update_discriminator(
        self, state: TrainState, a: jax.Array, b: jax.Array, fake_a: jax.Array, fake_b: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """Half the loss on the fake pair and half on the real one, in the reference's order."""

        def loss(params: PyTree) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
            fake, mutable = self._judge(params, state.mutable["d"], fake_a, fake_b)
            real, mutable = self._judge(params, mutable, a, b)
            terms = {"d_fake": gan_loss(fake, False, self.gan), "d_real": gan_loss(real, True, self.gan)}
            terms["accuracy_real"] = phases.accuracy(real, True, self.gan)
            terms["accuracy_fake"] = phases.accuracy(fake, False, self.gan)
            return 0.5 * (terms["d_fake"] + terms["d_real"]), (mutable, terms)

        grads, (mutable, metrics) = jax.grad(loss, has_aux=True)(state.params["d"])
        return updates.descend(state, {"d": grads}, self.adam, self.lr(state.step), {"d": mutable}), metrics

    def _generator_terms(self, logits: jax.Array, fake: jax.Array, b: jax.Array) -> tuple[jax.Array, Metrics]:
        terms = {"g_gan": generator_loss(logits, self.gan), "g_l1": l1(fake, b)}
        return terms["g_gan"] + self.l1_weight * terms["g_l1"], terms

    # -- steps -----------------------------------------------------------------------------------

    def _inputs(self, state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        a, b = (to_unit(batch["pairs"][side]) for side in "ab")
        return a, b, rng.named(jax.random.fold_in(state.key, state.step), "dropout", "mix")

    def train_step(self, state: TrainState, batch: Batch, frozen: Mapping[str, PyTree]) -> tuple[TrainState, Metrics]:
        """The joint schedule: D, then G against the new D, with one forward pass of G for both."""
        a, b, keys = self._inputs(state, batch)

        def generate(params: PyTree) -> tuple[jax.Array, PyTree]:
            return self._translate(params, state.mutable["g"], a, keys["dropout"])

        fake, pull_back, g_mutable = jax.vjp(generate, state.params["g"], has_aux=True)
        new, d_metrics = self._update_discriminator(state, a, b, a, jax.lax.stop_gradient(fake))

        def loss(image: jax.Array) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
            logits, mutable = self._judge(new.params["d"], new.mutable["d"], a, image)
            total, terms = self._generator_terms(logits, image, b)
            return total, (mutable, terms)

        gradient, (d_mutable, g_metrics) = jax.grad(loss, has_aux=True)(fake)
        mutable = {"g": g_mutable, "d": d_mutable}
        new = updates.descend(new, {"g": pull_back(gradient)[0]}, self.adam, self.lr(state.step), mutable)
        new = updates.average(new, self.ema_decay)
        return new, {**d_metrics, **g_metrics, "lr": self.lr(state.step)}

    def _generator_step(
        self, state: TrainState, batch: Batch, frozen: Mapping[str, PyTree]
    ) -> tuple[TrainState, Metrics]:
        """Phase G of the seed's schedule: nothing of D changes."""
        a, b, keys = self._inputs(state, batch)

        def loss(params: PyTree) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
            fake, mutable = self._translate(params, state.mutable["g"], a, keys["dropout"])
            logits = self._judge_frozen(state.params["d"], state.mutable["d"], a, fake)
            total, terms = self._generator_terms(logits, fake, b)
            return total, (mutable, {**terms, "accuracy_fake": phases.accuracy(logits, False, self.gan)})

        grads, (mutable, metrics) = jax.grad(loss, has_aux=True)(state.params["g"])
        new = updates.descend(state, {"g": grads}, self.adam, self.lr(state.step), {"g": mutable})
        new = updates.average(new, self.ema_decay)
        extra = self.schedule.advance(state.extra, "g", fake=metrics["accuracy_fake"])
        return new.replace(extra=extra), {**metrics, "lr": self.lr(state.step)}

    def _discriminator_step(
        self, state: TrainState, batch: Batch, frozen: Mapping[str, PyTree], first: bool
    ) -> tuple[TrainState, Metrics]:
        """Phases D of the seed's schedule: nothing of G changes; the first one does without G."""
        a, b, keys = self._inputs(state, batch)
        fake_a, fake_b = phases.negatives(a, b, self.schedule.negatives)
        if not first:
            made, _ = self._translate(state.params["g"], state.mutable["g"], a, keys["dropout"])
            keep = jax.random.uniform(keys["mix"], (a.shape[0], 1, 1, 1)) < self.schedule.d0_share
            fake_a, fake_b = jnp.where(keep, fake_a, a), jnp.where(keep, fake_b, made)
        held = batch["heldout"]
        held_a, held_b = to_unit(held["a"]), to_unit(held["b"])
        heldout, _ = self._judge(state.params["d"], state.mutable["d"], held_a, held_b)
        new, metrics = self._update_discriminator(state, a, b, fake_a, fake_b)
        metrics["accuracy_heldout"] = phases.accuracy(heldout, True, self.gan)
        extra = self.schedule.advance(
            state.extra, "d0" if first else "d", real=metrics["accuracy_heldout"], fake=metrics["accuracy_fake"]
        )
        return new.replace(extra=extra), {**metrics, "lr": self.lr(state.step)}

    @property
    def step_variants(self) -> dict[str, Step]:
        """``train`` for the joint schedule; ``d0``, ``g`` and ``d`` for the seed's."""
        if not self.schedule.alternating:
            return {"train": self.train_step}
        return {
            "d0": lambda *args: self._discriminator_step(*args, first=True),
            "g": self._generator_step,
            "d": lambda *args: self._discriminator_step(*args, first=False),
        }

    def variant(self, step: int, flags: tuple[int, ...]) -> str:
        """The phase the host has latched."""
        return phases.PHASES[flags[0]] if self.schedule.alternating else "train"

    # -- use -------------------------------------------------------------------------------------

    def inference_variables(self, state: TrainState) -> PyTree:
        """Averaged (else raw) generator parameters, and its running statistics."""
        params = state.ema["g"] if self.ema_decay else state.params["g"]
        return {"params": params, "batch_stats": state.mutable["g"]["batch_stats"]}

    def _a2b(self, variables: PyTree, inputs: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        """``{"image": (b, h, w, in) in [-1, 1]}`` -> (b, h, w, out) in [-1, 1]."""
        images = to_unit(inputs["image"])
        stats = "given" if "given_stats" in variables else self.stats

        def one(image: jax.Array, number: jax.Array) -> jax.Array:
            rngs = {"dropout": jax.random.fold_in(key, number)} if self.inference_dropout else None
            out = self.generator.apply(variables, image[None], stats=stats, dropout=self.inference_dropout, rngs=rngs)
            return out[0].astype(jnp.float32)

        # One image at a time, so that no image's result depends on its neighbours in the batch.
        return jax.vmap(one)(images, jnp.arange(images.shape[0]))

    def _pooled(self, variables: PyTree, inputs: Mapping[str, jax.Array], key: jax.Array) -> PyTree:
        _, new = self.generator.apply(variables, to_unit(inputs["image"]), stats="pooled", mutable=["given_stats"])
        return {**variables, **new}

    @property
    def tile_variables(self) -> dict[str, Any]:
        """``a2b``, unless there is no norm or only running averages are used."""
        fixed = self.generator.norm == "none" or (self.generator.norm == "batch" and self.stats == "running")
        return {} if fixed else {"a2b": self._pooled}

    @property
    def samplers(self) -> dict[str, Sampler]:
        """``a2b``: inputs ``image``."""
        return {"a2b": self._a2b}

    @property
    def preview(self) -> Preview:
        """Input, output and target of the first validation pairs."""
        return registered_pairs.preview()

    @property
    def evaluators(self) -> dict[str, Evaluator]:
        """``paired``: PSNR, SSIM, Pearson r and mean absolute error against the targets."""
        # Statistics that must be handed in come from a first pass, which validation does not make.
        restores = self.channels[0] == self.channels[1]
        return {} if self.stats == "given" else {"paired": registered_pairs.evaluator(self._a2b, restores=restores)}

    @property
    def monitor(self) -> Monitor:
        """The best checkpoint is the one with the highest PSNR; there is no early stop."""
        return Monitor("psnr", "max")
