"""PyTorch twins of our diffusion networks, in the key layout of guided-diffusion.

``input_blocks.4.0.in_layers.2.weight`` is the first convolution of the residual block of the fifth stage; places in
each ``Sequential`` decide the keys, so they are part of the layout. ``attention`` lists strides.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


def timestep_embedding(t: torch.Tensor, width: int) -> torch.Tensor:
    half = width // 2
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)[None]
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width)


def conv3(inner: int, outer: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, stride, 1)


def double(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class ResBlock(nn.Module):
    def __init__(self, inner: int, outer: int, told: int, film: bool, resample: str = "none") -> None:
        super().__init__()
        self.film = film
        self.resize = {"none": nn.Identity(), "up": double, "down": lambda x: F.avg_pool2d(x, 2)}[resample]
        self.in_layers = nn.Sequential(norm(inner), nn.SiLU(), conv3(inner, outer))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(told, (1 + film) * outer))
        self.out_layers = nn.Sequential(norm(outer), nn.SiLU(), nn.Dropout(0), conv3(outer, outer))
        self.skip_connection = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        h = self.in_layers[2](self.resize(self.in_layers[:2](x)))
        told = self.emb_layers(emb)[:, :, None, None]
        if self.film:
            scale, shift = told.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + told)
        return self.skip_connection(self.resize(x)) + h


def attend(qkv: torch.Tensor, heads: int, order: str) -> torch.Tensor:
    """(n, 3 c, tokens) -> (n, c, tokens)."""
    n, width, tokens = qkv.shape
    if order == "legacy":
        q, k, v = qkv.view(n, heads, 3, -1, tokens).unbind(2)
    else:
        q, k, v = qkv.view(n, 3, heads, -1, tokens).unbind(1)
    scale = q.shape[2] ** -0.25
    weights = torch.softmax((q * scale).transpose(2, 3) @ (k * scale), dim=-1)
    return (v @ weights.transpose(2, 3)).reshape(n, width // 3, tokens)


class AttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int, order: str) -> None:
        super().__init__()
        self.heads, self.order = heads, order
        self.norm = norm(width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = attend(self.qkv(self.norm(x).flatten(2)), self.heads, self.order)
        return x + self.proj_out(h).view_as(x)


class Downsample(nn.Module):
    def __init__(self, width: int, learned: bool) -> None:
        super().__init__()
        self.op = conv3(width, width, 2) if learned else nn.AvgPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int, learned: bool) -> None:
        super().__init__()
        self.learned = learned
        if learned:
            self.conv = conv3(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(double(x)) if self.learned else double(x)


class Stage(nn.ModuleList):
    def forward(self, h: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        for layer in self:
            h = layer(h, emb) if isinstance(layer, ResBlock) else layer(h)
        return h


class Encoder(nn.Module):
    def __init__(
        self,
        channels: int,
        width: int,
        multipliers: tuple[float, ...],
        blocks: int,
        attention: tuple[int, ...],
        heads: int = 1,
        head_width: int | None = None,
        order: str = "legacy",
        film: bool = True,
        resample: str = "block",
    ) -> None:
        super().__init__()
        told = 4 * width
        self.width, self.widths, self.blocks, self.attention = (
            width,
            [int(m * width) for m in multipliers],
            blocks,
            attention,
        )
        self.residual = lambda i, o, kind="none": ResBlock(i, o, told, film, kind)
        self.attending = lambda c: AttentionBlock(c, c // head_width if head_width else heads, order)
        self.resample = resample
        self.time_embed = nn.Sequential(nn.Linear(width, told), nn.SiLU(), nn.Linear(told, told))
        c = self.widths[0]
        self.input_blocks, self.made = nn.ModuleList([Stage([conv3(channels, c)])]), [c]
        for level, w in enumerate(self.widths):
            for _ in range(blocks):
                self.input_blocks.append(self.stage(c, w, level))
                c = w
                self.made.append(c)
            if level < len(self.widths) - 1:
                halve = self.residual(c, c, "down") if resample == "block" else Downsample(c, resample == "conv")
                self.input_blocks.append(Stage([halve]))
                self.made.append(c)
        self.middle_block = Stage([self.residual(c, c), self.attending(c), self.residual(c, c)])

    def stage(self, inner: int, outer: int, level: int) -> Stage:
        layers = [self.residual(inner, outer)]
        return Stage([*layers, self.attending(outer)] if 2**level in self.attention else layers)

    def embed(self, t: torch.Tensor) -> torch.Tensor:
        return self.time_embed(timestep_embedding(t, self.width))

    def encode(self, x: torch.Tensor, emb: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        made = []
        for stage in self.input_blocks:
            x = stage(x, emb)
            made.append(x)
        return self.middle_block(x, emb), made


class UNet(Encoder):
    """NCHW, (n,), (n,) -> NCHW of ``out_channels``."""

    def __init__(self, channels: int, out_channels: int, *, classes: int | None = None, **sizes: object) -> None:
        super().__init__(channels, **sizes)
        if classes:
            self.label_emb = nn.Embedding(classes, 4 * self.width)
        self.output_blocks, c = nn.ModuleList(), self.widths[-1]
        for level in reversed(range(len(self.widths))):
            w = self.widths[level]
            for number in range(self.blocks + 1):
                stage = self.stage(c + self.made.pop(), w, level)
                c = w
                if level and number == self.blocks:
                    block = self.resample == "block"
                    stage.append(self.residual(c, c, "up") if block else Upsample(c, self.resample == "conv"))
                self.output_blocks.append(stage)
        self.out = nn.Sequential(norm(c), nn.SiLU(), conv3(c, out_channels))

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        emb = self.embed(t) if y is None else self.embed(t) + self.label_emb(y)
        h, made = self.encode(x, emb)
        for stage in self.output_blocks:
            h = stage(torch.cat((h, made.pop()), dim=1), emb)
        return self.out(h)


class AttentionPool(nn.Module):
    def __init__(self, pixels: int, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(width, pixels + 1))
        self.qkv_proj = nn.Conv1d(width, 3 * width, 1)
        self.c_proj = nn.Conv1d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2)
        x = torch.cat((x.mean(2, keepdim=True), x), dim=2) + self.positional_embedding
        return self.c_proj(attend(self.qkv_proj(x), self.heads, "new"))[:, :, 0]


class Classifier(Encoder):
    """NCHW, (n,) -> logits (n, classes)."""

    def __init__(self, channels: int, classes: int, *, size: int, pool: str = "attention", **sizes: object) -> None:
        super().__init__(channels, **sizes)
        c, self.pool, hidden = self.widths[-1], pool, 2048
        stages = sum(self.made) + c
        if pool == "attention":
            side = size // 2 ** (len(self.widths) - 1)
            head = AttentionPool(side**2, c, c // int(sizes["head_width"]), classes)
            self.out = nn.Sequential(norm(c), nn.SiLU(), head)
        elif pool == "adaptive":
            self.out = nn.Sequential(
                norm(c), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, classes, 1), nn.Flatten()
            )
        elif pool == "spatial":
            self.out = nn.Sequential(nn.Linear(stages, hidden), nn.ReLU(), nn.Linear(hidden, classes))
        else:
            self.out = nn.Sequential(nn.Linear(stages, hidden), norm(hidden), nn.SiLU(), nn.Linear(hidden, classes))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        h, made = self.encode(x, self.embed(t))
        if self.pool.startswith("spatial"):
            return self.out(torch.cat([stage.mean((2, 3)) for stage in (*made, h)], dim=1))
        return self.out(h)
