"""Conditional diffusion at a size for two CPU cores: 64 px, 32 channels, chest X-rays of two classes.

Predicts v: at the noisiest steps a predicted epsilon must be right to a thousandth before it says anything of the
image, which a network of this size does not reach, so that clipped samples become black-and-white noise.

    python -m medgen_jax.prepare --dataset kermany --source DIR --size 64 --data_dir prepared
    python -m medgen_jax.train --config configs/diffusion_cpu.py --workdir runs/diffusion --config.data.source=prepared

Cost: 2,500 steps of 8 images, about 1 s each on two CPU cores: three quarters of an hour.
"""

from medgen_jax.systems.diffusion import Config
from medgen_jax.systems.diffusion_options import Balance, Noise, Prediction


def get_config() -> Config:
    """A small ADM; classes equally often."""
    config = Config()
    config.data.crop_size = 64
    config.data.load_size = 64
    config.data.flip = False
    config.train.batch_size = 8
    config.train.steps = 2500
    config.train.log_every = 50
    config.train.save_every = 500
    config.train.sample_every = 500
    config.network.width = 32
    config.network.multipliers = (1.0, 2.0, 3.0, 4.0)
    config.network.blocks = 1
    config.network.attention = (16, 8)
    config.network.head_width = 32
    config.process.noise = Noise.COSINE
    config.loss.prediction = Prediction.V
    config.optim.lr = 2e-4
    config.balance = Balance.LABEL
    config.ema = 0.995
    return config
