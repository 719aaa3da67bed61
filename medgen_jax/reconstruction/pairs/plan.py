"""Which stacks become pairs: a folder of them, or a file that lists fields of view and colours.

A folder holds one stack per field, all of one colour, and one description fits them all. A file says more:

    colours:                     # one, or three from red to blue: name -> description of microscope and stack
      red: red.yaml
      green: green.yaml
      blue: blue.yaml
    phase: green                 # the colour whose phase is A; the first one where nothing is said
    fields:
      - name: slide1_3           # what its pairs are called; the first stack's name where nothing is said
        group: slide1            # what must stay in one split, such as a slide or a patient; the field by default
        split: train             # in all fields, or in none: then groups are dealt out
        stacks: {red: 3_red.mat, green: 3_green.mat, blue: 3_blue.mat}

Paths start from the file's folder; descriptions may also be packaged ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data import led_stacks
from medgen_jax.data.splits import SPLITS, check_disjoint
from medgen_jax.fpm import mapping
from medgen_jax.reconstruction.description import Description, read_description, read_yaml

#: The colour of a folder's stacks.
GREY = "grey"
#: Share of groups that validate, and that test where there are enough of them for both.
_SHARE = 0.1


@dataclass(frozen=True)
class FieldOfView:
    """One field.

    Attributes:
      name: of its pairs, once in a plan.
      stacks: in the order of the colours.
      group: what must stay in one split.
      split: as the file has it; empty where it says nothing.
    """

    name: str
    stacks: tuple[Path, ...]
    group: str
    split: str = ""


@dataclass(frozen=True)
class Plan:
    """What is to be solved.

    Attributes:
      colours: name -> description, from red to blue where there are three.
      phase: name of the colour whose phase is used.
      fields: at least one.
    """

    colours: Mapping[str, Description]
    phase: str
    fields: tuple[FieldOfView, ...]


def read_plan(source: str | Path, optics: str | None) -> Plan:
    """What a folder or a file asks for; no stack is opened.

    Args:
      source: folder of stacks, or YAML file.
      optics: description of a folder's stacks.

    Raises:
      UserError: neither is there, a field of the file is unknown, missing or makes no sense, a name occurs twice.
    """
    source = Path(source).expanduser()
    if source.is_dir():
        plan = _of_folder(source, optics)
    elif not source.is_file():
        raise UserError(f"--pairs {source}: no such folder or file")
    elif optics is not None:
        raise UserError(f"--optics {optics}: {source} names the descriptions itself, under colours; leave --optics out")
    else:
        table = read_yaml(source)
        try:
            plan = _of_table(source.parent, table)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
    names = [field.name for field in plan.fields]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{source}: two fields are called {twice[0]}; give them different names")
    return plan


def splits_of(fields: Sequence[FieldOfView], seed: int = 0) -> dict[str, str]:
    """Name of each field -> its split: as the fields say, or whole groups dealt out, a tenth of them (at least one) to
    val, and to test where there are ten or more.

    Returns:
      Empty for a single field that says nothing: it has to be split by place.

    Raises:
      UserError: some fields name a split and others do not, a group in two splits, no split train, several fields
        of a single group.
    """
    given = {field.name: field.split for field in fields if field.split}
    if given:
        if len(given) < len(fields):
            silent = next(field.name for field in fields if not field.split)
            raise UserError(f"fields: {silent} has no split, others do; give all of them one, or none")
        check_disjoint({split: [f.group for f in fields if f.split == split] for split in SPLITS}, "fields")
        if "train" not in given.values():
            raise UserError("fields: none of them is in split train")
        return given
    if len(fields) == 1:
        return {}
    groups = sorted({field.group for field in fields})
    if len(groups) == 1:
        raise UserError(
            f"fields: all {len(fields)} are of one group, which cannot be in train and val; leave group out to split "
            "by field (a network then validates on the slide that it learned), or add another"
        )
    order = np.random.default_rng(seed).permutation(len(groups))
    few = max(1, round(_SHARE * len(groups)))
    test = few if len(groups) >= 10 else 0
    dealt = ["val"] * few + ["test"] * test + ["train"] * (len(groups) - few - test)
    split = {groups[number]: name for number, name in zip(order, dealt, strict=True)}
    return {field.name: split[field.group] for field in fields}


def _of_folder(folder: Path, optics: str | None) -> Plan:
    if optics is None:
        raise UserError("--optics is missing: a description of the microscope and of the stacks in --pairs")
    found = [p for p in folder.iterdir() if not p.name.startswith(".") and (p.is_dir() or _is_stack(p))]
    paths = sorted(found, key=lambda p: led_stacks.natural_key(p.name))
    if not paths:
        known = ", ".join(led_stacks.SUFFIXES)
        raise UserError(
            f"--pairs {folder}: holds no stacks; expected {known} files or folders of frames, one per field"
        )
    fields = tuple(FieldOfView(_word(p.stem), (p,), _word(p.stem)) for p in paths)
    return Plan({GREY: read_description(optics)}, GREY, fields)


def _is_stack(path: Path) -> bool:
    return path.suffix.lower() in led_stacks.SUFFIXES


def _of_table(folder: Path, table: Any) -> Plan:
    mapping.check_table(table, "the file")
    mapping.check_known(table, ("colours", "phase", "fields"), "the file")
    for name in ("colours", "fields"):
        if name not in table:
            raise UserError(f"section {name!r} is missing")
    colours = table["colours"]
    mapping.check_table(colours, "colours")
    if len(colours) not in (1, 3):
        raise UserError(f"colours: there are {len(colours)}; expected one, or three from red to blue")
    phase = table.get("phase", next(iter(colours)))
    if phase not in colours:
        raise UserError(f"phase = {phase!r}: expected one of the colours, {', '.join(map(str, colours))}")
    rows = table["fields"]
    if not isinstance(rows, list) or not rows:
        raise UserError("fields: expected a list with at least one entry")
    fields = tuple(_field(folder, row, tuple(colours), f"fields[{number}]") for number, row in enumerate(rows))
    return Plan({name: read_description(_beside(folder, path)) for name, path in colours.items()}, phase, fields)


def _field(folder: Path, row: Any, colours: Sequence[str], where: str) -> FieldOfView:
    mapping.check_table(row, where)
    mapping.check_known(row, ("name", "group", "split", "stacks"), where)
    if "stacks" not in row:
        raise UserError(f"{where}: field 'stacks' is missing")
    mapping.check_table(row["stacks"], f"{where}.stacks")
    mapping.check_known(row["stacks"], colours, f"{where}.stacks")
    for colour in colours:
        if colour not in row["stacks"]:
            raise UserError(f"{where}.stacks: there is none for colour {colour!r}")
    split = row.get("split", "")
    if split and split not in SPLITS:
        raise UserError(f"{where}.split = {split!r}: expected {', '.join(SPLITS)}")
    stacks = tuple(folder / mapping.convert(row["stacks"][c], str, f"{where}.stacks.{c}") for c in colours)
    name = _word(str(row.get("name", stacks[0].stem)))
    return FieldOfView(name, stacks, str(row.get("group", name)), split)


def _beside(folder: Path, path: Any) -> Path:
    """A description beside the file, or else a packaged one by its name."""
    path = mapping.convert(path, str, "colours")
    beside = folder / path
    return beside if beside.is_file() else Path(path)


def _word(name: str) -> str:
    """A name as it may stand in file names anywhere."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "field"
