"""DCGAN on chest X-rays of three classes, as the baseline of the StyleGAN2 paper: 64 px, 100 epochs, batches of 128.

    python -m medgen_jax.prepare --dataset covid_qu_ex --source DIR --size 64 --set masks=false --data_dir prepared
    python -m medgen_jax.train --config configs/dcgan_cxr.py --workdir runs/dcgan --config.data.source=prepared

All classes are one pool. The published code reads greys as RGB; one channel is the same information:
`--config.model.channels=3` fits files that hold three. It trains on all of the 33,920 images; here those of the val and
test splits stay out.

Cost: 26,500 steps of 128 images where all 33,920 are trained on, 0.29 TFLOP each.
"""

from medgen_jax.systems.dcgan import Config


def get_config() -> Config:
    """The published numbers, one channel; no flips, which would mirror the heart."""
    config = Config()
    config.data.crop_size = 64
    config.data.load_size = 64
    config.data.flip = False
    config.train.batch_size = 128
    config.train.epochs = 100.0
    config.train.log_every = 50
    config.train.save_every = 1000
    config.train.sample_every = 1000
    config.train.seed = 999
    config.model.channels = 1
    return config
