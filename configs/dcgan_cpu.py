"""dcgan_cxr for two CPU cores: the same networks at 64 px, smaller batches, fewer steps.

    python -m medgen_jax.prepare --dataset kermany --source DIR --size 64 --data_dir prepared
    python -m medgen_jax.train --config configs/dcgan_cpu.py --workdir runs/dcgan --config.data.source=prepared

Cost: 1,500 steps of 32 images, 0.7 s each on two CPU cores: a little under twenty minutes.
"""

from medgen_jax.systems.dcgan import Config


def get_config() -> Config:
    """DCGAN at the published widths; an averaged generator, which short runs profit from."""
    config = Config()
    config.data.crop_size = 64
    config.data.load_size = 64
    config.data.flip = False
    config.train.batch_size = 32
    config.train.steps = 1500
    config.train.log_every = 50
    config.train.save_every = 250
    config.train.sample_every = 250
    config.model.channels = 1
    config.optim.ema = 0.99
    return config
