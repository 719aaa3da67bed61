"""Prepared data sets: TFDS directories of ArrayRecord shards, decoded once, read at random.

Any TFDS set in ``array_record`` format can be read, also one written by other programs: image
features (rank 2 or 3, ``uint8`` or ``uint16``) become image columns, integer scalars labels, ``float32``
scalars values, (n, 4) ``float32`` tensors boxes, and the text ``group`` tells patients or slides apart.
Sets written by `medgen_jax.prepare` carry a manifest with the sha256 of every file, what their levels stand
for (`declared`), and an index per split (`write_index`): all that is not an image, so that labels are known
without reading the images they lie between.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medgen_jax.core import manifest
from medgen_jax.core.errors import UserError
from medgen_jax.data import record_index
from medgen_jax.data.images import ImageHeader
from medgen_jax.data.manifest import verify
from medgen_jax.data.tables import Table, header_of

_INFO = "dataset_info.json"
#: What a table has read for itself; a pickled one reads it again.
_OPENED = ("_source", "_shapes", "_index", "_about", "labels", "classes", "values", "boxes", "groups")
#: Our name of a split -> the name most TFDS sets use.
_ALIASES = {"val": "validation"}
#: Features of text that are kept: what a record is called, and the patient or slide it belongs to.
_TEXTS = ("id", "group")
#: Records read at once in a pass over a split.
_CHUNK = 16


# ---- finding -------------------------------------------------------------------------------------


def is_prepared(directory: Path) -> bool:
    """Whether the directory itself is one version of a TFDS set."""
    return (directory / _INFO).is_file()


def below(root: Path) -> list[Path]:
    """Prepared sets in ``root`` or up to three folders (name/config/version) below."""
    patterns = ("", "*/", "*/*/", "*/*/*/")
    return sorted({path.parent for pattern in patterns for path in root.glob(pattern + _INFO)})


def find(root: Path) -> Path:
    """The one prepared set at or below ``root``.

    Raises:
      UserError: when there is none or more than one.
    """
    found = below(root)
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"{root}: holds no prepared data set; write one with python -m medgen_jax.prepare")
    names = ", ".join(str(path) for path in found[:5])
    raise UserError(f"{root}: holds {len(found)} prepared data sets; set config.data.source to one of: {names}")


# ---- reading -------------------------------------------------------------------------------------


def splits(directory: Path) -> tuple[str, ...]:
    """Split names, ``trainA`` and ``trainB`` of unpaired sets joined to ``train``."""
    names = [str(name) for name in _builder(directory).info.splits]
    back = {alias: name for name, alias in _ALIASES.items()}
    sided = {name[:-1] for name in names if name[-1:] == "A" and f"{name[:-1]}B" in names}
    plain = [name[:-1] if name[:-1] in sided and name[-1] in "AB" else back.get(name, name) for name in names]
    known = [name for name in ("train", "val", "test") if name in plain]
    return (*known, *sorted(set(plain) - set(known)))


def declared(directory: Path) -> dict[str, Any] | None:
    """What the levels of a set stand for: those of ``range_low, range_high, nan, window`` that it was prepared with.

    Returns:
      Names and values as in `DataConfig` (JSON types), empty where nothing was declared; None for sets of other
      programs, which do not say.

    Raises:
      UserError: when the manifest cannot be read.
    """
    if not manifest.is_sealed(directory):
        return None
    try:
        return dict(manifest.read(directory).get("source", {}).get("declared", {}))
    except manifest.Damaged as error:
        raise UserError(f"{error}; prepare the data set again") from error


def open_split(directory: Path, split: str) -> dict[str, Table]:
    """Tables of one split: ``records``, and ``pairs``, ``a``, ``b`` where the set has them.

    A set with features ``a`` and ``b`` is paired. A set with splits such as ``trainA`` and
    ``trainB`` (each with one image feature) is unpaired.

    Raises:
      UserError: when the set is damaged, is in another format, or lacks the split.
    """
    verify(directory)
    builder = _builder(directory)
    available = {str(name) for name in builder.info.splits}
    images = _image_features(builder.info.features)
    if not images:
        raise UserError(f"{directory}: has no uint8 or uint16 image features; it cannot be used here")
    name = split if split in available else _ALIASES.get(split, split)
    if name in available:
        records = PreparedTable(directory, name, {feature: feature for feature in images})
        tables: dict[str, Table] = {"records": records}
        if {"a", "b"} <= set(images):
            tables |= {"pairs": records.select("a", "b"), "a": records.select("a"), "b": records.select("b")}
        return tables
    if {f"{split}A", f"{split}B"} <= available:
        feature = "image" if "image" in images else next(iter(images))
        return {side.lower(): PreparedTable(directory, split + side, {side.lower(): feature}) for side in "AB"}
    raise UserError(f"{directory}: has no split {split!r}; it has {', '.join(splits(directory))}")


class PreparedTable(Table):
    """One split of a TFDS ArrayRecord set. Opened on first access, so it can travel to a worker.

    Args:
      directory: one version of a prepared set.
      split: its name in the set.
      columns: column name -> image feature.
    """

    def __init__(self, directory: Path, split: str, columns: Mapping[str, str]):
        self.names = tuple(columns)
        self._directory, self._split, self._columns = directory, split, dict(columns)

    @functools.cached_property
    def _source(self) -> Any:
        return _builder(self._directory).as_data_source(self._split)

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[tuple[int | None, ...], np.dtype]]:
        return _image_features(self._source.dataset_info.features)

    @functools.cached_property
    def _index(self) -> dict[str, Sequence[Any]] | None:
        return record_index.read(self._directory, self._split, len(self))

    @functools.cached_property
    def _about(self) -> dict[str, Sequence[Any]]:
        """All that is not an image: feature -> its value in every record, from the index or else in one pass."""
        return self.read_about() if self._index is None else self._index

    def read_about(self) -> dict[str, Sequence[Any]]:
        """All that is not an image, in one pass over the records: see `record_index`."""
        features = self._source.dataset_info.features
        wanted = {*_scalars(features, np.integer), *_scalars(features, np.floating), *_box_features(features)}
        wanted |= set(_TEXTS) & set(features)
        open_sized = [name for name in self._columns.values() if None in self._shapes[name][0]]
        found: dict[str, list[Any]] = {name: [] for name in (*wanted, *map(record_index.size_of, open_sized))}
        for start in range(0, len(self), _CHUNK):
            for record in self._records(range(start, min(start + _CHUNK, len(self)))):
                for name in wanted:
                    found[name].append(record[name])
                for name in open_sized:
                    found[record_index.size_of(name)].append(_hwc(record[name]).shape)
        return found

    @functools.cached_property
    def labels(self) -> Mapping[str, np.ndarray]:
        """Integer features. Their values are read on first use: from the index, else in one pass over the records."""
        names = _scalars(self._source.dataset_info.features, np.integer)
        return _Columns(names, lambda name: np.array(self._about[name], np.int32))

    @functools.cached_property
    def values(self) -> Mapping[str, np.ndarray]:
        """Floating-point scalars, read as the labels are."""
        names = _scalars(self._source.dataset_info.features, np.floating)
        return _Columns(names, lambda name: np.array(self._about[name], np.float32))

    @functools.cached_property
    def boxes(self) -> Mapping[str, Sequence[np.ndarray]]:
        """Features of shape (n, 4), read as the labels are."""
        names = _box_features(self._source.dataset_info.features)
        return _Columns(names, lambda name: tuple(np.asarray(b, np.float32).reshape(-1, 4) for b in self._about[name]))

    @functools.cached_property
    def groups(self) -> tuple[str, ...]:
        """A word per record, equal for those of one patient or slide; empty when unknown. Read as the labels are."""
        if "group" not in self._source.dataset_info.features:
            return ()
        return tuple(map(_text, self._about["group"]))

    @functools.cached_property
    def classes(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the values of those integer features that are TFDS class labels with names."""
        features = self._source.dataset_info.features
        named = {name: getattr(features[name], "names", None) for name in _scalars(features, np.integer)}
        return {name: tuple(names) for name, names in named.items() if names}

    def record_id(self, index: int) -> str:
        """What a record is called in outputs: its number where the set has no ids."""
        if "id" not in self._source.dataset_info.features:
            return str(index)
        name = self._record(index)["id"] if self._index is None else self._index["id"][index]
        return _text(name)

    def _record(self, index: int) -> dict[str, Any]:
        try:
            return self._source[index]
        # The reader raises several types on a damaged shard; the message must name the set.
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            where = f"{self._directory}: split {self._split}, record {index}"
            raise UserError(f"{where} cannot be read ({reason}); prepare the data set again") from error

    def _records(self, indices: range) -> Sequence[dict[str, Any]]:
        """Neighbouring records, at less cost than one by one."""
        try:
            return self._source.__getitems__(list(indices))
        except Exception:
            return [self._record(index) for index in indices]  # says which one

    def __len__(self) -> int:
        return len(self._source)

    def images(self, index: int) -> dict[str, np.ndarray]:
        record = self._record(index)
        return {name: _hwc(record[feature]) for name, feature in self._columns.items()}

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        record = self._record(index)
        images = {name: _hwc(record[feature]) for name, feature in self._columns.items()}
        numbers = {name: np.float32(record[name]) for name in self.values}
        return images | {name: np.int32(record[name]) for name in self.labels} | numbers

    def header(self, index: int, name: str) -> ImageHeader:
        shape, dtype = self._shapes[self._columns[name]]
        if None not in shape:
            return ImageHeader(*(shape if len(shape) == 3 else (*shape, 1)), 8 * dtype.itemsize)
        size = record_index.size_of(self._columns[name])
        if self._index is not None and size in self._index:
            return ImageHeader(*map(int, self._index[size][index]), 8 * dtype.itemsize)
        return header_of(self.images(index)[name])

    def origin(self, index: int, name: str) -> str:
        return f"{self._directory}, split {self._split}, record {index}, {name}"

    def select(self, *names: str) -> PreparedTable:
        return PreparedTable(self._directory, self._split, {name: self._columns[name] for name in names})

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key not in _OPENED}


