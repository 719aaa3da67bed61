"""Every registered system at toy size: what the contract tests run.

A new system adds an entry to `CONFIGS`: a function that returns its configuration with a batch of 4 (the
tests cut it over 4 devices), ``train.steps`` set, float32, and images as small as the network takes.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import player
from medgen_jax import systems
from medgen_jax.core import config as configs
from medgen_jax.engine import mesh as meshes
from medgen_jax.engine.step import fused, guarded
from medgen_jax.systems import (
    cyclegan,
    cyclegan_options,
    dcgan,
    diffusion,
    diffusion_options,
    gan,
    noise_classifier,
    phases,
    pix2pix,
    stain_classifier,
    stargan_v2,
    stargan_v2_options,
    stylegan2,
)


def _pix2pix(**schedule):
    config = pix2pix.Config()
    config.data.crop_size = 32
    config.train.batch_size, config.train.steps = 4, 40
    config.train.precision = "float32"
    config.model = pix2pix.ModelConfig(in_channels=1, out_channels=3, ngf=4, ndf=4, downs=5)
    config.schedule = phases.ScheduleConfig(**schedule)
    config.optim.ema = 0.9
    return config


def _cyclegan():
    config = cyclegan.Config()
    config.data.crop_size = 24
    config.train.batch_size, config.train.steps = 4, 40
    config.train.precision = "float32"
    config.model = cyclegan.ModelConfig(1, 1, ngf=2, ndf=2, blocks=1)
    config.pool, config.optim.ema = 3, 0.9
    return config


def _focus():
    config = _cyclegan()
    config.model.norm, config.model.residual = cyclegan_options.Norm.SAMPLE, True
    config.pairs, config.pool = cyclegan_options.Pairs.ALL, 0
    config.loss.cycle_space = cyclegan_options.Space.FEATURE
    config.loss.adversarial, config.loss.content, config.loss.reconstructed, config.loss.paired = 0.001, 1.0, 0.1, 1.0
    return config


def _stain():
    config = stain_classifier.Config()
    config.data.crop_size = 40
    config.train.batch_size, config.train.steps = 4, 40
    config.train.precision = "float32"
    config.model.width = 4
    return config


def _diffusion():
    config = diffusion.Config()
    config.data.crop_size = 16
    config.train.batch_size, config.train.steps = 4, 40
    config.train.precision = "float32"
    config.network = diffusion_options.NetworkConfig(
        width=8, multipliers=(1.0, 2.0), blocks=1, attention=(8,), groups=4, dropout=0.1
    )
    config.process.steps, config.inference.steps = 40, 3
    config.ema = 0.9
    return config


def _latent(module, ema=0.0, **model):
    config = module.Config()
    config.data.crop_size = 16
    config.train.batch_size, config.train.steps = 4, 40
    config.train.precision = "float32"
    config.model = module.ModelConfig(channels=1, latent=5, **model)
    config.optim.ema = ema
    return config


def _noise_classifier():
    config = noise_classifier.Config()
    config.data.crop_size = 16
    config.train.batch_size, config.train.steps = 4, 40
    config.train.precision = "float32"
    config.network = _diffusion().network
    config.process.steps = 40
    return config


def _learned_variance():
    config = _diffusion()
    config.loss.learned_variance, config.loss.steps = True, diffusion_options.Steps.IMPORTANCE
    config.loss.weighting, config.optim.accumulate = diffusion_options.Weighting.MIN_SNR, 2
    config.data.views, config.ema = ("PA", "AP"), 0.0
    return config


def _stargan_v2():
    config = stargan_v2.Config()
    config.data.crop_size = 16
    config.train.batch_size, config.train.steps = 4, 40
    config.train.precision = "float32"
    config.model = stargan_v2_options.ModelConfig(channels=1, width=2, max_width=4, style=3, latent=3, hidden=8)
    config.loss = stargan_v2_options.LossConfig(
        lambda_reg=0.7, lambda_sty=1.3, lambda_ds=2.0, ds_iter=40, lambda_cyc=0.6
    )
    config.optim.lr, config.optim.mapping_lr, config.optim.ema = 1e-3, 1e-4, 0.9
    return config


def _stylegan2():
    config = stylegan2.Config()
    config.data.crop_size = 8
    config.train.batch_size, config.train.steps = 4, 40
    config.train.precision = "float32"
    config.model = stylegan2.ModelConfig(z_dim=5, w_dim=6, map_layers=1, channel_base=32, channel_max=8)
    config.loss.path_every, config.loss.r1_every, config.loss.ds = 2, 2, 2.0
    config.ada.p, config.ada.every, config.ada.kimg = 0.5, 1, 0.08
    return config


CONFIGS = {
    "cyclegan": _cyclegan,
    "cyclegan-focus": _focus,
    "dcgan": functools.partial(_latent, dcgan, ema=0.9, ngf=2, ndf=2),
    "diffusion": _diffusion,
    "diffusion-variance": _learned_variance,
    "gan": functools.partial(_latent, gan, widths=(6, 8)),
    "noise_classifier": _noise_classifier,
    "pix2pix": _pix2pix,
    "pix2pix-seed": functools.partial(_pix2pix, kind=phases.Kind.SEED, flag_every=2, max_d_steps=4, g_steps=6),
    "stain_classifier": _stain,
    "stargan_v2": _stargan_v2,
    "stylegan2": _stylegan2,
}


@functools.cache
def build(name: str, batch_size: int | None = None):
    """The system of a toy configuration; one build per name, so that compiled functions are shared."""
    config = CONFIGS[name]()
    config.train.batch_size = batch_size or config.train.batch_size
    config = configs.resolve(config, num_train=16)
    return systems.load(systems.name_of(config)).build(config)


@functools.cache
def initial_state(name: str):
    """Its state at step 0."""
    return jax.jit(build(name).init)(jax.random.key(0))


@functools.cache
def compiled(name: str, variant: str, devices: int = 1, donate: bool = False):
    """One step as the engine compiles it: ``(state, batch) -> (state, metrics)``, metrics with a leading axis of 1.

    Tests that take a step share this one: compiling is what they cost.
    """
    mesh = meshes.make_mesh(jax.devices()[:devices])
    step = fused(guarded(build(name).step_variants[variant], 4))
    jitted = jax.jit(step, donate_argnums=(0,) if donate else (), out_shardings=meshes.replicated(mesh))
    fixed = jax.device_put(frozen(name), meshes.replicated(mesh))

    def run(state, records):
        own = jax.tree.map(jnp.copy, state) if donate else state  # others go on with theirs
        own = jax.device_put(own, meshes.replicated(mesh))
        with jax.set_mesh(mesh):
            return jitted(own, (jax.device_put(records, meshes.over_data(mesh)),), fixed)

    return run


@functools.cache
def stepped(name: str, variant: str, devices: int = 1, donate: bool = False):
    """State and metrics after the first step, on the host."""
    return jax.device_get(compiled(name, variant, devices, donate)(initial_state(name), batch(name)))


def batch(name: str, seed: int = 0, records: int | None = None):
    """Smooth random images and random labels for every stream."""
    rng = np.random.default_rng(seed)

    def values(field, size):
        if len(field.shape) != 3:
            return rng.integers(0, 2, (size, *field.shape)).astype(field.dtype)
        height, width, channels = field.shape
        coarse = rng.integers(0, 256, (size, height // 8, width // 8, channels))
        return coarse.repeat(8, 1).repeat(8, 2).astype(field.dtype)

    streams = build(name).streams.items()
    return {s: {f: values(field, records or stream.per_step) for f, field in stream.fields} for s, stream in streams}


@functools.cache
def frozen(name: str):
    """Random weights in place of the pretrained ones that its steps ask for."""
    return jax.jit(player.fixed_weights, static_argnums=0)(build(name))
