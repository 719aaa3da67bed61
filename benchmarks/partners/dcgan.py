"""DCGAN in PyTorch: D on real and on made images, then G against the new D, Adam, one forward pass of G."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from twins import dcgan as twins

Data = dict[str, torch.Tensor]
Networks = dict[str, torch.nn.Module]


def networks(config: Any) -> Networks:
    """Generator and discriminator at the configuration's size."""
    m, doublings = config.model, int(math.log2(config.data.crop_size // 4))
    g = twins.Generator(m.channels, m.latent, m.ngf, doublings)
    return {"g": g.train(), "d": twins.Discriminator(m.channels, m.ndf, doublings).train()}


def records(config: Any, batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Images in [-1, 1], NCHW, and a place for as many codes."""
    side, m = config.data.crop_size, config.model
    image = rng.uniform(-1, 1, (batch, m.channels, side, side)).astype(np.float32)
    return {"image": image, "codes": np.zeros((batch, m.latent), np.float32)}


def train_step(nets: Networks) -> Callable[[Data], None]:
    """One step of both networks."""
    g, d = nets["g"], nets["d"]
    adams = {n: torch.optim.Adam(m.parameters(), lr=2e-4, betas=(0.5, 0.999)) for n, m in nets.items()}

    def judged(image: torch.Tensor, real: bool) -> torch.Tensor:
        logits = d(image)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))

    def step(data: Data) -> None:
        fake = g(torch.randn_like(data["codes"]))
        adams["d"].zero_grad(set_to_none=True)
        (judged(data["image"], True) + judged(fake.detach(), False)).backward()
        adams["d"].step()
        # G's pass through D needs no gradients of D's weights.
        d.requires_grad_(False)
        adams["g"].zero_grad(set_to_none=True)
        judged(fake, True).backward()
        d.requires_grad_(True)
        adams["g"].step()

    return step


def sampler(nets: Networks) -> Callable[[Data], None]:
    """Images of fresh codes."""
    return lambda data: nets["g"](torch.randn_like(data["codes"]))
