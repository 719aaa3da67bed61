"""DCGAN: images out of noise by transposed convolutions (Radford et al. 2016), a baseline of chest X-ray synthesis.

Networks, losses, order of updates and optimisers are those of the published baseline: 64 px, codes of 100 numbers,
Adam 2e-4 (0.5, 0.999), batches of 128. Its initialisation was meant to be N(0, 0.02) but reached no layer, so that
PyTorch's own is the default here; ``config.model.init=normal`` is the paper's.
"""

# No postponed annotations: config_flags reads the types of the configuration's fields.
from dataclasses import dataclass, field

from medgen_jax.core.config import require
from medgen_jax.core.precision import compute_dtype
from medgen_jax.nn.dcgan import DCGANDiscriminator, DCGANGenerator, valid_size
from medgen_jax.systems import latent_gan, options
from medgen_jax.systems.latent_gan import LatentGan


@dataclass(slots=True)
class ModelConfig(latent_gan.ModelConfig):
    """Generator and discriminator."""

    ngf: int = 64  # width of the generator's last hidden layer; it doubles inwards, up to 8 times
    ndf: int = 64  # width of the discriminator's first layer; it doubles inwards, up to 8 times


@dataclass(slots=True)
class Config(latent_gan.Config):
    """Everything about a DCGAN run."""

    model: ModelConfig = field(default_factory=ModelConfig)


def build(config: Config) -> LatentGan:
    """A DCGAN from a resolved configuration.

    Raises:
      UserError: naming the first field that is out of range.
    """
    latent_gan.validate(config)
    model, size = config.model, config.data.crop_size
    options.require_positive(model, "ngf", "ndf")
    rule = f"must be 4 * 2^k, at least 8; the nearest valid size is {valid_size(size)}"
    require(size == valid_size(size), "data.crop_size", size, rule)
    init, dtype = model.init.value, compute_dtype(config.train.precision)
    generator = DCGANGenerator(size, model.channels, model.ngf, init, dtype)
    return LatentGan.of(config, generator, DCGANDiscriminator(model.ndf, init, dtype))
