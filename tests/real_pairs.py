"""Pairs of real images and what other packages measure on them (``tests/metrics/golden/structure_packages.json``)."""

from __future__ import annotations

import hashlib
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

GOLDEN = json.loads((pathlib.Path(__file__).parent / "metrics/golden/structure_packages.json").read_text())


def cut(shared: pathlib.Path, name: str) -> np.ndarray:
    """The named image, uint8 (h, w, c); skips where the file is absent, fails where its pixels are others."""
    entry = GOLDEN["images"][name]
    path = shared / "data" / entry["file"]
    if not path.is_file():
        pytest.skip(f"needs {entry['file']} of the shared data folder")
    pixels = np.asarray(Image.open(path))
    pixels = np.atleast_3d(pixels)[slice(*entry["rows"]), slice(*entry["columns"])]
    assert hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest() == entry["sha256"], entry["file"]
    return pixels


def distorted(first: np.ndarray) -> np.ndarray:
    """Paler, brighter and with a wave laid over it."""
    row, column = np.mgrid[: first.shape[0], : first.shape[1]]
    wave = 12 * np.sin(row / 3) * np.cos(column / 5)
    return np.clip(np.round(0.85 * first + 20 + wave[..., None]), 0, 255).astype(np.uint8)


def pairs(shared: pathlib.Path, kind: str) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """First and second images, uint8 (b, h, w, c), and the golden numbers of each pair; kind "xray" or "he"."""
    rows = [row for row in GOLDEN["pairs"] if row["first"].startswith(kind)]
    first = [cut(shared, row["first"]) for row in rows]
    others = {"distorted": distorted, "negative": lambda image: 255 - image}
    second = [
        others[row["second"]](image) if row["second"] in others else cut(shared, row["second"])
        for image, row in zip(first, rows, strict=True)
    ]
    return np.stack(first), np.stack(second), rows


def column(rows: list[dict], name: str) -> np.ndarray:
    """One golden number of every pair."""
    return np.array([row[name] for row in rows])
