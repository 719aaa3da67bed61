"""PyTorch twin of the published form of our LStainNorm, in the key layout of the published code."""

from __future__ import annotations

import math

import torch
from torch import nn

XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)


def _mix(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix, x)


def _whited() -> torch.Tensor:
    return torch.tensor(XYZ, dtype=torch.float64) / torch.tensor(WHITE, dtype=torch.float64)[:, None]


def rgb_to_lab(rgb: torch.Tensor) -> torch.Tensor:
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    t = _mix(_whited().to(linear), linear)
    f = torch.where(t > 0.008856, t.clamp(min=0.008856) ** (1 / 3), 7.787 * t + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), 1)


def lab_to_rgb(lab: torch.Tensor) -> torch.Tensor:
    """Clipped to [0, 1]."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    f = torch.stack((y + a / 500, y, (y - b / 200).clamp(min=0)), 1)
    t = torch.where(f > 0.2068966, f**3, (f - 4 / 29) / 7.787)
    linear = _mix(torch.linalg.inv(_whited()).to(t), t)
    bright = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, bright, 12.92 * linear).clamp(0, 1)


def rgb_to_hsv(rgb: torch.Tensor) -> torch.Tensor:
    """Hue in radians."""
    value, leader = rgb.max(1)
    chroma = value - rgb.min(1).values
    r, g, b = rgb.unbind(1)
    sextants = torch.stack((g - b, b - r, r - g), 1) / torch.where(chroma == 0, 1.0, chroma)[:, None]
    sextants = sextants + sextants.new_tensor((0.0, 2.0, 4.0)).view(1, 3, 1, 1)
    hue = sextants.gather(1, leader[:, None])[:, 0] % 6 * (math.pi / 3)
    return torch.stack((hue, chroma / (value + 1e-8), value), 1)


def hsv_to_rgb(hsv: torch.Tensor) -> torch.Tensor:
    hue, saturation, value = hsv.unbind(1)

    def channel(shift: int) -> torch.Tensor:
        sextant = (hue * (3 / math.pi) + shift) % 6
        return value * (1 - saturation * torch.minimum(sextant, 4 - sextant).clamp(0, 1))

    return torch.stack((channel(5), channel(3), channel(1)), 1)


SPACES = {"lab": (rgb_to_lab, lab_to_rgb), "hsv": (rgb_to_hsv, hsv_to_rgb), "rgb": (torch.abs, torch.abs)}


class SelfAttention(nn.Module):
    """Between cells of 8 x 8 pixels, their columns weighted."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.g, self.h = nn.Conv2d(3, 1, 1), nn.Conv2d(3, 1, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        f, g, h = (nn.functional.max_pool2d(conv(x), 8).flatten(2) for conv in (self.f, self.g, self.h))
        attended = h @ torch.softmax(f.transpose(1, 2) @ g, dim=-1)
        attended = attended.view(len(x), 3, x.shape[2] // 8, x.shape[3] // 8)
        return nn.functional.interpolate(attended, scale_factor=8, mode="bilinear")


class SA3(nn.Module):
    """NCHW in [0, 1], sides multiples of 8 -> NCHW, not clipped."""

    def __init__(self, reference: dict[str, dict[str, tuple[float, ...]]]) -> None:
        super().__init__()
        self.reference = {
            space: {name: torch.tensor(values) for name, values in reference[space].items()} for space in SPACES
        }
        for suffix in ("", *(f"_{space}" for space in SPACES)):
            for name in ("mu", "sigma"):  # without a suffix: never used
                setattr(self, name + suffix, nn.Parameter(torch.zeros(3)))
        self.SelfAttention = SelfAttention()
        for space in SPACES:
            setattr(self, f"gamma_{space}", nn.Parameter(torch.zeros(3)))
        self.a0, self.b0 = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    def branches(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        done = {}
        for space, (convert, back) in SPACES.items():
            values = convert(x)
            mean, std = (moment[:, :, None, None] for moment in (values.mean((2, 3)), values.std((2, 3))))
            beta = self.reference[space]["mean"] + getattr(self, f"mu_{space}")
            gamma = self.reference[space]["std"] + getattr(self, f"sigma_{space}")
            values = (values - mean) / (std + 1e-7) * gamma.view(1, 3, 1, 1) + beta.view(1, 3, 1, 1)
            done[space] = back(values).abs()
        return done

    def weights(self, branches: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        ratios = {}
        for space, x in branches.items():
            delta = 1 + getattr(self, f"gamma_{space}").view(1, 3, 1, 1)
            ratios[space] = (delta * self.SelfAttention(x).abs() + x) / (x + 1e-7)
        total = sum(ratios.values()) + 1e-7
        pixel = {space: ratios[space] / total for space in ("lab", "hsv")}
        pixel["rgb"] = 1 - pixel["lab"] - pixel["hsv"]
        return {space: self.a0[i] * pixel[space] + self.b0[i] for i, space in enumerate(SPACES)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = self.branches(x)
        weights = self.weights(branches)
        return sum(branches[space] * weights[space] for space in SPACES) / sum(weights.values())
