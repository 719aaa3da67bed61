"""Unpair and focus: translation between two domains without pairs (CycleGAN), and its out-of-focus recipe.

Zhu, Park, Isola and Efros, ICCV 2017. ``g_a`` makes b from a and ``d_a`` judges b, ``g_b`` and ``d_b`` the other way.
One step updates all four networks from one forward pass of each: the generators against the old
discriminators, the discriminators on those same images through their pools.

The focus recipe (Zhang et al. 2022) is a table of loss weights of the same step: a content term in the feature
space of a fixed VGG16, the cycle in pixels or features, generators that add their input.
"""

# No postponed annotations: config_flags reads the types of the configuration's fields.
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from medgen_jax.core import rng
from medgen_jax.core.config import DataConfig, Monitor, TrainConfig
from medgen_jax.core.precision import compute_dtype
from medgen_jax.core.schedules import Schedule
from medgen_jax.core.streams import Field, Stream
from medgen_jax.losses import perceptual, pixel
from medgen_jax.losses.adversarial import discriminator_loss, generator_loss
from medgen_jax.nn import lpips
from medgen_jax.nn.patchgan import PatchGAN
from medgen_jax.nn.resnet_generator import ResNetGenerator
from medgen_jax.ops.defocus import Optics, random_defocus
from medgen_jax.ops.scale import to_unit
from medgen_jax.systems import image_pool, options, registered_pairs, updates
from medgen_jax.systems.base import Batch, Evaluator, Metrics, Preview, Sampler, System, TrainState, new_state
from medgen_jax.systems.cyclegan_options import DefocusConfig, LossConfig, ModelConfig, Pairs, validate
from medgen_jax.systems.options import OptimConfig

PyTree = Any
#: Domain -> the other one, the network that makes its images from the other's, and the one that judges them.
OTHER, MAKER, JUDGE = {"a": "b", "b": "a"}, {"a": "g_b", "b": "g_a"}, {"a": "d_b", "b": "d_a"}
#: Layer of VGG16 whose activations are compared.
CONTENT_TAP = "relu3_3"


