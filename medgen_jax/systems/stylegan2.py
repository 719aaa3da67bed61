"""StyleGAN2 with classes: images out of noise, by class (Karras et al. 2020), with adaptive augmentation (2020b).

Also the StyleGAN2 that a paper on chest X-ray synthesis describes under the name Med-StyleGAN2: to the published loss
it adds a term that asks for diversity, whose weight falls from 2 to 0 (``config.loss.ds``). What that paper's code
trains, and what its table holds, is StarGAN v2: another system.

A step updates the generator, then the discriminator, as the published training does. Two regularisers have updates of
their own on top, with fresh codes: the variance of the path lengths after the generator's (every 4th step) and R1 after
the discriminator's (every 16th). They are variants of the step, compiled apart.
"""

# No postponed annotations: config_flags reads the types of the configuration's fields.
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import jax
import jax.numpy as jnp
import optax
from jax import lax

from medgen_jax.core import grad, rng, trees
from medgen_jax.core.config import DataConfig, TrainConfig, expected_steps, validate_shared, validate_types
from medgen_jax.core.parallel import over_batch
from medgen_jax.core.precision import compute_dtype
from medgen_jax.core.streams import LABEL, Field, Stream, class_balanced, shuffled
from medgen_jax.losses.adversarial import gan_loss, generator_loss, r1_penalty
from medgen_jax.losses.stargan_v2 import diversity, diversity_weight
from medgen_jax.losses.stylegan2 import path_lengths, path_penalty
from medgen_jax.nn.stylegan2 import Discriminator
from medgen_jax.ops.scale import to_unit
from medgen_jax.systems import ada, stylegan2_options, updates
from medgen_jax.systems.base import Batch, Metrics, Preview, Sampler, Step, System, TrainState, new_state
from medgen_jax.systems.stylegan2_images import ImageMaker
from medgen_jax.systems.stylegan2_options import (
    AdaConfig,
    AdamConfig,
    DiversityScope,
    EmaConfig,
    Lazy,
    LossConfig,
    ModelConfig,
)

PyTree = Any

RECORDS = "records"
#: Variants by what has an update of its own in them: path lengths, R1.
VARIANTS = {(False, False): "main", (True, False): "path", (False, True): "r1", (True, True): "path_r1"}


