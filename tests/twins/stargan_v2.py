"""PyTorch twins of our StarGAN v2 networks, in the key layout of the reference's ``nets_ema.ckpt``.

``encode.0.norm1.weight`` is the first norm of the generator's first block, ``unshared.2.6.bias`` belongs to the last
layer of the third domain; places in each ``Sequential`` decide the keys, so they are part of the layout.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


def lrelu() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.2)


def conv3(inner: int, outer: int) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, 1, 1)


class ResBlk(nn.Module):
    def __init__(self, inner: int, outer: int, norm: bool = False, halve: bool = False) -> None:
        super().__init__()
        self.halve = halve
        self.conv1, self.conv2 = conv3(inner, inner), conv3(inner, outer)
        self.norm1 = nn.InstanceNorm2d(inner, affine=True) if norm else nn.Identity()
        self.norm2 = nn.InstanceNorm2d(inner, affine=True) if norm else nn.Identity()
        if inner != outer:
            self.conv1x1 = nn.Conv2d(inner, outer, 1, bias=False)

    def size(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, 2) if self.halve else x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.size(self.conv1(F.leaky_relu(self.norm1(x), 0.2)))
        h = self.conv2(F.leaky_relu(self.norm2(h), 0.2))
        straight = self.conv1x1(x) if hasattr(self, "conv1x1") else x
        return (self.size(straight) + h) / math.sqrt(2)


class AdaIN(nn.Module):
    def __init__(self, style: int, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(style, 2 * width)

    def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        gamma, beta = self.fc(s)[:, :, None, None].chunk(2, dim=1)
        return (1 + gamma) * F.instance_norm(x) + beta


class AdainResBlk(nn.Module):
    def __init__(self, inner: int, outer: int, style: int, residual: bool, double: bool = False) -> None:
        super().__init__()
        self.residual, self.double = residual, double
        self.conv1, self.conv2 = conv3(inner, outer), conv3(outer, outer)
        self.norm1, self.norm2 = AdaIN(style, inner), AdaIN(style, outer)
        if inner != outer:
            self.conv1x1 = nn.Conv2d(inner, outer, 1, bias=False)

    def size(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.double else x

    def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        h = self.conv1(self.size(F.leaky_relu(self.norm1(x, s), 0.2)))
        h = self.conv2(F.leaky_relu(self.norm2(h, s), 0.2))
        if not self.residual:
            return h
        straight = self.size(x)
        return (h + (self.conv1x1(straight) if hasattr(self, "conv1x1") else straight)) / math.sqrt(2)


class HighPass(nn.Module):
    def __init__(self, w_hpf: float) -> None:
        super().__init__()
        taps = -torch.ones(3, 3)
        taps[1, 1] = 8
        self.register_buffer("filter", taps / w_hpf)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        taps = self.filter[None, None].repeat(x.shape[1], 1, 1, 1)
        return F.conv2d(x, taps, padding=1, groups=x.shape[1])


class Generator(nn.Module):
    """NCHW, (n, style), masks for 32 and for finer pixels or None -> NCHW."""

    def __init__(
        self, size: int, style: int, widest: int = 512, w_hpf: float = 0.0, channels: int = 3, width: int | None = None
    ) -> None:
        super().__init__()
        inner = first = width or 2**14 // size
        self.from_rgb = conv3(channels, first)
        self.to_rgb = nn.Sequential(nn.InstanceNorm2d(first, affine=True), lrelu(), nn.Conv2d(first, channels, 1))
        self.encode, decode, residual = nn.ModuleList(), [], w_hpf == 0
        for _ in range(int(math.log2(size)) - 4 + (not residual)):
            outer = min(2 * inner, widest)
            self.encode.append(ResBlk(inner, outer, norm=True, halve=True))
            decode.insert(0, AdainResBlk(outer, inner, style, residual, double=True))
            inner = outer
        for _ in range(2):
            self.encode.append(ResBlk(inner, inner, norm=True))
            decode.insert(0, AdainResBlk(inner, inner, style, residual))
        self.decode = nn.ModuleList(decode)
        if not residual:
            self.hpf = HighPass(w_hpf)

    def forward(
        self, x: torch.Tensor, s: torch.Tensor, masks: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> torch.Tensor:
        x, cache = self.from_rgb(x), {}
        for block in self.encode:
            cache[x.shape[2]] = x
            x = block(x)
        for block in self.decode:
            x = block(x, s)
            if masks is not None and x.shape[2] in (32, 64, 128):
                mask = masks[0] if x.shape[2] == 32 else masks[1]
                mask = F.interpolate(mask, size=x.shape[2:], mode="bilinear", align_corners=False)
                x = x + self.hpf(mask * cache[x.shape[2]])
        return self.to_rgb(x)


class MappingNetwork(nn.Module):
    """(n, latent), (n,) -> (n, style)."""

    def __init__(self, latent: int, style: int, domains: int, hidden: int = 512) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(latent, hidden), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Linear(hidden, hidden), nn.ReLU()]
        self.shared = nn.Sequential(*layers)
        self.unshared = nn.ModuleList(
            nn.Sequential(
                *(layer for _ in range(3) for layer in (nn.Linear(hidden, hidden), nn.ReLU())), nn.Linear(hidden, style)
            )
            for _ in range(domains)
        )

    def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = self.shared(z)
        return torch.stack([own(h) for own in self.unshared], dim=1)[torch.arange(len(y), device=y.device), y]


def trunk(size: int, widest: int, channels: int, width: int | None) -> tuple[list[nn.Module], int]:
    inner = width or 2**14 // size
    layers: list[nn.Module] = [conv3(channels, inner)]
    for _ in range(int(math.log2(size)) - 2):
        outer = min(2 * inner, widest)
        layers.append(ResBlk(inner, outer, halve=True))
        inner = outer
    return [*layers, lrelu(), nn.Conv2d(inner, inner, 4), lrelu()], inner


class StyleEncoder(nn.Module):
    """NCHW, (n,) -> (n, style)."""

    def __init__(
        self, size: int, style: int, domains: int, widest: int = 512, channels: int = 3, width: int | None = None
    ) -> None:
        super().__init__()
        layers, last = trunk(size, widest, channels, width)
        self.shared = nn.Sequential(*layers)
        self.unshared = nn.ModuleList(nn.Linear(last, style) for _ in range(domains))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = self.shared(x).flatten(1)
        return torch.stack([own(h) for own in self.unshared], dim=1)[torch.arange(len(y), device=y.device), y]


class Discriminator(nn.Module):
    """NCHW, (n,) -> logits (n,)."""

    def __init__(self, size: int, domains: int, widest: int = 512, channels: int = 3, width: int | None = None) -> None:
        super().__init__()
        layers, last = trunk(size, widest, channels, width)
        self.main = nn.Sequential(*layers, nn.Conv2d(last, domains, 1))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.main(x).flatten(1)[torch.arange(len(y), device=y.device), y]
