"""NCT-CRC-HE-100K and CRC-VAL-HE-7K: tiles of nine tissues of colorectal cancer, H&E, 224x224, 0.5 um per pixel.

    SOURCE/NCT-CRC-HE-100K/{ADI,...,TUM}/*.tif          100,000 tiles of 86 slides, their colours normalised
    SOURCE/NCT-CRC-HE-100K-NONORM/{ADI,...,TUM}/*.tif   as many of the same slides, as scanned
    SOURCE/CRC-VAL-HE-7K/{ADI,...,TUM}/*.tif            7,180 tiles of 50 other patients

Kather, Halama and Marx 2018, doi 10.5281/zenodo.1214456, CC BY 4.0. One of these folders alone may be
the source as well. Stain normalisation is trained on tiles as scanned.
"""

from __future__ import annotations

import enum
import warnings
from pathlib import Path

from medgen_jax.core.errors import UserError
from medgen_jax.data.builders.metadata import deal
from medgen_jax.data.layouts import list_images
from medgen_jax.data.listing import Listing

#: Folder of a class -> the tissue it holds. Labels are places in this order.
CLASSES = {
    "ADI": "adipose tissue",
    "BACK": "background",
    "DEB": "debris",
    "LYM": "lymphocytes",
    "MUC": "mucus",
    "MUS": "smooth muscle",
    "NORM": "normal colon mucosa",
    "STR": "cancer-associated stroma",
    "TUM": "colorectal adenocarcinoma epithelium",
}


class Colours(enum.Enum):
    """Which tiles are trained on: those of the one folder that is there, or of the one named."""

    AUTO = "auto"
    NORMALISED = "normalised"
    SCANNED = "scanned"


_TRAIN = {Colours.NORMALISED: "NCT-CRC-HE-100K", Colours.SCANNED: "NCT-CRC-HE-100K-NONORM"}
_TEST = "CRC-VAL-HE-7K"
_TREE = f"{{{','.join((*_TRAIN.values(), _TEST))}}}/{{{','.join(CLASSES)}}}/*.tif"


def open_source(
    source: Path, *, colours: Colours = Colours.AUTO, val_share: float = 0.1, split_seed: int = 0
) -> dict[str, Listing]:
    """``train`` and ``val`` from NCT-CRC-HE-100K, ``test`` is CRC-VAL-HE-7K; column ``image``, label ``label``.

    Neither set says from which slide a tile is. Validation tiles are therefore drawn one by one, by a
    hash of class, name and ``split_seed``: slides are in both train and val, and numbers on val
    flatter a network. Test shares no patient with them.

    Args:
      source: as the module shows it.
      colours: which training folder, where both are there.
      val_share: share of the training tiles that become ``val``; 0 leaves it out.
      split_seed: another one draws other validation tiles.

    Raises:
      UserError: for a source without these folders, both training folders and no choice, a class
        folder that is missing or empty, or a share out of [0, 1).
    """
    train, test = _folders(Path(source), colours)
    found = {}
    if train is not None:
        tiles = _tiles(train, Path(source))
        found = deal(tiles, val_share, 0.0, split_seed)
        if "val" in found:
            warnings.warn(
                f"{train}: says nothing of slides or patients, so val is drawn tile by tile and shares slides with "
                "train; only test is of other patients",
                stacklevel=2,
            )
    if test is not None:
        found["test"] = _tiles(test, Path(source))
    return found


def _folders(source: Path, colours: Colours) -> tuple[Path | None, Path | None]:
    """The folders of training and of test tiles; one of them may be absent."""
    if _is_set(source):
        return (None, source) if source.resolve().name == _TEST else (source, None)
    test = _unpacked(source, _TEST)
    wanted = _TRAIN if colours is Colours.AUTO else {colours: _TRAIN[colours]}
    there = [folder for folder in (_unpacked(source, name) for name in wanted.values()) if folder]
    if len(there) > 1:
        raise UserError(
            f"{source}: holds {' and '.join(_TRAIN.values())}; choose with --set colours=normalised (the "
            "first) or --set colours=scanned (the second)"
        )
    if not there and (test is None or colours is not Colours.AUTO):
        raise UserError(f"{source}: holds no {' or '.join(wanted.values())}; expected {_TREE}")
    return (there[0] if there else None), test


def _unpacked(source: Path, name: str) -> Path | None:
    """A set's folder, also where it was unpacked into a folder of its own name."""
    return next((folder for folder in (source / name, source / name / name) if _is_set(folder)), None)


def _is_set(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in CLASSES)


def _tiles(folder: Path, root: Path) -> Listing:
    if missing := [name for name in CLASSES if not (folder / name).is_dir()]:
        raise UserError(f"{folder}: lacks the class folders {', '.join(missing)} of the nine; unpack the set again")
    files, labels, ids = [], [], []
    for label, name in enumerate(CLASSES):
        named = list_images(folder / name, root)
        files += named.values()
        labels += [label] * len(named)
        ids += [f"{name}/{stem}" for stem in named]
    return Listing({"image": tuple(files)}, {"label": tuple(labels)}, {"label": tuple(CLASSES)}, tuple(ids))
