"""A directory as the layouts have it, where nothing is refused: what does not fit becomes a finding."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medgen_jax.core.config import Layout
from medgen_jax.data import layouts
from medgen_jax.data.fence import Fence
from medgen_jax.data.images import READERS, View, is_image
from medgen_jax.data.inspection.columns import Column, from_listing, is_dicom_name, spoken
from medgen_jax.data.inspection.findings import ERROR, NOTE, Finding, counted
from medgen_jax.data.listing import Listing, Panel

#: What stands in place of a split where there are none.
NO_SPLIT = "without split"
_LITTER = "__MACOSX"

Files = dict[str, Path]  # name without suffix -> file


@dataclass
class Contents:
    """What a source holds.

    Attributes:
      columns: all that can be looked at.
      findings: what is wrong with names, folders and lines; no image has been opened.
      groups: split -> patient or slide of each record, where known. Never shown.
    """

    columns: list[Column] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    groups: dict[str, list[str]] = field(default_factory=dict)


def read_folders(root: Path, layout: Layout, panels: Mapping[str, Panel], view: View) -> Contents:
    """Everything below ``root`` that belongs to a split of the layout (not AUTO, CSV or PREPARED)."""
    found = Contents()
    splits = layouts.present_splits(root, layout)
    known = _training_classes(root, splits) if layout is Layout.CLASSES else ()
    for split in splits:
        reader = _Split(root, split, found)
        if layout is Layout.PAIRED:
            tables = reader.pairs()
        elif layout is Layout.UNPAIRED:
            tables = reader.sides()
        elif layout is Layout.CLASSES:
            tables = reader.classes(known)
        else:
            tables = reader.pictures(panels if layout is Layout.PANELS else {})
        for table, listing in tables.items():
            found.columns += from_listing(split, table, listing, view, root=root)
    return found


class _Split:
    """One split of a directory."""

    def __init__(self, root: Path, split: str, found: Contents):
        self._root, self._split, self._found = root, split, found

    def pairs(self) -> dict[str, Listing]:
        sides = self._both(Layout.PAIRED)
        both = sorted(set(sides["a"]) & set(sides["b"]))
        tables = {}
        if both:
            tables["pairs"] = _listing({side: [files[name] for name in both] for side, files in sides.items()})
        lonely = {side: sorted(set(files) - set(both)) for side, files in sides.items()}
        for side, names in lonely.items():
            if names:
                tables[f"{side} without partner"] = _listing({side: [sides[side][name] for name in names]})
        if any(lonely.values()):
            files = [sides[side][name] for side, names in lonely.items() for name in names]
            self._say(
                ERROR,
                "unmatched",
                f"{self._split}: {len(sides['a'])} files in A and {len(sides['b'])} in B, {len(files)} without a "
                "partner of the same name",
                "rename them, or set config.data.layout=unpaired",
                files,
            )
        return tables

    def sides(self) -> dict[str, Listing]:
        sides = self._both(Layout.UNPAIRED)
        return {
            side: _listing({side: [files[name] for name in sorted(files)]}) for side, files in sides.items() if files
        }

    def classes(self, known: tuple[str, ...], folder: Path | None = None) -> dict[str, Listing]:
        folder = folder or layouts.split_folder(self._root, self._split)
        named = {unicodedata.normalize("NFC", path.name): path for path in _folders(folder)}
        if stray := [path for path in _files(folder) if _is_image(path)]:
            message = f"{self._split}: {counted(len(stray), 'image')} beside the class folders"
            self._say(ERROR, "stray", message, "move them into class folders", stray)
        if known and (unknown := sorted(set(named) - set(known))):
            message = f"{self._split}: classes that training does not know: {', '.join(unknown)}"
            self._say(ERROR, "unknown class", message, f"training has {', '.join(known)}")
        words = tuple(sorted(named))
        files: list[Path] = []
        labels: list[int] = []
        for place, word in enumerate(words):
            members = self._images(named[word])
            files += [members[name] for name in sorted(members)]
            labels += [place] * len(members)
        return {"records": _listing({"image": files}, {"label": tuple(labels)}, {"label": words})} if files else {}

    def pictures(self, panels: Mapping[str, Panel], folder: Path | None = None) -> dict[str, Listing]:
        named = self._images(folder or layouts.split_folder(self._root, self._split))
        files = [named[name] for name in sorted(named)]
        if not files:
            return {}
        if panels:
            return {"pairs": _listing(dict.fromkeys(panels, files), panels=panels)}
        return {"records": _listing({"image": files})}

    def _both(self, layout: Layout) -> dict[str, Files]:
        return {
            side: self._images(folder) for side, folder in layouts.side_folders(self._root, self._split, layout).items()
        }

    def _images(self, folder: Path) -> Files:
        """Images of a folder by name; what is wrong with the listing is said."""
        where = folder.relative_to(self._root).as_posix() if folder != self._root else folder.name
        if not folder.is_dir():
            self._say(ERROR, "missing folder", f"{where}: no such folder", "every split needs the same folders")
            return {}
        fence = Fence(self._root)
        named: Files = {}
        outside, twice, others = [], [], []
        for path in _files(folder):
            if not _is_image(path):
                others.append(path)
            elif fence.resolve(path, path.is_symlink()) is None:
                outside.append(path)
            elif (name := _name(path)) in named:
                twice.append(path)
            else:
                named[name] = path
        if outside:
            message = f"{where}: {counted(len(outside), 'link')} out of the data folder"
            self._say(ERROR, "link", message, "copy the files to their place", outside)
        if twice:
            message = f"{where}: {counted(len(twice), 'image')} with the name of another one"
            self._say(ERROR, "same name", message, "keep one of each name", twice)
        if others:
            kinds = ", ".join(sorted({path.suffix.lower() or "no suffix" for path in others}))
            message = f"{where}: {counted(len(others), 'file')} of other types passed over ({kinds})"
            self._say(NOTE, "other files", message, "")
        if not named:
            self._say(ERROR, "empty folder", f"{where}: holds no images", "fill or remove the folder")
        return named

    def _say(self, level: str, code: str, message: str, remedy: str, files: list[Path] | tuple = ()) -> None:
        names = spoken(files, self._split, self._root)
        self._found.findings.append(Finding(level, code, message, remedy, names))


def read_unsplit(root: Path, view: View) -> Contents:
    """The images directly in a directory, or one folder below, that has no splits yet."""
    found = Contents()
    reader = _Split(root, NO_SPLIT, found)
    if any(map(_is_image, _files(root))):
        tables = reader.pictures({}, root)
    else:
        tables = reader.classes((), root)
    for table, listing in tables.items():
        found.columns += from_listing(NO_SPLIT, table, listing, view, root=root)
    return found


def has_pictures(root: Path) -> bool:
    """Whether split folders hold pictures directly, so that only a broken first one hides their layout."""
    splits = layouts.present_splits(root, Layout.IMAGES)
    return any(map(_is_image, (path for split in splits for path in _files(layouts.split_folder(root, split)))))


def _training_classes(root: Path, splits: tuple[str, ...]) -> tuple[str, ...]:
    asked = ("train",) if "train" in splits else splits
    folders = (path for split in asked for path in _folders(layouts.split_folder(root, split)))
    return tuple(sorted({unicodedata.normalize("NFC", path.name) for path in folders}))


def _listing(
    columns: Mapping[str, list[Path]], labels: Mapping[str, tuple[int, ...]] | None = None,
    classes: Mapping[str, tuple[str, ...]] | None = None, panels: Mapping[str, Panel] | None = None,
) -> Listing:  # fmt: skip
    count = len(next(iter(columns.values())))
    ids = tuple(map(str, range(count)))
    return Listing({n: tuple(f) for n, f in columns.items()}, labels or {}, classes or {}, ids, (), panels or {})


def _visible(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".") and e.name != _LITTER), key=lambda e: e.name)


def _folders(folder: Path) -> list[Path]:
    return [folder / e.name for e in _visible(folder) if (folder / e.name).is_dir()] if folder.is_dir() else []


def _files(folder: Path) -> list[Path]:
    return [folder / e.name for e in _visible(folder) if not (folder / e.name).is_dir()]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in READERS or is_image(path)


def _name(path: Path) -> str:
    stem = path.name if is_dicom_name(path) and path.suffix.lower() not in READERS else path.stem
    return unicodedata.normalize("NFC", stem)
