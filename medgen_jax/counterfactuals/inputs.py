"""Which images, and what is known about each: users' files, or a split of a run's own data."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import LABEL, VIEW
from medgen_jax.data import images, layouts, sources
from medgen_jax.data.csv_manifest import UNKNOWN_VIEW
from medgen_jax.data.formats.samples import ImageHeader
from medgen_jax.data.tables import Table
from medgen_jax.data.transforms import evaluation_view
from medgen_jax.translation import outputs, slides

Boxes = tuple[tuple[float, ...], ...]


class Wanted(NamedTuple):
    """What a model takes.

    Attributes:
      name: of the run, for messages.
      size: side of its images, pixels.
      channels: of its images.
      data: the run's configuration: how files are read and cut.
    """

    name: str
    size: int
    channels: int
    data: DataConfig


@dataclass(frozen=True)
class Case:
    """One image and what is known about it.

    Attributes:
      name: of its files in the folder of results; no other case has it.
      title: what pages call it; names of DICOM files are often those of patients.
      read: decodes it: (size, size, channels) uint8 or uint16, as the model takes it.
      stored: its height and width before that.
      label, view, patient, boxes: as in `medgen_jax.data.counterfactual_folders.Entry`.
    """

    name: str
    title: str
    read: Callable[[], np.ndarray] = field(repr=False)
    stored: tuple[int, int]
    label: str | None = None
    view: str | None = None
    patient: str | None = field(default=None, repr=False)
    boxes: Boxes | None = None


def of_files(source: str | Path, wanted: Wanted, view: str | None = None) -> list[Case]:
    """The image, or the images of a folder; their headers are read.

    Args:
      source: PNG, TIFF, DICOM or whatever `medgen_jax.data.images` reads.
      wanted: what the model takes.
      view: of all of them, where known.

    Raises:
      UserError: no images, or the first that the model does not take.
    """
    source = Path(source).expanduser()
    if not source.exists():
        raise UserError(f"--input {source}: no such file or folder")
    files = list(layouts.list_images(source).values()) if source.is_dir() else [source]
    levels = sources.view(sources.declared(wanted.data) if wanted.data.source else wanted.data)
    cases = []
    for number, file in enumerate(files, 1):
        if slides.is_slide(file):
            raise UserError(f"{file}: is a whole slide; counterfactuals are made of single images")
        header, dicom = images.read_header(file, levels), outputs.is_dicom(file)
        _check_channels(f"{file}", header, wanted, dicom)
        title = f"DICOM image {number}" if dicom else file.name
        cases.append(Case(file.stem, title, functools.partial(_file, file, levels, wanted), header[:2], view=view))
    return cases


def of_split(split: str, wanted: Wanted, classes: Sequence[str], flag: str = "--split") -> list[Case]:
    """Images of a split of the run's own data, with their labels, views, patients and boxes.

    Args:
      split: its name.
      wanted: what the model takes.
      classes: of these classes only; empty: whatever there is.
      flag: that names the split, for messages.

    Raises:
      UserError: data that are not there or have no such split, images that the model does not take, or a box that
        reaches out of its image.
    """
    data = dataclasses.replace(wanted.data, classes=(), views=())
    present = sources.splits(data)
    if split not in present:
        raise UserError(f"{flag} {split}: the run's data have no such split; there are: {', '.join(present)}")
    tables = sources.open_tables(data, split)
    if "records" in tables:
        table, labels = tables["records"], _named(tables["records"], LABEL)
        chosen = [i for i, name in enumerate(labels) if not classes or name in classes]
        found = list(_cases(table, "image", chosen, labels, wanted))
    else:
        found = []
        for column in (side for side in ("a", "b") if side in tables):
            own = [column] * len(tables[column])
            found += _cases(tables[column], column, range(len(own)), own, wanted)
    if not found:
        raise UserError(f"{flag} {split}: has no image of the run's classes, {', '.join(classes)}")
    return _distinct(found)


def spread(cases: Sequence[Case], count: int | None) -> list[Case]:
    """``count`` of the cases, evenly spread over them; all when None or more than there are."""
    if count is None or count >= len(cases):
        return list(cases)
    if count < 1:
        raise UserError(f"--count {count}: must be at least 1")
    return [cases[i * len(cases) // count] for i in range(count)]


def levels_of(image: np.ndarray) -> np.ndarray:
    """uint8 or uint16 as float32 in [-1, 1]."""
    return image.astype(np.float32) / (np.iinfo(image.dtype).max / 2) - 1


def _file(file: Path, levels: images.View, wanted: Wanted) -> np.ndarray:
    return _fitted(images.read_image(file, view=levels), wanted)


def _record(table: Table, index: int, column: str, wanted: Wanted) -> np.ndarray:
    return _fitted(table.images(index)[column], wanted)


def _geometry(wanted: Wanted) -> DataConfig:
    """Resized to ``load_size`` and cropped at the centre where training resized; else resized to the model's size."""
    return dataclasses.replace(wanted.data, load_size=wanted.data.load_size or wanted.size, crop_size=wanted.size)


