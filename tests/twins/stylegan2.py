"""PyTorch twins of our StyleGAN2 networks, in the key layout of stylegan2-ada-pytorch.

Written from the formulas in their plainest form: one kernel per sample through a grouped convolution, resampling by
zeros and a two-dimensional filter, strided groups for the minibatch deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


def fir_kernel(like: torch.Tensor) -> torch.Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]).to(like) / 8
    return torch.outer(taps, taps)


def upfirdn(x: torch.Tensor, *, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0), gain: float = 1):
    n, c, h, w = x.shape
    if up > 1:
        zeros = x.new_zeros(n, c, h, up, w, up)
        zeros[:, :, :, 0, :, 0] = x
        x = zeros.reshape(n, c, h * up, w * up)
    x = F.pad(x, (*pad, *pad))
    weight = (fir_kernel(x) * gain).flip(0, 1).repeat(c, 1, 1, 1)
    return F.conv2d(x, weight, groups=c)[:, :, ::down, ::down]


def double(x: torch.Tensor) -> torch.Tensor:
    return upfirdn(x, up=2, pad=(2, 1), gain=4)


def lrelu(x: torch.Tensor, gain: float = 1) -> torch.Tensor:
    return F.leaky_relu(x, 0.2) * (math.sqrt(2) * gain)


def unit_moment(x: torch.Tensor) -> torch.Tensor:
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Linear(nn.Module):
    def __init__(self, inner: int, outer: int, rate: float = 1, bias: float = 0, act: bool = False) -> None:
        super().__init__()
        self.rate, self.act = rate, act
        self.weight = nn.Parameter(torch.randn(outer, inner) / rate)
        self.bias = nn.Parameter(torch.full((outer,), float(bias)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x @ (self.weight * (self.rate / math.sqrt(self.weight.shape[1]))).T + self.bias * self.rate
        return lrelu(y) if self.act else y


class Mapping(nn.Module):
    def __init__(self, z_dim: int, classes: int, w_dim: int, layers: int, averaged: bool = True) -> None:
        super().__init__()
        self.layers = layers
        if classes:
            self.embed = Linear(classes, w_dim)
        widths = [z_dim + (w_dim if classes else 0)] + [w_dim] * layers
        for i in range(layers):
            setattr(self, f"fc{i}", Linear(widths[i], widths[i + 1], 0.01, act=True))
        if averaged:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: torch.Tensor | None, c: torch.Tensor | None) -> torch.Tensor:
        parts = [] if z is None else [unit_moment(z)]
        if c is not None:
            parts.append(unit_moment(self.embed(c)))
        x = torch.cat(parts, 1)
        for i in range(self.layers):
            x = getattr(self, f"fc{i}")(x)
        return x


def modulated(x: torch.Tensor, weight: torch.Tensor, style: torch.Tensor, demodulate: bool, up: bool) -> torch.Tensor:
    """Each sample by its own kernel."""
    weights = weight[None] * style[:, None, :, None, None]
    if demodulate:
        weights = weights * (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    made = []
    for image, kernel in zip(x.split(1), weights, strict=True):
        if up:
            grown = F.conv_transpose2d(image, kernel.transpose(0, 1), stride=2)
            made.append(upfirdn(grown, pad=(1, 1), gain=4))
        else:
            made.append(F.conv2d(image, kernel, padding=kernel.shape[-1] // 2))
    return torch.cat(made)


class SynthesisLayer(nn.Module):
    def __init__(self, inner: int, outer: int, w_dim: int, side: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.affine = Linear(w_dim, inner, bias=1)
        self.weight = nn.Parameter(torch.randn(outer, inner, 3, 3))
        self.register_buffer("noise_const", torch.randn(side, side))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outer))

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        y = modulated(x, self.weight, self.affine(w), True, self.up)
        return lrelu(y + self.noise_const * self.noise_strength + self.bias[:, None, None])


class ToRGB(nn.Module):
    def __init__(self, inner: int, channels: int, w_dim: int) -> None:
        super().__init__()
        self.affine = Linear(w_dim, inner, bias=1)
        self.weight = nn.Parameter(torch.randn(channels, inner, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        style = self.affine(w) / math.sqrt(x.shape[1])
        return modulated(x, self.weight, style, False, False) + self.bias[:, None, None]


class Block(nn.Module):
    def __init__(self, inner: int, outer: int, w_dim: int, side: int, channels: int) -> None:
        super().__init__()
        if inner:
            self.conv0 = SynthesisLayer(inner, outer, w_dim, side, True)
        else:
            self.const = nn.Parameter(torch.randn(outer, side, side))
        self.conv1 = SynthesisLayer(outer, outer, w_dim, side, False)
        self.torgb = ToRGB(outer, channels, w_dim)


def sides(size: int) -> list[int]:
    return [2**i for i in range(2, int(math.log2(size)) + 1)]


class Synthesis(nn.Module):
    def __init__(self, size: int, channels: int, w_dim: int, base: int, most: int) -> None:
        super().__init__()
        self.sides, inner = sides(size), 0
        for side in self.sides:
            outer = min(base // side, most)
            setattr(self, f"b{side}", Block(inner, outer, w_dim, side, channels))
            inner = outer

    def forward(self, ws: torch.Tensor) -> torch.Tensor:
        rest = list(ws.unbind(1))
        for side in self.sides:
            block = getattr(self, f"b{side}")
            if side == 4:
                x = block.const[None].repeat(len(ws), 1, 1, 1)
            else:
                x = block.conv0(x, rest.pop(0))
            x = block.conv1(x, rest.pop(0))
            made = block.torgb(x, rest[0])
            image = made if side == 4 else double(image) + made
        return image


class Generator(nn.Module):
    """(n, z_dim), one-hot (n, classes) -> NCHW, with the constant noise."""

    def __init__(
        self, size: int, channels: int, classes: int, z_dim: int, w_dim: int, layers: int, base: int, most: int
    ) -> None:
        super().__init__()
        self.mapping = Mapping(z_dim, classes, w_dim, layers)
        self.synthesis = Synthesis(size, channels, w_dim, base, most)

    def forward(self, z: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        w = self.mapping(z, c)
        return self.synthesis(w[:, None].repeat(1, 2 * len(self.synthesis.sides), 1))


class Conv(nn.Module):
    def __init__(self, inner: int, outer: int, k: int, down: bool = False, linear: bool = False) -> None:
        super().__init__()
        self.down, self.linear = down, linear
        self.weight = nn.Parameter(torch.randn(outer, inner, k, k))
        if not linear:
            self.bias = nn.Parameter(torch.zeros(outer))

    def forward(self, x: torch.Tensor, gain: float = 1) -> torch.Tensor:
        k = self.weight.shape[-1]
        weight = self.weight / math.sqrt(self.weight[0].numel())
        if self.down:
            y = F.conv2d(upfirdn(x, pad=(k // 2 + 1, k // 2 + 1)), weight, stride=2)
        else:
            y = F.conv2d(x, weight, padding=k // 2)
        return y * gain if self.linear else lrelu(y + self.bias[:, None, None], gain)


class DiscriminatorBlock(nn.Module):
    def __init__(self, inner: int, outer: int, channels: int | None) -> None:
        super().__init__()
        if channels:
            self.fromrgb = Conv(channels, inner, 1)
        self.conv0 = Conv(inner, inner, 3)
        self.conv1 = Conv(inner, outer, 3, down=True)
        self.skip = Conv(inner, outer, 1, down=True, linear=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if hasattr(self, "fromrgb"):
            x = self.fromrgb(x)
        half = math.sqrt(0.5)
        return self.skip(x, half) + self.conv1(self.conv0(x), half)


def minibatch_stddev(x: torch.Tensor, group: int) -> torch.Tensor:
    """Image i belongs to group ``i mod (n / group)``."""
    n, c, h, w = x.shape
    group = min(group, n)
    y = x.reshape(group, n // group, c, h, w)
    deviation = (y.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat((x, deviation.repeat(group)[:, None, None, None].expand(n, 1, h, w)), 1)


class Head(nn.Module):
    def __init__(self, width: int, out: int, group: int) -> None:
        super().__init__()
        self.group = group
        self.conv = Conv(width + 1, width, 3)
        self.fc = Linear(16 * width, width, act=True)
        self.out = Linear(width, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.fc(self.conv(minibatch_stddev(x, self.group)).flatten(1)))


class Discriminator(nn.Module):
    """NCHW, one-hot (n, classes) -> (n,)."""

    def __init__(self, size: int, channels: int, classes: int, layers: int, base: int, most: int, group: int) -> None:
        super().__init__()
        self.sides = sides(size)[:0:-1]
        for side in self.sides:
            inner, outer = min(base // side, most), min(2 * base // side, most)
            setattr(self, f"b{side}", DiscriminatorBlock(inner, outer, channels if side == size else None))
        self.b4 = Head(outer, outer if classes else 1, group)
        if classes:
            self.mapping = Mapping(0, classes, outer, layers, averaged=False)

    def forward(self, x: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
        for side in self.sides:
            x = getattr(self, f"b{side}")(x)
        x = self.b4(x)
        return x[:, 0] if c is None else (x * self.mapping(None, c)).sum(1) / math.sqrt(x.shape[1])


def randomised(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What is made, in float64, with weights of the size they have in training, none of them at a special value.

    They depend on the seed alone: networks draw their first values from the generator that all tests share.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        twin = make().double()
        for tensor in twin.parameters():
            tensor += 0.3 * torch.randn_like(tensor)
    return twin
