"""NumPy forms of Macenko's, Vahadane's and Reinhard's normalisers in float64, one image (h, w, 3) in [0, 1] at a time.

They follow the papers step by step, with boolean indexing and sorted percentiles, as NumPy packages do. Vahadane's
takes as many rounds over as many pixels as ours, and the same ones.
"""

from __future__ import annotations

import numpy as np

RGB_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
WHITE_POINT = np.array([0.95047, 1.0, 1.08883])


def unmixed(
    image: np.ndarray, white: float = 240 / 255, alpha: float = 1.0, beta: float = 0.15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit columns (3, 2), the 99th percentiles (2,) and the amounts (2, n) of haematoxylin and eosin."""
    density = -np.log((image.reshape(-1, 3).astype(np.float64) + 1 / 255) / white)
    vectors = extremes(density[(density >= beta).all(1)], alpha)
    amounts = np.linalg.lstsq(vectors, density.T, rcond=None)[0]
    return vectors, np.percentile(amounts, 99, axis=1), amounts


def extremes(stained: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    """Unit columns (3, 2): the robust extremes of the angle of densities (n, 3) within their plane."""
    plane = np.linalg.eigh(np.cov(stained.T))[1][:, 1:]
    along, across = (stained @ plane).T
    angles = np.percentile(np.arctan2(across, along), [alpha, 100 - alpha])
    ends = [plane @ [np.cos(angle), np.sin(angle)] for angle in angles]
    return np.stack(sorted(ends, key=lambda end: -end[0]), axis=1)


def macenko(image: np.ndarray, target: tuple[np.ndarray, np.ndarray], white: float = 240 / 255) -> np.ndarray:
    """The image with the vectors and percentiles of ``target``."""
    _, ceiling, amounts = unmixed(image, white)
    density = target[0] @ (amounts * (target[1] / ceiling)[:, None])
    return np.clip(white * np.exp(-density.T), 0, 1).reshape(image.shape)


def vahadane_look(
    image: np.ndarray, rounds: int = 50, samples: int = 8192
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit rows (2, 3), the 99th percentiles (2,) and the amounts (2, n) of haematoxylin and eosin."""
    lit = image.reshape(-1, 3).astype(np.float64)
    density = np.ascontiguousarray(-np.log(np.maximum(lit, 1 / 255)).T)
    counted = tissue(lit, density)
    added = -np.log(lit[counted] + 1 / 255)
    start = extremes(added[(added > 0.15).all(1)]).T
    places = np.sort(np.arange(1, min(samples, len(lit)) + 1) * ((np.sqrt(5) - 1) / 2) % 1)
    ranks = np.floor(places.astype(np.float32) * np.float32(counted.sum())).astype(int)
    vectors = dictionary(density[:, np.flatnonzero(counted)[ranks]], start, rounds)
    amounts = sparse_amounts(density, vectors, penalty=0.01)
    return vectors, np.percentile(amounts[:, counted], 99, axis=1), amounts


def vahadane(image: np.ndarray, target: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The image with the vectors and percentiles of ``target``."""
    _, ceiling, amounts = vahadane_look(image)
    density = target[0].T @ (amounts * (target[1] / ceiling)[:, None])
    return np.clip(np.exp(-density.T), 0, 1).reshape(image.shape)


def tissue(lit: np.ndarray, density: np.ndarray) -> np.ndarray:
    """Which of the pixels (n, 3), of densities (3, n), are stained: dense enough, and of a colour."""
    most = lit.max(1)
    return (density.mean(0) > 0.15) & (most - lit.min(1) > 0.05 * most)


def dictionary(density: np.ndarray, start: np.ndarray, rounds: int, penalty: float = 0.1) -> np.ndarray:
    """Stains (2, 3) of densities (3, n): amounts and each stain in turn, all of them exact minima."""
    vectors = unit(np.maximum(start, 0))
    for _ in range(rounds):
        amounts = sparse_amounts(density, vectors, penalty)
        used, shared = amounts @ amounts.T, amounts @ density.T
        for s in range(2):
            best = np.maximum(shared[s] - used[0, 1] * vectors[1 - s], 0)
            length = np.linalg.norm(best)
            if used[s, s] > 0 and length > 0:
                vectors[s] = best / max(used[s, s], length)
        vectors = unit(vectors)
    return vectors[np.argsort(-vectors[:, 0])]


def sparse_amounts(density: np.ndarray, vectors: np.ndarray, penalty: float) -> np.ndarray:
    """Amounts (2, n), none negative, that minimise ``1/2 |density - vectors.T @ h|^2 + penalty * sum(h)``."""
    alone = vectors @ density - penalty
    cosine = vectors[0] @ vectors[1]
    free = (alone - cosine * alone[::-1]) / (1 - cosine**2)
    return np.maximum(np.where(free[::-1] < 0, alone, free), 0)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def to_lab(image: np.ndarray) -> np.ndarray:
    """CIE Lab of sRGB."""
    v = image.astype(np.float64)
    linear = np.where(v > 0.04045, ((v + 0.055) / 1.055) ** 2.4, v / 12.92)
    whited = linear @ RGB_TO_XYZ.T / WHITE_POINT
    x, y, z = np.moveaxis(np.where(whited > 0.008856, np.cbrt(whited), 7.787 * whited + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def from_lab(lab: np.ndarray) -> np.ndarray:
    """The inverse of `to_lab`, clipped to [0, 1]."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, np.maximum(y - lab[..., 2] / 200, 0)], -1)
    xyz = np.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787) * WHITE_POINT
    linear = xyz @ np.linalg.inv(RGB_TO_XYZ).T
    bright = 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return np.clip(np.where(linear > 0.0031308, bright, 12.92 * linear), 0, 1)


def statistics(lab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n) of each channel, (3,)."""
    return lab.mean((0, 1)), lab.std((0, 1))


def reinhard(image: np.ndarray, target: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The image with the mean and standard deviation of ``target`` in Lab."""
    lab = to_lab(image)
    mean, spread = statistics(lab)
    return from_lab((lab - mean) / spread * target[1] + target[0])
