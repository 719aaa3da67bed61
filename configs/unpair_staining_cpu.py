"""Unpair at a size for two CPU cores: 128 px crops, half the width, six residual blocks.

    python -m medgen_jax.train --config configs/unpair_staining_cpu.py --workdir runs/unpair --config.data.source=DIR

DIR holds trainA/ and trainB/ (and valA/, valB/): H&E tiles of two laboratories, say, pink and purple.

Cost: 1,500 steps of one crop pair, 1.2 s each on two CPU cores: half an hour.
"""

from medgen_jax.systems.cyclegan import Config
from medgen_jax.systems.options import Decay


def get_config() -> Config:
    """CycleGAN's losses on a smaller network."""
    config = Config()
    config.data.crop_size = 128
    config.data.rotate = True
    config.train.batch_size = 1
    config.train.steps = 1500
    config.train.log_every = 50
    config.train.save_every = 250
    config.train.sample_every = 250
    config.model.ngf = 32
    config.model.ndf = 32
    config.model.blocks = 6
    config.optim.decay = Decay.STEP
    config.optim.ema = 0.99
    return config
