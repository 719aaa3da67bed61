"""Which files of a directory belong to which split, table and column.

    paired      {train,val,test}/{A,B}/name.png     A and B of one name show the same field
    unpaired    trainA trainB testA testB           also {train,val,test}/{A,B} with layout=unpaired
    classes     {train,val,test}/CLASS/name.png     one folder per class
    panels      {train,val,test}/name.png           panels of one picture, side by side, are a and b
    images      {train,val,test}/name.png           whole pictures without labels

Names of splits are also known in other spellings and cases (Train, validation). Links may not lead
out of the directory.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from medgen_jax.core.config import Layout
from medgen_jax.core.errors import UserError
from medgen_jax.data.fence import Fence
from medgen_jax.data.images import READERS, Range, View, is_image, read_header
from medgen_jax.data.listing import Listing, Panel
from medgen_jax.data.splits import SPELLINGS, SPLITS

#: Columns of a record, and the folder letter of each.
SIDES = {"a": "A", "b": "B"}
#: pix2pix' own habit: a on the left, b on the right.
AB = {"a": Panel(0, 2), "b": Panel(1, 2)}

TREES = {
    Layout.PAIRED: "{train,val,test}/{A,B}/name.png",
    Layout.UNPAIRED: "trainA/ trainB/ testA/ testB/ (or {train,val,test}/{A,B} with config.data.layout=unpaired)",
    Layout.CLASSES: "{train,val,test}/CLASS/name.png",
    Layout.PANELS: "{train,val,test}/name.png with panels side by side",
    Layout.IMAGES: "{train,val,test}/name.png",
}
_UNSPLIT = (
    "move them below folders train, val and test, all images of one patient below the same; or write a CSV file with "
    "the columns path and patient_id, which is split by patient, and set config.data.source to that file; published "
    "data sets, as they were downloaded, are read by python -m medgen_jax.prepare"
)
#: Under it sizes are read whatever the samples are.
_ANY_RANGE = View(range=Range(0, 1))
#: What macOS leaves in archives.
_LITTER = "__MACOSX"

Files = dict[str, Path]  # file name without suffix -> file


# ---- finding -------------------------------------------------------------------------------------


def find_layout(root: Path, layout: Layout = Layout.AUTO, panels: Mapping[str, Panel] = AB) -> Layout:
    """The folder layout of ``root``, either the one asked for or the one that is there.

    Pictures directly inside split folders are taken for panels when the first one is exactly as many
    times wider than high as there are panels, otherwise for whole images.

    Raises:
      UserError: when no split of that layout (or of any) exists; shows the expected trees.
    """
    if layout is not Layout.AUTO:
        if present_splits(root, layout):
            return layout
        other = next((kind for kind in (Layout.PAIRED, Layout.UNPAIRED) if present_splits(root, kind)), None)
        seen = f"is laid out as {other.value}, not as {layout.value}" if other else _found(root)
        raise UserError(f"{root}: {seen}; expected {TREES[layout]}")
    for candidate in (Layout.PAIRED, Layout.UNPAIRED):
        if present_splits(root, candidate):
            return candidate
    for split in present_splits(root, Layout.IMAGES):
        folder = split_folder(root, split)
        if _folders(folder):
            return Layout.CLASSES
        if first := next(iter(_images(folder)), None):
            header, count = read_header(folder / first.name, _ANY_RANGE), panels["a"].count
            return Layout.PANELS if header.width == count * header.height else Layout.IMAGES
    trees = ", ".join(tree for kind, tree in TREES.items() if kind is not Layout.PANELS)
    raise UserError(f"{root}: {_found(root)}; expected {trees}, or a CSV file")


def present_splits(root: Path, layout: Layout) -> tuple[str, ...]:
    """Splits whose folder, or at least one side of it, is there."""

    def is_present(split: str) -> bool:
        if layout in (Layout.PAIRED, Layout.UNPAIRED):
            return any(folder.is_dir() for folder in side_folders(root, split, layout).values())
        return split_folder(root, split).is_dir()

    return tuple(filter(is_present, SPLITS))


def split_folder(root: Path, split: str, letter: str = "") -> Path:
    """The folder of a split in any of its spellings; ``root / split`` when there is none.

    Raises:
      UserError: when several folders mean this split.
    """
    names = {f"{word}{letter.casefold()}" for word in SPELLINGS.get(split, (split,))}
    found = [path for path in _folders(root) if path.name.casefold() in names]
    if len(found) > 1:
        both = " and ".join(path.name for path in found)
        raise UserError(f"{root}: {both} all mean the split {split}; keep one of them")
    return found[0] if found else root / f"{split}{letter}"


def side_folders(root: Path, split: str, layout: Layout) -> dict[str, Path]:
    """The folders of columns ``a`` and ``b`` of one split; they need not exist."""
    if layout is Layout.UNPAIRED:
        together = {column: split_folder(root, split, letter) for column, letter in SIDES.items()}
        if any(folder.is_dir() for folder in together.values()):
            return together
    folder = split_folder(root, split)
    return {column: folder / letter for column, letter in SIDES.items()}


# ---- listing -------------------------------------------------------------------------------------


def list_tables(root: Path, split: str, layout: Layout, panels: Mapping[str, Panel] = AB) -> dict[str, Listing]:
    """The records of one split.

    Args:
      root: the directory.
      split: train, val or test.
      layout: not AUTO; one of `TREES`.
      panels: which panels of a picture are a and b, for `Layout.PANELS`.

    Returns:
      ``pairs`` (paired, panels), ``a`` and ``b`` (unpaired), or ``records`` (classes, images).

    Raises:
      UserError: for missing or empty folders, names of one side without a partner, classes unknown
        in training, links that lead out of the directory.
    """
    if layout is Layout.PAIRED:
        return {"pairs": _listing(list_split(root, split, layout))}
    if layout is Layout.UNPAIRED:
        return {side: _listing({side: files}) for side, files in list_split(root, split, layout).items()}
    if layout is Layout.CLASSES:
        return {"records": _list_classes(root, split)}
    named = list_images(_existing(root, split, layout), root)
    files = [named[name] for name in sorted(named)]
    if layout is Layout.PANELS:
        return {"pairs": _listing(dict.fromkeys(panels, files), panels)}
    return {"records": _listing({"image": files})}


def list_split(root: Path, split: str, layout: Layout) -> dict[str, list[Path]]:
    """Image files of columns ``a`` and ``b``, sorted by name; aligned when the layout is paired.

    Raises:
      UserError: for a missing or empty folder, or names of one side without a partner.
    """
    folders = side_folders(root, split, layout)
    for folder in folders.values():
        if not folder.is_dir():
            raise _missing(folder, root, layout)
    files = {column: list_images(folder, root) for column, folder in folders.items()}
    if layout is Layout.PAIRED:
        _match(next(iter(folders.values())).parent, files)
    return {column: [named[stem] for stem in sorted(named)] for column, named in files.items()}


def list_images(folder: Path, root: Path | None = None) -> Files:
    """Readable image files directly inside a folder, by name without suffix.

    Hidden files and other types are passed over.

    Args:
      folder: to be listed.
      root: refuse files that lie outside this directory once links are followed; None takes all.

    Raises:
      UserError: for a folder without images, two files of one name, or a file outside ``root``.
    """
    found: Files = {}
    fence = None if root is None else Fence(root)
    for entry in _images(folder):
        path = folder / entry.name
        if fence and fence.resolve(entry.path, entry.is_symlink()) is None:
            raise UserError(f"{path}: is a link out of {root}; copy the file to its place")
        name = _name(path)
        if name in found:
            raise UserError(f"{path}: {found[name].name} has the same name; keep one of the two")
        found[name] = path
    if not found:
        raise UserError(f"{folder}: holds no images; the types read are {', '.join(sorted(READERS))}")
    return found


def _list_classes(root: Path, split: str) -> Listing:
    folders = _class_folders(_existing(root, split, Layout.CLASSES))
    known = _class_names(root)
    if unknown := sorted(set(folders) - set(known)):
        raise UserError(f"{folders[unknown[0]]}: is a class that training does not know; it has {', '.join(known)}")
    files, labels, ids = [], [], []
    for name in sorted(folders):
        named = list_images(folders[name], root)
        files += [named[stem] for stem in sorted(named)]
        labels += [known.index(name)] * len(named)
        ids += [f"{name}/{stem}" for stem in sorted(named)]
    return Listing({"image": tuple(files)}, {"label": tuple(labels)}, {"label": tuple(known)}, tuple(ids))


def _class_names(root: Path) -> list[str]:
    """Classes of the training split, sorted; of all splits where there is none to train on."""
    present = present_splits(root, Layout.CLASSES)
    asked = ("train",) if "train" in present else present
    return sorted({name for split in asked for name in _class_folders(split_folder(root, split))})


def _class_folders(folder: Path) -> dict[str, Path]:
    """Class -> folder of one split.

    Raises:
      UserError: for images beside the class folders, and where there is no class folder.
    """
    found = {unicodedata.normalize("NFC", path.name): path for path in _folders(folder)}
    if stray := next(iter(_images(folder)), None):
        raise UserError(f"{folder / stray.name}: lies beside the class folders of its split; move it into one of them")
    if not found:
        raise UserError(f"{folder}: holds no class folders; expected {TREES[Layout.CLASSES]}")
    return found


def _match(where: Path, files: dict[str, Files]) -> None:
    a, b = files["a"], files["b"]
    lonely = sorted(set(a) ^ set(b))
    if lonely:
        names = ", ".join(f"{'A' if stem in a else 'B'}/{(a.get(stem) or b[stem]).name}" for stem in lonely[:5])
        raise UserError(
            f"{where}: {len(a)} files in A and {len(b)} in B, {len(lonely)} without a partner of the same name "
            f"(first: {names}); rename them, or set config.data.layout=unpaired"
        )


def _listing(columns: Mapping[str, list[Path]], panels: Mapping[str, Panel] | None = None) -> Listing:
    ids = tuple(map(_name, next(iter(columns.values()))))
    return Listing({name: tuple(files) for name, files in columns.items()}, ids=ids, panels=dict(panels or {}))


def _name(path: Path) -> str:
    """File name without suffix, in Unicode form NFC, because macOS archives store accents decomposed."""
    # Files without a known suffix are DICOM, whose names are often numbers with dots.
    return unicodedata.normalize("NFC", path.stem if path.suffix.lower() in READERS else path.name)


# ---- directories ---------------------------------------------------------------------------------


def _existing(root: Path, split: str, layout: Layout) -> Path:
    folder = split_folder(root, split)
    if not folder.is_dir():
        raise _missing(folder, root, layout)
    return folder


def _missing(folder: Path, root: Path, layout: Layout) -> UserError:
    have = ", ".join(present_splits(root, layout)) or "none"
    return UserError(f"{folder}: no such folder (splits that are there: {have}); expected {TREES[layout]}")


def _visible(folder: Path) -> list[os.DirEntry]:
    """Entries by name, without hidden ones; no file is looked at."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".") and e.name != _LITTER), key=lambda e: e.name)


