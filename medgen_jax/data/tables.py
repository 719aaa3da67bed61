"""Random-access records.

A `Table` is a sequence of records; a record is a dict of one entry per column. Image columns are
HWC ``uint8`` or ``uint16``; label columns are integer scalars, known for all records at once
through ``labels``, and named by ``classes``. Reading is thread-safe, and a table can be pickled into a worker process.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data.images import ImageHeader, View, read_header, read_image
from medgen_jax.data.listing import Box, Listing, Panel
from medgen_jax.data.transforms import resize

#: Folders whose decoded images fit into this many bytes are kept in memory once decoded. The
#: budget counts for all tables of one split, and is shared out among worker processes.
MEMORY_BYTES = 4 << 30

_HEADER_THREADS = 16
_DEFAULT = View()


class Table(abc.ABC):
    """Random access to records.

    Attributes:
      names: image columns.
      labels: label columns: name -> (records,) integers; may be empty.
      classes: label column -> names of its values 0, 1, ..., where they have names.
      values: value column -> (records,) ``float32``, NaN where unknown; may be empty.
      boxes: box column -> for each record (n, 4) ``float32``: x and y of the upper left corner, width,
        height, in pixels of the record's first image as this table returns it; may be empty.
    """

    names: tuple[str, ...]
    labels: Mapping[str, np.ndarray]
    classes: Mapping[str, tuple[str, ...]]
    values: Mapping[str, np.ndarray] = MappingProxyType({})
    boxes: Mapping[str, Sequence[np.ndarray]] = MappingProxyType({})

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of records."""

    @abc.abstractmethod
    def images(self, index: int) -> dict[str, np.ndarray]:
        """The image columns of one record. Do not write into the arrays."""

    @abc.abstractmethod
    def header(self, index: int, name: str) -> ImageHeader:
        """Size and type of one image, as stored, without decoding it if that can be avoided."""

    @abc.abstractmethod
    def origin(self, index: int, name: str) -> str:
        """Where an image comes from, for messages."""

    def record_id(self, index: int) -> str:
        """What a record is called in outputs: its number, where it has no name."""
        return str(index)

    @abc.abstractmethod
    def select(self, *names: str) -> Table:
        """The same records with some of the image columns; shares the decoded images."""

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """One record: image columns, labels as ``int32`` and values as ``float32`` scalars."""
        numbers = {name: np.float32(values[index]) for name, values in self.values.items()}
        return self.images(index) | {name: np.int32(values[index]) for name, values in self.labels.items()} | numbers


