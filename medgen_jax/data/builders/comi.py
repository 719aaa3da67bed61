"""COMI: bright-field and confocal fields out of focus (a) and in focus (b), paired by name.

    SOURCE/Leishmania_{blurred,clear}_{train,test}/<n>.jpg    parasites, RGB, with a split of their own
    SOURCE/Z004/Z4_<n>.jpg ... SOURCE/Z007/Z7_<n>.jpg         BPAEC, one source per structure (nucleus, actin,
                                                              mitochondria); plane 7 is in focus: a=Z004, b=Z007

Mendeley Data m3jxgb54c9 (folders Leishmania and BPAEC), of the out-of-focus correction by Jiang and others. Any
two folders whose files have equal names are read as well.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from medgen_jax.core.errors import UserError
from medgen_jax.data.builders.metadata import deal
from medgen_jax.data.layouts import Files, list_images
from medgen_jax.data.listing import Listing

_PLANE = re.compile(r"^Z\d+_", re.IGNORECASE)
_OWN_SPLITS = ("train", "test")


def open_source(
    source: Path,
    *,
    a: str = "Leishmania_blurred",
    b: str = "Leishmania_clear",
    group: str = "",
    val_share: float = 0.1,
    test_share: float = 0.1,
    split_seed: int = 0,
) -> dict[str, Listing]:
    """Splits with columns ``a`` (out of focus) and ``b`` (in focus).

    Where the set has folders ``<a>_train`` and ``<a>_test``, these are its splits, and ``val`` is
    dealt out of train; otherwise the pairs of folders ``<a>`` and ``<b>`` are dealt into all three.
    Names are equal when they differ in a leading ``Z<n>_`` alone, which tells the plane.

    Args:
      source: as the module shows it.
      a: folder of the images out of focus, without its ``_train`` or ``_test``.
      b: folder of the images in focus.
      group: regular expression of what in a name (without its plane) tells slide or patient; its
        first parenthesis, or all that it matches. Nothing else does: without it every field stands
        for itself. With it records are numbered, so that outputs repeat none of these names.
      val_share: share of the groups, or fields, in ``val``; 0 leaves it out.
      test_share: share in ``test``, where the set has no split of its own; 0 leaves it out.
      split_seed: another one deals anew.

    Raises:
      UserError: for a missing folder, names without a partner (with their number and the first),
        an expression that is none or does not match a name, or a split without a group.
    """
    source = Path(source)
    pattern = _expression(group)
    own = _OWN_SPLITS if (source / f"{a}_train").is_dir() else ()
    if own:
        found = {split: _pairs(source, f"{a}_{split}", f"{b}_{split}", pattern) for split in own}
        pool = found.pop("train")
    else:
        found, pool = {}, _pairs(source, a, b, pattern)
    if not pool.groups:
        warnings.warn(
            f"{source}: nothing says which fields are of one slide, so that single fields are dealt into splits and "
            "one slide may be in several; where names tell it, say how with --set group=EXPRESSION",
            stacklevel=2,
        )
    return deal(pool, val_share, 0.0 if own else test_share, split_seed) | found


def _expression(group: str) -> re.Pattern[str] | None:
    try:
        return re.compile(group) if group else None
    except re.error as error:
        raise UserError(f"--set group={group}: is no regular expression ({error})") from error


def _pairs(source: Path, a: str, b: str, pattern: re.Pattern[str] | None) -> Listing:
    files = {column: _fields(source, name) for column, name in (("a", a), ("b", b))}
    if lonely := sorted(set(files["a"]) ^ set(files["b"])):
        raise UserError(
            f"{source}: {len(files['a'])} images in {a} and {len(files['b'])} in {b}, {len(lonely)} without a partner "
            f"of the same name (first: {(files['a'].get(lonely[0]) or files['b'][lonely[0]]).name}); add the missing "
            "ones, or remove these"
        )
    names = sorted(files["a"])
    return Listing(
        {column: tuple(fields[name] for name in names) for column, fields in files.items()},
        ids=tuple(names) if pattern is None else tuple(f"field_{i:05d}" for i in range(len(names))),
        groups=() if pattern is None else _groups(source, names, pattern),
    )


def _fields(source: Path, name: str) -> Files:
    """The images of a folder, by name without plane."""
    folder = source / name
    if not folder.is_dir():
        there = ", ".join(sorted(path.name for path in source.iterdir() if path.is_dir())) or "none"
        raise UserError(f"{folder}: no such folder (there are: {there}); name two with --set a=... --set b=...")
    found: dict[str, Path] = {}
    for stem, file in list_images(folder, source).items():
        field = _PLANE.sub("", stem)
        if field in found:
            raise UserError(f"{file}: {found[field].name} is the same field; a folder holds one plane of each")
        found[field] = file
    return found


def _groups(source: Path, names: list[str], pattern: re.Pattern[str]) -> tuple[str, ...]:
    matches = [pattern.search(name) for name in names]
    if unmatched := matches.count(None):
        raise UserError(
            f"{source}: --set group={pattern.pattern} finds nothing in {unmatched} of {len(names)} names; write "
            "one that finds slide or patient in all"
        )
    return tuple(match[1 if pattern.groups else 0] or "" for match in matches if match)