def _fitted(image: np.ndarray, wanted: Wanted) -> np.ndarray:
    return np.ascontiguousarray(evaluation_view({"image": image}, _geometry(wanted))["image"])


def _check_channels(where: str, header: ImageHeader, wanted: Wanted, dicom: bool) -> None:
    if header.channels == wanted.channels:
        return
    if wanted.channels == 1:
        kind = "an RGB DICOM file" if dicom else "a colour picture"
        raise UserError(f"{where}: is {kind} of {header.channels} channels, {wanted.name} takes grey ones; convert it")
    raise UserError(f"{where}: is grey, {wanted.name} takes images of {wanted.channels} channels; convert it")


def _named(table: Table, column: str) -> list[str | None]:
    """Of each record the name of its class or view; its number where there are no names, None where unknown."""
    if column not in table.labels:
        return [None] * len(table)
    names = table.classes.get(column)
    numbers = np.asarray(table.labels[column])
    return [None if n < 0 else names[n] if names else str(n) for n in numbers.tolist()]


def _cases(
    table: Table,
    column: str,
    chosen: Sequence[int],
    labels: Sequence[str | None],
    wanted: Wanted,
) -> Iterator[Case]:
    seen, patients = _named(table, VIEW), _patients(table)
    for i in chosen:
        header, where = table.header(i, column), table.origin(i, column)
        _check_channels(where, header, wanted, dicom=False)
        name = table.record_id(i).replace("/", "_").replace("\\", "_").replace("\0", "_")
        known = None if seen[i] == UNKNOWN_VIEW else seen[i]
        read = functools.partial(_record, table, i, column, wanted)
        boxes = _boxes(table, i, header, where, wanted)
        yield Case(name, name, read, header[:2], labels[i], known, patients[i], boxes)


def _patients(table: Table) -> list[str | None]:
    """Pseudonyms, by the order in which patients first come."""
    groups = getattr(table, "groups", ())
    if not groups:
        return [None] * len(table)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups), 1)}
    return [f"p{numbers[group]:05d}" if group else None for group in groups]


def _boxes(table: Table, index: int, header: ImageHeader, where: str, wanted: Wanted) -> Boxes | None:
    """All boxes of a record, in pixels of the image as the model takes it; None where the data have no boxes."""
    if not len(table.boxes):
        return None
    config, made = _geometry(wanted), []
    start = (config.load_size - config.crop_size) // 2
    for x, y, across, down in (box for name in table.boxes for box in np.asarray(table.boxes[name][index]).tolist()):
        if min(x, y) < 0 or x + across > header.width or y + down > header.height:
            raise UserError(
                f"{where}: the box (x {x:g}, y {y:g}, {across:g} wide, {down:g} high) reaches out of the image, which "
                f"is {header.width} wide and {header.height} high; mend the data"
            )
        by_x, by_y = config.load_size / header.width, config.load_size / header.height
        left, right = (min(max(edge * by_x - start, 0), wanted.size) for edge in (x, x + across))
        top, bottom = (min(max(edge * by_y - start, 0), wanted.size) for edge in (y, y + down))
        if right > left and bottom > top:
            made.append((left, top, right - left, bottom - top))
    return tuple(made)


def _distinct(cases: Sequence[Case]) -> list[Case]:
    """The cases with a number behind every name that came before."""
    taken: set[str] = set()
    made = []
    for case in cases:
        endings = ("", *(f"_{number}" for number in range(2, len(cases) + 1)))
        name = next(case.name + ending for ending in endings if case.name + ending not in taken)
        taken.add(name)
        made.append(dataclasses.replace(case, name=name, title=name))
    return made
