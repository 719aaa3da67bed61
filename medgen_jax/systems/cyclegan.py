"""Unpair and focus: translation between two domains without pairs (CycleGAN), and its out-of-focus recipe.

Zhu, Park, Isola and Efros, ICCV 2017. ``g_a`` makes b from a and ``d_a`` judges b, ``g_b`` and ``d_b`` the other way.
One step updates all four networks from one forward pass of each: the generators against the old
discriminators, the discriminators on those same images through their pools.

The focus recipe (Zhang et al. 2022) is a table of loss weights of the same step: a content term in the feature
space of a fixed VGG16, the cycle in pixels or features, generators that add their input.
"""

# No postponed annotations: config_flags reads the types of the configuration's fields.
import enum
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from medgen_jax.core import rng
from medgen_jax.core.config import (
    DataConfig,
    Monitor,
    TrainConfig,
    require,
    total_steps,
    validate_shared,
    validate_types,
)
from medgen_jax.core.precision import compute_dtype
from medgen_jax.core.schedules import Schedule, linear_decay
from medgen_jax.core.streams import Field, Stream
from medgen_jax.losses import perceptual, pixel
from medgen_jax.losses.adversarial import discriminator_loss, generator_loss
from medgen_jax.metrics import paired
from medgen_jax.metrics.baselines import constant_baselines
from medgen_jax.nn import lpips
from medgen_jax.nn.patchgan import PatchGAN
from medgen_jax.nn.resnet_generator import MIN_SIZE, ResNetGenerator, valid_size
from medgen_jax.ops.scale import to_unit
from medgen_jax.systems import image_pool, updates
from medgen_jax.systems.base import (
    Batch,
    Evaluator,
    Metrics,
    Preview,
    Record,
    Sampler,
    System,
    TrainState,
    new_state,
)
from medgen_jax.systems.options import Decay, Gan, OptimConfig, Upsample, validate_optim

PyTree = Any
#: Domain -> the other one, the network that makes its images from the other's, and the one that judges them.
OTHER, MAKER, JUDGE = {"a": "b", "b": "a"}, {"a": "g_b", "b": "g_a"}, {"a": "d_b", "b": "d_a"}
#: Layer of VGG16 whose activations are compared.
CONTENT_TAP = "relu3_3"


class Norm(enum.Enum):
    """Normalisation of all networks; ``sample`` is that of the focus paper's code."""

    INSTANCE = "instance"
    SAMPLE = "sample"


class Pairs(enum.Enum):
    """What is known of images that show the same field."""

    NONE = "none"  # two unrelated streams, a and b
    EXTRA = "extra"  # and a third one of registered pairs, for the term loss.paired
    ALL = "all"  # every a comes with its b


class Penalty(enum.Enum):
    """Distance of two images, pixel by pixel."""

    L1 = "l1"
    MSE = "mse"


class Space(enum.Enum):
    """Where an image and its reconstruction are compared."""

    PIXEL = "pixel"
    FEATURE = "feature"


class ContentSource(enum.Enum):
    """What a translated image must resemble in feature space."""

    PAIR = "pair"  # the other image of its pair; needs pairs=all
    INPUT = "input"  # the image it was made from


@dataclass(slots=True)
class ModelConfig:
    """Two residual generators and two PatchGAN discriminators."""

    a_channels: int = 3
    b_channels: int = 3
    ngf: int = 64  # width of a generator's first layer
    ndf: int = 64  # width of a discriminator's first layer
    blocks: int = 9  # residual blocks; 6 is usual below 256 pixels
    disc_layers: int = 3  # 3: a field of view of 70 x 70 pixels
    norm: Norm = Norm.INSTANCE
    upsample: Upsample = Upsample.CONVT
    residual: bool = False  # generators add their input


@dataclass(slots=True)
class LossConfig:
    """Weights of the generators' terms; 0 leaves a term and its computation out."""

    gan: Gan = Gan.LSGAN
    adversarial: float = 1.0
    reconstructed: float = 0.0  # adversarial term on the images that came back, by the discriminator of their domain
    cycle_a: float = 10.0  # |G_b(G_a(a)) - a|
    cycle_b: float = 10.0
    identity: float = 0.5  # |G_a(b) - b|, times the cycle weight of that domain
    content: float = 0.0  # in the feature space of VGG16
    content_source: ContentSource = ContentSource.PAIR
    cycle_space: Space = Space.PIXEL
    penalty: Penalty = Penalty.L1  # of cycle and identity in pixel space
    paired: float = 0.0  # |G_a(a) - b| and |G_b(b) - a| on registered pairs


