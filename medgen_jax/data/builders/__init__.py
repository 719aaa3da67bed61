"""Prepare a data set once: decode, resize, write raw ArrayRecord shards with TFDS.

`BUILDERS` names what ``python -m medgen_jax.prepare --dataset`` takes. A prepared set lies in

    data_dir / dataset / <source folder>-<size>-<hash of the source> / version

so that changed sources never hide behind an old set of the same name.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medgen_jax.core.errors import UserError
from medgen_jax.core.manifest import file_digest, is_sealed, seal
from medgen_jax.data.manifest import verify

#: Name -> "module:builder class". The module is imported only when the data set is prepared.
BUILDERS: dict[str, str] = {
    "paired_folder": "medgen_jax.data.builders.folders:PairedFolder",
    "unpaired_folder": "medgen_jax.data.builders.folders:UnpairedFolder",
}


def builder_class(dataset: str) -> Any:
    """The TFDS builder class of a registered data set.

    Raises:
      UserError: for an unknown name.
    """
    if dataset not in BUILDERS:
        raise UserError(f"--dataset {dataset}: unknown; the data sets are {', '.join(sorted(BUILDERS))}")
    module, name = BUILDERS[dataset].split(":")
    return getattr(importlib.import_module(module), name)


def prepare(
    dataset: str,
    source: str | Path,
    data_dir: str | Path,
    size: int | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Write a data set as ArrayRecord shards, or check the one that is already there.

    The set appears under its final name only when it is complete.

    Args:
      dataset: a name in `BUILDERS`.
      source: directory of the original files.
      data_dir: where prepared sets are kept.
      size: resize every image to this square (bicubic); None keeps sizes.
      say: receives one line per event.

    Returns:
      The directory to use as ``config.data.source``.

    Raises:
      UserError: for bad sources, a set prepared from other content of the same source folder, or a
        place that cannot be written.
    """
    source, data_dir = Path(source), Path(data_dir)
    if not source.is_dir():
        raise UserError(f"--source {source}: no such directory")
    if size is not None and size < 1:
        raise UserError(f"--size {size}: must be at least 1")
    builder = builder_class(dataset)
    tables = builder.open_source(source, size)
    digest = content_digest(source, [file for table in tables.values() for file in table.files])
    prefix = f"{_slug(source.resolve().name)}-{size or 'full'}-"
    target = data_dir / dataset / f"{prefix}{digest[:12]}" / str(builder.VERSION)
    if target.is_dir():
        if not is_sealed(target):
            raise UserError(f"{target}: has lost its manifest; delete it and prepare again")
        verify(target, full=True)
        say(f"{target}: already prepared from this content, all files verified")
        return target
    _refuse_other_content(data_dir / dataset, prefix, source)
    written_from = {"folder": source.resolve().name, "sha256": digest, "size": size}
    try:
        _write(builder, tables, data_dir, target, written_from)
    except OSError as error:
        raise UserError(
            f"{data_dir}: cannot be written ({error.strerror or error}); free space or choose another --data_dir"
        ) from error
    say(f"{target}: {', '.join(f'{split} {len(table)}' for split, table in tables.items())} records")
    return target


def content_digest(root: Path, files: list[Path]) -> str:
    """sha256 over the relative names and contents of files, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(set(files)):
        try:
            content = file_digest(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
        total.update(f"{path.relative_to(root).as_posix()}\0{content}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "source"


def _refuse_other_content(folder: Path, prefix: str, source: Path) -> None:
    for other in sorted(folder.glob(f"{prefix}*")) if folder.is_dir() else ():
        if re.fullmatch(f"{re.escape(prefix)}[0-9a-f]{{12}}", other.name):
            raise UserError(
                f"{other}: was prepared from other content of {source.name}; "
                "delete it, or choose another --data_dir, to prepare the present content"
            )


def _write(builder: Any, tables: Mapping[str, Any], data_dir: Path, target: Path, written_from: dict[str, Any]) -> None:
    """Prepare in a scratch folder beside the target, seal, then move into place."""
    data_dir.mkdir(parents=True, exist_ok=True)
    needed, free = sum(table.nbytes for table in tables.values()), shutil.disk_usage(data_dir).free
    if needed > free:
        raise UserError(f"{data_dir}: the prepared set needs {needed:,} bytes, {free:,} are free; free space")
    scratch = data_dir / f".preparing-{os.getpid()}"
    try:
        written = builder.write(tables, scratch, target.parent.name)
        seal(written, source=written_from)
        target.parent.parent.mkdir(parents=True, exist_ok=True)
        os.replace(written.parent, target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
