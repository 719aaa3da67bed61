"""Choices and configuration parts that several systems share."""

# No postponed annotations: config_flags reads the types of the configuration's fields.
import enum
from dataclasses import dataclass

from medgen_jax.core.config import require


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
