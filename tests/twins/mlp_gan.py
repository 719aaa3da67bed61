"""PyTorch twins of the fully connected GAN: linear1-, bn2-; images are flattened by row, column, channel."""

from __future__ import annotations

import math

import torch
from torch import nn

WIDTHS = (128, 256, 512, 1024)


class Generator(nn.Module):
    """Codes (n, latent) -> images (n, channels, height, width) in [-1, 1]."""

    def __init__(self, shape: tuple[int, int, int], latent: int = 100, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.shape, self.hidden = shape, len(widths)
        sizes = [latent, *widths, math.prod(shape)]
        for number in range(1, self.hidden + 2):
            normed = 1 < number <= self.hidden
            self.add_module(f"linear{number}", nn.Linear(sizes[number - 1], sizes[number], bias=not normed))
            if normed:
                self.add_module(f"bn{number}", nn.BatchNorm1d(sizes[number]))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h = z
        for number in range(1, self.hidden + 1):
            h = getattr(self, f"linear{number}")(h)
            h = getattr(self, f"bn{number}")(h) if number > 1 else h
            h = nn.functional.leaky_relu(h, 0.2)
        pixels = torch.tanh(getattr(self, f"linear{self.hidden + 1}")(h))
        return pixels.view(-1, *self.shape).permute(0, 3, 1, 2)


class Discriminator(nn.Module):
    """Images (n, channels, height, width) -> logits (n,)."""

    def __init__(self, shape: tuple[int, int, int], widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        sizes = [math.prod(shape), *reversed(widths), 1]
        for number in range(1, len(sizes)):
            self.add_module(f"linear{number}", nn.Linear(sizes[number - 1], sizes[number]))
        self.layers = len(widths) + 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.permute(0, 2, 3, 1).flatten(1)
        for number in range(1, self.layers):
            h = nn.functional.leaky_relu(getattr(self, f"linear{number}")(h), 0.2)
        return getattr(self, f"linear{self.layers}")(h)[:, 0]
