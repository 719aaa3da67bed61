"""The Unpair method: unstained microscope images <-> stained ones, without pairs.

    python -m medgen_jax.train --config configs/unpair_staining.py --workdir runs/unpair --config.data.source=DIR

DIR holds trainA/ (unstained) and trainB/ (stained). The paper trains on 24,282 tiles of each for 500 epochs with an
adversarial and a weighted cycle term; it states no further numbers, so that everything else is CycleGAN's. Fluorescence
of one channel: --config.model.a_channels=1 (the identity term is then off). Registered pairs, where there are some,
join by --config.data.pairs_source=DIR2 --config.pairs=extra --config.loss.paired=10: the paper's closing wish.

Cost: 12.1 million steps x 1.88 TFLOP = 22.8 EFLOP (15.6 without identity): 13 years on two CPU cores; on an accelerator
the table of the benchmarks says. Expected: an FID of about 100 is what the paper reports on its own slides, not public.
"""

from medgen_jax.systems.cyclegan import Config


def get_config() -> Config:
    """24,282 + 24,282 tiles, 500 epochs."""
    config = Config()
    config.data.load_size = 286
    config.data.crop_size = 256
    config.train.batch_size = 1
    config.train.epochs = 500.0
    config.train.log_every = 100
    config.train.save_every = 20_000
    config.train.sample_every = 20_000
    return config
