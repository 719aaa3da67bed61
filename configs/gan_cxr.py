"""The first GAN on chest X-rays of three classes, the weaker baseline of the StyleGAN2 paper: 64 px, 100 epochs.

    python -m medgen_jax.prepare --dataset covid_qu_ex --source DIR --size 64 --set masks=false --data_dir prepared
    python -m medgen_jax.train --config configs/gan_cxr.py --workdir runs/gan --config.data.source=prepared

The paper says nothing of it but the game; size, batch and optimisers are those of its DCGAN, layers the customary ones.

Cost: 26,500 steps of 128 images where all 33,920 are trained on, 0.012 TFLOP each.
"""

from medgen_jax.systems.gan import Config


def get_config() -> Config:
    """Fully connected layers, all classes in one pool, one channel; no flips, which would mirror the heart."""
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
