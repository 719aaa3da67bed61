"""pix2pix as its reference trains it: 256 px pairs, batch 1, 200 epochs, D then G in every step.

    python -m medgen_jax.train --config configs/pair_pix2pix.py --workdir runs/pix2pix --config.data.source=DIR

DIR holds {train,val,test}/{A,B}/name.png. U-Net with 54.4 M parameters, 70 x 70 PatchGAN, cross-entropy
plus 100 L1, Adam 2e-4 (0.5, 0.999), constant for 100 epochs, then linear to 0; images are resized to
286 px, cropped to 256 and mirrored at random. At test time the reference leaves dropout on and uses the
statistics of the image itself; so does this configuration.

Cost: 87 GFLOP an image, about 2 s a step on two CPU cores. Expected: the reference's own results, since
networks, losses and gradients agree with it to float32 rounding (see the parity tests); no public data
set of pairs ships with this package to state a number for.
"""

from medgen_jax.systems.options import Stats
from medgen_jax.systems.pix2pix import Config


def get_config() -> Config:
    """The reference's defaults."""
    config = Config()
    config.data.load_size = 286
    config.data.crop_size = 256
    config.train.batch_size = 1
    config.train.epochs = 200.0
    config.train.log_every = 100
    config.train.save_every = 5000
    config.train.sample_every = 5000
    config.inference.stats = Stats.BATCH
    config.inference.dropout = True
    return config
