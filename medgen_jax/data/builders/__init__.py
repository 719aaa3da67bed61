"""Prepare a data set once: decode, resize, write raw ArrayRecord shards with TFDS.

`BUILDERS` names what ``python -m medgen_jax.prepare --dataset`` takes. A data set is a function

    open_source(source: Path, *, option: type = default, ...) -> dict[str, Listing]    # split -> records

which lists files and reads tables and headers, but decodes no pixel. Its keyword-only arguments are
the options of the set (`options`); what it warns of is told and kept with the prepared set, which lies in

    data_dir / dataset / <source folder>-<size>[-<options>][-<greyscale>]-<hash of the content> / version

so that changed sources never hide behind an old set of the same name.

Samples that are not 8 or 16 unsigned bits become levels through a `View`. It is kept with the set, because
whoever reads other files for a network that was trained on it needs the same (`medgen_jax.data.sources.declared`).

options     arguments as options                metadata     CSV files that come with public sets
folders     folders and CSV files of your own   writer       tables as TFDS records
greyscale   physical values as levels
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from tqdm import tqdm

from medgen_jax.core.errors import UserError
from medgen_jax.core.manifest import Damaged, file_digest, is_sealed, read, seal
from medgen_jax.data.builders import greyscale, writer
from medgen_jax.data.builders.options import as_text, describe, read_options
from medgen_jax.data.formats.samples import Source
from medgen_jax.data.images import View
from medgen_jax.data.listing import Listing
from medgen_jax.data.manifest import verify
from medgen_jax.data.splits import overlaps
from medgen_jax.data.tables import FileTable

_HERE = "medgen_jax.data.builders"
_FOLDERS = {
    "folder": "open_folder",
    "paired_folder": "open_paired",
    "unpaired_folder": "open_unpaired",
    "csv": "open_csv",
}
#: Public sets, each a module of this package with a function ``open_source``.
_SETS = (
    "bbbc006",
    "comi",
    "covid_qu_ex",
    "covid_severity",
    "kermany",
    "mimic_cxr",
    "monuseg",
    "nct_crc",
    "nih14",
    "ralo",
    "rsna",
)
#: Name -> "module:function". The module is imported only when its data set is asked for.
BUILDERS: dict[str, str] = {
    **{name: f"{_HERE}.folders:{function}" for name, function in _FOLDERS.items()},
    **{name: f"{_HERE}.{name}:open_source" for name in _SETS},
}

_PLAIN = View()
_LONGEST = 80  # characters that the options may take in the name of a folder


class Plan(NamedTuple):
    """What is to be written: the tables of all splits, and what identifies them."""

    tables: Mapping[str, FileTable]
    notes: tuple[str, ...]
    digest: str


def builder(dataset: str) -> Callable[..., dict[str, Listing]]:
    """The function that lists a registered data set.

    Raises:
      UserError: for an unknown name.
    """
    return getattr(_module(dataset), BUILDERS[dataset].split(":")[1])


def describe_options(dataset: str) -> list[str]:
    """What a data set gives, then its options, one line each: default, choices, meaning.

    Raises:
      UserError: for an unknown name.
    """
    return describe(builder(dataset))


def prepare(
    dataset: str,
    source: str | Path,
    data_dir: str | Path,
    size: int | None = None,
    options: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
    view: View = _PLAIN,
) -> Path:
    """Write a data set as ArrayRecord shards, or check the one that is already there.

    The set appears under its final name only when it is complete.

    Args:
      dataset: a name in `BUILDERS`.
      source: directory of the original files; for csv the file.
      data_dir: where prepared sets are kept.
      size: resize every image to this square (bicubic); None keeps sizes.
      options: of the data set, as text or with the type that its argument has.
      say: receives one line per event.
      view: how samples become levels (`greyscale.from_flags`).

    Returns:
      The directory to use as ``config.data.source``.

    Raises:
      UserError: for bad sources or options, a patient in two splits, a set prepared from other
        content of the same source folder, or a place that cannot be written.
    """
    source, data_dir = Path(source).expanduser(), Path(data_dir).expanduser()
    function = builder(dataset)
    chosen = read_options(dataset, function, options or {})
    if not source.exists():
        raise UserError(f"--source {source}: no such {'file' if dataset == 'csv' else 'directory'}")
    if not source.is_dir() and dataset != "csv":
        raise UserError(f"--source {source}: is no directory")
    if size is not None and size < 1:
        raise UserError(f"--size {size}: must be at least 1")
    with greyscale.naming_flags():
        return _prepare(dataset, source, data_dir, size, chosen, view, say)


def _prepare(
    dataset: str, source: Path, data_dir: Path, size: int | None, chosen: Mapping[str, Any], view: View,
    say: Callable[[str], None],
) -> Path:  # fmt: skip
    """`prepare` with options read and arguments checked."""
    plan = _plan(dataset, source, size, chosen, view)
    for note in plan.notes:
        say(f"note: {note}")
    seen = "".join(f"{_slug(word)}-" for word in greyscale.words(view))
    prefix = f"{_slug(source.resolve().name)}-{size or 'full'}-{_options_slug(chosen)}{seen}"
    name = f"{prefix}{plan.digest[:12]}"
    target = data_dir / dataset / name / writer.VERSION
    if target.is_dir():
        if not is_sealed(target):
            raise UserError(f"{target}: has lost its manifest; delete it and prepare again")
        verify(target, full=True)
        say(f"{target}: already prepared from this content, all files verified")
        return target
    written_from = {
        "folder": source.resolve().name,
        "sha256": plan.digest,
        "size": size,
        "options": {option: as_text(value) for option, value in chosen.items()},
        "declared": greyscale.fields(view),
        # A prepared set may travel; where its source lay on this machine does not.
        "notes": [note.replace(str(source), source.resolve().name) for note in plan.notes],
    }
    _refuse_other_content(data_dir / dataset, prefix, written_from)
    try:
        _write(dataset, plan, data_dir, target, written_from)
    except OSError as error:
        raise UserError(
            f"{data_dir}: cannot be written ({error.strerror or error}); free space or choose another --data_dir"
        ) from error
    say(f"{target}: {', '.join(f'{split} {len(table)}' for split, table in plan.tables.items())} records")
    return target


# ---- what is to be written -----------------------------------------------------------------------


def _module(dataset: str) -> ModuleType:
    if dataset not in BUILDERS:
        raise UserError(f"--dataset {dataset}: unknown; the data sets are {', '.join(sorted(BUILDERS))}")
    return importlib.import_module(BUILDERS[dataset].split(":")[0])


def _plan(dataset: str, source: Path, size: int | None, options: Mapping[str, Any], view: View) -> Plan:
    """List, check and open a source; no pixel is decoded."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        listings = builder(dataset)(source, **options)
    notes = [str(warning.message) for warning in caught if warning.category is UserWarning]
    for split, listing in listings.items():
        if not len(listing):
            raise UserError(f"{source}: the split {split} has no records; see --dataset {dataset} --help_options")
    notes += _shared_patients(source, listings, options, getattr(_module(dataset), "LEAKING", {}))
    tables = {split: FileTable(listing, size, view) for split, listing in listings.items()}
    for split, table in tables.items():
        _check_geometry(listings[split], table, size)
    return Plan(tables, tuple(notes), content_digest(listings, view))