def _images(folder: Path) -> Iterator[os.DirEntry]:
    """Entries that hold an image, by name, one after the other."""
    for entry in _visible(folder):
        known = os.path.splitext(entry.name)[1].lower() in READERS
        # Only files of unknown names are opened, to see whether they are DICOM; of those no links.
        if _is(os.DirEntry.is_file, entry) if known else not entry.is_symlink() and is_image(folder / entry.name):
            yield entry


def _is(kind: Callable[[os.DirEntry], bool], entry: os.DirEntry) -> bool:
    """Whether an entry is of a kind, known from the listing alone unless it is a link."""
    try:
        return kind(entry)
    except OSError:  # a link to itself
        return False


def _folders(folder: Path) -> list[Path]:
    return [folder / e.name for e in _visible(folder) if _is(os.DirEntry.is_dir, e)] if folder.is_dir() else []


def _found(root: Path) -> str:
    """What a directory holds, and what to do when that is images without splits."""
    entries = _visible(root)
    names = [e.name + ("/" if _is(os.DirEntry.is_dir, e) else "") for e in entries]
    shown = (", ".join(names[:6]) + (", ..." if len(names) > 6 else "")) if names else "nothing"
    holds_images = any(next(iter(_images(folder)), None) for folder in (root, *_folders(root)))
    return f"found {shown}" + (f", images that are not split: {_UNSPLIT}" if holds_images else "")
