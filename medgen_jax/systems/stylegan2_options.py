"""Configuration of StyleGAN2, its checks, and the parts of the system that they make."""

# No postponed annotations: config_flags reads the types of the configuration's fields.
import enum
import math
from dataclasses import dataclass
from typing import Any, Optional

import optax

from medgen_jax.core.config import require
from medgen_jax.nn.stylegan2 import Discriminator, Generator
from medgen_jax.systems.ada import Policy
from medgen_jax.systems.options import require_positive


class Pipe(enum.Enum):
    """Which augmentations the discriminator sees through; see `medgen_jax.systems.ada`."""

    NONE = "none"
    B = "b"  # flips, quarter turns, shifts by whole pixels
    BG = "bg"  # and scale, rotation, stretch, shifts by fractions
    BGC = "bgc"  # and brightness, contrast, negative, hue, saturation


class DiversityScope(enum.Enum):
    """Between which images the diversity term asks for a difference."""

    SAME_DOMAIN = "same_domain"  # of one class and two codes
    INTER_DOMAIN = "inter_domain"  # of one code and two classes


@dataclass(slots=True)
class ModelConfig:
    """Generator and discriminator."""

    channels: int = 1
    z_dim: int = 512  # numbers in a code
    w_dim: int = 512  # numbers in a style
    map_layers: int = 8
    channel_base: int = 16384  # a level of side s is channel_base / s wide,
    channel_max: int = 512  # or this, if that is less
    minibatch_group: int = 4  # images whose differences the discriminator sees; 0: none


@dataclass(slots=True)
class LossConfig:
    """Terms beside the adversarial ones, whose weight is 1."""

    r1: float = 1.0  # weight of half the squared slope on real images; 0.0002 size^2 / batch is a first guess
    r1_every: int = 16  # steps between two updates by it
    path: float = 2.0  # weight of the path lengths' variance
    path_every: int = 4
    path_shrink: int = 2  # on this part of a batch
    mixing: float = 0.9  # chance that a batch takes its upper styles from other codes
    ds: float = 0.0  # first weight of the diversity term, which falls linearly to 0
    ds_steps: int = 0  # over so many steps; 0: over the whole run
    ds_scope: DiversityScope = DiversityScope.SAME_DOMAIN


@dataclass(slots=True)
class AdamConfig:
    """Adam, with one state per network."""

    lr: float = 2.5e-3
    beta1: float = 0.0
    beta2: float = 0.99
    accumulate: int = 1  # slices of a batch, one after another


@dataclass(slots=True)
class EmaConfig:
    """The averaged generator used at inference."""

    kimg: float = 20.0  # thousand images after which half of an old value is forgotten; 0: no average
    ramp: float = 0.05  # but no more than this share of the images seen so far; 0: no such limit


@dataclass(slots=True)
class AdaConfig:
    """Adaptive augmentation."""

    pipe: Pipe = Pipe.BGC
    target: Optional[float] = 0.6  # mean sign of the logits of real images that p is steered to; None: p stays
    p: float = 0.0  # chance of each augmentation at the start
    every: int = 4  # steps between changes of p
    kimg: float = 500.0  # thousand images in which p may go from 0 to 1


@dataclass(frozen=True)
class Lazy:
    """A regulariser that gets an update of its own, every so many steps (Karras et al. 2020, section 3.1).

    Attributes:
      weight: of the term.
      every: steps between two updates; 0: never.
    """

    weight: float
    every: int

    def due(self, step: int) -> bool:
        """Whether the update belongs to this step."""
        return self.every > 0 and step % self.every == 0

    @property
    def gain(self) -> float:
        """What the term is multiplied with in its update, which stands for all steps since the one before."""
        return self.weight * self.every

    @property
    def share(self) -> float:
        """Steps per update of the network: what rate and decays of Adam are corrected by (section B)."""
        return self.every / (self.every + 1) if self.every else 1.0


def lazy(weight: float, every: int) -> Lazy:
    """A regulariser; one without a weight never has an update."""
    return Lazy(weight, every if weight else 0)


def adam(optim: AdamConfig, regulariser: Lazy) -> tuple[optax.GradientTransformation, float]:
    """Adam of a network with a lazy regulariser, whose updates come on top of the steps; and its rate.

    With k steps per update the rate is multiplied by k and the decays are raised to its power, so that a step of the
    training moves and forgets as much as without them.
    """
    k = regulariser.share
    return optax.scale_by_adam(optim.beta1**k, optim.beta2**k, eps=1e-8), optim.lr * k