@dataclass(slots=True)
class Config:
    """Everything about a run."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    pairs: Pairs = Pairs.NONE
    defocus: DefocusConfig = field(default_factory=DefocusConfig)  # for pairs=synthetic
    pool: int = 50  # generated images remembered per direction
    num_train: Optional[int] = None  # written by the engine
    steps_per_epoch: Optional[int] = None  # written by the engine


def build(config: Config) -> "CycleGAN":
    """A CycleGAN from a resolved configuration.

    Raises:
      UserError: naming the first field that is out of range.
    """
    validate(config)
    model, loss = config.model, config.loss
    identity = loss.identity
    if identity and model.a_channels != model.b_channels:
        warnings.warn(
            f"the identity term is off: a has {model.a_channels} channels and b {model.b_channels}", stacklevel=2
        )
        identity = 0.0
    dtype = compute_dtype(config.train.precision)

    def generator(channels: int) -> ResNetGenerator:
        return ResNetGenerator(
            out_channels=channels,
            ngf=model.ngf,
            blocks=model.blocks,
            norm=model.norm.value,
            upsample=model.upsample.value,
            residual=model.residual,
            dtype=dtype,
        )

    discriminator = PatchGAN(model.ndf, model.disc_layers, model.norm.value, dtype)
    return CycleGAN(
        networks=(
            ("g_a", generator(model.b_channels)),
            ("g_b", generator(model.a_channels)),
            ("d_a", discriminator),
            ("d_b", discriminator),
        ),
        adam=options.adam(config.optim),
        lr=options.learning_rate(config),
        channels=(model.a_channels, model.b_channels),
        size=config.data.crop_size,
        wire=f"uint{config.data.bits}",
        batch_size=config.train.batch_size,
        gan=loss.gan.value,
        adversarial=loss.adversarial,
        reconstructed=loss.reconstructed,
        cycle=(("a", loss.cycle_a), ("b", loss.cycle_b)),
        identity=identity,
        content=loss.content,
        content_source=loss.content_source.value,
        cycle_space=loss.cycle_space.value,
        penalty=loss.penalty.value,
        paired=loss.paired,
        pairs=config.pairs.value,
        optics=config.defocus.optics if config.pairs is Pairs.SYNTHETIC else None,
        distances=(config.defocus.z_min, config.defocus.z_max),
        pool=config.pool,
        ema_decay=config.optim.ema,
        dtype=dtype,
    )


@dataclass(frozen=True)
class CycleGAN(System):
    """Networks ``g_a``, ``d_a`` (a -> b and the judge of b), ``g_b``, ``d_b`` (b -> a and the judge of a)."""

    networks: tuple[tuple[str, nn.Module], ...]
    adam: optax.GradientTransformation
    lr: Schedule
    channels: tuple[int, int]
    size: int
    wire: str
    batch_size: int
    gan: str
    adversarial: float
    reconstructed: float
    cycle: tuple[tuple[str, float], ...]
    identity: float
    content: float
    content_source: str
    cycle_space: str
    penalty: str
    paired: float
    pairs: str
    optics: Optics | None
    distances: tuple[float, float]
    pool: int
    ema_decay: float
    dtype: Any

    # -- what it eats ----------------------------------------------------------------------------

    @property
    def streams(self) -> dict[str, Stream]:
        """``a`` and ``b``, unrelated, and ``pairs`` where wanted; ``pairs`` alone; or ``b`` alone, in focus."""
        settings = ("config.model.a_channels", "config.model.b_channels")
        fields = registered_pairs.fields(self.size, self.channels, self.wire, settings)
        registered = {"pairs": Stream(tuple(fields.items()), self.batch_size)}
        if self.pairs == "all":
            return registered
        unpaired = {name: Stream(((name, field),), self.batch_size) for name, field in fields.items()}
        if self.optics:
            return {"b": unpaired["b"]}
        return unpaired | registered if self.pairs == "extra" else unpaired

    @property
    def frozen_names(self) -> tuple[str, ...]:
        """``vgg16``, where a term lives in its feature space."""
        return ("vgg16",) if self.content or self.cycle_space == "feature" else ()

    # -- state -----------------------------------------------------------------------------------

    def init(self, key: jax.Array) -> TrainState:
        """Fresh networks: N(0, 0.02) kernels, zero biases; empty pools."""
        networks = dict(self.networks)
        keys = rng.named(key, *networks, "state")
        a, b = (jnp.zeros((1, self.size, self.size, c)) for c in self.channels)
        seen = {"g_a": a, "g_b": b, "d_a": b, "d_b": a}
        params = {name: net.init(keys[name], seen[name])["params"] for name, net in networks.items()}
        return new_state(
            keys["state"],
            params=params,
            opt={name: self.adam.init(p) for name, p in params.items()},
            ema={name: params[name] for name in MAKER.values()} if self.ema_decay else {},
            extra={f"pool_{domain}": image_pool.empty(self.pool, x.shape[1:]) for domain, x in (("a", a), ("b", b))},
        )

    # -- network passes --------------------------------------------------------------------------

    def _run(self, name: str, params: PyTree, *batches: jax.Array) -> list[jax.Array]:
        """Training pass of one network; the norms look at one sample alone, so all batches go in one pass.

        Record by record, not end to end: images of batches that are cut over devices stay where they are.
        """
        together = jnp.stack(batches, axis=1)
        y = dict(self.networks)[name].apply({"params": params[name]}, together.reshape(-1, *together.shape[2:]))
        y = y.reshape(-1, len(batches), *y.shape[1:])
        return [y[:, i] for i in range(len(batches))]

    def _feature_distance(self, frozen: Mapping[str, PyTree], x: jax.Array, y: jax.Array) -> jax.Array:
        def features(image: jax.Array) -> dict[str, jax.Array]:
            return lpips.features(frozen["vgg16"], image, "vgg", (CONTENT_TAP,), self.dtype)

        return perceptual.content(features, x, y)

    # -- the step --------------------------------------------------------------------------------

    def _defocused(self, record: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        """A record with a made from b, each image by a distance of its own."""
        b = to_unit(record["b"])
        return {**record, "a": random_defocus(key, b, self.optics, self.distances)[0], "b": b}

    def _domains(self, batch: Batch, key: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Images of both domains, and those of registered pairs (empty where there are none)."""
        if self.optics:
            pairs = self._defocused(batch["b"], key)
            return pairs, pairs
        pairs = {name: to_unit(x) for name, x in batch.get("pairs", {}).items()}
        if self.pairs == "all":
            return pairs, pairs
        return {"a": to_unit(batch["a"]["a"]), "b": to_unit(batch["b"]["b"])}, pairs

    def train_step(self, state: TrainState, batch: Batch, frozen: Mapping[str, PyTree]) -> tuple[TrainState, Metrics]:
        """Generators against the old discriminators; discriminators on the same images through the pools."""
        keys = rng.named(jax.random.fold_in(state.key, state.step), "pool_a", "pool_b", "defocus")
        real, pairs = self._domains(batch, keys["defocus"])

        def generator_loss_of(params: PyTree) -> tuple[jax.Array, Any]:
            fake, terms = self._generator_terms(params, state.params, real, pairs, frozen)
            total = sum(weight * value for weight, value in terms.values())
            return total, (fake, {name: value for name, (_, value) in terms.items()})

        def discriminator_loss_of(params: PyTree, domain: str, shown: jax.Array) -> jax.Array:
            on_real, on_fake = self._run(JUDGE[domain], params, real[domain], shown)
            return discriminator_loss(on_real, on_fake, self.gan)

        makers = {name: state.params[name] for name in MAKER.values()}
        grads, (fake, metrics) = jax.grad(generator_loss_of, has_aux=True)(makers)
        pools = {}
        for domain in "ab":
            pool, judge = f"pool_{domain}", JUDGE[domain]
            shown, pools[pool] = image_pool.query(state.extra[pool], fake[domain], keys[pool])
            value_and_grad = jax.value_and_grad(discriminator_loss_of)
            metrics[judge], gradient = value_and_grad({judge: state.params[judge]}, domain, shown)
            grads |= gradient
        rate = self.lr(state.step)
        new = updates.average(updates.descend(state, grads, self.adam, rate), self.ema_decay)
        return new.replace(extra=pools), {**metrics, "lr": rate}

    def _generator_terms(
        self,
        params: PyTree,
        judges: PyTree,
        real: Mapping[str, jax.Array],
        pairs: Mapping[str, jax.Array],
        frozen: Mapping[str, PyTree],
    ) -> tuple[dict[str, jax.Array], dict[str, tuple[float, jax.Array]]]:
        """Translated images by domain, and every term of the loss as ``(weight, value)``."""
        fake, same, matched = self._translate(params, real, pairs)
        weight, penalty = dict(self.cycle), getattr(pixel, self.penalty)

        def wish(domain: str, image: jax.Array) -> jax.Array:
            return generator_loss(*self._run(JUDGE[domain], judges, image), self.gan)

        def cycle(x: jax.Array, y: jax.Array) -> jax.Array:
            return penalty(x, y) if self.cycle_space == "pixel" else self._feature_distance(frozen, x, y)

        terms = {}
        for domain, other in OTHER.items():
            (returned,) = self._run(MAKER[domain], params, fake[other])
            terms[f"gan_{domain}"] = self.adversarial, wish(domain, fake[domain])
            terms[f"cycle_{domain}"] = weight[domain], cycle(returned, real[domain])
            if self.reconstructed:
                terms[f"reconstructed_{domain}"] = self.reconstructed, wish(domain, returned)
            if self.identity:
                terms[f"identity_{domain}"] = self.identity * weight[domain], penalty(same[domain], real[domain])
            if self.content:
                model = real[domain if self.content_source == "pair" else other]
                terms[f"content_{domain}"] = self.content, self._feature_distance(frozen, fake[domain], model)
            if self.paired:
                terms[f"paired_{domain}"] = self.paired, pixel.l1(matched[domain], pairs[domain])
        return fake, terms

    def _translate(
        self, params: PyTree, real: Mapping[str, jax.Array], pairs: Mapping[str, jax.Array]
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array], dict[str, jax.Array]]:
        """By domain made: translations, what becomes of its own images (identity), translations of pairs."""
        fake, same, matched = {}, {}, {}
        for domain, other in OTHER.items():
            batches = {"fake": real[other]}
            if self.identity:
                batches["same"] = real[domain]
            if self.pairs == "extra":
                batches["matched"] = pairs[other]
            made = dict(zip(batches, self._run(MAKER[domain], params, *batches.values()), strict=True))
            fake[domain], same[domain] = made["fake"], made.get("same")
            matched[domain] = made.get("matched", made["fake"])
        return fake, same, matched

    # -- use -------------------------------------------------------------------------------------

    def inference_variables(self, state: TrainState) -> PyTree:
        """Averaged (else raw) parameters of both generators."""
        params = state.ema if self.ema_decay else state.params
        return {name: {"params": params[name]} for name in MAKER.values()}

    def _sampler(self, domain: str) -> Sampler:
        """``{"image": (b, h, w, c) in [-1, 1]}`` -> images of ``domain`` in [-1, 1]."""
        name = MAKER[domain]

        def sample(variables: PyTree, inputs: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
            stats = "given" if "given_stats" in variables[name] else "batch"
            image = dict(self.networks)[name].apply(variables[name], to_unit(inputs["image"]), stats=stats)
            return jnp.clip(image, -1, 1)

        return sample

    @property
    def samplers(self) -> dict[str, Sampler]:
        """``a2b`` and ``b2a``: inputs ``image``."""
        return {f"{OTHER[domain]}2{domain}": self._sampler(domain) for domain in "ba"}

    @property
    def sampler_inputs(self) -> dict[str, dict[str, Field]]:
        """An image of the source domain."""
        a, b = (Field((self.size, self.size, c), self.wire) for c in self.channels)
        return {"a2b": {"image": a}, "b2a": {"image": b}}

    @property
    def tile_variables(self) -> dict[str, Any]:
        """Both directions: the norms look at each image, so tiles need a first pass."""

        def pooled(name: str) -> Any:
            def pool(variables: PyTree, inputs: Mapping[str, jax.Array], key: jax.Array) -> PyTree:
                net, image = dict(self.networks)[name], to_unit(inputs["image"])
                _, new = net.apply(variables[name], image, stats="pooled", mutable=["given_stats"])
                return {**variables, name: {**variables[name], **new}}

            return pool

        return {f"{OTHER[domain]}2{domain}": pooled(MAKER[domain]) for domain in "ba"}

    @property
    def preview(self) -> Preview:
        """Input, output and, of pairs, the target."""
        if self.optics:
            return registered_pairs.preview("b", self._defocused)
        return registered_pairs.preview() if self.pairs == "all" else registered_pairs.preview("a", target=False)

    @property
    def evaluators(self) -> dict[str, Evaluator]:
        """Of registered pairs ``paired``: PSNR, SSIM, Pearson r and absolute error of a2b against b."""
        a2b = self.samplers["a2b"]
        if self.optics:
            return {"paired": registered_pairs.evaluator(a2b, "b", self._defocused)}
        restores = self.channels[0] == self.channels[1]
        return {"paired": registered_pairs.evaluator(a2b, restores=restores)} if self.pairs == "all" else {}

    @property
    def monitor(self) -> Monitor | None:
        """The highest PSNR, where there are pairs; unpaired images name no best checkpoint."""
        return Monitor("psnr", "max") if self.evaluators else None
