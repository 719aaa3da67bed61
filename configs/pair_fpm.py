"""The Pair method: phase from a Fourier ptychographic microscope -> stained amplitude.

    python -m medgen_jax.train --config configs/pair_fpm.py --workdir runs/pair --config.data.source=DIR

DIR holds {train,val}/{A,B}/name.png: A the phase, B the amplitude, one channel each, same names; out of LED
stacks `python -m medgen_jax.reconstruct --pairs STACKS --optics FILE --output OUT` writes OUT/amplitude. The paper
trains on 1,141 such pairs for 500 epochs. It fixes the order of learning: the discriminator alone, without
the generator, until it reads amplitude images accurately; then frozen while the generator learns; and so on
in turn (medgen_jax/systems/phases.py). Its accuracy is read on the pairs of the val split. Resolution,
losses and optimiser are not in the paper; they are pix2pix's. For pix2pix's own order of learning add
--config.schedule.kind=joint.

Cost: 570,500 images x 87 GFLOP = 0.050 EFLOP; some 13 days on two CPU cores, minutes to an hour on a data
centre GPU. Expected: the paper reports an FID of about 100 on its own slides (AICD), which are not public.
"""

from medgen_jax.systems.phases import Kind
from medgen_jax.systems.pix2pix import Config


def get_config() -> Config:
    """1,141 pairs, 500 epochs, the paper's order of learning."""
    config = Config()
    config.data.load_size = 286
    config.data.crop_size = 256
    config.train.batch_size = 1
    config.train.epochs = 500.0
    config.train.log_every = 100
    config.train.save_every = 5000
    config.train.sample_every = 5000
    config.train.eval_every = 5000
    config.model.in_channels = 1
    config.model.out_channels = 1
    config.schedule.kind = Kind.SEED
    return config