def policy(config: AdaConfig) -> Policy:
    """Adaptive augmentation of a checked configuration."""
    pipe = "" if config.pipe is Pipe.NONE else config.pipe.value
    return Policy(pipe, config.p, config.target, config.every, 1000 * config.kimg)


def networks(config: Any, classes: int, dtype: Any) -> tuple[Generator, Discriminator]:
    """Both networks of a checked configuration."""
    model = config.model
    shared = {
        "size": config.data.crop_size, "channels": model.channels, "classes": classes, "map_layers": model.map_layers,
        "channel_base": model.channel_base, "channel_max": model.channel_max, "dtype": dtype,
    }  # fmt: skip
    generator = Generator(z_dim=model.z_dim, w_dim=model.w_dim, **shared)
    return generator, Discriminator(minibatch_group=model.minibatch_group, **shared)


def validate(config: Any) -> None:
    """Check the ranges of ``config.model``, ``loss``, ``optim``, ``ema`` and ``ada``.

    Raises:
      UserError: naming the field.
    """
    _validate_model(config.model, config.data.crop_size)
    loss, ada = config.loss, config.ada
    for name in ("r1", "path", "ds"):
        _require_not_negative(getattr(loss, name), f"loss.{name}")
    _require_counts(loss, "loss", "r1_every", "path_every", "path_shrink")
    require(loss.ds_steps >= 0, "loss.ds_steps", loss.ds_steps, "must not be negative")
    require(0 <= loss.mixing <= 1, "loss.mixing", loss.mixing, "must lie in [0, 1]")
    inter = loss.ds > 0 and loss.ds_scope is DiversityScope.INTER_DOMAIN
    good = not inter or len(config.data.classes) != 1
    require(good, "loss.ds_scope", loss.ds_scope.value, f"needs two classes; the data have {config.data.classes}")
    require(0 < config.optim.lr < math.inf, "optim.lr", config.optim.lr, "must be positive, and finite")
    for name in ("beta1", "beta2"):
        value = getattr(config.optim, name)
        require(0 <= value < 1, f"optim.{name}", value, "must lie in [0, 1)")
    for name in ("kimg", "ramp"):
        _require_not_negative(getattr(config.ema, name), f"ema.{name}")
    good = ada.target is None or -1 < ada.target < 1
    require(good, "ada.target", ada.target, "must lie between -1 and 1, or be None")
    require(0 <= ada.p <= 1, "ada.p", ada.p, "must lie in [0, 1]")
    _require_counts(ada, "ada", "every")
    require(ada.kimg > 0, "ada.kimg", ada.kimg, "must be positive")
    _validate_batch(config)


def _validate_model(model: ModelConfig, size: int) -> None:
    require(model.channels in (1, 3), "model.channels", model.channels, "must be 1 or 3")
    require_positive(model, "z_dim", "w_dim", "map_layers", "channel_max")
    require(size >= 8 and not size & (size - 1), "data.crop_size", size, "must be a power of two, 8 or more")
    rule = f"must be at least data.crop_size = {size}, or the last level has no channel"
    require(model.channel_base >= size, "model.channel_base", model.channel_base, rule)
    require(model.minibatch_group >= 0, "model.minibatch_group", model.minibatch_group, "must not be negative")


def _require_not_negative(value: float, name: str) -> None:
    """Weights and spans; an infinite one would be found out only by its first step."""
    require(0 <= value < math.inf, name, value, "must not be negative, nor infinite")


def _require_counts(part: Any, prefix: str, *names: str) -> None:
    """Counts: fields ``names`` of ``config.PREFIX``.

    Raises:
      UserError: naming the field.
    """
    for name in names:
        require(getattr(part, name) >= 1, f"{prefix}.{name}", getattr(part, name), "must be at least 1")


def _validate_batch(config: Any) -> None:
    """What divides the batch: slices, the part for path lengths, and the discriminator's groups."""
    batch, loss, slices = config.train.batch_size, config.loss, config.optim.accumulate
    good = slices >= 1 and batch % slices == 0
    require(good, "optim.accumulate", slices, f"must divide train.batch_size = {batch}")
    shrink = loss.path_shrink if loss.path else 1
    rule = f"times optim.accumulate = {slices} must divide train.batch_size = {batch}"
    require(batch % (shrink * slices) == 0, "loss.path_shrink", shrink, rule)
    group = min(config.model.minibatch_group, batch // slices)
    rule = f"must divide the {batch // slices} images that are judged at once (train.batch_size / optim.accumulate)"
    require(not group or batch // slices % group == 0, "model.minibatch_group", group, rule)
