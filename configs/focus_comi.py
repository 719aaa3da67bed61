"""Out of focus -> in focus: CycleGAN with a content term in the feature space of VGG16.

    python -m medgen_jax.weights --get lpips_vgg16
    python -m medgen_jax.train --config configs/focus_comi.py --workdir runs/focus --config.data.source=DIR

DIR holds {train,val}/{A,B}/name.png: A out of focus, B the same field in focus, registered. As published: 512 px,
batch 4, weights of adversarial : content : cycle 0.001 : 1 : 1, Adam 1e-4 (0.5, 0.99), 12,500 steps constant and 12,500
linear to 0, generators that add their input, no pool, no augmentation.

Where the published code departs from the paper's text, this file follows the text; the code's own choices are
--config.loss.cycle_space=feature --config.loss.reconstructed=0.001 --config.loss.identity=1 --config.loss.penalty=mse
--config.model.norm=sample --config.model.upsample=nearest_conv. Without registered pairs:
--config.pairs=none --config.loss.content_source=input. With images in focus alone:
`python -m medgen_jax.defocus` makes the other half.

Cost: 23 TFLOP a step of four. Expected: the paper reports 38.6 dB PSNR on its own Leishmania images, not bundled
here; a run without a GPU is focus_cpu.
"""

from medgen_jax.systems.cyclegan import Config
from medgen_jax.systems.cyclegan_options import Pairs
from medgen_jax.systems.options import Decay


def get_config() -> Config:
    """The published weights, size and schedule."""
    config = Config()
    config.data.load_size = 512
    config.data.crop_size = 512
    config.data.flip = False
    config.train.batch_size = 4
    config.train.steps = 25_000
    config.train.log_every = 100
    config.train.save_every = 2500
    config.train.sample_every = 2500
    config.train.eval_every = 2500
    config.model.residual = True
    config.loss.adversarial = 1e-3
    config.loss.content = 1.0
    config.loss.cycle_a = 1.0
    config.loss.cycle_b = 1.0
    config.loss.identity = 0.0
    config.pairs = Pairs.ALL
    config.pool = 0
    config.optim.lr = 1e-4
    config.optim.beta2 = 0.99
    config.optim.decay = Decay.STEP
    return config