@dataclass(slots=True)
class Config:
    """Everything about a run."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    pairs: Pairs = Pairs.NONE
    pool: int = 50  # generated images remembered per direction
    num_train: Optional[int] = None  # written by the engine
    steps_per_epoch: Optional[int] = None  # written by the engine


def _validate(config: Config) -> None:
    validate_types(config)
    validate_shared(config.data, config.train)
    model, loss = config.model, config.loss
    for name in ("a_channels", "b_channels"):
        require(getattr(model, name) in (1, 2, 3), f"model.{name}", getattr(model, name), "must be 1, 2 or 3")
    for name in ("ngf", "ndf", "disc_layers", "blocks"):
        require(getattr(model, name) >= 1, f"model.{name}", getattr(model, name), "must be at least 1")
    equal = f"needs model.a_channels = {model.a_channels} and b_channels = {model.b_channels} to be equal"
    require(not model.residual or model.a_channels == model.b_channels, "model.residual", model.residual, equal)
    smallest = max(MIN_SIZE, 3 * 2**model.disc_layers)
    size, nearest = config.data.crop_size, valid_size(max(config.data.crop_size, smallest))
    rule = f"must be a multiple of 4 of at least {smallest}; the nearest valid size is {nearest}"
    require(size == nearest, "data.crop_size", size, rule)
    weights = ("adversarial", "reconstructed", "cycle_a", "cycle_b", "identity", "content", "paired")
    for name in weights:
        require(getattr(loss, name) >= 0, f"loss.{name}", getattr(loss, name), "must not be negative")
    wrong = loss.content > 0 and loss.content_source is ContentSource.PAIR and config.pairs is not Pairs.ALL
    rule = "compares with the registered pair: set pairs=all, or content_source=input for unpaired images"
    require(not wrong, "loss.content_source", loss.content_source.value, rule)
    rule = "needs registered pairs: set pairs=extra or pairs=all"
    require(loss.paired == 0 or config.pairs is not Pairs.NONE, "loss.paired", loss.paired, rule)
    rule = "adds a stream of pairs that no term uses: set loss.paired"
    require(config.pairs is not Pairs.EXTRA or loss.paired > 0, "pairs", config.pairs.value, rule)
    same = loss.content_source is ContentSource.PAIR or loss.content == 0 or model.a_channels == model.b_channels
    require(same, "loss.content_source", loss.content_source.value, equal)
    require(config.pool >= 0, "pool", config.pool, "must not be negative")
    validate_optim(config.optim)


def build(config: Config) -> "CycleGAN":
    """A CycleGAN from a resolved configuration.

    Raises:
      UserError: naming the first field that is out of range.
    """
    _validate(config)
    model, loss, optim = config.model, config.loss, config.optim
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
    per_epoch = (config.steps_per_epoch or 1) if optim.decay is Decay.EPOCH else 0
    steps = total_steps(config) if config.steps_per_epoch else max(config.train.steps, 1)
    return CycleGAN(
        networks=(
            ("g_a", generator(model.b_channels)),
            ("g_b", generator(model.a_channels)),
            ("d_a", discriminator),
            ("d_b", discriminator),
        ),
        adam=optax.scale_by_adam(optim.beta1, optim.beta2, eps=1e-8),
        lr=linear_decay(optim.lr, steps, optim.decay_fraction, per_epoch),
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
        pool=config.pool,
        ema_decay=optim.ema,
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
    pool: int
    ema_decay: float
    dtype: Any

    # -- what it eats ----------------------------------------------------------------------------

    @property
    def streams(self) -> dict[str, Stream]:
        """``a`` and ``b``, unrelated, and ``pairs`` where wanted; or ``pairs`` alone. The first counts the images."""
        settings = ("config.model.a_channels", "config.model.b_channels")
        a, b = (Field((self.size, self.size, c), self.wire, s) for c, s in zip(self.channels, settings, strict=True))
        pairs = {"pairs": Stream((("a", a), ("b", b)), self.batch_size)}
        if self.pairs == "all":
            return pairs
        unpaired = {"a": Stream((("a", a),), self.batch_size), "b": Stream((("b", b),), self.batch_size)}
        return unpaired | pairs if self.pairs == "extra" else unpaired

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
        """Training pass of one network; the norms look at one sample alone, so all batches go in one pass."""
        y = dict(self.networks)[name].apply({"params": params[name]}, jnp.concatenate(batches))
        return jnp.split(y, len(batches))

    def _feature_distance(self, frozen: Mapping[str, PyTree], x: jax.Array, y: jax.Array) -> jax.Array:
        def features(image: jax.Array) -> dict[str, jax.Array]:
            return lpips.features(frozen["vgg16"], image, "vgg", (CONTENT_TAP,), self.dtype)

        return perceptual.content(features, x, y)

    # -- the step --------------------------------------------------------------------------------

    def _domains(self, batch: Batch) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Images of both domains, and those of registered pairs (empty where there are none)."""
        pairs = {name: to_unit(x) for name, x in batch.get("pairs", {}).items()}
        if self.pairs == "all":
            return pairs, pairs
        return {"a": to_unit(batch["a"]["a"]), "b": to_unit(batch["b"]["b"])}, pairs

    def train_step(self, state: TrainState, batch: Batch, frozen: Mapping[str, PyTree]) -> tuple[TrainState, Metrics]:
        """Generators against the old discriminators; discriminators on the same images through the pools."""
        real, pairs = self._domains(batch)
        keys = rng.named(jax.random.fold_in(state.key, state.step), "pool_a", "pool_b")

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
        stream = "pairs" if self.pairs == "all" else "a"
        shown = (("a", "input"), ("b", "target")) if self.pairs == "all" else (("a", "input"),)
        return Preview("a2b", stream, lambda fields, key: {"image": fields["a"]}, shown)

    @property
    def evaluators(self) -> dict[str, Evaluator]:
        """Of registered pairs ``paired``: PSNR, SSIM, Pearson r and absolute error of a2b against b."""
        if self.pairs != "all":
            return {}
        a2b = self.samplers["a2b"]

        def accumulate(acc: PyTree, variables: PyTree, batch: Mapping[str, jax.Array], key: jax.Array) -> PyTree:
            image = a2b(variables, {"image": batch["a"]}, key)
            return paired.accumulate(acc, image, to_unit(batch["b"]), batch["mask"])

        def baselines(train: Iterable[Record], test: Iterable[Record]) -> dict[str, dict[str, float]]:
            return constant_baselines((r["b"] for r in train), ((r["a"], r["b"]) for r in test))

        return {"paired": Evaluator("pairs", paired.init, accumulate, paired.merge, paired.compute, baselines)}

    @property
    def monitor(self) -> Monitor | None:
        """The highest PSNR, where there are pairs; unpaired images name no best checkpoint."""
        return Monitor("psnr", "max") if self.pairs == "all" else None
