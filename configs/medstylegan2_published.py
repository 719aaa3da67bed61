"""Med-StyleGAN2 as published: its code is StarGAN v2 between COVID-19, other pneumonia and normal chest X-rays, 256 px.

    python -m medgen_jax.prepare --dataset covid_qu_ex --source DIR --size 272 --set masks=false --data_dir prepared
    python -m medgen_jax.train --config configs/medstylegan2_published.py --workdir runs/stargan \
        --config.data.source=prepared

No high-pass skips, lambda_ds 2 falling to 0 over 100,000 steps. Three things differ from the published run. Flips are
off: they would put the heart on the right. Crops of 256 out of 272 pixels, nine tenths of the area, stand for random
ones of 80 to 100 %, which half of its images get. Batches are of 8, as in the StarGAN v2 paper; the published code's
default is 2. It reads greys as RGB; one channel is the same information: `--config.model.channels=3` fits files that
hold three. The paper's figures are those of translations into drawn styles after 5,000 steps
(`--config.train.steps=5000`; the same command with more steps goes on from there).

Cost: 100,000 steps of 8 images, 13.2 TFLOP each.
"""

from medgen_jax.systems.stargan_v2 import Config


def get_config() -> Config:
    """The published numbers, one channel."""
    config = Config()
    config.data.crop_size = 256
    config.data.load_size = 272
    config.data.flip = False
    config.train.batch_size = 8
    config.train.steps = 100_000
    config.train.log_every = 50
    config.train.save_every = 1000
    config.train.sample_every = 1000
    config.train.seed = 777
    config.model.channels = 1
    config.loss.lambda_ds = 2.0
    return config
