"""From LED stacks to pairs of phase and amplitude that a network is trained on, without a step by hand.

    OUT/fields/FIELD/COLOUR/        each stack's reconstruction, with its panel and scores
    OUT/fields/FIELD/registered.h5  phase and amplitudes of the field on one grid, as numbers
    OUT/amplitude, rgb, masks       the tiles, see `pair_tiles`
    OUT/pairs.csv                   each tile: its field, group, place, how much of it is valid
    OUT/pairs.json                  scales, units, stacks, optics, shifts between colours; written last

A call that was stopped is gone on with by the same call: fields that are done are not solved again.
"""

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
from medgen_jax.reconstruction import pair_tiles, registered
from medgen_jax.reconstruction.commands import Given, Say
from medgen_jax.reconstruction.pair_fields import FIELDS, Grid, digest, maps_path, shared_grid, solve_all
from medgen_jax.reconstruction.pair_plan import FieldOfView, Plan, read_plan, splits_of
from medgen_jax.reconstruction.registered import Registered

#: Side of a tile, pixels of the object.
SIZE = 256
ABOUT, LIST = "pairs.json", "pairs.csv"
#: Says of a folder that it is ours, from the start.
_MARK = "pairs.part"
_BITS = (8, 16)


class Made(NamedTuple):
    """What came out.

    Attributes:
      folder: of everything.
      counts: split -> pairs.
      left_out: tiles of which too little was valid.
      colours: how many.
      notes: sentences for people.
    """

    folder: Path
    counts: dict[str, int]
    left_out: int
    colours: int
    notes: tuple[str, ...]


def make_pairs(given: Given, size: int = SIZE, bits: int = 8, say: Say = lambda text: None) -> Made:
    """Solve all stacks of a folder or plan, and write their tiles.

    Args:
      given: what was typed; ``stack`` is what `medgen_jax.reconstruction.pair_plan.read_plan` reads, ``optics`` may be
        empty where that is a file.
      size: side of a tile, pixels of the object.
      bits: of the levels.
      say: takes sentences while it goes on.

    Raises:
      UserError: the first thing that does not fit; from headers alone, before anything is solved, where they tell.
    """
    if bits not in _BITS:
        raise UserError(f"--bits {bits}: expected 8 or 16")
    if size < 16:
        raise UserError(f"--pair_size {size}: must be at least 16 pixels")
    plan = read_plan(given.stack, given.optics or None)
    splits = splits_of(plan.fields)
    grid = shared_grid(plan, given, size, alone=not splits)
    folder = _prepared(given)
    solve_all(plan, given, grid, folder, say)
    return _cut(plan, splits, grid, folder, size, bits)


def check_given(output: str | None, *, stack: str | None, demo: bool, preview: bool) -> None:
    """Refuse a command line that lacks something, or asks for several things at once.

    Raises:
      UserError: naming it.
    """
    for flag, there in (("stack", stack is not None), ("demo", demo), ("preview", preview)):
        if there:
            raise UserError(f"--pairs solves all of its stacks and nothing else; leave --{flag} out")
    if output is None:
        raise UserError("--output is missing: a folder")


def summary(made: Made, bits: int) -> tuple[str, ...]:
    """What was written, and how to train on it."""
    counts = ", ".join(f"{count} in {split}" for split, count in made.counts.items())
    wide = " --config.data.bits=16" if bits == 16 else ""
    train = f"python -m medgen_jax.train --config configs/pair_fpm.py --workdir runs/pair{wide} --config.data.source="
    lines = [f"pairs: {counts}", f"phase -> amplitude: {train}{made.folder / pair_tiles.AMPLITUDE}"]
    if made.colours == 3:
        rgb = f"{train}{made.folder / pair_tiles.RGB} --config.model.out_channels=3"
        lines.append(f"phase -> colours:    {rgb}")
    return tuple(lines)


def _prepared(given: Given) -> Path:
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
        for name in (pair_tiles.AMPLITUDE, pair_tiles.RGB, pair_tiles.MASKS):
            if (folder / name).exists():
                shutil.rmtree(folder / name)
    except OSError as error:
        raise UserError(
            f"--output {given.output}: cannot be used ({error.strerror or error}); choose another"
        ) from error
    return folder


# ---- tiles ---------------------------------------------------------------------------------------


def _cut(plan: Plan, splits: Mapping[str, str], grid: Grid, folder: Path, size: int, bits: int) -> Made:
    """Tiles of all fields on one scale, their list, and what they are."""
    tiles, about, ranges = {}, [], pair_tiles.Ranges()
    for field in plan.fields:
        maps, facts = registered.read(maps_path(folder, field))
        try:
            found = pair_tiles.tiles_of(maps, size, splits.get(field.name, ""), grid.margin)
        except UserError as error:
            raise UserError(f"field {field.name}: {error}") from error
        tiles[field.name] = [tile for tile in found if tile.valid >= pair_tiles.LEAST_VALID]
        about.append(_field_facts(field, plan, splits, maps, facts, len(found) - len(tiles[field.name])))
        ranges.add(maps, (tile for tile in tiles[field.name] if tile.split == "train"), size)
    counts = Counter(tile.split for found in tiles.values() for tile in found)
    left_out = sum(entry["tiles_left_out"] for entry in about)
    if not counts["train"]:
        raise UserError(
            f"no training tile is valid in {pair_tiles.LEAST_VALID:.0%} of its pixels ({left_out} left out); look "
            f"at the panels below {folder / FIELDS}: frames may be dark or saturated"
        )
    scales, rows = ranges.scales(bits), []
    for field in plan.fields:
        maps, _ = registered.read(maps_path(folder, field))
        for tile in tiles[field.name]:
            row, column = (first + side for first, side in zip(maps.corner, (tile.top, tile.left), strict=True))
            name = f"{field.name}_r{row:05d}_c{column:05d}"
            number = list(plan.colours).index(plan.phase)
            clipped = pair_tiles.write_tile(folder, name, maps, tile, size, scales, bits, number)
            rows.append((tile.split, name, field.name, field.group, row, column, f"{tile.valid:.4f}", f"{clipped:.4f}"))
    _write_list(folder / LIST, rows)
    write_json(folder / ABOUT, _about(plan, splits, grid, size, bits, scales, about))
    (folder / _MARK).unlink()
    return Made(folder, dict(counts), left_out, len(plan.colours), _notes(plan, splits, counts, left_out))


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
    plan: Plan, splits: Mapping[str, str], grid: Grid, size: int, bits: int, scales: Sequence[pair_tiles.Scale],
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


def _notes(plan: Plan, splits: Mapping[str, str], counts: Mapping[str, int], left_out: int) -> tuple[str, ...]:
    notes = []
    if not splits:
        notes.append(
            f"there is one field, {plan.fields[0].name}: train and val are two parts of it, with a gap; numbers on "
            "val say that a network learns, not how well it generalises"
        )
    if not counts.get("val"):
        notes.append("no tile validates: configs/pair_fpm.py needs some, give more fields or splits that have val")
    if left_out:
        notes.append(f"{left_out} tiles were left out, less than {pair_tiles.LEAST_VALID:.0%} of them is valid")
    return tuple(notes)


def _write_list(path: Path, rows: Sequence[tuple[Any, ...]]) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(("split", "name", "field", "group", "row", "column", "valid", "clipped"))
            writer.writerows(rows)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); check the disk") from error
