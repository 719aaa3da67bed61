"""PyTorch twins of Macenko's, Vahadane's and Reinhard's normalisers, one image at a time, as torchstain does them.

Images are (3, h, w) floats in [0, 255]; results are the same, not yet rounded. Pixels that do not count are left
out by indexing and quantiles are taken by selection with no interpolation, so shapes depend on the
image: the form that PyTorch packages have.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

RGB_TO_XYZ = torch.tensor(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
WHITE_POINT = torch.tensor([0.95047, 1.0, 1.08883])


class Stains(NamedTuple):
    """Unit columns (3, 2) of haematoxylin and eosin, and the 99th percentile (2,) of their amounts."""

    vectors: torch.Tensor
    ceiling: torch.Tensor


def nearest_rank(values: torch.Tensor, share: float) -> torch.Tensor:
    """The value of rank ``share`` of (n,), rounded to the nearest."""
    return torch.kthvalue(values, 1 + round(share * (values.numel() - 1))).values


def unmixed(image: torch.Tensor, white: float, alpha: float, beta: float) -> tuple[Stains, torch.Tensor]:
    """The stains of an image and their amounts (2, n) in every pixel."""
    density = -torch.log((image.reshape(3, -1).T + 1) / white)
    vectors = extremes(density[(density >= beta).all(1)], alpha)
    amounts = torch.linalg.lstsq(vectors, density.T).solution
    return Stains(vectors, torch.stack([nearest_rank(a, 0.99) for a in amounts])), amounts


def extremes(stained: torch.Tensor, alpha: float) -> torch.Tensor:
    """Unit columns (3, 2): the robust extremes of the angle of densities (n, 3) within their plane."""
    plane = torch.linalg.eigh(torch.cov(stained.T)).eigenvectors[:, 1:]
    along, across = (stained @ plane).T
    angles = torch.atan2(across, along)
    low, high = (plane @ torch.stack([a.cos(), a.sin()]) for a in (nearest_rank(angles, s) for s in (alpha, 1 - alpha)))
    return torch.stack((low, high) if low[0] > high[0] else (high, low), 1)


def macenko(
    image: torch.Tensor, target: Stains, white: float = 240, alpha: float = 0.01, beta: float = 0.15
) -> torch.Tensor:
    """The image with the stains of ``target``."""
    source, amounts = unmixed(image, white, alpha, beta)
    amounts = amounts * (target.ceiling / source.ceiling)[:, None]
    return (white * torch.exp(-target.vectors @ amounts)).clamp(max=255).reshape(image.shape)


def vahadane_look(image: torch.Tensor, rounds: int = 50, samples: int = 8192) -> tuple[Stains, torch.Tensor]:
    """The stains of an image, sparse and not negative, and their amounts (2, n) in every pixel."""
    lit = image.reshape(3, -1) / 255
    density = -torch.log(lit.clamp(min=1 / 255))
    counted = tissue(lit, density)
    added = -torch.log(lit[:, counted].T + 1 / 255)
    start = extremes(added[(added > 0.15).all(1)], 0.01).T
    golden = torch.arange(1, min(samples, lit.shape[1]) + 1, dtype=torch.float64) * ((5**0.5 - 1) / 2)
    ranks = (torch.sort(golden % 1).values.float() * counted.sum()).floor().long()
    vectors = dictionary(density[:, counted.nonzero()[ranks, 0]], start, rounds)
    amounts = sparse_amounts(density, vectors, penalty=0.01)
    return Stains(vectors.T, torch.stack([nearest_rank(a, 0.99) for a in amounts[:, counted]])), amounts


def vahadane(image: torch.Tensor, target: Stains) -> torch.Tensor:
    """The image with the stains of ``target``."""
    source, amounts = vahadane_look(image)
    amounts = amounts * (target.ceiling / source.ceiling)[:, None]
    return (255 * torch.exp(-target.vectors @ amounts)).clamp(max=255).reshape(image.shape)


def tissue(lit: torch.Tensor, density: torch.Tensor) -> torch.Tensor:
    """Which of the pixels (3, n) are stained: dense enough, and of a colour."""
    most = lit.amax(0)
    return (density.mean(0) > 0.15) & (most - lit.amin(0) > 0.05 * most)


def dictionary(density: torch.Tensor, start: torch.Tensor, rounds: int, penalty: float = 0.1) -> torch.Tensor:
    """Stains (2, 3) of densities (3, n): amounts and each stain in turn, all of them exact minima."""
    vectors = unit(start.clamp(min=0))
    for _ in range(rounds):
        amounts = sparse_amounts(density, vectors, penalty)
        used, shared = amounts @ amounts.T, amounts @ density.T
        rows = [vectors[0], vectors[1]]
        for s in range(2):
            best = (shared[s] - used[0, 1] * rows[1 - s]).clamp(min=0)
            length = torch.linalg.norm(best)
            if used[s, s] > 0 and length > 0:
                rows[s] = best / torch.maximum(used[s, s], length)
        vectors = unit(torch.stack(rows))
    return vectors if vectors[0, 0] > vectors[1, 0] else vectors.flip(0)


def sparse_amounts(density: torch.Tensor, vectors: torch.Tensor, penalty: float) -> torch.Tensor:
    """Amounts (2, n), none negative, that minimise ``1/2 |density - vectors.T @ h|^2 + penalty * sum(h)``."""
    alone = vectors @ density - penalty
    cosine = vectors[0] @ vectors[1]
    free = (alone - cosine * alone.flip(0)) / (1 - cosine**2)
    return torch.where(free.flip(0) < 0, alone, free).clamp(min=0)


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows of length 1."""
    return rows / torch.linalg.norm(rows, dim=1, keepdim=True)


def to_lab(image: torch.Tensor) -> torch.Tensor:
    """CIE Lab (3, h, w) of sRGB in [0, 255]."""
    v = image / 255
    linear = torch.where(v > 0.04045, ((v + 0.055) / 1.055) ** 2.4, v / 12.92)
    whited = torch.einsum("cd,dhw->chw", RGB_TO_XYZ, linear) / WHITE_POINT[:, None, None]
    x, y, z = torch.where(whited > 0.008856, whited ** (1 / 3), 7.787 * whited + 16 / 116)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def from_lab(lab: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_lab`, clipped to [0, 255]."""
    lightness, a, b = lab
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200])
    xyz = torch.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787) * WHITE_POINT[:, None, None]
    linear = torch.einsum("cd,dhw->chw", torch.linalg.inv(RGB_TO_XYZ), xyz)
    bright = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return 255 * torch.where(linear > 0.0031308, bright, 12.92 * linear).clamp(0, 1)


def statistics(lab: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (n - 1) of each channel, (3, 1, 1)."""
    return lab.mean((1, 2), keepdim=True), lab.std((1, 2), keepdim=True)


def reinhard(image: torch.Tensor, target: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The image with the mean and standard deviation of ``target`` in Lab."""
    lab = to_lab(image)
    mean, spread = statistics(lab)
    return from_lab((lab - mean) / spread * target[1] + target[0])
