"""DICOM: one frame of an image as levels (PS3.3, PS3.5).

Grey images pass through modality transformation, window and, for MONOCHROME1, inversion, by a table of
all stored values; padding becomes black. Palette and YBR colours become RGB. The data set is read up to
its pixels, without values that are not used here; deflated ones are inflated only as far as needed.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats import budget, dicom_frames
from medgen_jax.data.formats.dicom_frames import Frame, Layout, PixelData
from medgen_jax.data.formats.dicom_grey import grey, lut
from medgen_jax.data.formats.samples import Described, ImageHeader, Range, Source, View, plan, quantise, to_levels

_READ = (
    "SOPClassUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept",
    "RescaleType", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_TAGS: list[BaseTag | int] = [Tag(tag_for_keyword(name)) for name in _READ]
_PIXELS = {0x7FE00008: "float", 0x7FE00009: "float", 0x7FE00010: "integer"}
#: What may stand before the pixels of a deflated data set.
_HEADER_BYTES = 1 << 24
_ROWS = 256  # looked up at a time
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


class Opened(NamedTuple):
    """A data set up to its pixels, and where those are."""

    data: Dataset
    pixels: PixelData
    floating: bool


def describe(source: Source, view: View) -> Described:
    """Size, type and range from the header."""
    with open_dataset(source) as opened:
        layout = _layout(source, opened)
        number = source.number(layout.frames, "frame")
        whole = opened.pixels.syntax == DeflatedExplicitVRLittleEndian
        held = layout.frame_bits // 8 * (layout.frames if whole else 1)
        size = (layout.rows, layout.columns)
        if layout.photometric in _GREY and layout.allocated > 1:
            found = grey(source, opened.data, number, layout, opened.pixels.little, view)
            span = found.span if layout.photometric == "MONOCHROME2" else _inverted(found.span)
            return Described(ImageHeader(*size, 1, found.bits), span, held)
        if layout.photometric in _GREY:
            bits, span = plan(source, np.dtype(np.uint8), view)
            span = span if layout.photometric == "MONOCHROME2" else _inverted(span)
            return Described(ImageHeader(*size, 1, bits), span, held)
        bits, span = _colour_plan(source, opened, layout, view)
        return Described(ImageHeader(*size, 3, bits), span, held)


def decode(source: Source, view: View) -> np.ndarray:
    """Levels, HWC."""
    with open_dataset(source) as opened:
        layout = _layout(source, opened)
        number = source.number(layout.frames, "frame")
        pixels = _inflated(source, opened, layout)
        frame = dicom_frames.read(source, pixels, layout, number)
        if layout.photometric in _GREY and layout.allocated > 1:
            return _grey_levels(source, opened, layout, number, frame, view)
        if layout.photometric in _GREY:
            white = frame.samples if layout.photometric == "MONOCHROME2" else 1 - frame.samples
            bits, span = plan(source, np.dtype(np.uint8), view)
            return to_levels(source, (white * 255).astype(np.uint8), bits, span)
        bits, span = _colour_plan(source, opened, layout, view)
        colours = frame.samples
        if layout.photometric == "PALETTE COLOR":
            tables = _palette(opened, layout)
            colours = np.concatenate([table(frame.samples) for table in tables], axis=-1)
            colours = colours.astype(np.uint8) if max(table.bits for table in tables) <= 8 else colours
        return to_levels(source, colours, bits, span)


# ---- the data set --------------------------------------------------------------------------------


@contextlib.contextmanager
def open_dataset(source: Source, tags: list[BaseTag | int] = _TAGS) -> Iterator[Opened]:
    """Read a file up to its pixel data.

    Raises:
      UserError: for a file without pixels.
      ValueError: for a damaged one.
    """
    size = source.path.stat().st_size

    def claims(tag: BaseTag, vr: str | None, length: int) -> bool:
        if length != 0xFFFFFFFF and length > size and tag not in _PIXELS:
            raise ValueError(f"element {tag} claims {length:,} bytes, more than there are")
        return tag in _PIXELS

    with source.path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            raise ValueError("it lacks the preamble of DICOM")
        meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        syntax = UID(str(meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian))
        body: Any = stream
        if syntax == DeflatedExplicitVRLittleEndian:
            body, size = io.BytesIO(budget.inflate(stream.read(), _HEADER_BYTES, -zlib.MAX_WBITS)), _HEADER_BYTES
        elif syntax.is_private or not syntax.is_transfer_syntax:
            raise ValueError(f"its transfer syntax {syntax.name} is unknown")
        little = syntax.is_little_endian
        data = read_dataset(body, syntax.is_implicit_VR, little, stop_when=claims, specific_tags=tags)
        # What was found, which some writers state wrongly.
        tag, kind, length = _pixel_element(source, body, bool(data.original_encoding[0]), little)
        length = None if length == 0xFFFFFFFF else length
        pixels = PixelData(body, body.tell(), length, kind != b"OB", little, syntax)
        yield Opened(data, pixels, _PIXELS[tag] == "float")


def _pixel_element(source: Source, body: Any, implicit: bool, little: bool) -> tuple[int, bytes, int]:
    """Tag, VR and length of the element whose value is read next."""
    order, start = "<" if little else ">", body.read(8 if implicit else 12)
    if len(start) < 8:
        raise UserError(f"{source}: holds no pixel data; replace or remove it")
    group, element = struct.unpack_from(order + "HH", start)
    length = struct.unpack_from(order + "I", start, 4 if implicit else 8)[0]
    return group << 16 | element, b"OW" if implicit else start[4:6], length


def _inflated(source: Source, opened: Opened, layout: Layout) -> PixelData:
    """Pixel data of a deflated data set: inflated to the end of what the header promises."""
    pixels = opened.pixels
    if pixels.syntax != DeflatedExplicitVRLittleEndian:
        return pixels
    wanted = pixels.offset + (layout.frame_bits * layout.frames + 7) // 8
    with source.path.open("rb") as stream:
        stream.seek(132)
        read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        return pixels._replace(stream=io.BytesIO(budget.inflate(stream.read(), wanted, -zlib.MAX_WBITS)))


def _layout(source: Source, opened: Opened) -> Layout:
    """The Image Pixel module, checked."""
    data = opened.data

    def number(name: str, default: int | None = None) -> int:
        value = data.get(name, default)
        if value is None or value == "":
            if default is None:
                raise UserError(f"{source}: has no {name}; it holds no image that can be read")
            return default
        return int(value)

    allocated, samples = number("BitsAllocated"), number("SamplesPerPixel", 1)
    stored = number("BitsStored", allocated)
    high = number("HighBit", stored - 1)
    photometric = str(data.get("PhotometricInterpretation") or "MONOCHROME2").strip().upper()
    layout = Layout(
        rows=number("Rows"),
        columns=number("Columns"),
        samples=samples,
        allocated=allocated,
        stored=stored,
        high=high,
        signed=bool(number("PixelRepresentation", 0)) and not opened.floating,
        photometric=photometric,
        by_plane=samples > 1 and number("PlanarConfiguration", 0) == 1,
        frames=max(1, number("NumberOfFrames", 1)),
        floating=opened.floating,
    )
    if photometric not in (*_GREY, *_COLOURS, "PALETTE COLOR"):
        raise UserError(f"{source}: has the colour model {photometric}, which is not read; convert it to RGB")
    if samples != (3 if photometric in _COLOURS else 1):
        raise ValueError(f"{photometric} with {samples} samples per pixel")
    widths = (32, 64) if opened.floating else (1, 8, 16, 32)
    if allocated not in widths or not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise ValueError(f"{stored} bits stored in {allocated}, highest bit {high}")
    if photometric not in _GREY and (allocated not in (8, 16) or layout.signed):
        raise UserError(f"{source}: has {photometric} samples of {allocated} bits; convert it to 8 or 16 bits")
    return layout


# ---- grey ----------------------------------------------------------------------------------------


def _inverted(span: Range) -> Range:
    return Range(span.high, span.low, span.unit)


def _grey_levels(source: Source, opened: Opened, layout: Layout, number: int, frame: Frame, view: View) -> np.ndarray:
    found = grey(source, opened.data, number, layout, opened.pixels.little, view)
    span = found.span if layout.photometric == "MONOCHROME2" else _inverted(found.span)

    def levels(stored: np.ndarray) -> np.ndarray:
        return quantise(found.values(stored), span.low, span.high, found.bits, view.nan)

    try:
        if layout.floating or layout.stored > 16:
            image = levels(frame.samples)
        else:
            least, greatest = layout.limits
            table = levels(np.arange(least, greatest + 1))
            image = np.empty(frame.samples.shape, table.dtype)
            for rows in range(0, layout.rows, _ROWS):
                image[rows : rows + _ROWS] = table[frame.samples[rows : rows + _ROWS].astype(np.intp) - least]
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    image[_padding(opened.data, layout, frame.raw)] = 0
    return image


def _padding(data: Dataset, layout: Layout, raw: np.ndarray) -> np.ndarray:
    """Where pixels are padding (C.7.5.1.1.2): one value, or all between it and the range limit."""
    ends = [data.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] in (None, "") or layout.floating:
        return np.zeros(raw.shape, bool)
    # Either sign may have been written, whatever the samples have.
    first, last = (
        int(np.array(int(ends[0] if end in (None, "") else end) & (1 << layout.allocated) - 1).astype(layout.dtype))
        for end in ends
    )
    return (raw >= min(first, last)) & (raw <= max(first, last))


# ---- colour --------------------------------------------------------------------------------------


def _colour_plan(source: Source, opened: Opened, layout: Layout, view: View) -> tuple[int, Range]:
    """Bits and range of RGB levels; bits that are stored but not used are scaled up."""
    depth = layout.stored
    if layout.photometric == "PALETTE COLOR":
        depth = 8 if max(table.bits for table in _palette(opened, layout)) <= 8 else 16
    bits, span = plan(source, np.dtype(np.uint8 if depth <= 8 else np.uint16), view)
    if view.range is None and depth not in (8, 16):
        span = Range(0, (1 << depth) - 1)
    return bits, span


def _palette(opened: Opened, layout: Layout) -> list[Any]:
    """Tables of red, green and blue (C.7.6.3.1.5, C.7.6.3.1.6)."""
    tables = []
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        if f"{name}Descriptor" not in opened.data or f"{name}Data" not in opened.data:
            raise ValueError("it has no palette, or one in segments")
        descriptor, data = opened.data[f"{name}Descriptor"].value, opened.data[f"{name}Data"].value
        tables.append(lut(descriptor, data, opened.pixels.little, layout.signed))
    return tables
