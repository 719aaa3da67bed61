"""GAN: images out of noise by fully connected layers (Goodfellow et al. 2014), a baseline of chest X-ray synthesis.

The X-ray paper gives nothing of its GAN but the game; layers are those of `medgen_jax.nn.mlp_gan`, losses, order of
updates and optimisers those of its DCGAN.
"""

# No postponed annotations: config_flags reads the types of the configuration's fields.
from dataclasses import dataclass, field

from medgen_jax.core.config import require
from medgen_jax.core.precision import compute_dtype
from medgen_jax.nn.mlp_gan import WIDTHS, MLPDiscriminator, MLPGenerator
from medgen_jax.systems import latent_gan
from medgen_jax.systems.latent_gan import LatentGan


@dataclass(slots=True)
class ModelConfig(latent_gan.ModelConfig):
    """Generator and discriminator."""

    widths: tuple[int, ...] = WIDTHS  # of the generator's hidden layers; the discriminator has them backwards


@dataclass(slots=True)
class Config(latent_gan.Config):
    """Everything about a GAN run."""

    model: ModelConfig = field(default_factory=ModelConfig)


def build(config: Config) -> LatentGan:
    """A GAN from a resolved configuration.

    Raises:
      UserError: naming the first field that is out of range.
    """
    latent_gan.validate(config)
    model, size = config.model, config.data.crop_size
    good = bool(model.widths) and min(model.widths, default=0) >= 1
    require(good, "model.widths", model.widths, "must name at least one layer, each at least 1 wide")
    init, dtype = model.init.value, compute_dtype(config.train.precision)
    generator = MLPGenerator((size, size, model.channels), model.widths, init, dtype)
    return LatentGan.of(config, generator, MLPDiscriminator(model.widths, init, dtype))