class ArrayTable(Table):
    """Records held in arrays.

    Args:
      columns: image columns, each (n, h, w, c) ``uint8`` or ``uint16``, or a list of HWC arrays.
      labels: label columns, each (n,).
      source: what messages call this table.
      classes: label column -> names of its values.
    """

    def __init__(
        self,
        columns: Mapping[str, np.ndarray | Sequence[np.ndarray]],
        labels: Mapping[str, np.ndarray] | None = None,
        source: str = "arrays",
        classes: Mapping[str, tuple[str, ...]] | None = None,
    ):
        self.names = tuple(columns)
        self.classes = dict(classes or {})
        self.labels = {name: np.asarray(values, np.int32) for name, values in (labels or {}).items()}
        self._columns, self._source = dict(columns), source
        lengths = {name: len(values) for name, values in {**self._columns, **self.labels}.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns of different lengths: {lengths}")
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def images(self, index: int) -> dict[str, np.ndarray]:
        return {name: self._columns[name][index] for name in self.names}

    def header(self, index: int, name: str) -> ImageHeader:
        return header_of(self._columns[name][index])

    def origin(self, index: int, name: str) -> str:
        return f"{self._source}, record {index}, column {name}"

    def select(self, *names: str) -> ArrayTable:
        return ArrayTable({name: self._columns[name] for name in names}, self.labels, self._source, self.classes)


class FileTable(Table):
    """Records in image files, one file (or panel of a file) per column and record.

    All headers are read at once; pixels on first access.

    Args:
      records: a `Listing`, or plain columns: name -> files, all of the same length.
      load_size: resize every image to this square (bicubic) as it is decoded; None keeps sizes.
      view: how samples that are not 8 or 16 unsigned bits become levels.

    Attributes:
      groups: patient or slide of each record, empty when unknown. They do not travel: a pickled
        table has lost them.

    Raises:
      UserError: naming the first file that is missing, broken, of an unsupported type, or not to be
        divided into its panels.
    """

    def __init__(
        self,
        records: Listing | Mapping[str, Sequence[Path]],
        load_size: int | None = None,
        view: View = _DEFAULT,
    ):
        if not isinstance(records, Listing):
            records = Listing({name: tuple(files) for name, files in records.items()})
        self.names = tuple(records.columns)
        self.labels = {name: np.asarray(values, np.int32) for name, values in records.labels.items()}
        self.classes = dict(records.classes)
        self.values = {name: np.asarray(values, np.float32) for name, values in records.values.items()}
        self.groups = records.groups
        self._ids = records.ids
        self._files = dict(records.columns)
        self._panels = dict(records.panels)
        self._grey = frozenset(records.grey)
        self._load_size = load_size
        self._view = view
        read = {files: read_headers(files, view) for files in set(self._files.values())}
        self._headers = {name: self._cut(name, read[files]) for name, files in self._files.items()}
        for name in self._grey:
            self._headers[name] = [header._replace(channels=1) for header in self._headers[name]]
        self.boxes = {name: self._scaled(boxes) for name, boxes in records.boxes.items()}
        self._kept: dict[str, list[np.ndarray | None]] | None = None

    @property
    def nbytes(self) -> int:
        """Memory that all images take once decoded (and resized)."""
        pixels = None if self._load_size is None else self._load_size**2
        headers = [header for name in self.names for header in self._headers[name]]
        return sum(h.nbytes if pixels is None else pixels * h.channels * h.bits // 8 for h in headers)

    def keep(self) -> None:
        """Remember every image from now on, once it has been decoded."""
        self._kept = {name: [None] * len(self) for name in self.names}

    @property
    def files(self) -> list[Path]:
        """Files of all columns."""
        return [file for name in self.names for file in self._files[name]]

    def stored_size(self, index: int, name: str) -> tuple[int, int]:
        """Height and width of an image as this table returns it."""
        header = self._headers[name][index]
        return header[:2] if self._load_size is None else (self._load_size, self._load_size)

    def record_id(self, index: int) -> str:
        """What a record is called in outputs."""
        return self._ids[index]

    def __len__(self) -> int:
        return len(self._ids)

    def images(self, index: int) -> dict[str, np.ndarray]:
        decoded: dict[Path, np.ndarray] = {}  # panels of one file are cut from one decoding
        return {name: self._image(name, index, decoded) for name in self.names}

    def _image(self, name: str, index: int, decoded: dict[Path, np.ndarray]) -> np.ndarray:
        # Two threads may decode the same image at once; both get the same pixels, one copy stays.
        image = self._kept[name][index] if self._kept else None
        if image is None:
            file = self._files[name][index]
            if file not in decoded:
                decoded[file] = read_image(file, view=self._view)
            image = decoded[file]
            if name in self._panels:
                image = np.ascontiguousarray(panel_of(image, self._panels[name]))
            if name in self._grey:
                image = luma(image)
            if self._load_size is not None:
                image = resize(image, self._load_size, self._load_size)
            image.flags.writeable = False
            if self._kept:
                self._kept[name][index] = image
        return image

    def _cut(self, name: str, headers: list[ImageHeader]) -> list[ImageHeader]:
        """Headers of a column's panels, from those of their files."""
        if name not in self._panels:
            return headers
        count = self._panels[name].count
        for file, header in zip(self._files[name], headers, strict=True):
            if header.width % count:
                raise UserError(
                    f"{file}: is {header.width} pixels wide, which {count} panels do not share evenly; set "
                    "config.data.panels to their number, or config.data.layout=images if it shows one picture"
                )
        return [header._replace(width=header.width // count) for header in headers]

    def _scaled(self, boxes: Sequence[Sequence[Box]]) -> tuple[np.ndarray, ...]:
        """Boxes of each record on its first image as it is returned."""
        scaled = []
        for own, (height, width, *_) in zip(boxes, self._headers[self.names[0]], strict=True):
            box = np.array(own, np.float64).reshape(-1, 4)
            if self._load_size is not None:
                box *= self._load_size / np.array([width, height, width, height])
            scaled.append(box.astype(np.float32))
        return tuple(scaled)

    def header(self, index: int, name: str) -> ImageHeader:
        return self._headers[name][index]

    def origin(self, index: int, name: str) -> str:
        return str(self._files[name][index])

    def select(self, *names: str) -> FileTable:
        part = object.__new__(FileTable)
        part.__dict__.update(self.__dict__)
        part.names = names
        return part

    def __getstate__(self) -> dict:
        # A worker process decodes for itself: file names travel, pixels and patients do not.
        kept = self._kept and {name: [None] * len(images) for name, images in self._kept.items()}
        return self.__dict__ | {"_kept": kept, "groups": ()}


def header_of(image: np.ndarray) -> ImageHeader:
    """The header that a decoded HWC image would have."""
    return ImageHeader(*image.shape, 8 * image.dtype.itemsize)


def luma(image: np.ndarray) -> np.ndarray:
    """One channel (h, w, 1) of a grey or RGB image: the luma of ITU-R BT.601, rounded; grey stays as it is."""
    if image.shape[-1] == 1 or (image == image[..., :1]).all():
        return np.ascontiguousarray(image[..., :1])
    return np.rint(image @ np.array([[0.299], [0.587], [0.114]])).astype(image.dtype)


def panel_of(image: np.ndarray, panel: Panel) -> np.ndarray:
    """One panel of an HWC image whose width is a multiple of their number; a view."""
    width = image.shape[1] // panel.count
    return image[:, panel.index * width : (panel.index + 1) * width]


def read_headers(files: Sequence[Path], view: View = _DEFAULT) -> list[ImageHeader]:
    """Headers of many files as `images.read_image` returns them, read side by side.

    Raises:
      UserError: for the first bad file.
    """
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        return list(pool.map(lambda file: read_header(file, view), files))


def keep_what_fits(tables: Sequence[FileTable], budget: int = MEMORY_BYTES) -> bool:
    """Keep decoded images of all tables in memory if together they fit; says whether they do."""
    fits = sum(table.nbytes for table in tables) <= budget
    for table in tables if fits else ():
        table.keep()
    return fits
