"""Small maps and lesions for the tests of anomaly maps."""

from __future__ import annotations

import numpy as np
from hashed import hashed


def rectangle(size, rows, columns):
    mask = np.zeros((1, *size), bool)
    mask[0, rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


def peak(size, row, column):
    image = np.zeros((1, *size), np.float32)
    image[0, row, column] = 1
    return image


def some(count=6, size=(12, 16)):
    """Maps on a grid of 64 values, targets of which every third is empty, and regions."""
    maps = np.float32(np.floor(hashed(1, count, *size) * 64) / 64)
    rows, columns = np.mgrid[: size[0], : size[1]]
    centres = hashed(2, count, 2) * size
    targets = (abs(rows - centres[:, :1, None]) < 3) & (abs(columns - centres[:, 1:, None]) < 4)
    targets[2::3] = False
    return maps + np.float32(0.25) * targets, targets, hashed(3, count, *size) < 0.8
