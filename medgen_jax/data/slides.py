"""Opening whole slides: by OpenSlide what scanners write, by tifffile and Pillow what is plain tiled TIFF."""

from __future__ import annotations

from pathlib import Path

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats import slide_scanner
from medgen_jax.data.formats.slide import Size, Slide, naming, overview
from medgen_jax.data.formats.slide_tiff import TiffSlide, is_too_large

__all__ = ["SUFFIXES", "Size", "Slide", "is_slide", "open_slide", "overview"]

#: Formats of scanners. Other TIFF files are slides when they are too large to be anything else.
SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".bif")
_TIFF = (".tif", ".tiff")


def is_slide(path: Path) -> bool:
    """Whether a file must be read in regions: a scanner's format, or tiled RGB TIFF too large to be decoded whole.

    Cheap: by the suffix, and for TIFF by its directories.
    """
    suffix = path.suffix.lower()
    return path.is_file() and (suffix in SUFFIXES or (suffix in _TIFF and is_too_large(path)))


def open_slide(path: Path) -> Slide:
    """Open a slide; of its pixels nothing is read yet.

    Raises:
      UserError: for a missing, damaged or unsupported file, or one that needs the extra ``wsi``.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if not slide_scanner.available():
        if path.suffix.lower() not in (*_TIFF, ".svs"):
            raise UserError(f"{path}: slides of this format need OpenSlide; {slide_scanner.INSTALL}")
        return TiffSlide(path)
    with naming(path):
        # Plain TIFF is better read here: OpenSlide sees no levels that are sub-directories, and no wrong pixel type.
        if slide_scanner.vendor(path) in (None, "generic-tiff"):
            return TiffSlide(path)
        return slide_scanner.ScannerSlide(path)
