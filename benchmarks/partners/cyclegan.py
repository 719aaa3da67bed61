"""CycleGAN in PyTorch: both generators against the old judges, then both judges; identity 0.5, pools left out.

The pools cost PyTorch next to nothing, and a copy to the host where they are kept there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import l1_loss, mse_loss

from twins import cyclegan as twins
from twins import pix2pix as patch

Data = dict[str, torch.Tensor]
Networks = dict[str, torch.nn.Module]


def networks(config: Any) -> Networks:
    """Both generators and both discriminators at the configuration's size."""
    m = config.model
    return {
        "g_a": twins.ResNetGenerator(m.a_channels, m.b_channels, m.ngf, m.blocks),
        "g_b": twins.ResNetGenerator(m.b_channels, m.a_channels, m.ngf, m.blocks),
        "d_a": patch.PatchGAN(m.b_channels, ndf=m.ndf, norm="instance"),
        "d_b": patch.PatchGAN(m.a_channels, ndf=m.ndf, norm="instance"),
    }


def records(config: Any, batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Images of both domains in [-1, 1], NCHW."""
    side, channels = config.data.crop_size, {"a": config.model.a_channels, "b": config.model.b_channels}
    return {n: rng.uniform(-1, 1, (batch, c, side, side)).astype(np.float32) for n, c in channels.items()}


def judged(judge: torch.nn.Module, image: torch.Tensor, real: bool) -> torch.Tensor:
    """The squared distance of a discriminator's answer to what it should be."""
    logits = judge(image)
    return mse_loss(logits, torch.full_like(logits, float(real)))


def alternating(
    nets: Networks, translate: Callable[[Data], tuple[torch.Tensor, Data]], rate: float, betas: tuple[float, float]
) -> Callable[[Data], None]:
    """Generators against discriminators that hold still, then discriminators on the same images.

    Args:
      nets: generators ``g_a``, ``g_b`` and discriminators ``d_a`` (of b), ``d_b`` (of a).
      translate: records -> the generators' loss, and translated images ``a`` and ``b``.
      rate, betas: of Adam.
    """

    def adam(*names: str) -> torch.optim.Adam:
        weights = itertools.chain(*(nets[name].parameters() for name in names))
        return torch.optim.Adam(weights, lr=rate, betas=betas)

    makers, judges = adam("g_a", "g_b"), adam("d_a", "d_b")
    d_a, d_b = nets["d_a"], nets["d_b"]

    def step(data: Data) -> None:
        for judge in (d_a, d_b):
            judge.requires_grad_(False)
        makers.zero_grad(set_to_none=True)
        loss, fake = translate(data)
        loss.backward()
        makers.step()
        for judge in (d_a, d_b):
            judge.requires_grad_(True)
        judges.zero_grad(set_to_none=True)
        for judge, domain in ((d_a, "b"), (d_b, "a")):
            (0.5 * (judged(judge, data[domain], True) + judged(judge, fake[domain].detach(), False))).backward()
        judges.step()

    return step


def train_step(nets: Networks) -> Callable[[Data], None]:
    """One step of all four networks."""
    g_a, g_b = nets["g_a"], nets["g_b"]

    def translate(data: Data) -> tuple[torch.Tensor, Data]:
        a, b = data["a"], data["b"]
        fake = {"b": g_a(a), "a": g_b(b)}
        loss = judged(nets["d_a"], fake["b"], True) + judged(nets["d_b"], fake["a"], True)
        loss = loss + 10 * (l1_loss(g_b(fake["b"]), a) + l1_loss(g_a(fake["a"]), b))
        return loss + 5 * (l1_loss(g_a(b), b) + l1_loss(g_b(a), a)), fake

    return alternating(nets, translate, 2e-4, (0.5, 0.999))


def sampler(nets: Networks) -> Callable[[Data], None]:
    """a -> b."""
    return lambda data: nets["g_a"](data["a"])
