"""The folder of pairs: tiles of all fields on one scale, their list, and what they are."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medgen_jax import __version__
from medgen_jax.core.errors import UserError
from medgen_jax.engine.writers import write_json
from medgen_jax.reconstruction.commands import Given
from medgen_jax.reconstruction.pairs import registered
from medgen_jax.reconstruction.pairs.fields import FIELDS, Grid, digest, maps_path
from medgen_jax.reconstruction.pairs.plan import FieldOfView, Plan
from medgen_jax.reconstruction.pairs.registered import Registered
from medgen_jax.reconstruction.pairs.tiles import (
    AMPLITUDE,
    LEAST_VALID,
    MASKS,
    RGB,
    Ranges,
    Scale,
    Tile,
    tiles_of,
    write_tile,
)

ABOUT, LIST = "pairs.json", "pairs.csv"
#: Says of a folder that it is ours, from the start.
_MARK = "pairs.part"


class Written(NamedTuple):
    """Split -> pairs, and how many tiles were left out because too little of them was valid."""

    counts: dict[str, int]
    left_out: int


def prepared(given: Given) -> Path:
    """The folder, without tiles of an earlier call.

    Raises:
      UserError: it holds pairs, or anything else that is not ours.
    """
    folder = Path(given.output).expanduser()
    ours = (folder / ABOUT).exists() or (folder / _MARK).exists()
    if (folder / ABOUT).exists() and not given.overwrite:
        raise UserError(f"--output {given.output}: holds pairs already; choose another folder, or give --overwrite")
    try:
        if folder.exists() and not ours and any(folder.iterdir()):
            raise UserError(f"--output {given.output}: is not empty; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARK).touch()
        (folder / ABOUT).unlink(missing_ok=True)
        for name in (AMPLITUDE, RGB, MASKS):
            if (folder / name).exists():
                shutil.rmtree(folder / name)
    except OSError as error:
        raise UserError(
            f"--output {given.output}: cannot be used ({error.strerror or error}); choose another"
        ) from error
    return folder


def write_all(plan: Plan, splits: Mapping[str, str], grid: Grid, folder: Path, size: int, bits: int) -> Written:
    """Everything but the maps of the fields, which are there.

    Args:
      plan: what was solved.
      splits: name of each field -> its split; empty for a field alone.
      grid: of all fields.
      folder: of `prepared`.
      size: side of a tile, pixels of the object.
      bits: of the levels.

    Raises:
      UserError: maps that are too small, no training tile, or a place that cannot be written.
    """
    tiles, about, ranges = {}, [], Ranges()
    for field in plan.fields:
        maps, facts = registered.read(maps_path(folder, field))
        found = _tiles(field, maps, size, splits, grid)
        tiles[field.name] = [tile for tile in found if tile.valid >= LEAST_VALID]
        about.append(_field_facts(field, plan, splits, maps, facts, len(found) - len(tiles[field.name])))
        ranges.add(maps, (tile for tile in tiles[field.name] if tile.split == "train"), size)
    counts = Counter(tile.split for found in tiles.values() for tile in found)
    left_out = sum(entry["tiles_left_out"] for entry in about)
    if not counts["train"]:
        raise UserError(
            f"no training tile is valid in {LEAST_VALID:.0%} of its pixels ({left_out} left out); look "
            f"at the panels below {folder / FIELDS}: frames may be dark or saturated"
        )
    scales, rows = ranges.scales(bits), []
    for field in plan.fields:
        maps, _ = registered.read(maps_path(folder, field))
        for tile in tiles[field.name]:
            row, column = (first + side for first, side in zip(maps.corner, (tile.top, tile.left), strict=True))
            name = f"{field.name}_r{row:05d}_c{column:05d}"
            number = list(plan.colours).index(plan.phase)
            clipped = write_tile(folder, name, maps, tile, size, scales, bits, number)
            rows.append((tile.split, name, field.name, field.group, row, column, f"{tile.valid:.4f}", f"{clipped:.4f}"))
    _write_list(folder / LIST, rows)
    write_json(folder / ABOUT, _about(plan, splits, grid, size, bits, scales, about))
    (folder / _MARK).unlink()
    return Written(dict(counts), left_out)


def _tiles(field: FieldOfView, maps: Registered, size: int, splits: Mapping[str, str], grid: Grid) -> list[Tile]:
    try:
        return tiles_of(maps, size, splits.get(field.name, ""), grid.margin)
    except UserError as error:
        raise UserError(f"field {field.name}: {error}") from error


def _field_facts(
    field: FieldOfView, plan: Plan, splits: Mapping[str, str], maps: Registered, facts: Mapping[str, Any], left_out: int
) -> dict[str, Any]:
    kept = ("residual_best_gain", "residual_heldout", "seam_score", "passes", "ended")
    return {
        "name": field.name, "group": field.group, "split": splits.get(field.name, "by place"),
        "stacks": dict(zip(plan.colours, (path.name for path in field.stacks), strict=True)),
        "optics_sha256": {name: digest(optics) for name, optics in facts["optics"].items()},
        "shifts": {name: shift._asdict() for name, shift in maps.shifts.items()},
        "scores": {name: {k: scores[k] for k in kept} for name, scores in facts["scores"].items()},
        "tiles_left_out": left_out,
    }  # fmt: skip


def _about(
    plan: Plan, splits: Mapping[str, str], grid: Grid, size: int, bits: int, scales: Sequence[Scale],
    fields: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    colours = dict(zip(plan.colours, scales[1:], strict=True))
    return {
        "version": __version__, "size": size, "bits": bits, "pixel_m": grid.pixel,
        "level": "n stands for low + n * step",
        "phase": {"colour": plan.phase, "unit": "rad", **scales[0]._asdict()},
        "amplitude": {name: {"unit": "root of camera counts", **s._asdict()} for name, s in colours.items()},
        "split_by": "group" if splits else "place: one field, its numbers say that a network learns, no more",
        "fields": list(fields),
    }  # fmt: skip


def _write_list(path: Path, rows: Sequence[tuple[Any, ...]]) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(("split", "name", "field", "group", "row", "column", "valid", "clipped"))
            writer.writerows(rows)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); check the disk") from error
