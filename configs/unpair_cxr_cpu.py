"""Normal <-> opacity chest X-rays at a size for two CPU cores: 128 px, half the width, six residual blocks.

    python -m medgen_jax.train --config configs/unpair_cxr_cpu.py --workdir runs/cxr --config.data.source=DIR \
        --config.data.class_a=NORMAL --config.data.class_b=PNEUMONIA

DIR is as for unpair_cxr, for example what `python -m medgen_jax.prepare --dataset kermany --size 128` wrote.

Cost: 1,500 steps of one pair of images, about as long as those of unpair_staining_cpu: half an hour on two CPU cores.
"""

from medgen_jax.systems.cyclegan import Config
from medgen_jax.systems.options import Decay


def get_config() -> Config:
    """CycleGAN's losses on a smaller network; one channel, no flips."""
    config = Config()
    config.data.load_size = 128
    config.data.crop_size = 128
    config.data.flip = False
    config.train.batch_size = 1
    config.train.steps = 1500
    config.train.log_every = 50
    config.train.save_every = 250
    config.train.sample_every = 250
    config.model.a_channels = 1
    config.model.b_channels = 1
    config.model.ngf = 32
    config.model.ndf = 32
    config.model.blocks = 6
    config.optim.decay = Decay.STEP
    config.optim.ema = 0.99
    return config
