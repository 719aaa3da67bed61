"""StarGAN v2: images of any number of domains translated into each other, in styles that are drawn or read off images.

Choi, Uh, Yoo and Ha, CVPR 2020. Med-StyleGAN2 is this system as it was published: the code behind the numbers of its
paper translates between three classes of chest X-rays (``configs/medstylegan2_published.py``).

One step updates four times, each update seeing what the one before has made: the discriminator against translations
into drawn styles, then against those into styles of reference images; generator, mapping network and style encoder
together on drawn styles; the generator alone on those of references. Both references of an image are of one class,
which is the target of all four. Where the reference implementation starts its averages from another random draw than
the networks, they start from the networks here.
"""

# No postponed annotations: config_flags reads the types of the configuration's fields.
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from medgen_jax.core import grad, rng, trees
from medgen_jax.core.config import DataConfig, TrainConfig
from medgen_jax.core.parallel import over_batch
from medgen_jax.core.precision import compute_dtype
from medgen_jax.core.streams import LABEL, Field, Stream, class_balanced, pairs_of_class
from medgen_jax.losses.adversarial import gan_loss, generator_loss, r1_penalty
from medgen_jax.losses.stargan_v2 import cycle, diversity, diversity_weight, style_reconstruction
from medgen_jax.nn.stargan_v2 import Discriminator, Generator, MappingNetwork, StyleEncoder
from medgen_jax.ops.scale import to_unit
from medgen_jax.systems import numbered, stargan_v2_options, updates
from medgen_jax.systems.base import Batch, Metrics, Preview, Sampler, System, TrainState, new_state
from medgen_jax.systems.stargan_v2_options import LossConfig, ModelConfig, OptimConfig

PyTree = Any

SOURCE, LATENT, REFERENCE = "source", "latent", "reference"
GENERATOR, MAPPING, ENCODER, JUDGE = "generator", "mapping_network", "style_encoder", "discriminator"
#: What a style comes from -> the network that makes it.
STYLIST = {LATENT: MAPPING, REFERENCE: ENCODER}
#: What a style comes from -> the networks that learn from the generator's loss.
LEARNERS = {LATENT: (GENERATOR, MAPPING, ENCODER), REFERENCE: (GENERATOR,)}
#: The networks that are used once trained.
USED = (GENERATOR, MAPPING, ENCODER)


