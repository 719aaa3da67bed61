"""Tables as TFDS sets: raw ``uint8`` or ``uint16`` tensors and what is known about them.

A record holds its images, labels (class labels where they have names), values (``float32``), boxes
((n, 4) ``float32``), ``id``: the split and what the record is called in it, because TFDS stores
records in hashed order, and ``group``, which tells patients or slides apart without naming them.
Beside the shards lies an index per split (`prepared.write_index`). TensorFlow is not needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from medgen_jax.core.errors import UserError
from medgen_jax.data import prepared
from medgen_jax.data.tables import FileTable

#: Features that every set, or every set of known patients, has beside its columns.
RESERVED = ("id", "group")
#: Of the form of the records.
VERSION = "1.1.0"

_CHUNK = 64  # records decoded side by side


class Records(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes `FileTable` objects, one per split, as a TFDS set; `write` is its face.

    Args:
      tables: split name -> table; all with the same columns.
      salt: what `pseudonym` mixes into the names of patients and slides.
      done: is called with the number of records written so far.
    """

    VERSION = tfds.core.Version(VERSION)
    # TFDS looks for a list of download checksums beside the class, by way of a package that it does
    # not install itself. There is none: nothing is downloaded.
    code_path = None

    def __init__(self, *, tables: Mapping[str, FileTable], salt: str, done: Callable[[int], None], **kwargs: Any):
        self._tables, self._salt, self._done = dict(tables), salt, done
        self._written = 0
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        # Built by hand: the usual helper looks for metadata files beside a registered builder.
        return tfds.core.DatasetInfo(builder=self, features=features(self._tables))

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {split: self._generate_examples(split) for split in self._tables}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        table = self._tables[split]
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(table), _CHUNK):
                chunk = range(start, min(start + _CHUNK, len(table)))
                for index, images in zip(chunk, pool.map(table.images, chunk), strict=True):
                    name = table.record_id(index)
                    yield name, {**images, **self._about(table, index), "id": f"{split}/{name}"}
                self._written += len(chunk)
                self._done(self._written)

    def _about(self, table: FileTable, index: int) -> dict[str, Any]:
        """What is known about a record, in the features' own types."""
        found: dict[str, Any] = {name: int(values[index]) for name, values in table.labels.items()}
        found |= {name: np.float32(values[index]) for name, values in table.values.items()}
        found |= {name: boxes[index] for name, boxes in table.boxes.items()}
        if any(other.groups for other in self._tables.values()):
            found["group"] = pseudonym(self._salt, table.groups[index]) if table.groups else ""
        return found


def write(
    tables: Mapping[str, FileTable],
    data_dir: Path,
    dataset: str,
    config_name: str,
    salt: str,
    done: Callable[[int], None] = lambda count: None,
) -> Path:
    """Decode and write all splits below ``data_dir / dataset / config_name``; returns the directory of the version.

    Args:
      tables: split name -> table; all with the same columns.
      data_dir: where prepared sets are kept.
      dataset: name of the set.
      config_name: of this form of it.
      salt: for `pseudonym`.
      done: is called with the number of records written so far.

    Raises:
      UserError: for a file that cannot be decoded, or images of a column that differ in type.
      OSError: when the place cannot be written, or is full.
    """
    tfds.disable_progress_bar()  # ``done`` takes its place
    config = tfds.core.BuilderConfig(name=config_name, version=Records.VERSION)
    # TFDS names a set after its class.
    named = type(Records)(dataset, (Records,), {"name": dataset}, skip_registration=True)
    builder = named(tables=tables, salt=salt, done=done, data_dir=data_dir, config=config, file_format="array_record")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download
            builder.download_and_prepare()
    except RuntimeError as error:
        # How the ArrayRecord writer reports a full disk.
        if "write() failed" not in str(error):
            raise
        raise OSError(str(error).split("write() failed:")[1].split(";")[0].strip()) from error
    directory = Path(builder.data_dir)
    for split in tables:
        prepared.write_index(directory, split)
    return directory


def pseudonym(salt: str, name: str) -> str:
    """16 hexadecimal digits that are equal for equal names of one set, and lead back to none.

    Whoever has the original files can of course find out; the names of another set never agree.
    """
    return hashlib.sha256(f"{salt}\0{name}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


def features(tables: Mapping[str, FileTable]) -> tfds.features.FeaturesDict:
    """The TFDS features of splits with equal columns.

    Raises:
      UserError: naming the first image whose channels or bits differ from the others'.
      ValueError: for a column named like one of `RESERVED`.
    """
    first = next(iter(tables.values()))
    found: dict[str, Any] = {name: _image_feature(name, tables) for name in first.names}
    for name in first.labels:
        names = first.classes.get(name)
        found[name] = tfds.features.ClassLabel(names=list(names)) if names else np.int32
    found |= dict.fromkeys(first.values, np.float32)
    found |= {name: tfds.features.Tensor(shape=(None, 4), dtype=np.float32) for name in first.boxes}
    if clash := found.keys() & set(RESERVED):
        raise ValueError(f"columns may not be called {', '.join(sorted(clash))}")
    found["id"] = tfds.features.Text()
    if any(table.groups for table in tables.values()):
        found["group"] = tfds.features.Text()
    return tfds.features.FeaturesDict(found)


def _image_feature(name: str, tables: Mapping[str, FileTable]) -> tfds.features.Tensor:
    """The TFDS feature of one image column; a side whose length varies over the records is left open.

    So are the channels where the two domains of an unpaired set differ in them.
    """
    sizes, bits = set(), next(iter(tables.values())).header(0, name).bits
    channels: dict[str, int] = {}  # domain -> its number
    for split, table in tables.items():
        expected = channels.setdefault(domain(split, tables), table.header(0, name).channels)
        for index in range(len(table)):
            header = table.header(index, name)
            if header[2:] != (expected, bits):
                raise UserError(
                    f"{table.origin(index, name)}: has {header.channels} channel(s) of {header.bits} bits, others "
                    f"{expected} of {bits}; convert it, all files of a column alike"
                )
            sizes.add(table.stored_size(index, name))
    lengths = ({size[axis] for size in sizes} for axis in (0, 1))
    shape = tuple(found.pop() if len(found) == 1 else None for found in (*lengths, set(channels.values())))
    # As bytes: TFDS stores plain tensors as lists of 64-bit integers.
    return tfds.features.Tensor(shape=shape, dtype=np.dtype(f"uint{bits}").type, encoding="bytes")


def domain(split: str, splits: Collection[str]) -> str:
    """A or B for splits such as trainA and trainB; empty for others."""
    sides = {f"{split[:-1]}{letter}" for letter in "AB"}
    return split[-1] if split in sides and sides <= set(splits) else ""
