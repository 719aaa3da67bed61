"""Slides in the formats of scanners, through OpenSlide (extra ``wsi``)."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats.slide import Size, Slide, check_size, naming, scale

INSTALL = "pip install 'medgen_jax[wsi]'"


def available() -> bool:
    """Whether OpenSlide is installed."""
    return importlib.util.find_spec("openslide") is not None


def vendor(path: Path) -> str | None:
    """OpenSlide's name for the format of a file, such as ``aperio``; None when it knows none."""
    return _openslide(path).OpenSlide.detect_format(path)


def _openslide(path: Path) -> Any:
    try:
        return importlib.import_module("openslide")
    except (ImportError, OSError) as error:  # its shared library is missing or does not load
        raise UserError(f"{path}: OpenSlide does not start ({error}); {INSTALL}") from error


class ScannerSlide(Slide):
    """A slide of a format that OpenSlide knows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._slide = _openslide(path).OpenSlide(path)
        facts = self._slide.properties
        self.levels = tuple(Size(height, width) for width, height in self._slide.level_dimensions)
        check_size(path, self.levels)
        self.microns_per_pixel = scale(facts.get("openslide.mpp-y"), facts.get("openslide.mpp-x"))
        self.has_profile = facts.get("openslide.icc-size", "0") != "0"

    def region(self, level: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """See `Slide.region`."""
        ratio = self._slide.level_downsamples[level]
        place = round(left * ratio), round(top * ratio)  # OpenSlide counts them at level 0, whatever the level
        with naming(self.path):
            image = np.asarray(self._slide.read_region(place, level, (width, height)))
        return _on_white(image)

    def close(self) -> None:
        """See `Slide.close`."""
        self._slide.close()


def _on_white(image: np.ndarray) -> np.ndarray:
    """RGBA as RGB; what was not scanned is transparent."""
    alpha = image[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.ascontiguousarray(image[..., :3])
    return ((image[..., :3] * alpha + (255 - alpha) * 255 + 127) // 255).astype(np.uint8)
