"""What a StarGAN v2 run can choose: networks, weights of the terms, optimisers; the defaults are the reference's."""

# No postponed annotations: config_flags reads the types of the configuration's fields.
import math
from dataclasses import dataclass
from typing import Any, Optional

import optax

from medgen_jax.core.config import require, validate_shared, validate_types
from medgen_jax.systems import options

#: Side of the smallest images that the networks take, pixels.
MIN_SIZE = 16
#: Width of the first layer times the image side, where ``model.width`` is None.
WIDTH_TIMES_SIZE = 2**14


@dataclass(slots=True)
class ModelConfig:
    """Generator, mapping network, style encoder and discriminator."""

    channels: int = 3
    width: Optional[int] = None  # of the first layers; None: 2^14 / data.crop_size, 64 at 256 pixels
    max_width: int = 512  # what the widths double up to, level by level
    style: int = 64  # length of a style
    latent: int = 16  # numbers in the noise that a style is made of
    hidden: int = 512  # width of the mapping network
    w_hpf: float = 0.0  # 0: residual decoder; above: high-pass skips that keep detail, divided by it (1 for faces)


@dataclass(slots=True)
class LossConfig:
    """Weights of the terms beside the adversarial one, by the names that the paper gives them."""

    lambda_reg: float = 1.0  # R1, in every update of the discriminator
    lambda_sty: float = 1.0  # style reconstruction
    lambda_ds: float = 1.0  # diversity of two styles of one domain, at the first step
    ds_iter: int = 100_000  # steps over which lambda_ds falls linearly to 0
    lambda_cyc: float = 1.0  # the way back


@dataclass(slots=True)
class OptimConfig:
    """Adam with L2 in the gradient, for each network its own; rates never fall."""

    lr: float = 1e-4  # of generator, style encoder and discriminator
    mapping_lr: float = 1e-6  # of the mapping network
    beta1: float = 0.0
    beta2: float = 0.99
    weight_decay: float = 1e-4
    ema: float = 0.999  # decay of the averaged networks used at inference; 0: none
    accumulate: int = 1  # slices of a batch, one after another


def valid_size(size: int) -> int:
    """The side nearest to ``size`` that the networks take: a power of 2, at least 16."""
    return max(MIN_SIZE, 2 ** round(math.log2(max(size, 1))))


def validate(config: Any) -> None:
    """Check a `medgen_jax.systems.stargan_v2.Config`.

    Raises:
      UserError: naming the first field that is out of range.
    """
    validate_types(config)
    validate_shared(config.data, config.train)
    model, loss, optim, size = config.model, config.loss, config.optim, config.data.crop_size
    rule = f"must be a power of 2, at least {MIN_SIZE}; the nearest valid size is {valid_size(size)}"
    require(size == valid_size(size), "data.crop_size", size, rule)
    options.require_channels(model, "channels")
    options.require_positive(model, "max_width", "style", "latent", "hidden")
    rule = f"must be at least 1, or None for {WIDTH_TIMES_SIZE} / data.crop_size"
    require(model.width is None or model.width >= 1, "model.width", model.width, rule)
    rule = "must be 0, for no high-pass skips, or a positive number"
    require(0 <= model.w_hpf < math.inf, "model.w_hpf", model.w_hpf, rule)
    for name in ("lambda_reg", "lambda_sty", "lambda_ds", "lambda_cyc"):
        rule = "must not be negative, nor infinite"
        require(0 <= getattr(loss, name) < math.inf, f"loss.{name}", getattr(loss, name), rule)
    require(loss.ds_iter >= 1, "loss.ds_iter", loss.ds_iter, "must be at least 1")
    for name in ("lr", "mapping_lr"):
        require(0 < getattr(optim, name) < math.inf, f"optim.{name}", getattr(optim, name), "must be positive")
    for name in ("beta1", "beta2", "ema"):
        require(0 <= getattr(optim, name) < 1, f"optim.{name}", getattr(optim, name), "must lie in [0, 1)")
    good = 0 <= optim.weight_decay < math.inf
    require(good, "optim.weight_decay", optim.weight_decay, "must not be negative")
    batch = config.train.batch_size
    good = optim.accumulate >= 1 and batch % optim.accumulate == 0
    require(good, "optim.accumulate", optim.accumulate, f"must divide train.batch_size = {batch}")


def adam(optim: OptimConfig) -> optax.GradientTransformation:
    """Adam as PyTorch's with ``weight_decay``: L2 is part of the gradient; `updates.descend` applies the rate."""
    decay = optax.add_decayed_weights(optim.weight_decay)
    return optax.chain(decay, optax.scale_by_adam(optim.beta1, optim.beta2, eps=1e-8))
