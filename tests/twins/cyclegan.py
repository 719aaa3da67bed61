"""PyTorch twin of our residual generator, in the key layout of the pix2pix / CycleGAN files."""

from __future__ import annotations

import torch
from torch import nn


def _norm(kind: str, width: int) -> nn.Module:
    return {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}[kind](width)


class Block(nn.Module):
    """A residual block; its layers' places in ``conv_block`` are part of the layout."""

    def __init__(self, width: int, norm: str, dropout: float) -> None:
        super().__init__()
        bias = norm == "instance"

        def half() -> list[nn.Module]:
            return [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=bias), _norm(norm, width)]

        middle = [nn.ReLU(), nn.Dropout(dropout)] if dropout else [nn.ReLU()]
        self.conv_block = nn.Sequential(*half(), *middle, *half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv_block(x)


class ResNetGenerator(nn.Module):
    """NCHW in [-1, 1] -> NCHW in [-1, 1]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        ngf: int = 64,
        blocks: int = 9,
        norm: str = "instance",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        bias = norm == "instance"

        def normed(layer: nn.Module, width: int) -> list[nn.Module]:
            return [layer, _norm(norm, width), nn.ReLU()]

        layers = [nn.ReflectionPad2d(3), *normed(nn.Conv2d(in_channels, ngf, 7, bias=bias), ngf)]
        for level in (1, 2):
            width = ngf * 2**level
            layers += normed(nn.Conv2d(width // 2, width, 3, 2, 1, bias=bias), width)
        layers += [Block(4 * ngf, norm, dropout) for _ in range(blocks)]
        for level in (1, 0):
            width = ngf * 2**level
            layers += normed(nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1, bias=bias), width)
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, out_channels, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)
