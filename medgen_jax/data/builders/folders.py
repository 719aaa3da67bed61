"""TFDS builders for image folders: raw ``uint8`` or ``uint16`` tensors, one per column.

A record holds its images and ``id``, the split and file name it came from, because TFDS stores
records in hashed order. TensorFlow is not needed.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from medgen_jax.core.config import Layout
from medgen_jax.core.errors import UserError
from medgen_jax.data import layouts
from medgen_jax.data.tables import FileTable

_CHUNK = 64  # records decoded side by side


class ImageFolder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes `FileTable` objects, one per split, as a TFDS set.

    Args:
      tables: split name -> table; all with the same columns.
    """

    VERSION = tfds.core.Version("1.0.0")
    # TFDS looks for a list of download checksums beside the class, by way of a package that it does
    # not install itself. There is none: nothing is downloaded.
    code_path = None

    def __init__(self, *, tables: Mapping[str, FileTable], **kwargs: Any):
        self._tables = dict(tables)
        super().__init__(**kwargs)

    @classmethod
    def write(cls, tables: Mapping[str, FileTable], data_dir: Path, config_name: str) -> Path:
        """Decode and write all splits below ``data_dir``; returns the directory of the version.

        Raises:
          OSError: when the place cannot be written, or is full.
        """
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        config = tfds.core.BuilderConfig(name=config_name, version=cls.VERSION)
        builder = cls(tables=tables, data_dir=data_dir, config=config, file_format="array_record")
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download
                builder.download_and_prepare()
        except RuntimeError as error:
            # How the ArrayRecord writer reports a full disk.
            if "write() failed" not in str(error):
                raise
            raise OSError(str(error).split("write() failed:")[1].split(";")[0].strip()) from error
        return Path(builder.data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        names = next(iter(self._tables.values())).names
        features = {name: _feature(name, list(self._tables.values())) for name in names}
        # Built by hand: the usual helper looks for metadata files beside a registered builder.
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({**features, "id": tfds.features.Text()})
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {split: self._generate_examples(split) for split in self._tables}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        table = self._tables[split]
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(table), _CHUNK):
                chunk = range(start, min(start + _CHUNK, len(table)))
                for index, images in zip(chunk, pool.map(table.images, chunk), strict=True):
                    name = table.record_id(index)
                    yield name, {**images, "id": f"{split}/{name}"}


class PairedFolder(ImageFolder):
    """``{train,val,test}/{A,B}/name.png`` as splits with features ``a`` and ``b``."""

    @classmethod
    def open_source(cls, source: Path, size: int | None) -> dict[str, FileTable]:
        """Tables by split.

        Raises:
          UserError: as `medgen_jax.data.layouts.list_split`; and for pairs of different size.
        """
        layouts.find_layout(source, Layout.PAIRED)
        tables = {}
        for split in layouts.present_splits(source, Layout.PAIRED):
            tables[split] = FileTable(layouts.list_split(source, split, Layout.PAIRED), size)
            if size is None:
                _refuse_unequal_pairs(tables[split])
        return tables


class UnpairedFolder(ImageFolder):
    """``trainA trainB testA testB`` as splits of these names with one feature ``image``."""

    @classmethod
    def open_source(cls, source: Path, size: int | None) -> dict[str, FileTable]:
        """Tables by split and side.

        Raises:
          UserError: as `medgen_jax.data.layouts.list_split`.
        """
        layouts.find_layout(source, Layout.UNPAIRED)
        tables = {}
        for split in layouts.present_splits(source, Layout.UNPAIRED):
            for column, files in layouts.list_split(source, split, Layout.UNPAIRED).items():
                tables[f"{split}{layouts.SIDES[column]}"] = FileTable({"image": files}, size)
        return tables


def _refuse_unequal_pairs(table: FileTable) -> None:
    for index in range(len(table)):
        a, b = table.header(index, "a"), table.header(index, "b")
        if a[:2] != b[:2]:
            raise UserError(
                f"{table.origin(index, 'b')}: is {b.height}x{b.width} pixels, its partner in A is "
                f"{a.height}x{a.width}; a pair must show the same field: cut them alike, or give --size"
            )


def _feature(name: str, tables: list[FileTable]) -> tfds.features.Tensor:
    """The TFDS feature of one column; a side whose length varies over the records is left open.

    Raises:
      UserError: naming the first image whose channels or bits differ from the others'.
    """
    first = tables[0].header(0, name)
    sizes = set()
    for table in tables:
        for index in range(len(table)):
            header = table.header(index, name)
            if header[2:] != first[2:]:
                raise UserError(
                    f"{table.origin(index, name)}: has {header.channels} channel(s) of {header.bits} bits, others "
                    f"{first.channels} of {first.bits}; convert it, all files of a column alike"
                )
            sizes.add(table.stored_size(index, name))
    heights, widths = ({size[axis] for size in sizes} for axis in (0, 1))
    shape = (*(lengths.pop() if len(lengths) == 1 else None for lengths in (heights, widths)), first.channels)
    # As bytes: TFDS stores plain tensors as lists of 64-bit integers.
    return tfds.features.Tensor(shape=shape, dtype=np.dtype(f"uint{first.bits}").type, encoding="bytes")
