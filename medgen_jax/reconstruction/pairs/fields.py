"""Every field of a plan solved, in all its colours, on one grid.

Fields are solved one after the other while the next one's stacks are read. Fields that are done are not solved again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import h5py

from medgen_jax import __version__
from medgen_jax.core.errors import UserError
from medgen_jax.fpm.field_of_view import cover_of, optics_of
from medgen_jax.reconstruction import commands, results
from medgen_jax.reconstruction.commands import Given, Say
from medgen_jax.reconstruction.pairs import registered
from medgen_jax.reconstruction.pairs.plan import FieldOfView, Plan
from medgen_jax.reconstruction.pairs.registered import Registered
from medgen_jax.reconstruction.pairs.shifts import ColourShift
from medgen_jax.reconstruction.pairs.tiles import least_sides
from medgen_jax.reconstruction.stacks import Opened, open_described, open_headers

FIELDS = "fields"


class Grid(NamedTuple):
    """What all fields share: up-sampling, side of a pixel of the object, and pixels that a border's light reaches."""

    factor: int
    pixel: float
    margin: int


def shared_grid(plan: Plan, given: Given, size: int, alone: bool) -> Grid:
    """One grid for all stacks, from their headers.

    Raises:
      UserError: stacks that do not fit their description or each other, fields too small for their tiles.
    """
    factors, seen = [], []
    for field in plan.fields:
        sizes, waves = set(), []
        for path, description in zip(field.stacks, plan.colours.values(), strict=True):
            stack, optics = open_headers(path, description)
            frame = (stack.height, stack.width)
            factors.append(optics_of(optics, cover_of(frame, given.tile, given.overlap))[0].factor)
            seen.append((field, frame, optics))
            sizes.add(frame)
            waves.append(optics.wavelength)
        if len(sizes) > 1:
            raise UserError(f"field {field.name}: its colours have frames of {sorted(sizes)} pixels; expected one size")
        if waves != sorted(waves, reverse=True):
            told = ", ".join(f"{name} {wave * 1e9:.0f} nm" for name, wave in zip(plan.colours, waves, strict=True))
            raise UserError(f"colours: {told}: list them from red to blue, the longest wavelength first")
    pixels = {round(optics.pixel * 1e12) for _, _, optics in seen}
    if len(pixels) > 1:
        told = ", ".join(f"{pixel / 1e6:g}" for pixel in sorted(pixels))
        raise UserError(
            f"colours and fields have camera pixels of {told} um on the sample: pairs need one; mend camera_pixel and "
            "magnification, or make pairs of each kind apart"
        )
    factor = max(factors)
    optics = [dataclasses.replace(optics, upsampling=factor) for _, _, optics in seen]
    grid = Grid(factor, optics[0].pixel / factor, max(map(registered.spread, optics)))
    for field, frame, _ in seen:
        _check_size(field, frame, grid, size, alone)
    return grid


