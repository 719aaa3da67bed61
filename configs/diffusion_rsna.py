"""Chest X-rays by class and view: the diffusion model that makes counterfactuals, RSNA, 256 px.

    python -m medgen_jax.prepare --dataset rsna --source DIR --size 256 --data_dir prepared
    python -m medgen_jax.train --config configs/diffusion_rsna.py --workdir runs/rsna --config.data.source=prepared

The split is by patient. Class and view are drawn equally often together: in these data "AP" alone foretells opacity
with an AUROC of 0.8, so a model that saw them as they come would draw views for classes. X-rays are never mirrored: the
heart stays left. The paper states neither size nor length; 60,000 steps of 10 are ours.

Cost: 16 TFLOP a step.
"""

from medgen_jax.systems.diffusion import Config
from medgen_jax.systems.diffusion_options import Balance


def get_config() -> Config:
    """ADM at 256 px, 128 channels, one grey channel."""
    config = Config()
    config.data.classes = ("Normal", "Lung Opacity")
    config.data.crop_size = 256
    config.data.flip = False
    config.train.batch_size = 10
    config.train.steps = 60_000
    config.train.log_every = 100
    config.train.save_every = 5000
    config.train.sample_every = 5000
    config.train.eval_every = 5000
    config.data.views = ("PA", "AP")
    config.balance = Balance.LABEL_VIEW
    return config
