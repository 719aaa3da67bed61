"""Med-StyleGAN2 as its paper describes it: a class-conditional StyleGAN2, 256 px, with a diversity term of weight 2.

    python -m medgen_jax.prepare --dataset covid_qu_ex --source DIR --size 256 --set masks=false --data_dir prepared
    python -m medgen_jax.train --config configs/medstylegan2_described.py --workdir runs/described \
        --config.data.source=prepared

The paper's numbers are not this system's: its published code trains StarGAN v2, an image-to-image translator, and its
table holds that code's results. The text gives StyleGAN2, three classes, 100 epochs and "style difference weight 2",
which falls to 0 here as in that code. The rest is StyleGAN2's configuration for 256 px (`paper256`: R1 weight 1, rate
0.0025, half the channels) with adaptive augmentation, of which the text says nothing: `--config.ada.pipe=none` does
without. Groups of 4 images in the discriminator and an average that starts short are those of its automatic
configuration; `--config.model.minibatch_group=8 --config.ema.ramp=0` makes both what they are in `paper256`. The text
calls the diversity one between domains; its code compares two styles of one domain, as is done here:
`--config.loss.ds_scope=inter_domain` takes the text at its word.

No flips, which would mirror the heart; the augmentation's reach the discriminator alone. Where the memory does not hold
64 images at once, `--config.optim.accumulate=8` takes them one eighth after another.

Cost: 53,000 steps of 64 images where all 33,920 are trained on, 28 TFLOP each.
"""

from medgen_jax.systems.stylegan2 import Config


def get_config() -> Config:
    """What is not set here is StyleGAN2's own."""
    config = Config()
    config.data.crop_size = 256
    config.data.load_size = 256
    config.data.flip = False
    config.train.batch_size = 64
    config.train.epochs = 100.0
    config.train.log_every = 50
    config.train.save_every = 1000
    config.train.sample_every = 1000
    config.loss.ds = 2.0
    return config
