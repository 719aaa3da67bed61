"""PyTorch twins of our U-Net and PatchGAN, in the key layout of the pix2pix / CycleGAN files.

The nesting and the places in each ``Sequential`` decide the keys, so they are part of the layout:
``model.model.1.model.3.model.1.weight`` is the convolution of the third level.
"""

from __future__ import annotations

import torch
from torch import nn


def _norm(kind: str, width: int) -> nn.Module:
    return {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}[kind](width)


class Level(nn.Module):
    """One size of the U-Net with everything inside it; all but the outermost add their skip."""

    def __init__(self, layers: list[nn.Module], skip: bool = True) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.model(x)
        return torch.cat((x, inner), dim=1) if self.skip else inner


class UNet(nn.Module):
    """NCHW in [-1, 1] -> NCHW in [-1, 1]; ``dropout`` 0 leaves the layer in place but idle."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        ngf: int = 64,
        downs: int = 8,
        norm: str = "batch",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        bias = norm == "instance"

        def down(i: int, o: int) -> nn.Conv2d:
            return nn.Conv2d(i, o, 4, 2, 1, bias=bias)

        def up(i: int, o: int, with_bias: bool = bias) -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(i, o, 4, 2, 1, bias=with_bias)

        widths = [ngf * min(2**level, 8) for level in range(downs)]
        outer, width = widths[-2], widths[-1]
        level = Level([nn.LeakyReLU(0.2), down(outer, width), nn.ReLU(), up(width, outer), _norm(norm, outer)])
        for depth in range(downs - 2, 0, -1):
            outer, width = widths[depth - 1], widths[depth]
            layers = [nn.LeakyReLU(0.2), down(outer, width), _norm(norm, width), level]
            layers += [nn.ReLU(), up(2 * width, outer), _norm(norm, outer)]
            if depth >= 4:
                layers.append(nn.Dropout(dropout))
            level = Level(layers)
        outermost = [down(in_channels, ngf), level, nn.ReLU(), up(2 * ngf, out_channels, True), nn.Tanh()]
        self.model = Level(outermost, skip=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class PatchGAN(nn.Module):
    """NCHW -> logits (n, 1, h', w')."""

    def __init__(self, in_channels: int, ndf: int = 64, layers: int = 3, norm: str = "batch") -> None:
        super().__init__()
        stack: list[nn.Module] = [nn.Conv2d(in_channels, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
        inner = ndf
        for layer in range(1, layers + 1):
            width, stride = ndf * min(2**layer, 8), 2 if layer < layers else 1
            stack += [
                nn.Conv2d(inner, width, 4, stride, 1, bias=norm == "instance"),
                _norm(norm, width),
                nn.LeakyReLU(0.2),
            ]
            inner = width
        stack.append(nn.Conv2d(inner, 1, 4, 1, 1))
        self.model = nn.Sequential(*stack)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


def randomise(module: nn.Module, seed: int) -> None:
    """Fill weights, biases, norm scales and running statistics with values that differ from every default."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif name.endswith("running_mean"):
            tensor.copy_(0.3 * noise)
        elif tensor.ndim > 1:  # unit gain, so that activations neither vanish nor saturate through the levels
            tensor.copy_(noise / tensor[0].numel() ** 0.5)
        else:
            tensor.copy_(0.1 * noise + (1.0 if name.endswith("weight") else 0.0))