class _Columns(Mapping[str, Any]):
    """Columns of a prepared table by name, each made when it is first asked for."""

    def __init__(self, names: tuple[str, ...], make: Callable[[str], Any]):
        self._names, self._make, self._made = names, make, {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def write_index(directory: Path, split: str) -> None:
    """Read a finished split once, and leave beside its shards all that is not an image (`record_index`).

    Raises:
      UserError: when a record cannot be read back.
      OSError: when the file cannot be written.
    """
    features = _builder(directory).info.features
    table = PreparedTable(directory, split, {name: name for name in _image_features(features)})
    record_index.write(directory, split, table.read_about(), _box_features(features))


def _builder(directory: Path) -> Any:
    # Imported here: most runs read folders, and the import is slow.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(directory)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{directory}: not a readable TFDS data set ({reason}); prepare it again") from error
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        kind = builder.info.file_format.value
        raise UserError(f"{directory}: its file format is {kind}; prepare it with file_format='array_record'")
    return builder


def _image_features(features: Any) -> dict[str, tuple[tuple[int | None, ...], np.dtype]]:
    """Name -> (shape, dtype) of the top-level features that hold one image each."""
    found = {}
    for name, feature in sorted(features.items()):  # TFDS restores them in no fixed order
        shape, dtype = getattr(feature, "shape", None), getattr(feature, "np_dtype", None)
        if isinstance(shape, tuple) and len(shape) in (2, 3) and dtype in (np.uint8, np.uint16):
            found[name] = shape, np.dtype(dtype)
    return found


def _scalars(features: Any, kind: type[np.generic]) -> tuple[str, ...]:
    """Names of the top-level scalars of a kind of number."""
    scalars = {n: getattr(f, "np_dtype", object) for n, f in features.items() if getattr(f, "shape", None) == ()}
    return tuple(sorted(n for n, dtype in scalars.items() if np.issubdtype(dtype, kind)))


def _box_features(features: Any) -> tuple[str, ...]:
    """Names of the top-level features that hold any number of boxes."""
    return tuple(
        sorted(
            name
            for name, feature in features.items()
            if getattr(feature, "shape", None) == (None, 4) and getattr(feature, "np_dtype", None) == np.float32
        )
    )


def _text(value: Any) -> str:
    """A text feature as text; other programs may number their records instead."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _hwc(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    return image[..., None] if image.ndim == 2 else image
