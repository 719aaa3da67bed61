"""Refuse data that a run cannot use, from headers alone, before anything is decoded or compiled."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import LABEL, VIEW, Balanced, Field, Records, Stream
from medgen_jax.data.images import ImageHeader
from medgen_jax.data.tables import Table

#: What a user can lay out to have a table.
_WANTED = {
    "pairs": "pairs: {train,val,test}/{A,B} with equal names, pictures side by side (config.data.layout=panels), "
    "a CSV file with path_a and path_b, or registered pairs beside the rest (config.data.pairs_source)",
    "records": "single images: {train,val,test}/CLASS/name.png, {train,val,test}/name.png (config.data.layout=images), "
    "or a CSV file with path",
}
_DOMAINS = (
    "two domains a and b: trainA and trainB, or two classes of single images named in config.data.class_a and "
    "config.data.class_b"
)
#: Where the classes that take part are named, of the columns for which there is such a setting.
_NAMED_IN = {LABEL: "config.data.classes", VIEW: "config.data.views"}


def table_for(tables: Mapping[str, Table], stream: str) -> Table:
    """The table that feeds a stream.

    Raises:
      UserError: when the data set has no such table.
    """
    if stream not in tables:
        have = ", ".join(sorted(tables))
        wanted = _DOMAINS if stream in ("a", "b") else _WANTED.get(stream, f"a table {stream!r}")
        classes = tables["records"].classes.get("label", ()) if "records" in tables else ()
        named = f" of the classes {', '.join(classes)}" if classes else ""
        raise UserError(f"config.data.source: this system needs {wanted}; the data set has: {have}{named}")
    return tables[stream]


def check_tables(
    tables: Mapping[str, Table],
    streams: Mapping[str, Stream],
    config: DataConfig,
    *,
    training: bool = True,
) -> None:
    """Check every record that the streams will read, from headers and labels only.

    Args:
      tables: what `medgen_jax.data.sources.open_tables` returned for one split.
      streams: what a system eats.
      config: bits, load_size and crop_size that the records must fit.
      training: True when records are cropped to ``crop_size``; False for evaluation, where they
        keep their size and must all have the same.

    Raises:
      UserError: naming the first record at fault, or the class without a record that a balanced order would draw, and
        the remedy.
    """
    for name, stream in streams.items():
        table = table_for(tables, name)
        images = image_columns(stream)
        _check_columns(name, stream, table)
        if training and isinstance(stream.order, Balanced):
            _check_balance(stream.order, table, stream.unbalanced)
        fields = dict(stream.fields)
        _check_wire(name, {column: fields[column] for column in images}, config.bits)
        first: tuple[int, int] | None = None
        for index in range(len(table)):
            headers = {column: table.header(index, column) for column in images}
            for column, header in headers.items():
                _check_type(table.origin(index, column), header, fields[column], config.bits)
            if config.load_size is not None or not headers:
                continue
            size = _common_size(table, index, headers)
            if training:
                _check_crop(table.origin(index, images[0]), size, config.crop_size)
            elif first is None:
                first = size
            elif size != first:
                where = table.origin(index, images[0])
                sizes = f"{_by(size)} pixels, others {_by(first)}"
                raise UserError(f"{where}: is {sizes}; evaluation needs one size: set config.data.load_size")


def image_columns(stream: Stream) -> tuple[str, ...]:
    """Names of the stream's fields that are images (HWC)."""
    return tuple(name for name, field in stream.fields if len(field.shape) == 3)


def _check_columns(name: str, stream: Stream, table: Table) -> None:
    for column, field in stream.fields:
        have = table.names if len(field.shape) == 3 else tuple(table.labels)
        if column not in have:
            kind = "images" if len(field.shape) == 3 else "labels"
            raise UserError(
                f"config.data.source: stream {name!r} needs {kind} {column!r}; "
                f"the data set has: {', '.join(have) or 'none'}"
            )
    if len(table) == 0:
        raise UserError(f"config.data.source: the table {name!r} is empty")


def _check_balance(order: Balanced, table: Table, unbalanced: str) -> None:
    """Refuse to balance over classes, or combinations of them, that have no record; pairs need two."""
    if set(order.columns) <= set(table.labels):
        present = set(zip(*(np.asarray(table.labels[column]).tolist() for column in order.columns), strict=True))
        for combination in itertools.product(*(_taking_part(order, table, column) for column in order.columns)):
            if combination not in present:
                told = [_named(table, *pair) for pair in zip(order.columns, combination, strict=True)]
                raise UserError(
                    f"config.data.source: no training record has {' and '.join(told)}, so they cannot be balanced over "
                    f"{' and '.join(order.columns)}; {_remedies(order.columns, unbalanced)}"
                )
    # Every combination comes within a turn, its pairs within two: what else is wrong the order says itself.
    records = Records(len(table), 0, table.labels)
    for index in range(2 * len(records.cells(order.columns, order.values))):
        order(index, None, records)


def _remedies(columns: Sequence[str], unbalanced: str) -> str:
    """What a user can do about classes without a record."""
    named = [_NAMED_IN[column] for column in columns if column in _NAMED_IN]
    remedies = ["add some"]
    if named:
        remedies.append(f"name what does occur in {' or '.join(named)}")
    if unbalanced:
        remedies.append(f"set {unbalanced}")
    return ", or ".join(remedies)


def _taking_part(order: Balanced, table: Table, column: str) -> Sequence[int]:
    """Classes of a column that an order draws; all that have a name or a record where it says nothing."""
    known = len(table.classes.get(column, ()))
    return dict(order.values).get(column) or range(max(known, 1 + int(np.max(table.labels[column]))))


def _named(table: Table, column: str, value: int) -> str:
    names = table.classes.get(column, ())
    return f"{column} {names[value] if value < len(names) else value}"


def _check_wire(name: str, fields: Mapping[str, Field], bits: int) -> None:
    for column, field in fields.items():
        if field.dtype != f"uint{bits}":
            raise UserError(
                f"stream {name!r}: the system takes {column!r} as {field.dtype}, config.data.bits = {bits}; "
                f"the two must agree: set config.data.bits={field.dtype.removeprefix('uint')}"
            )


def _check_type(where: str, header: ImageHeader, field: Field, bits: int) -> None:
    if header.bits != bits:
        raise UserError(
            f"{where}: has {header.bits} bits per sample, config.data.bits = {bits}; "
            f"set config.data.bits={header.bits} or convert the file, all files alike"
        )
    if header.channels != field.shape[-1]:
        remedy = f"set {field.setting}={header.channels} or convert" if field.setting else "convert"
        raise UserError(
            f"{where}: has {header.channels} channel(s), the system takes {field.shape[-1]}; "
            f"{remedy} the file, all files alike"
        )


def _common_size(table: Table, index: int, headers: Mapping[str, ImageHeader]) -> tuple[int, int]:
    (name, first), *rest = headers.items()
    for other, header in rest:
        if header[:2] != first[:2]:
            raise UserError(
                f"{table.origin(index, other)}: is {_by(header)} pixels, but its partner "
                f"{table.origin(index, name)} is {_by(first)}; a pair must show the same field: "
                "cut them alike, or set config.data.load_size"
            )
    return first[:2]


def _check_crop(where: str, size: tuple[int, int], crop_size: int) -> None:
    if min(size) < crop_size:
        raise UserError(
            f"{where}: is {_by(size)} pixels, smaller than config.data.crop_size = {crop_size}; "
            f"set config.data.load_size={crop_size} to resize, or a smaller crop_size"
        )


def _by(size: tuple[int, ...] | np.ndarray) -> str:
    return f"{size[0]}x{size[1]}"