def _shared_patients(
    source: Path, listings: Mapping[str, Listing], options: Mapping[str, Any], leaking: Mapping[str, Any]
) -> list[str]:
    """Refuse patients in two splits; where an option asks for such a split, say how many instead.

    Args:
      leaking: option -> its value under which the set's own split shares patients.
    """
    groups: dict[str, list[str]] = {}
    for split, listing in listings.items():
        # Both domains of an unpaired set may show a patient.
        groups.setdefault(split.removesuffix(writer.domain(split, listings)), []).extend(listing.groups)
    found = overlaps(groups)
    if not found:
        return []
    counts = f"patients or slides in more than one split: {'; '.join(map(str, found))}"
    for option, value in leaking.items():
        if options.get(option) is value:
            return [f"{option}={as_text(value)} has {counts}; what is measured on it flatters"]
    raise UserError(f"{source}: {counts}. A network can remember them, and the numbers would flatter it")


def _check_geometry(listing: Listing, table: FileTable, size: int | None) -> None:
    """Refuse records whose images differ in size, and boxes that reach out of their image."""
    first, *others = table.names
    for index in range(len(table)):
        height, width = table.header(index, first)[:2]
        for name in others if size is None else ():
            other = table.header(index, name)
            if other[:2] != (height, width):
                raise UserError(
                    f"{table.origin(index, name)}: is {other.height}x{other.width} pixels, its partner in "
                    f"{first} is {height}x{width}; the images of a record must show the same field: cut them "
                    "alike, or give --size"
                )
        stored_height, stored_width = table.stored_size(index, first)
        for column, boxes in listing.boxes.items():
            for told, (x, y, across, down) in zip(boxes[index], table.boxes[column][index], strict=True):
                if min(x, y) < -1 or x + across > stored_width + 1 or y + down > stored_height + 1:
                    raise UserError(
                        f"{table.origin(index, first)}: the box (x {told[0]:g}, y {told[1]:g}, {told[2]:g} wide, "
                        f"{told[3]:g} high) reaches out of its image of {width}x{height} pixels; mend it in the table "
                        "that it comes from"
                    )


