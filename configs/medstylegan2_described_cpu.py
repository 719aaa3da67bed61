"""medstylegan2_described for two CPU cores: 64 px, an eighth of the channels, few images.

    python -m medgen_jax.prepare --dataset kermany --source DIR --size 64 --data_dir prepared
    python -m medgen_jax.train --config configs/medstylegan2_described_cpu.py --workdir runs/described \
        --config.data.source=prepared

No adaptive augmentation: in so few images its chance would hardly leave 0.

Cost: 1,400 steps of 8 images, 0.07 TFLOP each.
"""

from medgen_jax.systems.stylegan2 import Config
from medgen_jax.systems.stylegan2_options import Pipe


def get_config() -> Config:
    """A narrow StyleGAN2 with a short mapping; classes equally often."""
    config = Config()
    config.data.crop_size = 64
    config.data.load_size = 64
    config.data.flip = False
    config.train.batch_size = 8
    config.train.steps = 1400
    config.train.log_every = 20
    config.train.save_every = 200
    config.train.sample_every = 200
    config.model.channel_base = 2048
    config.model.map_layers = 2
    config.loss.r1 = 0.1  # 0.0002 * 64^2 / 8
    config.loss.ds = 2.0
    config.ema.kimg = 1.0
    config.ada.pipe = Pipe.NONE
    config.class_balanced = True
    return config
