"""PyTorch twins of LPIPS with its AlexNet and VGG16, in the key layout of the reference's module.

``net.slice<k>.<place>`` keeps the places of the full networks; ``lin<l>.model.1`` is the head of layer l,
behind a dropout that evaluation switches off.
"""

from __future__ import annotations

import torch
from torch import nn

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


def _alexnet() -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for inner, width in ((192, 384), (384, 256), (256, 256)):
        layers += [nn.Conv2d(inner, width, 3, 1, 1), nn.ReLU()]
    return layers


def _vgg16() -> list[nn.Module]:
    layers: list[nn.Module] = []
    inner = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
        if width:
            layers += [nn.Conv2d(inner, width, 3, 1, 1), nn.ReLU()]
            inner = width
        else:
            layers.append(nn.MaxPool2d(2, 2))
    return layers


#: Layers, where each slice ends, and the widths of the taps.
NETS = {
    "alex": (_alexnet, (2, 5, 8, 10, 12), (64, 192, 384, 256, 256)),
    "vgg": (_vgg16, (4, 9, 16, 23, 30), (64, 128, 256, 512, 512)),
}


class Slices(nn.Module):
    """A network cut behind its taps: NCHW, standardised -> the activations at the end of each slice."""

    def __init__(self, net: str) -> None:
        super().__init__()
        make, ends, _ = NETS[net]
        layers, start = make(), 0
        for number, end in enumerate(ends, 1):
            piece = nn.Sequential()
            for place in range(start, end):
                piece.add_module(str(place), layers[place])
            setattr(self, f"slice{number}", piece)
            start = end

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        taps = []
        for number in range(1, 6):
            x = getattr(self, f"slice{number}")(x)
            taps.append(x)
        return taps


class Head(nn.Module):
    """Non-negative weights of one layer, (n, c, h, w) -> (n, 1, h, w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class LPIPS(nn.Module):
    """Two NCHW images in [-1, 1] -> (n,), or (n, h, w) if ``spatial``."""

    def __init__(self, net: str) -> None:
        super().__init__()
        self.net = Slices(net)
        for layer, width in enumerate(NETS[net][2]):
            setattr(self, f"lin{layer}", Head(width))
        self.register_buffer("shift", torch.tensor(SHIFT)[None, :, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[None, :, None, None], persistent=False)
        self.eval()

    def forward(self, x: torch.Tensor, y: torch.Tensor, spatial: bool = False) -> torch.Tensor:
        size, total = x.shape[2:], 0.0
        taps = [self.net((image - self.shift) / self.scale) for image in (x, y)]
        for layer, (a, b) in enumerate(zip(*taps, strict=True)):
            units = [t / (t.square().sum(1, keepdim=True).sqrt() + 1e-10) for t in (a, b)]
            heat = getattr(self, f"lin{layer}")((units[0] - units[1]).square())
            if spatial:
                total = total + nn.functional.interpolate(heat, size, mode="bilinear", align_corners=False)[:, 0]
            else:
                total = total + heat.mean((1, 2, 3))
        return total


def randomise(module: LPIPS, seed: int) -> None:
    """Weights that keep the activations alive through the layers, and non-negative heads."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.startswith("lin"):
            tensor.copy_(noise.abs())
        elif tensor.ndim > 1:
            tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
        else:
            tensor.copy_(0.1 * noise)
