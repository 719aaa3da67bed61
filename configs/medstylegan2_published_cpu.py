"""medstylegan2_published for two CPU cores: 64 px, a quarter of the width, few steps.

    python -m medgen_jax.prepare --dataset kermany --source DIR --size 64 --data_dir prepared
    python -m medgen_jax.train --config configs/medstylegan2_published_cpu.py --workdir runs/stargan \
        --config.data.source=prepared

Cost: 1,000 steps of 4 images, 0.1 TFLOP each: on two CPU cores, at the rate of dcgan_cpu, about half an hour.
"""

from medgen_jax.systems.stargan_v2 import Config


def get_config() -> Config:
    """A small StarGAN v2 with the published optimisers; averages as short as the run."""
    config = Config()
    config.data.crop_size = 64
    config.data.load_size = 64
    config.data.flip = False
    config.train.batch_size = 4
    config.train.steps = 1000
    config.train.log_every = 25
    config.train.save_every = 250
    config.train.sample_every = 250
    config.model.channels = 1
    config.model.width = 32
    config.model.max_width = 128
    config.loss.lambda_ds = 2.0
    config.loss.ds_iter = 1000
    config.optim.ema = 0.99
    return config