# ---- what identifies it --------------------------------------------------------------------------


def content_digest(listings: Mapping[str, Listing], view: View = _PLAIN) -> str:
    """sha256 over all that makes a set: the bytes of its files, which record has which of them, and what else it has.

    Files count with their names from their common folder on. A path that chooses a part of a file,
    such as ``x.tif#1``, stands for the whole file. A greyscale counts where one was asked for.
    """
    named = [file for listing in listings.values() for files in listing.columns.values() for file in files]
    whole = sorted({Source.parse(file).path for file in named})
    root = os.path.commonpath([path.parent for path in whole])
    total = hashlib.sha256(json.dumps(_records(listings, root), sort_keys=True).encode())
    if declared := greyscale.fields(view):
        total.update(json.dumps(declared, sort_keys=True).encode())
    for path in _bar(whole, desc="checksums", unit=" files"):
        try:
            content = file_digest(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
        total.update(f"{os.path.relpath(path, root)}\0{content}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _records(listings: Mapping[str, Listing], root: str) -> dict[str, Any]:
    """Listings in JSON types, files by their names from ``root`` on."""
    return {
        split: {
            "columns": {name: [os.path.relpath(file, root) for file in files] for name, files in its.columns.items()},
            "labels": dict(its.labels),
            "classes": dict(its.classes),
            "values": dict(its.values),
            "boxes": dict(its.boxes),
            "ids": its.ids,
            "groups": its.groups,
            "panels": dict(its.panels),
            "grey": its.grey,
        }
        for split, its in listings.items()
    }


def _bar(*iterable: Any, **options: Any) -> tqdm:
    """A progress bar on a terminal, none elsewhere."""
    return tqdm(*iterable, disable=not sys.stderr.isatty(), **options)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "source"


def _options_slug(options: Mapping[str, Any]) -> str:
    """The options that were given, as a part of a folder's name."""
    words = "-".join(_slug(f"{name}_{as_text(value)}") for name, value in sorted(options.items()))
    if len(words) > _LONGEST:
        words = hashlib.sha256(words.encode()).hexdigest()[:16]
    return f"{words}-" if words else ""


def _refuse_other_content(folder: Path, prefix: str, written_from: Mapping[str, Any]) -> None:
    """Refuse a second set of the same source and options; other options of a similar name stand beside it."""

    def asked(source: Mapping[str, Any]) -> list[Any]:
        return [source.get(key) or None for key in ("folder", "size", "options", "declared")]

    for other in sorted(folder.glob(f"{prefix}*")) if folder.is_dir() else ():
        if not re.fullmatch(f"{re.escape(prefix)}[0-9a-f]{{12}}", other.name):
            continue
        try:
            same = asked(read(other / writer.VERSION)["source"]) == asked(written_from)
        except (Damaged, KeyError):
            same = True
        if same:
            raise UserError(
                f"{other}: was prepared from other content of {written_from['folder']}; "
                "delete it, or choose another --data_dir, to prepare the present content"
            )


# ---- writing -------------------------------------------------------------------------------------


def _write(dataset: str, plan: Plan, data_dir: Path, target: Path, written_from: dict[str, Any]) -> None:
    """Prepare in a scratch folder beside the target, seal, then move into place."""
    data_dir.mkdir(parents=True, exist_ok=True)
    needed, free = sum(table.nbytes for table in plan.tables.values()), shutil.disk_usage(data_dir).free
    if needed > free:
        raise UserError(f"{data_dir}: the prepared set needs {needed:,} bytes, {free:,} are free; free space")
    scratch = data_dir / f".preparing-{os.getpid()}"
    total = sum(map(len, plan.tables.values()))
    try:
        with _bar(total=total, desc=dataset, unit=" records") as bar:
            written = writer.write(
                plan.tables, scratch, dataset, target.parent.name, plan.digest, lambda count: bar.update(count - bar.n)
            )
        seal(written, source=written_from)
        target.parent.parent.mkdir(parents=True, exist_ok=True)
        os.replace(written.parent, target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
