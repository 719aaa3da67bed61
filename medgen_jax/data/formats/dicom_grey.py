"""From stored DICOM values to grey: modality and value-of-interest transformations (PS3.3, C.11.1, C.11.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats.dicom_frames import Layout
from medgen_jax.data.formats.samples import Range, Source, View

#: What RescaleType says of values without a unit.
_UNSPECIFIED = "US"


class Lut(NamedTuple):
    """A look-up table: stored value ``first`` gives ``values[0]``; beyond the ends, the end values."""

    first: int
    values: np.ndarray
    bits: int

    def __call__(self, stored: np.ndarray) -> np.ndarray:
        """Look values up."""
        places = np.clip(np.asarray(stored, np.int64) - self.first, 0, len(self.values) - 1)
        return self.values[places]


class Grey(NamedTuple):
    """``values(stored)`` lie in ``span``, whose low end is black; ``bits`` of the levels."""

    values: Callable[[np.ndarray], np.ndarray]
    span: Range
    bits: int


def lut(descriptor: Any, data: Any, little: bool, signed: bool) -> Lut:
    """A table from LUT Descriptor (entries, first value, bits) and LUT Data (C.11.1.1).

    Args:
      descriptor: three integers; 0 entries stand for 65536.
      data: bytes, or one or more integers.
      little: byte order of ``data`` when these are bytes.
      signed: whether the input values are, so that ``first`` may be negative.

    Raises:
      ValueError: for data of another length.
    """
    entries, first, bits = (int(n) for n in descriptor)
    entries, first = entries or 1 << 16, (first & 0xFFFF)
    first -= (first & 0x8000) << 1 if signed else 0
    if isinstance(data, (bytes, bytearray)):
        wide = len(data) >= 2 * entries
        dtype = np.dtype(np.uint16).newbyteorder("<" if little else ">") if wide else np.dtype(np.uint8)
        values = np.frombuffer(data, dtype)
    else:
        values = np.asarray([data] if isinstance(data, int) else data).astype(np.uint16)
        if len(values) < entries <= 2 * len(values):  # two entries of eight bits in a word
            values = values.astype("<u2").view(np.uint8)
    if not 1 <= bits <= 16 or not 0 <= len(values) - entries <= 1:
        raise ValueError(f"a look-up table of {entries} entries of {bits} bits has {len(values)} entries")
    return Lut(first, values[:entries].astype(np.uint16), bits)


def grey(source: Source, data: Any, frame: int, layout: Layout, little: bool, view: View) -> Grey:
    """The transformation that a view asks for.

    Args:
      data: pydicom data set without pixels.
      frame: which one, for files whose frames differ in scale.

    Raises:
      UserError: for impossible scales, and where a view does not fit the file.
    """
    modality, span, bits = _modality(source, data, frame, layout, little)
    bits = view.bits or bits
    found = Grey(modality, Range(*span), bits)
    if view.range is not None:
        return found._replace(span=view.range)
    if isinstance(view.window, tuple):
        return found._replace(span=_linear(*view.window, span[2]))
    voi = _functional(data, frame, "FrameVOILUTSequence")
    if view.window == "file" and "VOILUTSequence" in voi:
        item = voi.VOILUTSequence[0]
        table = lut(item.LUTDescriptor, item.LUTData, little, span[0] < 0)
        depth = view.bits or (16 if table.bits > 8 else bits)
        return Grey(lambda stored: table(np.rint(modality(stored))), Range(0, (1 << table.bits) - 1, "display"), depth)
    if view.window == "file" and _present(voi, "WindowCenter") and _present(voi, "WindowWidth"):
        return _windowed(source, voi, found)
    if layout.floating or layout.stored > 16:
        raise UserError(
            f"{source}: has samples of {layout.stored} bits and no window; set config.data.range_low and "
            "config.data.range_high to the values that shall be black and white"
        )
    return found


def _modality(
    source: Source, data: Any, frame: int, layout: Layout, little: bool
) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[float, float, str], int]:
    """Stored values -> physical values, their full range, and bits that hold them."""
    low, high = (0, 0) if layout.floating else layout.limits
    bits = 8 if layout.stored <= 8 else 16
    if "ModalityLUTSequence" in data:
        item = data.ModalityLUTSequence[0]
        table = lut(item.LUTDescriptor, item.LUTData, little, layout.signed)
        span = (0.0, float((1 << table.bits) - 1), str(item.get("ModalityLUTType") or ""))
        return table, span, 16 if table.bits > 8 else bits
    scale = _functional(data, frame, "PixelValueTransformationSequence")
    slope, intercept = _number(scale, "RescaleSlope", 1), _number(scale, "RescaleIntercept", 0)
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise UserError(f"{source}: has the RescaleSlope {slope} and RescaleIntercept {intercept}; mend its header")
    ends = sorted((slope * low + intercept, slope * high + intercept))
    unit = str(scale.get("RescaleType") or "")
    return lambda stored: stored * slope + intercept, (*ends, "" if unit == _UNSPECIFIED else unit), bits


def _windowed(source: Source, voi: Any, found: Grey) -> Grey:
    centre, width = _number(voi, "WindowCenter", 0), _number(voi, "WindowWidth", 0)
    function = str(voi.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise UserError(f"{source}: has the VOI LUT function {function!r}, which is unknown; choose a window")
    if not np.isfinite([centre, width]).all() or width < (1 if function == "LINEAR" else 1e-30):
        raise UserError(f'{source}: has a window of width {width}; mend its header, or view it with window="full"')
    modality, unit = found.values, found.span.unit
    if function == "SIGMOID":  # equation C.11-3
        return found._replace(
            values=lambda stored: 1 / (1 + np.exp(np.clip(-4 * (modality(stored) - centre) / width, -700, 700))),
            span=Range(0, 1, "display"),
        )
    if function == "LINEAR_EXACT":  # equation C.11-4
        return found._replace(span=Range(centre - width / 2, centre + width / 2, unit))
    if width == 1:  # a threshold has no inverse
        return found._replace(values=lambda stored: modality(stored) > centre - 0.5, span=Range(0, 1, "display"))
    return found._replace(span=_linear(centre, width, unit))


def _linear(centre: float, width: float, unit: str) -> Range:
    """Values that the window shows as black and white (C.11.2.1.2.1): ``width`` counts both ends."""
    half = max(width - 1, 1e-9) / 2
    return Range(centre - 0.5 - half, centre - 0.5 + half, unit)


def _functional(data: Any, frame: int, group: str) -> Any:
    """The item that holds a module's attributes: per frame, shared, or the data set itself (C.7.6.16)."""
    for where, number in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = data.get(where) or ()
        found = items[number].get(group) if number < len(items) else None
        if found:
            return found[0]
    return data


def _present(item: Any, name: str) -> bool:
    return item.get(name) not in (None, "")


def _number(item: Any, name: str, default: float) -> float:
    """A decimal attribute, the first value of several."""
    value = item.get(name)
    if value is None or value == "":
        return default
    return float(value if isinstance(value, (int, float, str)) else value[0])
