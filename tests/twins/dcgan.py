"""PyTorch twins of DCGAN, in the key layout of the chest X-ray baseline: tconv1-5, bn1-4; conv1-5, bn2-4."""

from __future__ import annotations

import torch
from torch import nn


class Generator(nn.Module):
    """Codes (n, latent) -> images (n, channels, 4 * 2^ups, ...) in [-1, 1]; 4 doublings give 64 pixels."""

    def __init__(self, channels: int = 3, latent: int = 100, ngf: int = 64, ups: int = 4) -> None:
        super().__init__()
        widths = [latent, *(ngf * min(2**level, 8) for level in range(ups - 1, -1, -1)), channels]
        self.ups = ups
        for number in range(1, ups + 2):
            stride, padding = (2, 1) if number > 1 else (1, 0)
            conv = nn.ConvTranspose2d(widths[number - 1], widths[number], 4, stride, padding, bias=False)
            self.add_module(f"tconv{number}", conv)
            if number <= ups:
                self.add_module(f"bn{number}", nn.BatchNorm2d(widths[number]))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h = z[:, :, None, None]
        for number in range(1, self.ups + 1):
            h = torch.relu(getattr(self, f"bn{number}")(getattr(self, f"tconv{number}")(h)))
        return torch.tanh(getattr(self, f"tconv{self.ups + 1}")(h))


class Discriminator(nn.Module):
    """Images (n, channels, 4 * 2^downs, ...) -> logits (n,)."""

    def __init__(self, channels: int = 3, ndf: int = 64, downs: int = 4) -> None:
        super().__init__()
        widths = [channels, *(ndf * min(2**level, 8) for level in range(downs)), 1]
        self.downs = downs
        for number in range(1, downs + 2):
            stride, padding = (2, 1) if number <= downs else (1, 0)
            conv = nn.Conv2d(widths[number - 1], widths[number], 4, stride, padding, bias=False)
            self.add_module(f"conv{number}", conv)
            if 1 < number <= downs:
                self.add_module(f"bn{number}", nn.BatchNorm2d(widths[number]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        for number in range(1, self.downs + 1):
            h = getattr(self, f"conv{number}")(h)
            h = getattr(self, f"bn{number}")(h) if number > 1 else h
            h = nn.functional.leaky_relu(h, 0.2)
        return getattr(self, f"conv{self.downs + 1}")(h)[:, 0, 0, 0]
