"""From ``config.data.source`` to tables: folders, CSV files, prepared sets, and the data that ship with the package."""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path
from typing import Any

from medgen_jax.core.config import DataConfig, Layout, from_dict, parse_window
from medgen_jax.core.errors import UserError
from medgen_jax.data import csv_manifest, domains, layouts, prepared, subsets
from medgen_jax.data.images import Range, View
from medgen_jax.data.listing import Listing, Panel
from medgen_jax.data.splits import SPLITS, check_disjoint
from medgen_jax.data.tables import MEMORY_BYTES, FileTable, Table, keep_what_fits

#: Data sets inside the package: name -> folder.
PACKAGED = {"isl": Path(__file__).parent / "isl"}
#: Fields that say which physical values the levels stand for.
GREYSCALE = ("range_low", "range_high", "nan", "window")
#: What may be asked of a CSV file.
_CSV_LAYOUTS = (Layout.AUTO, Layout.CSV, Layout.UNPAIRED)


def open_tables(config: DataConfig, split: str) -> dict[str, Table]:
    """The records of one split, as one table per use.

    Args:
      config: ``source`` is a directory, a CSV file, or a name in `PACKAGED` (write ``./isl`` for a
        directory of that name); ``layout`` says how the directory is laid out; ``pairs_source`` is a
        second source, whose pairs join the tables; ``class_a`` and ``class_b`` are two classes of single
        images that become the domains a and b; ``classes`` are those of single images that are kept, labelled
        in this order; ``views`` number the views of single images; files are read through `view`.
      split: train, val or test, or any split of a prepared set.

    Returns:
      Pairs (two folders, panels, CSV): ``pairs`` (columns a and b), ``a``, ``b``. Unpaired: ``a``,
      ``b``, of different length. Class folders, images, CSV with one path: ``records`` (column image).
      Prepared: ``records`` with all columns, and the above where the set has them. Decoded images
      stay in memory when those of the split fit into `tables.MEMORY_BYTES`.

    Raises:
      UserError: for a missing directory, split or folder, a patient in two splits, files that cannot
        be read, and as `declared`; from listings and headers, before any pixel is decoded.
    """
    config = declared(config)
    tables = _open(config, split)
    if config.class_a is not None and config.class_b is not None:
        tables |= domains.by_class(tables, {"a": config.class_a, "b": config.class_b})
    if config.pairs_source is not None:
        tables |= _registered_pairs(config, split, tables)
    files = [table for table in tables.values() if isinstance(table, FileTable)]
    keep_what_fits(files, MEMORY_BYTES // max(1, config.workers))
    if config.classes and "records" in tables:
        tables["records"] = subsets.of_classes(tables["records"], config.classes)
    if config.views and "records" in tables:
        tables["records"] = subsets.of_views(tables["records"], config.views)
    if "pairs" in tables:
        tables |= {side: tables["pairs"].select(side) for side in layouts.SIDES if side not in tables}
    return tables


def view(config: DataConfig) -> View:
    """How the files of a data set become levels: the declared range, what NaN becomes, the window of DICOM files.

    Raises:
      UserError: for an impossible range or window.
    """
    low, high = config.range_low, config.range_high
    span = None if low is None or high is None else Range(low, high)
    return View(span, nan=config.nan.value, window=parse_window(config.window))


def declared(config: DataConfig) -> DataConfig:
    """The configuration with the `GREYSCALE` that its prepared sets were made with, where it says nothing itself.

    Levels of a prepared set were fixed when it was prepared. A run on it needs the same fields to read other files
    as it was trained, and to write values. Sets of other programs do not say what their levels stand for, so any
    fields go with them.

    Raises:
      UserError: for fields that a prepared set was not made with, and as `locate`.
    """
    found = _as_prepared(config, *locate(config))
    return found if config.pairs_source is None else _as_prepared(found, *locate(_second(config)))


def _as_prepared(config: DataConfig, place: Path, layout: Layout) -> DataConfig:
    """`declared` for one source."""
    said = prepared.declared(place) if layout is Layout.PREPARED else None
    if said is None:
        return config
    made, plain = from_dict(DataConfig, said), DataConfig()
    for name in GREYSCALE:
        given, used, unset = (getattr(each, name) for each in (config, made, plain))
        same = parse_window(given) == parse_window(used) if name == "window" else given == used
        if given != unset and not same:
            how = "without it" if used == unset else f"with {_plain(used)}"
            raise UserError(
                f"config.data.{name} = {_plain(given)}: {place} was prepared {how}; leave the field out, or prepare "
                f"the data set again with {_as_flags(config, name)}"
            )
    return dataclasses.replace(config, **{name: getattr(made, name) for name in GREYSCALE})


def _as_flags(config: DataConfig, name: str) -> str:
    """A field as a flag of ``prepare``; both ends of a range."""
    ends = ("range_low", "range_high")
    return " ".join(f"--{each}={_plain(getattr(config, each))}" for each in (ends if name in ends else (name,)))


def _plain(value: Any) -> Any:
    """A field's value as a user writes it."""
    return value.value if isinstance(value, enum.Enum) else value


def list_tables(config: DataConfig, split: str) -> dict[str, Listing]:
    """The records of one split of a folder or CSV file, by table, from listings alone.

    Raises:
      UserError: as `open_tables`; and for a prepared set, which has no files to list.
    """
    place, layout = locate(config)
    if layout is Layout.PREPARED:
        raise UserError(f"{place}: is prepared already; give the folder or CSV file that it was made from")
    if layout is not Layout.CSV:
        return layouts.list_tables(place, split, layout, _panels(config))
    found = _manifest(config, place).splits
    if split not in found:
        raise UserError(f"{place}: has no split {split!r}; it has {', '.join(found)}")
    return dict(found[split])


def splits(config: DataConfig) -> tuple[str, ...]:
    """Names of the splits that the source has.

    Raises:
      UserError: as `open_tables`.
    """
    place, layout = locate(config)
    if layout is Layout.PREPARED:
        return prepared.splits(place)
    return tuple(_manifest(config, place).splits) if layout is Layout.CSV else layouts.present_splits(place, layout)


def locate(config: DataConfig) -> tuple[Path, Layout]:
    """The directory or CSV file of a source, and its layout (never AUTO).

    Raises:
      UserError: when there is neither, or nothing known inside.
    """
    if not config.source:
        raise UserError(f"config.data.source is empty: give a directory, or one of {', '.join(sorted(PACKAGED))}")
    root = PACKAGED.get(config.source) or Path(config.source).expanduser()
    if root.is_file():
        return _csv_file(root, config.layout), Layout.CSV
    if not root.is_dir():
        names = ", ".join(sorted(PACKAGED))
        raise UserError(
            f"config.data.source = {config.source!r}: no such directory or file; packaged data sets are: {names}"
        )
    if config.layout is Layout.CSV:
        raise UserError(f"config.data.source = {config.source!r}: is a directory; name the CSV file inside")
    if config.layout is Layout.PREPARED or (config.layout is Layout.AUTO and prepared.is_prepared(root)):
        return prepared.find(root), Layout.PREPARED
    try:
        return root, layouts.find_layout(root, config.layout, _panels(config))
    except UserError:
        # A folder above prepared sets, as `prepare --data_dir` leaves it.
        if config.layout is Layout.AUTO and prepared.below(root):
            return prepared.find(root), Layout.PREPARED
        raise


def _open(config: DataConfig, split: str) -> dict[str, Table]:
    place, layout = locate(config)
    if layout is Layout.PREPARED:
        return prepared.open_split(place, split)
    listings = list_tables(config, split)
    return {name: FileTable(listing, config.load_size, view(config)) for name, listing in listings.items()}


def _registered_pairs(config: DataConfig, split: str, tables: dict[str, Table]) -> dict[str, Table]:
    """The pairs of ``pairs_source``; none where it lacks the split."""
    if "pairs" in tables:
        raise UserError(
            f"config.data.pairs_source = {config.pairs_source!r}: {config.source} holds pairs itself; "
            "set config.data.layout=unpaired to take its images one by one, or leave pairs_source out"
        )
    second = _second(config)
    _check_patients(config, second)
    if split not in splits(second):
        return {}
    found = _open(second, split)
    if "pairs" not in found:
        raise UserError(f"config.data.pairs_source = {config.pairs_source!r}: has {', '.join(found)}, but no pairs")
    return {"pairs": found["pairs"]}


def _second(config: DataConfig) -> DataConfig:
    """The configuration of ``pairs_source`` alone."""
    second = dataclasses.replace(config, source=config.pairs_source, layout=Layout.AUTO, pairs_source=None)
    if locate(second)[1] is Layout.IMAGES:  # said to be pairs, so these are panels
        second.layout = Layout.PANELS
    return second


def _check_patients(*configs: DataConfig) -> None:
    """Refuse a patient who is in one split of one source and in another split of the other."""
    groups: dict[str, list[str]] = {split: [] for split in SPLITS}
    for config in configs:
        if locate(config)[1] is Layout.PREPARED:
            return
        for split in splits(config):
            for listing in list_tables(config, split).values():
                groups[split] += listing.groups
    check_disjoint(groups, " and ".join(config.source for config in configs))


def _manifest(config: DataConfig, file: Path) -> csv_manifest.Manifest:
    unpaired = config.layout is Layout.UNPAIRED
    return csv_manifest.read_manifest(
        file, config.csv_root, unpaired=unpaired, shares=config.shares, seed=config.split_seed
    )


def _csv_file(file: Path, layout: Layout) -> Path:
    if file.suffix.lower() not in csv_manifest.SUFFIXES:
        raise UserError(f"config.data.source = {str(file)!r}: is neither a directory nor a .csv or .tsv file")
    if layout not in _CSV_LAYOUTS:
        raise UserError(f"config.data.layout = {layout.value!r}: {file} is a CSV file; leave layout at auto")
    return file


def _panels(config: DataConfig) -> dict[str, Panel]:
    return {"a": Panel(config.panel_a, config.panels), "b": Panel(config.panel_b, config.panels)}
