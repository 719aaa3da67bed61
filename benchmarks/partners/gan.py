"""The fully connected GAN in PyTorch; it is played as DCGAN is."""

from __future__ import annotations

from typing import Any

from benchmarks.partners.dcgan import Networks, records, sampler, train_step
from twins import mlp_gan as twins

__all__ = ["networks", "records", "sampler", "train_step"]


def networks(config: Any) -> Networks:
    """Generator and discriminator at the configuration's size."""
    m, side = config.model, config.data.crop_size
    shape = side, side, m.channels
    g = twins.Generator(shape, m.latent, m.widths)
    return {"g": g.train(), "d": twins.Discriminator(shape, m.widths).train()}
