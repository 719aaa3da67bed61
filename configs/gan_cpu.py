"""gan_cxr for two CPU cores: the same networks at 64 px, smaller batches, fewer steps.

    python -m medgen_jax.prepare --dataset kermany --source DIR --size 64 --data_dir prepared
    python -m medgen_jax.train --config configs/gan_cpu.py --workdir runs/gan --config.data.source=prepared

Cost: 4,000 steps of 64 images, 0.15 s each on two CPU cores: ten minutes.
"""

from medgen_jax.systems.gan import Config


def get_config() -> Config:
    """The default layers; an averaged generator, which short runs profit from."""
    config = Config()
    config.data.crop_size = 64
    config.data.load_size = 64
    config.data.flip = False
    config.train.batch_size = 64
    config.train.steps = 4000
    config.train.log_every = 100
    config.train.save_every = 500
    config.train.sample_every = 500
    config.model.channels = 1
    config.optim.ema = 0.99
    return config