@dataclass(slots=True)
class Config:
    """Everything about a run."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    num_train: Optional[int] = None  # written by the engine
    steps_per_epoch: Optional[int] = None  # written by the engine


def build(config: Config) -> "StarGANv2":
    """A StarGAN v2 from a resolved configuration.

    Raises:
      UserError: naming the first field that is out of range.
    """
    stargan_v2_options.validate(config)
    model, loss, optim = config.model, config.loss, config.optim
    domains = len(config.data.classes) or 2  # two, before the data have told theirs
    sized = {
        "size": config.data.crop_size, "channels": model.channels, "width": model.width, "max_width": model.max_width,
        "dtype": compute_dtype(config.train.precision),
    }  # fmt: skip
    networks = {
        GENERATOR: Generator(**sized, w_hpf=model.w_hpf),
        MAPPING: MappingNetwork(domains, model.style, model.hidden),
        ENCODER: StyleEncoder(**sized, domains=domains, style_width=model.style),
        JUDGE: Discriminator(**sized, domains=domains),
    }
    rates = {GENERATOR: optim.lr, MAPPING: optim.mapping_lr, ENCODER: optim.lr, JUDGE: optim.lr}
    return StarGANv2(
        networks=tuple(networks.items()),
        adam=stargan_v2_options.adam(optim),
        rates=tuple(rates.items()),
        reg_weight=loss.lambda_reg,
        style_weight=loss.lambda_sty,
        cycle_weight=loss.lambda_cyc,
        diversity_fall=(loss.lambda_ds, loss.ds_iter),
        domains=domains,
        style=model.style,
        latent=model.latent,
        size=config.data.crop_size,
        channels=model.channels,
        wire=f"uint{config.data.bits}",
        batch_size=config.train.batch_size,
        slices=optim.accumulate,
        ema_decay=optim.ema,
    )


@dataclass(frozen=True)
class StarGANv2(System):
    """Networks ``generator``, ``mapping_network``, ``style_encoder`` and ``discriminator``.

    Attributes:
      networks: name -> module; see `medgen_jax.nn.stargan_v2`.
      adam: of each network its own state, which counts that network's updates.
      rates: name -> learning rate.
      reg_weight, style_weight, cycle_weight: of R1, style reconstruction and the way back.
      diversity_fall: weight of the diversity term at the first step, and steps until it is 0.
      domains: classes of the data.
      style: length of a style.
      latent: numbers in the noise that a style is made of, N(0, 1).
      size: side of the images.
      channels: of the images.
      wire: dtype of the records.
      batch_size: source images of a step.
      slices: of a batch, one after another.
      ema_decay: of the averaged networks; 0 for none.
    """

    networks: tuple[tuple[str, nn.Module], ...]
    adam: optax.GradientTransformation
    rates: tuple[tuple[str, float], ...]
    reg_weight: float
    style_weight: float
    cycle_weight: float
    diversity_fall: tuple[float, int]
    domains: int
    style: int
    latent: int
    size: int
    channels: int
    wire: str
    batch_size: int
    slices: int
    ema_decay: float

    # -- what it eats ----------------------------------------------------------------------------

    @property
    def _image(self) -> Field:
        return Field((self.size, self.size, self.channels), self.wire, "config.model.channels")

    @property
    def streams(self) -> dict[str, Stream]:
        """``source``: an image and its class; ``reference``: two images of one class for each of those.

        Both from the same records, every class equally often.
        """
        fields = (("image", self._image), (LABEL, Field((), "int32")))
        return {
            SOURCE: Stream(fields, self.batch_size, class_balanced(LABEL), table="records"),
            REFERENCE: Stream(fields, 2 * self.batch_size, pairs_of_class(LABEL), table="records"),
        }

    # -- state -----------------------------------------------------------------------------------

    def init(self, key: jax.Array) -> TrainState:
        """Fresh networks: normal kernels of variance 2 / fan-in, zero biases."""
        keys = rng.named(key, *dict(self.networks), "state")
        image, label = jnp.zeros((1, *self._image.shape)), jnp.zeros((1,), jnp.int32)
        seen = {
            GENERATOR: (image, jnp.zeros((1, self.style))),
            MAPPING: (jnp.zeros((1, self.latent)), label),
            ENCODER: (image, label),
            JUDGE: (image, label),
        }
        params = {name: net.init(keys[name], *seen[name])["params"] for name, net in self.networks}
        return new_state(
            keys["state"],
            params=params,
            opt={name: self.adam.init(p) for name, p in params.items()},
            ema={name: params[name] for name in USED} if self.ema_decay else {},
        )

    # -- network passes --------------------------------------------------------------------------

    def _run(self, name: str, params: PyTree, *inputs: jax.Array) -> jax.Array:
        return dict(self.networks)[name].apply({"params": params[name]}, *inputs)

    def _style(self, params: PyTree, part: Mapping[str, jax.Array], origin: str, which: int) -> jax.Array:
        """The first or second style (b, style) of the target domains, drawn or read off references."""
        return self._run(STYLIST[origin], params, part[origin][:, which], part["target"])

    # -- the step --------------------------------------------------------------------------------

    def parts(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        """What the next step learns from, all with a leading axis of ``batch_size``.

        ``image`` and its ``label``; ``target``, the domain to translate into; two codes, ``latent`` (b, 2, k), and
        two images, ``reference`` (b, 2, h, w, c), of that domain's styles.
        """
        source, pairs = batch[SOURCE], batch[REFERENCE]
        references = to_unit(pairs["image"])
        keys = rng.named(jax.random.fold_in(state.key, state.step), "latents")
        return {
            "image": to_unit(source["image"]),
            "label": source[LABEL],
            "target": pairs[LABEL].reshape(-1, 2)[:, 0],
            LATENT: over_batch(jax.random.normal(keys["latents"], (self.batch_size, 2, self.latent))),
            REFERENCE: references.reshape(-1, 2, *references.shape[1:]),
        }

    def train_step(self, state: TrainState, batch: Batch, frozen: Mapping[str, PyTree]) -> tuple[TrainState, Metrics]:
        """D on drawn styles, D on references, G with both makers of styles on drawn ones, G alone on references."""
        part, weight = self.parts(state, batch), diversity_weight(state.step, *self.diversity_fall)
        new, metrics = state, {"lambda_ds": weight}
        for origin in (LATENT, REFERENCE):
            new, terms = self._update_discriminator(new, part, origin)
            metrics |= {f"d_{origin}_{name}": value for name, value in terms.items()}
        for origin in (LATENT, REFERENCE):
            new, terms = self._update_generator(new, part, origin, weight)
            metrics |= {f"g_{origin}_{name}": value for name, value in terms.items()}
        averaged = {name: trees.ema(old, new.params[name], self.ema_decay) for name, old in new.ema.items()}
        return new.replace(ema=averaged), metrics

    def _update_discriminator(
        self, state: TrainState, part: Mapping[str, jax.Array], origin: str
    ) -> tuple[TrainState, Metrics]:
        """The cross-entropies of real images and of translations, and R1 on the real ones."""

        def loss(params: PyTree, part: Mapping[str, jax.Array], key: jax.Array) -> tuple[jax.Array, Metrics]:
            fake = self._run(GENERATOR, state.params, part["image"], self._style(state.params, part, origin, 0))
            penalty, on_real = r1_penalty(lambda x: self._run(JUDGE, params, x, part["label"]), part["image"])
            on_fake = self._run(JUDGE, params, fake, part["target"])
            terms = {"real": gan_loss(on_real, True), "fake": gan_loss(on_fake, False), "r1": penalty}
            return terms["real"] + terms["fake"] + self.reg_weight * penalty, terms

        return self._descend(state, part, (JUDGE,), loss)

    def _update_generator(
        self, state: TrainState, part: Mapping[str, jax.Array], origin: str, weight: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """Adversarial, style reconstruction, diversity and cycle; what does not learn is held fixed."""

        def loss(params: PyTree, part: Mapping[str, jax.Array], key: jax.Array) -> tuple[jax.Array, Metrics]:
            nets, image = {**state.params, **params}, part["image"]
            style = self._style(nets, part, origin, 0)
            fake = self._run(GENERATOR, nets, image, style)
            # Nothing learns from the second image: it is made by the networks as they were.
            second = self._run(GENERATOR, state.params, image, self._style(state.params, part, origin, 1))
            back = self._run(GENERATOR, nets, fake, self._run(ENCODER, nets, image, part["label"]))
            terms = {
                "gan": generator_loss(self._run(JUDGE, nets, fake, part["target"])),
                "style": style_reconstruction(self._run(ENCODER, nets, fake, part["target"]), style),
                "diversity": diversity(fake, second),
                "cycle": cycle(back, image),
            }
            total = terms["gan"] + self.style_weight * terms["style"] + self.cycle_weight * terms["cycle"]
            return total - weight * terms["diversity"], terms

        return self._descend(state, part, LEARNERS[origin], loss)

    def _descend(
        self, state: TrainState, part: Mapping[str, jax.Array], learners: tuple[str, ...], loss: Callable[..., Any]
    ) -> tuple[TrainState, Metrics]:
        """One step of some networks on a loss of their parameters; the new state, and the terms of the loss."""
        learning = {name: state.params[name] for name in learners}
        (_, terms), grads = grad.accumulate(loss, learning, part, state.key, self.slices)
        rates = dict(self.rates)
        for name in learners:
            state = updates.descend(state, {name: grads[name]}, self.adam, rates[name])
        return state, terms

    # -- use -------------------------------------------------------------------------------------

    def inference_variables(self, state: TrainState) -> PyTree:
        """Averaged (else raw) parameters of generator, mapping network and style encoder."""
        params = state.ema if self.ema_decay else state.params
        return {name: params[name] for name in USED}

    def _translated(self, variables: PyTree, image: jax.Array, style: jax.Array) -> jax.Array:
        return jnp.clip(self._run(GENERATOR, variables, to_unit(image), style), -1, 1)

    def _latent(self, variables: PyTree, inputs: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        """``image`` into a style of the domain ``label``, (b,): the one with ``number``, (b,), of those of the key.

        Codes are those of `medgen_jax.systems.numbered`: equal numbers are equal styles in every batch.
        """
        z = numbered.codes(key, inputs["number"], (self.latent,))
        style = self._run(MAPPING, variables, z, inputs[LABEL])
        return self._translated(variables, inputs["image"], style)

    def _reference(self, variables: PyTree, inputs: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        """``image`` into the style of ``reference``, an image of the domain ``label``, (b,)."""
        style = self._run(ENCODER, variables, to_unit(inputs["reference"]), inputs[LABEL])
        return self._translated(variables, inputs["image"], style)

    @property
    def samplers(self) -> dict[str, Sampler]:
        """``latent``: into a style drawn by its number; ``reference``: into that of another image. To [-1, 1]."""
        return {LATENT: self._latent, REFERENCE: self._reference}

    @property
    def sampler_inputs(self) -> dict[str, dict[str, Field]]:
        """An image, the class that it is to become, and where the style comes from."""
        image, number = self._image, Field((), "int32")
        return {
            LATENT: {"image": image, LABEL: number, "number": number},
            REFERENCE: {"image": image, "reference": image, LABEL: number},
        }

    @property
    def preview(self) -> Preview:
        """Source images and what the other classes make of them, each in its turn, in styles that stay."""

        def inputs(record: Mapping[str, jax.Array], key: jax.Array) -> Mapping[str, jax.Array]:
            number = jnp.arange(record[LABEL].shape[0], dtype=jnp.int32)
            target = (record[LABEL] + 1 + number % max(self.domains - 1, 1)) % self.domains
            return {"image": record["image"], LABEL: target, "number": number}

        return Preview(LATENT, SOURCE, inputs, (("field:image", "source"),))
