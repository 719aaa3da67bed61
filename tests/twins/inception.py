"""PyTorch twin of the FID Inception-v3, in the key layout of the pytorch-fid weight files.

Attribute names are the keys: ``Mixed_5b.branch3x3dbl_2.conv.weight``, ``.bn.running_mean``.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Unit(nn.Module):
    """Convolution without bias, batch norm and ReLU."""

    def __init__(self, inner: int, width: int, kernel: int | tuple[int, int], **options: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, width, kernel, bias=False, **options)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


def row(inner: int, width: int, size: int) -> Unit:
    return Unit(inner, width, (1, size), padding=(0, size // 2))


def column(inner: int, width: int, size: int) -> Unit:
    return Unit(inner, width, (size, 1), padding=(size // 2, 0))


def mean3(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def max3(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def halve(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 3, stride=2)


class MixedA(nn.Module):
    """1 x 1, 5 x 5, double 3 x 3 and mean-pooled branches."""

    def __init__(self, inner: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(inner, 64, 1)
        self.branch5x5_1 = Unit(inner, 48, 1)
        self.branch5x5_2 = Unit(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Unit(inner, 64, 1)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, padding=1)
        self.branch_pool = Unit(inner, pooled, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fives = self.branch5x5_2(self.branch5x5_1(x))
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch1x1(x), fives, threes, self.branch_pool(mean3(x))), 1)


class MixedB(nn.Module):
    """Halves 35 x 35 to 17 x 17."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.branch3x3 = Unit(inner, 384, 3, stride=2)
        self.branch3x3dbl_1 = Unit(inner, 64, 1)
        self.branch3x3dbl_2 = Unit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Unit(96, 96, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        threes = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((self.branch3x3(x), threes, halve(x)), 1)


class MixedC(nn.Module):
    """Factorised 7 x 7 branches of ``middle`` channels."""

    def __init__(self, inner: int, middle: int) -> None:
        super().__init__()
        self.branch1x1 = Unit(inner, 192, 1)
        self.branch7x7_1 = Unit(inner, middle, 1)
        self.branch7x7_2 = row(middle, middle, 7)
        self.branch7x7_3 = column(middle, 192, 7)
        self.branch7x7dbl_1 = Unit(inner, middle, 1)
        self.branch7x7dbl_2 = column(middle, middle, 7)
        self.branch7x7dbl_3 = row(middle, middle, 7)
        self.branch7x7dbl_4 = column(middle, middle, 7)
        self.branch7x7dbl_5 = row(middle, 192, 7)
        self.branch_pool = Unit(inner, 192, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat((self.branch1x1(x), once, twice, self.branch_pool(mean3(x))), 1)


class MixedD(nn.Module):
    """Halves 17 x 17 to 8 x 8."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.branch3x3_1 = Unit(inner, 192, 1)
        self.branch3x3_2 = Unit(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Unit(inner, 192, 1)
        self.branch7x7x3_2 = row(192, 192, 7)
        self.branch7x7x3_3 = column(192, 192, 7)
        self.branch7x7x3_4 = Unit(192, 192, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sevens = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return torch.cat((self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(sevens), halve(x)), 1)


class MixedE(nn.Module):
    """Branches that end in a row and a column kernel side by side; ``pool`` feeds the last one."""

    def __init__(self, inner: int, pool: str) -> None:
        super().__init__()
        self.branch1x1 = Unit(inner, 320, 1)
        self.branch3x3_1 = Unit(inner, 384, 1)
        self.branch3x3_2a = row(384, 384, 3)
        self.branch3x3_2b = column(384, 384, 3)
        self.branch3x3dbl_1 = Unit(inner, 448, 1)
        self.branch3x3dbl_2 = Unit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = row(384, 384, 3)
        self.branch3x3dbl_3b = column(384, 384, 3)
        self.branch_pool = Unit(inner, 192, 1)
        self.pool = {"mean": mean3, "max": max3}[pool]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.branch3x3_1(x)
        two = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        ends = (self.branch3x3_2a(one), self.branch3x3_2b(one), self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two))
        return torch.cat((self.branch1x1(x), *ends, self.branch_pool(self.pool(x))), 1)


class Inception(nn.Module):
    """NCHW, scaled to about [-1, 1], at least 75 pixels -> (n, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b = MixedA(192, 32)
        self.Mixed_5c = MixedA(256, 64)
        self.Mixed_5d = MixedA(288, 64)
        self.Mixed_6a = MixedB(288)
        self.Mixed_6b = MixedC(768, 128)
        self.Mixed_6c = MixedC(768, 160)
        self.Mixed_6d = MixedC(768, 160)
        self.Mixed_6e = MixedC(768, 192)
        self.Mixed_7a = MixedD(768)
        self.Mixed_7b = MixedE(1280, "mean")
        self.Mixed_7c = MixedE(2048, "max")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = halve(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = halve(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for name, child in self.named_children():
            if name.startswith("Mixed"):
                x = child(x)
        return x.mean((2, 3))
