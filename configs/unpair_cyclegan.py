"""CycleGAN as its reference trains it: two domains without pairs, 256 px, batch 1, 200 epochs.

    python -m medgen_jax.train --config configs/unpair_cyclegan.py --workdir runs/cyclegan --config.data.source=DIR

DIR holds trainA/ and trainB/ (and valA/, valB/). Two ResNet-9 generators (11.4 M parameters each), two 70 x 70
PatchGANs, least squares, cycle weight 10 and identity 0.5 of it, 50 images remembered per direction, Adam 2e-4
(0.5, 0.999), constant for 100 epochs, then linear to 0; images are resized to 286 px, cropped to 256 and
mirrored at random. An epoch is one pass over A.

Cost: 1.9 TFLOP a step; about 35 s on two CPU cores. Expected: the reference's own results, since all eight losses,
the gradients and a step of Adam agree with it to float32 rounding (see the parity tests). To see a run finish
without a GPU: unpair_staining_cpu.
"""

from medgen_jax.systems.cyclegan import Config


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
    return config
