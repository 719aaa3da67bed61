"""LStainNorm before ResNet-18 at a size for two CPU cores: 112 px crops, 200 steps.

    python -m medgen_jax.train --config configs/stain_norm_cpu.py --workdir runs/stain --config.data.source=DIR

DIR holds {train,val,test}/CLASS/name.png, H&E tiles of at least 112 x 112 pixels, or is a CSV file with the columns
path, label, patient_id.

Cost: 200 steps of 32 crops, 1 to 2 s each on two CPU cores: about five minutes.
"""

from medgen_jax.systems.stain_classifier import Config


def get_config() -> Config:
    """The paper's classifier on smaller crops, for few tiles: one fall of the rate, no early stop."""
    config = Config()
    config.data.crop_size = 112
    config.data.rotate = True
    config.train.batch_size = 32
    config.train.steps = 200
    config.train.log_every = 10
    config.train.save_every = 100
    config.train.sample_every = 100
    config.stop.patience = None
    return config
