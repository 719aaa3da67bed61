"""Which files of a directory belong to which split and column.

Two folder layouts are known, those of pix2pix and CycleGAN data sets:

    paired      {train,val,test}/{A,B}/name.png     A and B of one name show the same field
    unpaired    trainA trainB testA testB           also {train,val,test}/{A,B} with layout=unpaired
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

from medgen_jax.core.config import Layout
from medgen_jax.core.errors import UserError
from medgen_jax.data.images import READERS

#: Names of the splits that folders may have, in the order in which they are reported.
SPLITS = ("train", "val", "test")
#: Columns of a record, and the folder letter of each.
SIDES = {"a": "A", "b": "B"}

TREES = {
    Layout.PAIRED: "{train,val,test}/{A,B}/name.png",
    Layout.UNPAIRED: "trainA/ trainB/ testA/ testB/ (or {train,val,test}/{A,B} with config.data.layout=unpaired)",
}

Files = dict[str, Path]  # file name without suffix -> file


def side_folders(root: Path, split: str, layout: Layout) -> dict[str, Path]:
    """The folders of columns ``a`` and ``b`` of one split; they need not exist."""
    together = {column: root / f"{split}{letter}" for column, letter in SIDES.items()}
    nested = {column: root / split / letter for column, letter in SIDES.items()}
    if layout is Layout.UNPAIRED and any(folder.is_dir() for folder in together.values()):
        return together
    return nested


def present_splits(root: Path, layout: Layout) -> tuple[str, ...]:
    """Splits of which at least one side is there."""
    return tuple(s for s in SPLITS if any(f.is_dir() for f in side_folders(root, s, layout).values()))


def find_layout(root: Path, layout: Layout = Layout.AUTO) -> Layout:
    """The folder layout of ``root``, either the one asked for or the one that is there.

    Raises:
      UserError: when no split of that layout (or of any) exists; shows the expected trees.
    """
    order = (Layout.PAIRED, Layout.UNPAIRED) if layout is Layout.AUTO else (layout,)
    for candidate in order:
        if present_splits(root, candidate):
            return candidate
    trees = " or ".join(TREES[candidate] for candidate in order)
    raise UserError(f"{root}: found {_contents(root)}; expected {trees}")


def list_split(root: Path, split: str, layout: Layout) -> dict[str, list[Path]]:
    """Image files of columns ``a`` and ``b``, sorted by name; aligned when the layout is paired.

    Raises:
      UserError: for a missing or empty folder, or names of one side without a partner.
    """
    folders = side_folders(root, split, layout)
    for folder in folders.values():
        if not folder.is_dir():
            have = ", ".join(present_splits(root, layout)) or "none"
            raise UserError(f"{folder}: no such folder (splits that are there: {have}); expected {TREES[layout]}")
    files = {column: list_images(folder) for column, folder in folders.items()}
    if layout is Layout.PAIRED:
        _match(root / split, files)
    return {column: [named[stem] for stem in sorted(named)] for column, named in files.items()}


def list_images(folder: Path) -> Files:
    """Readable image files directly inside a folder, by name without suffix.

    Hidden files and other types are passed over. Names are compared in Unicode form NFC, because
    macOS archives store accents decomposed.

    Raises:
      UserError: for a folder without images, or two files of one name.
    """
    found: Files = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in READERS or not path.is_file():
            continue
        stem = unicodedata.normalize("NFC", path.stem)
        if stem in found:
            raise UserError(f"{path}: {found[stem].name} has the same name; keep one of the two")
        found[stem] = path
    if not found:
        raise UserError(f"{folder}: holds no images; the types read are {', '.join(sorted(READERS))}")
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


def _contents(root: Path) -> str:
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in root.iterdir() if not p.name.startswith("."))
    return (", ".join(names[:6]) + (", ..." if len(names) > 6 else "")) if names else "nothing"