@dataclass(slots=True)
class Config:
    """Everything about a run."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: AdamConfig = field(default_factory=AdamConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    ada: AdaConfig = field(default_factory=AdaConfig)
    class_balanced: bool = False  # every class equally often, whatever the data hold
    num_train: Optional[int] = None  # written by the engine
    steps_per_epoch: Optional[int] = None  # written by the engine


def build(config: Config) -> "StyleGAN2":
    """A StyleGAN2 from a resolved configuration.

    Raises:
      UserError: naming the first field that is out of range.
    """
    validate_types(config)
    validate_shared(config.data, config.train)
    stylegan2_options.validate(config)
    # Two classes, before the data have told theirs.
    classes = len(config.data.classes) or 2
    generator, discriminator = stylegan2_options.networks(config, classes, compute_dtype(config.train.precision))
    loss = config.loss
    path = stylegan2_options.lazy(loss.path, loss.path_every)
    r1 = stylegan2_options.lazy(loss.r1, loss.r1_every)
    return StyleGAN2(
        maker=ImageMaker(generator, loss.mixing),
        discriminator=discriminator,
        adam_g=stylegan2_options.adam(config.optim, path),
        adam_d=stylegan2_options.adam(config.optim, r1),
        accumulate=config.optim.accumulate,
        path=path,
        path_shrink=loss.path_shrink,
        r1=r1,
        ds=(loss.ds, loss.ds_steps or expected_steps(config)),
        inter_domain=loss.ds_scope is DiversityScope.INTER_DOMAIN,
        ema=(1000 * config.ema.kimg, config.ema.ramp),
        ada=stylegan2_options.policy(config.ada),
        balanced=config.class_balanced,
        wire=f"uint{config.data.bits}",
        batch_size=config.train.batch_size,
    )


@dataclass(frozen=True)
class StyleGAN2(System):
    """Networks ``g`` (code and class -> image) and ``d`` (image and class -> logit).

    Attributes:
      maker: the generator, and how it makes images.
      discriminator: the other network; both know the classes.
      adam_g, adam_d: what scales the gradients of each, and its rate.
      accumulate: slices of a batch, one after another.
      path: the regulariser of the generator, on one of ``path_shrink`` records.
      r1: that of the discriminator.
      ds: first weight of the diversity term, and the steps in which it falls to 0.
      inter_domain: whether it compares classes, not codes.
      ema: images in which the averaged generator forgets half, 0 for none; and its limit as a share of those seen.
      ada: adaptive augmentation.
      balanced: every class equally often.
      wire: dtype of the records.
      batch_size: of real and of made images.
    """

    maker: ImageMaker
    discriminator: Discriminator
    adam_g: tuple[optax.GradientTransformation, float]
    adam_d: tuple[optax.GradientTransformation, float]
    accumulate: int
    path: Lazy
    path_shrink: int
    r1: Lazy
    ds: tuple[float, int]
    inter_domain: bool
    ema: tuple[float, float]
    ada: ada.Policy
    balanced: bool
    wire: str
    batch_size: int

    # -- what it eats ----------------------------------------------------------------------------

    @property
    def streams(self) -> dict[str, Stream]:
        """``records``: images and their classes."""
        image = Field(self.maker.shape, self.wire, "config.model.channels")
        fields = (("image", image), (LABEL, Field((), "int32")))
        order = class_balanced(LABEL) if self.balanced else shuffled
        return {RECORDS: Stream(fields, self.batch_size, order, unbalanced="config.class_balanced=False")}

    # -- state -----------------------------------------------------------------------------------

    def init(self, key: jax.Array) -> TrainState:
        """Fresh networks; no path length and no augmentation so far."""
        keys = rng.named(key, "g", "d", "state")
        generator, labels = self.maker.generator, jnp.zeros((1,), jnp.int32)
        g = generator.init(keys["g"], jnp.zeros((1, generator.z_dim)), labels)
        image = jnp.zeros((1, *self.maker.shape))
        params = {"g": g["params"], "d": self.discriminator.init(keys["d"], image, labels)["params"]}
        return new_state(
            keys["state"],
            params=params,
            mutable={"g": {"constants": g["constants"], "averages": g["averages"]}},
            opt={"g": self.adam_g[0].init(params["g"]), "d": self.adam_d[0].init(params["d"])},
            ema={"g": params["g"]} if self.ema[0] else {},
            extra={"path_mean": jnp.zeros(()), "ada": ada.initial(self.ada)},
        )

    # -- updates ---------------------------------------------------------------------------------

    def _judge(
        self, state: TrainState, params: PyTree, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Logits (b,) of augmented images."""
        if self.ada.pipe:
            images = ada.augment(key, state.extra["ada"]["p"], images, self.ada.pipe)
        return self.discriminator.apply({"params": params}, images, labels)

    def others(self, key: jax.Array, codes: PyTree) -> PyTree:
        """What the diversity term compares images with: other codes of the same classes, or other classes."""
        if not self.inter_domain:
            return self.maker.codes(key, codes[LABEL])
        classes = self.maker.generator.classes
        away = jax.random.randint(key, codes[LABEL].shape, 1, max(classes, 2))
        return {**codes, LABEL: (codes[LABEL] + away) % classes}

    def _update_generator(self, state: TrainState, labels: jax.Array, key: jax.Array) -> tuple[TrainState, Metrics]:
        """Images that the discriminator takes for real, and that differ from others."""
        keys = rng.named(key, "codes", "others", "crossover", "loss")
        mutable, crossover = state.mutable["g"], self.maker.crossover(keys["crossover"])
        codes = self.maker.codes(keys["codes"], labels)
        weight = diversity_weight(state.step, *self.ds)

        def loss(params: PyTree, part: PyTree, key: jax.Array) -> tuple[jax.Array, PyTree]:
            own = rng.named(key, "noise", "other noise", "augmentation")
            images, averages = self.maker.make(params, mutable, part["codes"], crossover, own["noise"])
            logits = self._judge(state, state.params["d"], images, part["codes"][LABEL], own["augmentation"])
            terms = {"g_gan": generator_loss(logits)}
            if not self.ds[0]:
                return terms["g_gan"], (averages, terms)
            # Between classes nothing but the class shall differ.
            noise = own["noise" if self.inter_domain else "other noise"]
            others, _ = self.maker.make(lax.stop_gradient(params), mutable, part["others"], crossover, noise)
            terms["diversity"] = diversity(images, others)
            return terms["g_gan"] - weight * terms["diversity"], (averages, terms)

        parts = {"codes": codes, "others": self.others(keys["others"], codes)}
        (_, (averages, terms)), grads = grad.accumulate(loss, state.params["g"], parts, keys["loss"], self.accumulate)
        new = updates.descend(state, {"g": grads}, *self.adam_g, {"g": {**mutable, "averages": averages}})
        return new, {**terms, **({"diversity_weight": weight} if self.ds[0] else {})}

    def _update_path(self, state: TrainState, labels: jax.Array, key: jax.Array) -> tuple[TrainState, Metrics]:
        """Steps in the space of styles that move every image as far."""
        keys = rng.named(key, "codes", "crossover", "loss")
        mutable, crossover = state.mutable["g"], self.maker.crossover(keys["crossover"])

        def loss(params: PyTree, part: PyTree, key: jax.Array) -> tuple[jax.Array, PyTree]:
            own = rng.named(key, "noise", "probes")
            ws, _ = self.maker.styles(params, mutable, part, crossover)

            def synthesise(ws: jax.Array) -> jax.Array:
                return self.maker.synthesise(params, mutable, ws, own["noise"])

            probes = self.probes(own["probes"], ws.shape[0])
            lengths = path_lengths(synthesise, ws, probes)
            penalty, mean = path_penalty(lengths, state.extra["path_mean"])
            return self.path.gain * penalty, {"path_penalty": penalty, "path_length": jnp.mean(lengths), "mean": mean}

        # Every so many records, not the first ones: under data sharding every device keeps some of its own.
        codes = self.maker.codes(keys["codes"], labels[:: self.path_shrink])
        (_, terms), grads = grad.accumulate(loss, state.params["g"], codes, keys["loss"], self.accumulate)
        mean = terms.pop("mean")
        new = updates.descend(state, {"g": grads}, *self.adam_g)
        return new.replace(extra={**new.extra, "path_mean": mean}), {**terms, "path_mean": mean}

    def probes(self, key: jax.Array, count: int) -> jax.Array:
        """Standard normal images that path lengths are measured along."""
        return over_batch(jax.random.normal(key, (count, *self.maker.shape)))

    def _update_discriminator(
        self, state: TrainState, real: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """Real images are told from made ones of the same classes."""
        keys = rng.named(key, "codes", "crossover", "loss")
        crossover = self.maker.crossover(keys["crossover"])

        def loss(params: PyTree, part: PyTree, key: jax.Array) -> tuple[jax.Array, Metrics]:
            own = rng.named(key, "noise", "fake", "real")
            fake, _ = self.maker.make(state.params["g"], state.mutable["g"], part["codes"], crossover, own["noise"])
            label = part["codes"][LABEL]
            on_fake = self._judge(state, params, fake, label, own["fake"])
            on_real = self._judge(state, params, part["real"], label, own["real"])
            terms = {"d_real": gan_loss(on_real, True), "d_fake": gan_loss(on_fake, False)}
            return terms["d_real"] + terms["d_fake"], {**terms, "real_sign": jnp.mean(jnp.sign(on_real))}

        parts = {"codes": self.maker.codes(keys["codes"], labels), "real": real}
        (_, terms), grads = grad.accumulate(loss, state.params["d"], parts, keys["loss"], self.accumulate)
        return updates.descend(state, {"d": grads}, *self.adam_d), terms

    def _update_r1(
        self, state: TrainState, real: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """Logits that are flat at real images."""

        def loss(params: PyTree, part: PyTree, key: jax.Array) -> tuple[jax.Array, Metrics]:
            def score(images: jax.Array) -> jax.Array:
                return self._judge(state, params, images, part[LABEL], key)

            penalty, _ = r1_penalty(score, part["real"])
            return self.r1.gain * penalty, {"r1": penalty}

        parts = {LABEL: labels, "real": real}
        (_, terms), grads = grad.accumulate(loss, state.params["d"], parts, key, self.accumulate)
        return updates.descend(state, {"d": grads}, *self.adam_d), terms

    # -- the step --------------------------------------------------------------------------------

    def _step(
        self, state: TrainState, batch: Batch, frozen: Mapping[str, PyTree], *, path: bool, r1: bool
    ) -> tuple[TrainState, Metrics]:
        real, labels = to_unit(batch[RECORDS]["image"]), batch[RECORDS][LABEL]
        keys = rng.named(jax.random.fold_in(state.key, state.step), "g", "path", "d", "r1")
        new, metrics = self._update_generator(state, labels, keys["g"])
        if path:
            new, terms = self._update_path(new, labels, keys["path"])
            metrics |= terms
        new, terms = self._update_discriminator(new, real, labels, keys["d"])
        metrics |= terms
        if r1:
            new, terms = self._update_r1(new, real, labels, keys["r1"])
            metrics |= terms
        new = self._average(new)
        if self.ada.pipe:
            memory = ada.steer(self.ada, new.extra["ada"], metrics["real_sign"], state.step, self.batch_size)
            new, metrics = new.replace(extra={**new.extra, "ada": memory}), {**metrics, "ada_p": memory["p"]}
        return new, metrics

    def _average(self, state: TrainState) -> TrainState:
        """Move the averaged generator; its half-life counts images and starts short."""
        half, ramp = self.ema
        if not half:
            return state
        seen = state.images.astype(jnp.float32)
        half = jnp.minimum(half, ramp * seen) if ramp else jnp.full((), half)
        decay = jnp.exp2(-self.batch_size / jnp.maximum(half, 1e-8))
        return state.replace(ema={"g": trees.ema(state.ema["g"], state.params["g"], decay)})

    def train_step(self, state: TrainState, batch: Batch, frozen: Mapping[str, PyTree]) -> tuple[TrainState, Metrics]:
        """G, then D against the new G, without regularisers."""
        return self._step(state, batch, frozen, path=False, r1=False)

    def _due(self, step: int) -> tuple[bool, bool]:
        return self.path.due(step), self.r1.due(step)

    @property
    def step_variants(self) -> dict[str, Step]:
        """``main``, with path lengths (``path``), with R1 (``r1``), with both (``path_r1``): those that occur."""
        occurring = dict.fromkeys(self._due(step) for step in (1, self.path.every, self.r1.every, 0))
        return {VARIANTS[due]: functools.partial(self._step, path=due[0], r1=due[1]) for due in occurring}

    def variant(self, step: int, flags: tuple[int, ...]) -> str:
        """By the step alone."""
        return VARIANTS[self._due(step)]

    # -- use -------------------------------------------------------------------------------------

    def inference_variables(self, state: TrainState) -> PyTree:
        """Averaged (else raw) generator parameters, its constant noise and the average of w."""
        return {"params": (state.ema if self.ema[0] else state.params)["g"], **state.mutable["g"]}

    @property
    def samplers(self) -> dict[str, Sampler]:
        """``sample``: images by number and class; ``latent``: of codes that are given, as for a walk between two."""
        return {"sample": self.maker.sample, "latent": self.maker.latent}

    @property
    def sampler_inputs(self) -> dict[str, dict[str, Field]]:
        """``number`` of an image among all that a key stands for, or its code; the class; and the truncation."""
        return self.maker.inputs

    @property
    def preview(self) -> Preview:
        """The first images of a fixed key, of the classes of real ones, beside these; not truncated."""

        def inputs(record: Mapping[str, jax.Array], key: jax.Array) -> Mapping[str, jax.Array]:
            count = record[LABEL].shape[0]
            numbers = jnp.arange(count, dtype=jnp.int32)
            return {"number": numbers, LABEL: record[LABEL], "truncation": jnp.ones((count,))}

        return Preview("sample", RECORDS, inputs, (("image", "real"),))
