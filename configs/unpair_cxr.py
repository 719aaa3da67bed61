"""Normal <-> opacity chest X-rays without pairs: CycleGAN as the X-ray papers' comparator.

    python -m medgen_jax.train --config configs/unpair_cxr.py --workdir runs/cxr --config.data.source=DIR \
        --config.data.class_a=Normal --config.data.class_b='Lung Opacity'

DIR is a folder of classes, a CSV file with labels, or what `python -m medgen_jax.prepare --dataset rsna` wrote; or it
holds trainA/ and trainB/, without the two class fields. Grey images of 256 px, never mirrored: the heart stays left.
Everything else is CycleGAN's. The papers state no settings for it.

Cost: 1.9 TFLOP a step. Expected: no published number; `python -m medgen_jax.evaluate --workdir runs/cxr` scores it.
"""

from medgen_jax.systems.cyclegan import Config


def get_config() -> Config:
    """One channel, no flips."""
    config = Config()
    config.data.load_size = 256
    config.data.crop_size = 256
    config.data.flip = False
    config.train.batch_size = 1
    config.train.epochs = 200.0
    config.train.log_every = 100
    config.train.save_every = 5000
    config.train.sample_every = 5000
    config.model.a_channels = 1
    config.model.b_channels = 1
    return config