def _check_size(field: FieldOfView, frame: tuple[int, int], grid: Grid, size: int, alone: bool) -> None:
    sides = sorted(side * grid.factor - 2 * grid.margin for side in frame)
    needed = least_sides(size, grid.margin, alone)
    if all(side >= least for side, least in zip(sides, needed, strict=True)):
        return
    largest = min(sides[0], (sides[1] - grid.margin) // 2 if alone else sides[1])
    use = "a train and a val tile, since it is the only field," if alone else "a tile"
    remedy = f"set --pair_size {largest // 16 * 16} or less" if largest >= 16 else "take larger frames"
    raise UserError(
        f"field {field.name}: {use} of {size} pixels needs {needed[0]} x {needed[1]}, but away from the border it has "
        f"{sides[0]} x {sides[1]}; {remedy}{' or give more fields' if alone else ''}"
    )


def solve_all(plan: Plan, given: Given, grid: Grid, folder: Path, say: Say) -> None:
    """Every field that is not done yet becomes a file of maps, see `maps_path`.

    Raises:
      UserError: a stack that cannot be read or solved.
    """
    requests = {field.name: _request(field, plan, given, grid) for field in plan.fields}
    left = [f for f in plan.fields if registered.facts_of(maps_path(folder, f)).get("request") != requests[f.name]]
    if len(left) < len(plan.fields):
        say(f"{len(plan.fields) - len(left)} of {len(plan.fields)} fields are there already")
    for number, (field, stacks) in enumerate(_ahead(left, plan, grid.factor), 1):
        say(f"field {number} of {len(left)}: {field.name}")
        maps, scores = _solved(field, stacks, plan, given, grid, folder, say)
        registered.write(maps_path(folder, field), maps, {"request": requests[field.name], **scores})
        for name, shift in maps.shifts.items():
            say(_shift_told(name, plan.phase, shift, grid.pixel))


def _ahead(fields: Sequence[FieldOfView], plan: Plan, factor: int) -> Iterator[tuple[FieldOfView, dict[str, Opened]]]:
    """Fields with their opened stacks, the next one's read while this one is solved."""

    def opened(field: FieldOfView) -> tuple[FieldOfView, dict[str, Opened]]:
        found = {}
        for (name, description), path in zip(plan.colours.items(), field.stacks, strict=True):
            stack = open_described(path, description)
            found[name] = stack._replace(optics=dataclasses.replace(stack.optics, upsampling=factor))
        return field, found

    if not fields:
        return iter(())
    reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    return iter(grain.MapDataset.source(list(fields)).map(opened).to_iter_dataset(reading))


def _solved(
    field: FieldOfView, stacks: Mapping[str, Opened], plan: Plan, given: Given, grid: Grid, folder: Path, say: Say
) -> tuple[Registered, dict[str, Any]]:
    """The maps of a field, and what was measured: scores and the optics of each colour."""
    objects, lit, brightness, scores, optics, phase = {}, {}, {}, {}, {}, None
    for (name, opened), path in zip(stacks.items(), field.stacks, strict=True):
        description = plan.colours[name]
        place = folder / FIELDS / field.name / name
        one = dataclasses.replace(
            given, stack=str(path), optics=str(description.path), output=str(place), overwrite=True
        )
        commands.introduce(opened, say)
        done = commands.reconstruct_opened(one, opened, commands.settings_of(one, description), say)
        with h5py.File(done.folder / results.OBJECT, "r") as file:
            objects[name], optics[name] = file["object"][:], json.loads(file["object"].attrs["optics"])
        if name == plan.phase:
            phase = results.read_levels(done.folder / results.PHASE)
        cover = cover_of((opened.stack.height, opened.stack.width), given.tile, given.overlap)
        lit[name], brightness[name] = registered.lit_of(opened), registered.brightness_of(opened, cover)
        scores[name] = done.scores
        say(f"{name}: {commands.outcome(done.scores)}")
    maps = registered.register(objects, phase, lit, brightness, plan.phase, grid.margin)
    return maps, {"scores": scores, "optics": optics}


def _shift_told(name: str, reference: str, shift: ColourShift, pixel: float) -> str:
    if not shift.believed:
        return f"{name} beside {reference}: no shift that parts of the field agree about; left where it is"
    microns = [side * pixel * 1e6 for side in (shift.rows, shift.columns)]
    return (
        f"{name} beside {reference}: {shift.rows:+.2f} rows, {shift.columns:+.2f} columns ({microns[0]:+.2f}, "
        f"{microns[1]:+.2f} um) taken back; edges correlate {shift.after:.3f}, {shift.before:.3f} before"
    )


def _request(field: FieldOfView, plan: Plan, given: Given, grid: Grid) -> str:
    """What a field's maps depend on, as one word."""
    typed = {k: v for k, v in dataclasses.asdict(given).items() if k not in ("stack", "optics", "output", "overwrite")}
    said = [dataclasses.asdict(description) for description in plan.colours.values()]
    files = [[(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in _files(path)] for path in field.stacks]
    return digest([__version__, typed, plan.phase, grid, said, files])


def _files(stack: Path) -> list[Path]:
    return sorted(stack.iterdir()) if stack.is_dir() else [stack]


def digest(value: Any) -> str:
    """sha256 of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def maps_path(folder: Path, field: FieldOfView) -> Path:
    """Where the maps of a field are kept, see `medgen_jax.reconstruction.pairs.registered`."""
    return folder / FIELDS / field.name / "registered.h5"
