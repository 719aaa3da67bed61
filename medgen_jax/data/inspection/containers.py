"""What an image file says of itself beside its pixels: colour mode, transparency, rotation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import tifffile
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin

from medgen_jax.data.formats.samples import ORIENTATION

_RASTER = {
    ".png": PngImagePlugin.PngImageFile,
    ".jpg": JpegImagePlugin.JpegImageFile,
    ".jpeg": JpegImagePlugin.JpegImageFile,
    ".bmp": BmpImagePlugin.BmpImageFile,
}
_PALETTES = ("P", "PALETTE")

logging.getLogger("tifffile").addHandler(logging.NullHandler())


class Container(NamedTuple):
    """Colour mode in the words of its format (empty where unknown), and what the reader takes away."""

    mode: str = ""
    alpha: bool = False
    rotated: bool = False
    lossy: bool = False

    @property
    def palette(self) -> bool:
        """Colours by number."""
        return self.mode in _PALETTES


def look(path: Path) -> Container:
    """What a PNG, JPEG, BMP or TIFF file says in its header; nothing for other files, and for broken ones."""
    try:
        if path.suffix.lower() in _RASTER:
            return _raster(path)
        if path.suffix.lower() in (".tif", ".tiff"):
            return _tiff(path)
    # A broken file is told of when its pixels are read.
    except Exception:
        return Container()
    return Container()


def _raster(path: Path) -> Container:
    with path.open("rb") as stream, _RASTER[path.suffix.lower()](stream, str(path)) as image:
        alpha = image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info
        # The base class, because PngImageFile.getexif decodes the pixels first.
        turned = Image.Image.getexif(image).get(ORIENTATION, 1) in range(2, 9)
        return Container(image.mode, alpha, turned, image.format == "JPEG")


def _tiff(path: Path) -> Container:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        mode = getattr(page.photometric, "name", str(page.photometric))
        return Container(mode, bool(page.extrasamples), page.tags.valueof(ORIENTATION, 1) in range(2, 9))
