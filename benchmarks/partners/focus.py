"""The focus paper's CycleGAN in PyTorch: generators that add their input, a content term of VGG16, no pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import l1_loss, mse_loss

from benchmarks.partners import cyclegan
from benchmarks.partners.cyclegan import Data, Networks, alternating, judged, records
from twins import lpips as vgg

__all__ = ["networks", "records", "sampler", "train_step"]

#: Slices of VGG16 up to its third convolution of the third block.
SLICES = 3


class Features(torch.nn.Module):
    """Images in [-1, 1] -> what VGG16 sees in them; its weights do not learn."""

    def __init__(self) -> None:
        super().__init__()
        whole = vgg.Slices("vgg")
        self.layers = torch.nn.Sequential(*(getattr(whole, f"slice{n}") for n in range(1, SLICES + 1)))
        self.layers.requires_grad_(False)
        for name, colour in (("shift", vgg.SHIFT), ("scale", vgg.SCALE)):
            self.register_buffer(name, torch.tensor(colour).view(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers((x - self.shift) / self.scale)


def networks(config: Any) -> Networks:
    """Both generators, both discriminators and the fixed features."""
    return {**cyclegan.networks(config), "features": Features()}


def train_step(nets: Networks) -> Callable[[Data], None]:
    """One step of all four networks."""
    features = nets["features"]

    def to_b(x: torch.Tensor) -> torch.Tensor:
        return x + nets["g_a"](x)

    def to_a(x: torch.Tensor) -> torch.Tensor:
        return x + nets["g_b"](x)

    def translate(data: Data) -> tuple[torch.Tensor, Data]:
        fake = {"b": to_b(data["a"]), "a": to_a(data["b"])}
        loss = 1e-3 * (judged(nets["d_a"], fake["b"], True) + judged(nets["d_b"], fake["a"], True))
        loss = loss + l1_loss(to_a(fake["b"]), data["a"]) + l1_loss(to_b(fake["a"]), data["b"])
        return loss + sum(mse_loss(features(fake[x]), features(data[x])) for x in "ab"), fake

    return alternating(nets, translate, 1e-4, (0.5, 0.99))


def sampler(nets: Networks) -> Callable[[Data], None]:
    """a -> b."""
    return lambda data: data["a"] + nets["g_a"](data["a"])
