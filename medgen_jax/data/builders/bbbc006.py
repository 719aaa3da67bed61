"""BBBC006v1: z stacks of stained U2OS cells as pairs, out of focus (a) and in focus (b); 696x520 pixels of 16 bits.

    SOURCE/BBBC006_v1_images_z_<00..33>/mcf-z-stacks-03212011_<a01..p24>_s<1|2>_w<1|2><uuid>.tif

One folder per plane, 2 um apart; plane 16 is in focus. Well, site and channel tell the field, of
which 768 were taken (384 wells, two sites); the last part of a name differs from plane to plane.
Broad Bioimage Benchmark Collection (Ljosa et al., Nature Methods 2012), bbbc.broadinstitute.org/BBBC006.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from medgen_jax.core.errors import UserError
from medgen_jax.data.builders.metadata import deal
from medgen_jax.data.layouts import list_images
from medgen_jax.data.listing import Listing

#: Distance between neighbouring planes, micrometres.
STEP_UM = 2.0

_PLANE = re.compile(r"BBBC006_v1_images_z_(\d\d)")
_NAME = re.compile(r"mcf-z-stacks-03212011_([a-p]\d\d)_s([12])_w([12])[0-9a-f-]*", re.IGNORECASE)
_TREE = "BBBC006_v1_images_z_<00..33>/mcf-z-stacks-03212011_<well>_s<site>_w<channel><uuid>.tif"
_NAMED = 5  # missing images told one by one


class Field(NamedTuple):
    """What a camera looked at: a site of a well."""

    well: str
    site: int


Planes = dict[int, dict[Field, Path]]  # plane -> images of one channel


def open_source(
    source: Path,
    *,
    channel: int = 1,
    in_focus: int = 16,
    planes: tuple[int, ...] = (),
    skip_missing: bool = False,
    val_share: float = 0.1,
    test_share: float = 0.1,
    split_seed: int = 0,
) -> dict[str, Listing]:
    """Splits by well; columns ``a`` (out of focus) and ``b`` (the same field in focus), value ``z_offset_um``.

    A field gives one record for each of its planes out of focus. The offset is that of ``a`` above
    (positive: a later plane) the plane in focus.

    Args:
      source: as the module shows it; a folder of a plane may lie inside another of the same name.
      channel: 1 (Hoechst, the nuclei) or 2 (phalloidin, the actin).
      in_focus: number of the plane that counts as sharp.
      planes: numbers of the planes out of focus; all others that are there when none is given.
      skip_missing: leave out, and count, fields that lack some plane.
      val_share: share of the wells in ``val``; 0 leaves it out.
      test_share: share of the wells in ``test``; 0 leaves it out.
      split_seed: another one deals the wells anew.

    Raises:
      UserError: for planes that are not there, files that are not named as above or twice the same
        field, images that some planes lack (with their number and the first names), or a split
        without a well.
    """
    if channel not in (1, 2):
        raise UserError(f"--set channel={channel}: must be 1 (Hoechst) or 2 (phalloidin)")
    found = _planes(Path(source), in_focus, planes, channel)
    _check_missing(found, in_focus, skip_missing)
    pairs = [
        (field, plane)
        for plane in sorted(found)
        for field in sorted(found[plane])
        if plane != in_focus and field in found[in_focus]
    ]
    if not pairs:
        raise UserError(f"{source}: no field of channel {channel} is there both in plane {in_focus} and out of focus")
    records = Listing(
        {
            "a": tuple(found[plane][field] for field, plane in pairs),
            "b": tuple(found[in_focus][field] for field, _ in pairs),
        },
        values={"z_offset_um": tuple(STEP_UM * (plane - in_focus) for _, plane in pairs)},
        ids=tuple(f"{field.well}_s{field.site}_w{channel}_z{plane:02d}" for field, plane in pairs),
        groups=tuple(field.well for field, _ in pairs),
    )
    return deal(records, val_share, test_share, split_seed)


def _planes(source: Path, in_focus: int, wanted: Collection[int], channel: int) -> Planes:
    """The images of each plane asked for, the one in focus among them."""
    folders = _plane_folders(source)
    if not folders:
        raise UserError(f"{source}: holds no folders of planes; expected {_TREE}")
    asked = sorted({in_focus, *(wanted or folders)})
    if absent := [plane for plane in asked if plane not in folders]:
        raise UserError(
            f"{source}: holds no plane {', '.join(f'{plane:02d}' for plane in absent)}, "
            f"only {', '.join(f'{plane:02d}' for plane in sorted(folders))}; unpack it, or change in_focus or planes"
        )
    if asked == [in_focus]:
        raise UserError(
            f"{source}: nothing is out of focus if only plane {in_focus} is taken; name others, as --set planes=10,12"
        )
    return {plane: _fields(folders[plane], source, channel) for plane in asked}


def _plane_folders(source: Path) -> dict[int, Path]:
    found = {}
    for folder in source.iterdir() if source.is_dir() else ():
        if (match := _PLANE.fullmatch(folder.name)) and folder.is_dir():
            inner = folder / folder.name  # unpacked into a folder of its own name
            found[int(match[1])] = inner if inner.is_dir() else folder
    return found


def _fields(folder: Path, root: Path, channel: int) -> dict[Field, Path]:
    found: dict[Field, Path] = {}
    for name, file in list_images(folder, root).items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise UserError(f"{file}: is not named as BBBC006 names its images; expected {_TREE}")
        if int(match[3]) != channel:
            continue
        field = Field(match[1].lower(), int(match[2]))
        if field in found:
            raise UserError(f"{file}: {found[field].name} shows the same field; keep one of the two")
        found[field] = file
    return found


def _check_missing(planes: Planes, in_focus: int, skip: bool) -> None:
    """Refuse, or tell, which fields lack which planes.

    Raises:
      UserError: with the number of missing images and the first of them, unless they are to be skipped.
    """
    fields = sorted(set().union(*planes.values()))
    missing = [(plane, field) for plane in sorted(planes) for field in fields if field not in planes[plane]]
    if not missing:
        return
    first = ", ".join(f"z_{plane:02d} {field.well} s{field.site}" for plane, field in missing[:_NAMED])
    blind = len(set(fields) - set(planes[in_focus]))
    told = f"{len(missing)} images of {len(fields)} fields are missing (first: {first})"
    if not skip:
        raise UserError(f"{told}; unpack these planes again, or go without them with --set skip_missing=true")
    warnings.warn(f"{told} and left out; fields without an image in focus: {blind}", stacklevel=3)
