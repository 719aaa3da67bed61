"""COVID-QU-Ex: chest X-rays in three classes with masks of the lungs, and for a part of infected regions.

    SOURCE/Lung Segmentation Data/{Train,Val,Test}/{COVID-19,Non-COVID,Normal}/{images,lung masks}/*.png
    SOURCE/Infection Segmentation Data/{Train,Val,Test}/{...}/{images,lung masks,infection masks}/*.png

256x256, 8 bits; an image and its masks have one name. The folder of a part may lie inside another of the
same name. Masks are 0 and 255; resized ones have values between, to be cut at 128. Patients are not known.
"""

from __future__ import annotations

import enum
import warnings
from pathlib import Path

from medgen_jax.core.errors import UserError
from medgen_jax.data.layouts import Files, list_images, split_folder
from medgen_jax.data.listing import Listing
from medgen_jax.data.splits import SPLITS

CLASSES = ("COVID-19", "Non-COVID", "Normal")


class Part(enum.Enum):
    """Which part of the set: all images with lung masks, or those with infection masks too."""

    LUNG = "lung"
    INFECTION = "infection"


_FOLDERS = {Part.LUNG: "Lung Segmentation Data", Part.INFECTION: "Infection Segmentation Data"}
_LUNG_COLUMNS = {"image": "images", "lung_mask": "lung masks"}
_COLUMNS = {Part.LUNG: _LUNG_COLUMNS, Part.INFECTION: {**_LUNG_COLUMNS, "infection_mask": "infection masks"}}


def open_source(source: Path, *, part: Part = Part.LUNG, masks: bool = True) -> dict[str, Listing]:
    """The set's own splits; columns ``image``, ``lung_mask`` and for part=infection ``infection_mask``; ``label``.

    Args:
      source: as the module shows it, or the folder of the part itself.
      part: lung is the whole set, infection the images whose infected regions are outlined (empty
        masks for Non-COVID and Normal).
      masks: false leaves the masks out.

    Raises:
      UserError: for missing folders, and images without a mask or the reverse (with their number).
    """
    root = _root(source, part)
    warnings.warn(f"{source}: names no patients; the set's own splits may share some", stacklevel=2)
    columns = _COLUMNS[part] if masks else {"image": "images"}
    splits = [split for split in SPLITS if split_folder(root, split).is_dir()]
    return {split: _split(split_folder(root, split), columns, source) for split in splits}


def _root(source: Path, part: Part) -> Path:
    """The folder of the splits."""
    name = _FOLDERS[part]
    for folder in (source / name / name, source / name, source):
        if split_folder(folder, "train").is_dir():
            return folder
    raise UserError(f"{source}: holds no {name}/Train; give the folder that was unpacked")


def _split(folder: Path, columns: dict[str, str], source: Path) -> Listing:
    files: dict[str, list[Path]] = {column: [] for column in columns}
    labels, ids = [], []
    for label, name in enumerate(CLASSES):
        named = {column: _images(folder / name / inner, source) for column, inner in columns.items()}
        _match(folder / name, named, columns)
        stems = sorted(named["image"])
        for column, own in named.items():
            files[column] += [own[stem] for stem in stems]
        labels += [label] * len(stems)
        ids += [f"{name}/{stem}" for stem in stems]
    return Listing(
        {column: tuple(own) for column, own in files.items()},
        {"label": tuple(labels)},
        {"label": CLASSES},
        tuple(ids),
        grey=tuple(columns),
    )


def _images(folder: Path, source: Path) -> Files:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; every class has images and masks in every split")
    return list_images(folder, source)


def _match(folder: Path, named: dict[str, Files], columns: dict[str, str]) -> None:
    for column, files in named.items():
        if lonely := sorted(set(files) ^ set(named["image"])):
            where = columns["image"] if lonely[0] in named["image"] else columns[column]
            raise UserError(
                f"{folder}: {len(named['image'])} images and {len(files)} {columns[column]}, {len(lonely)} without a "
                f"partner of the same name (first: {lonely[0]} in {where}); add the missing ones, or remove these"
            )
