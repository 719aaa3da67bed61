"""From ``config.data.source`` to tables: folders, prepared sets and the data that ship with the package."""

from __future__ import annotations

from pathlib import Path

from medgen_jax.core.config import DataConfig, Layout
from medgen_jax.core.errors import UserError
from medgen_jax.data import layouts, prepared
from medgen_jax.data.tables import MEMORY_BYTES, FileTable, Table, keep_what_fits

#: Data sets inside the package: name -> folder.
PACKAGED = {"isl": Path(__file__).parent / "isl"}


def open_tables(config: DataConfig, split: str) -> dict[str, Table]:
    """The records of one split, as one table per use.

    Args:
      config: ``source`` is a directory, or a name in `PACKAGED` (write ``./isl`` for a directory of
        that name); ``layout`` says how the directory is laid out.
      split: train, val or test, or any split of a prepared set.

    Returns:
      Paired: ``pairs`` (columns a and b), ``a``, ``b``. Unpaired: ``a``, ``b``, of different length.
      Prepared: ``records`` with all columns, and the above where the set has them. Decoded images
      stay in memory when those of the split fit into `tables.MEMORY_BYTES`.

    Raises:
      UserError: for a missing directory, split or folder, and for files that cannot be read; from
        listings and headers, before any pixel is decoded.
    """
    root, layout = locate(config)
    if layout is Layout.PREPARED:
        return prepared.open_split(root, split)
    files = layouts.list_split(root, split, layout)
    budget = MEMORY_BYTES // max(1, config.workers)
    if layout is Layout.PAIRED:
        pairs = FileTable(files, config.load_size)
        keep_what_fits([pairs], budget)
        return {"pairs": pairs, "a": pairs.select("a"), "b": pairs.select("b")}
    tables = {column: FileTable({column: paths}, config.load_size) for column, paths in files.items()}
    keep_what_fits(list(tables.values()), budget)
    return dict(tables)


def splits(config: DataConfig) -> tuple[str, ...]:
    """Names of the splits that the source has.

    Raises:
      UserError: as `open_tables`.
    """
    root, layout = locate(config)
    return prepared.splits(root) if layout is Layout.PREPARED else layouts.present_splits(root, layout)


def locate(config: DataConfig) -> tuple[Path, Layout]:
    """The directory of a source and its layout (never AUTO).

    Raises:
      UserError: when there is no such directory, or nothing known inside.
    """
    if not config.source:
        raise UserError(f"config.data.source is empty: give a directory, or one of {', '.join(sorted(PACKAGED))}")
    root = PACKAGED.get(config.source) or Path(config.source).expanduser()
    if not root.is_dir():
        names = ", ".join(sorted(PACKAGED))
        raise UserError(f"config.data.source = {config.source!r}: no such directory; packaged data sets are: {names}")
    if config.layout is Layout.PREPARED or (config.layout is Layout.AUTO and prepared.is_prepared(root)):
        return prepared.find(root), Layout.PREPARED
    try:
        return root, layouts.find_layout(root, config.layout)
    except UserError:
        # A folder above prepared sets, as `prepare --data_dir` leaves it.
        if config.layout is Layout.AUTO and prepared.below(root):
            return prepared.find(root), Layout.PREPARED
        raise
