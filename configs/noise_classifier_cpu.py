"""The classifier that guides diffusion_cpu: 64 px, 32 channels.

    python -m medgen_jax.train --config configs/noise_classifier_cpu.py --workdir runs/guide \
        --config.data.source=prepared

Cost: 1,000 steps of 16 images, 0.8 s each on two CPU cores: about a quarter of an hour.
"""

from medgen_jax.systems.diffusion_options import Noise
from medgen_jax.systems.noise_classifier import Config


def get_config() -> Config:
    """The encoder of diffusion_cpu with attention pooling."""
    config = Config()
    config.data.crop_size = 64
    config.data.load_size = 64
    config.data.flip = False
    config.train.batch_size = 16
    config.train.steps = 1000
    config.train.log_every = 50
    config.train.save_every = 250
    config.train.eval_every = 250
    config.network.width = 32
    config.network.multipliers = (1.0, 2.0, 3.0, 4.0)
    config.network.blocks = 1
    config.network.attention = (16, 8)
    config.network.head_width = 32
    config.process.noise = Noise.COSINE
    config.optim.lr = 3e-4
    config.optim.weight_decay = 0.05
    return config
