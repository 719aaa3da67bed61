"""The microscope as one frozen description in SI units, and what follows from it.

An `Optics` holds no arrays: it is hashable, equal by content, and travels as a static argument. What a
configuration file says is `Optics.from_mapping`; where frames come from and how many there are is not its business.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import mapping as mappings
from medgen_jax.fpm import sampling
from medgen_jax.fpm.leds import LAYOUTS, Board, Centres, Slab, direction_cosines, placement_fields
from medgen_jax.fpm.units import check_length, check_number, check_signed_length


@dataclass(frozen=True)
class Optics:
    """A Fourier ptychographic microscope looking at one tile of its field, in one colour.

    Attributes:
      wavelength: in vacuum, m.
      na: numerical aperture of the objective.
      magnification: from object to camera.
      camera_pixel: side of a pixel on the camera, m.
      leds: in the order of the frames.
      upsampling: pixels of the object per pixel of a frame, along each axis. None: as many as it takes.
      defocus: known z of `medgen_jax.ops.pupil.pupil`, m.
      index: refractive index around the object; counts for defocus only.
      tile: (x, y) of the tile's middle from the optical axis, m in the object.
      glass: between LEDs and object.
    """

    wavelength: float
    na: float
    magnification: float
    camera_pixel: float
    leds: Board | Centres
    upsampling: int | None = None
    defocus: float = 0.0
    index: float = 1.0
    tile: tuple[float, float] = (0.0, 0.0)
    glass: Slab | None = None

    def __post_init__(self) -> None:
        check_length("optics.wavelength", self.wavelength, 1e-7, 2e-5)
        check_length("optics.camera_pixel", self.camera_pixel, 2e-7, 1e-3)
        check_number("optics.magnification", self.magnification, 0.01, 1000)
        check_number("optics.index", self.index, 1, 3)
        check_number("optics.na", self.na, 1e-4, self.index, "the aperture cannot exceed the refractive index")
        check_signed_length("optics.defocus", self.defocus, 1e-2)
        if self.upsampling is not None:
            check_number("optics.upsampling", self.upsampling, 1, 64)
        for value in self.tile:
            check_signed_length("optics.tile", value, 0.1)
        if isinstance(self.leds, Centres) and (self.glass is not None or any(self.tile)):
            raise UserError("optics.leds: measured centres hold for one tile as it is; leave out tile and glass")
        steepest = float(np.hypot(*self.sines.T).max())
        if not steepest < 1:
            raise UserError(
                f"optics.leds.cells: the farthest centre would be light of NA {steepest:.3g}, above 1 (air)"
            )

    @property
    def pixel(self) -> float:
        """Side of a camera pixel in the object, m."""
        return self.camera_pixel / self.magnification

    @functools.cached_property
    def sines(self) -> np.ndarray:
        """(n, 2) float64: x and y of each LED's direction from the tile; windows are centred at sine / wavelength."""
        if isinstance(self.leds, Centres):
            cell = self.wavelength * self.df(self.leds.size)
            return _fixed((np.array(self.leds.cells, np.float64) + self.leds.shift) * cell)
        return _fixed(direction_cosines(self.leds.positions(), self.tile, self.glass))

    @property
    def count(self) -> int:
        """Number of LEDs."""
        return len(self.sines)

    @property
    def synthetic_na(self) -> float:
        """Aperture of the union of all pupils."""
        return sampling.synthetic_na(self.na, self.sines)

    @property
    def upsampling_required(self) -> int:
        """Least whole factor between frame and object that carries the synthetic aperture."""
        return sampling.required_upsampling(self.pixel, self.wavelength, self.synthetic_na)

    @property
    def factor(self) -> int:
        """The factor in use: ``upsampling``, or what is required."""
        return self.upsampling or self.upsampling_required

    @property
    def overlap(self) -> float:
        """Shared area of neighbouring pupils near the axis, 0 to 1."""
        return sampling.neighbour_overlap(self.na, self.sines)

    @property
    def bright_field(self) -> np.ndarray:
        """(n,) bool: the LEDs whose light reaches the camera without an object."""
        return np.hypot(*self.sines.T) <= self.na

    def df(self, size: int) -> float:
        """Side of a cell of the spectrum of tiles of ``size`` pixels, 1 / m."""
        return 1 / (size * self.pixel)

    def radius(self, size: int) -> float:
        """Radius of the pupil in cells."""
        return self.na / self.wavelength / self.df(size)

    def centres(self, size: int) -> np.ndarray:
        """(n, 2) float64: x and y of the middle of each LED's window, cells from frequency 0, fractions included."""
        return self.sines / self.wavelength / self.df(size)

    def at_pixel(self, x: float, y: float, frame: tuple[int, int]) -> Optics:
        """The same microscope looking at another tile of its field.

        Args:
          x, y: column and row of the tile's middle in a frame; the middle of pixel 0 is 0.
          frame: height and width of the whole frame, whose middle lies on the optical axis.
        """
        height, width = frame
        return dataclasses.replace(self, tile=((x - (width - 1) / 2) * self.pixel, (y - (height - 1) / 2) * self.pixel))

    def check_frames(self, frames: int) -> None:
        """Refuse a stack that cannot belong to these LEDs.

        Raises:
          UserError: with both numbers.
        """
        if frames != self.count:
            what = "are no frames" if not frames else f"are {frames} frames"
            raise UserError(
                f"there {what}, but optics.leds describe {self.count} LEDs: one frame per LED, in their order"
            )

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Optics:
        """Read what a configuration file holds.

        The fields of `Optics`, with ``leds`` a mapping of: ``layout`` (grid, rings, dome, points or centres), the
        fields of that layout, and, but for centres, those of `Board`; ``glass`` a mapping of `Slab`.

        Raises:
          UserError: a field that is unknown, missing, mistyped or out of range, by name.
        """
        mappings.check_table(mapping, "optics")
        if "leds" not in mapping:
            raise UserError("optics: field 'leds' is missing; its layout is one of " + ", ".join([*LAYOUTS, "centres"]))
        return mappings.read(cls, {**mapping, "leds": _leds(mapping["leds"])}, "optics")

    def to_mapping(self) -> dict[str, Any]:
        """Plain numbers, text, lists and mappings, from which `from_mapping` makes an equal `Optics`."""
        leds = mappings.write(self.leds)
        if isinstance(self.leds, Centres):
            leds = {"layout": "centres", **leds}
        else:
            name = next(name for name, layout in LAYOUTS.items() if isinstance(self.leds.layout, layout))
            leds = {"layout": name, **leds.pop("layout"), **leds}
        return {**mappings.write(self), "leds": leds}


def _leds(mapping: Any) -> Board | Centres:
    where = "optics.leds"
    if isinstance(mapping, Board | Centres):
        return mapping
    mappings.check_table(mapping, where)
    known = [*LAYOUTS, "centres"]
    if mapping.get("layout") not in known:
        raise UserError(f"{where}.layout = {mapping.get('layout')!r}: expected one of {', '.join(known)}")
    rest = {name: value for name, value in mapping.items() if name != "layout"}
    if mapping["layout"] == "centres":
        return mappings.read(Centres, rest, where)
    layout, place = LAYOUTS[mapping["layout"]], placement_fields()
    mappings.check_known(rest, [f.name for f in dataclasses.fields(layout)] + list(place), where)
    own = mappings.read(layout, {name: value for name, value in rest.items() if name not in place}, where)
    return mappings.read(Board, {**{k: v for k, v in rest.items() if k in place}, "layout": own}, where)


def _fixed(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
