"""Choices and configuration parts that several systems share."""

# No postponed annotations: config_flags reads the types of the configuration's fields.
import enum
from dataclasses import dataclass
from typing import Any

import optax

from medgen_jax.core.config import expected_steps, require
from medgen_jax.core.schedules import Schedule, linear_decay


class Norm(enum.Enum):
    """Normalisation of both networks."""

    BATCH = "batch"
    INSTANCE = "instance"


class Upsample(enum.Enum):
    """How the generator doubles the size; ``nearest_conv`` leaves no checkerboard."""

    CONVT = "convt"
    NEAREST_CONV = "nearest_conv"


class Gan(enum.Enum):
    """Adversarial loss: cross-entropy, or least squares."""

    VANILLA = "vanilla"
    LSGAN = "lsgan"


class Stats(enum.Enum):
    """Whose statistics a batch-normalised generator uses at inference."""

    BATCH = "batch"  # of each image alone
    RUNNING = "running"  # averages over the training
    GIVEN = "given"  # handed in: those of a first pass (`System.tile_variables`)


class Decay(enum.Enum):
    """How often the learning rate changes while it falls."""

    EPOCH = "epoch"
    STEP = "step"


@dataclass(slots=True)
class OptimConfig:
    """Adam for both networks."""

    lr: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    decay_fraction: float = 0.5  # last share of the run over which the rate falls linearly to 0
    decay: Decay = Decay.EPOCH
    ema: float = 0.0  # decay of the averaged generator used at inference; 0: none


def validate_optim(optim: OptimConfig) -> None:
    """Check the ranges.

    Raises:
      UserError: naming the field.
    """
    require(optim.lr > 0, "optim.lr", optim.lr, "must be positive")
    for name in ("beta1", "beta2", "ema"):
        require(0 <= getattr(optim, name) < 1, f"optim.{name}", getattr(optim, name), "must lie in [0, 1)")
    require(0 <= optim.decay_fraction <= 1, "optim.decay_fraction", optim.decay_fraction, "must lie in [0, 1]")


def adam(optim: OptimConfig) -> optax.GradientTransformation:
    """Scales gradients as Adam does; the rate is applied by `updates.descend`."""
    return optax.scale_by_adam(optim.beta1, optim.beta2, eps=1e-8)


def learning_rate(config: Any) -> Schedule:
    """Rate by step of a configuration with ``optim: OptimConfig``: constant, then linear to 0.

    Before the engine has counted the records, of a run of the right form and unknown length.
    """
    optim = config.optim
    per_epoch = (config.steps_per_epoch or 1) if optim.decay is Decay.EPOCH else 0
    return linear_decay(optim.lr, expected_steps(config), optim.decay_fraction, per_epoch)


def require_channels(model: Any, *names: str) -> None:
    """Channels of images: fields ``names`` of ``config.model``.

    Raises:
      UserError: naming the field.
    """
    for name in names:
        require(getattr(model, name) in (1, 2, 3), f"model.{name}", getattr(model, name), "must be 1, 2 or 3")


def require_positive(model: Any, *names: str) -> None:
    """Widths and depths of networks: fields ``names`` of ``config.model``.

    Raises:
      UserError: naming the field.
    """
    for name in names:
        require(getattr(model, name) >= 1, f"model.{name}", getattr(model, name), "must be at least 1")
