"""From LED stacks to pairs of phase and amplitude that a network is trained on, without a step by hand.

    OUT/fields/FIELD/COLOUR/        each stack's reconstruction, with its panel and scores
    OUT/fields/FIELD/registered.h5  phase and amplitudes of the field on one grid, as numbers
    OUT/amplitude, rgb, masks       the tiles, see `tiles`
    OUT/pairs.csv                   each tile: its field, group, place, how much of it is valid
    OUT/pairs.json                  scales, units, stacks, optics, shifts between colours; written last

A call that was stopped is gone on with by the same call: fields that are done are not solved again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from medgen_jax.core.errors import UserError
from medgen_jax.reconstruction.commands import Given, Say, as_typed
from medgen_jax.reconstruction.pairs.fields import shared_grid, solve_all
from medgen_jax.reconstruction.pairs.plan import Plan, read_plan, splits_of
from medgen_jax.reconstruction.pairs.tiles import AMPLITUDE, LEAST_VALID, RGB
from medgen_jax.reconstruction.pairs.writing import Written, prepared, write_all

#: Side of a tile, pixels of the object.
SIZE = 256
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
      given: what was typed; ``stack`` is what `medgen_jax.reconstruction.pairs.plan.read_plan` reads, ``optics`` may be
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
    plan = dataclasses.replace(plan, colours={name: as_typed(given, one) for name, one in plan.colours.items()})
    splits = splits_of(plan.fields)
    grid = shared_grid(plan, given, size, alone=not splits)
    folder = prepared(given)
    solve_all(plan, given, grid, folder, say)
    written = write_all(plan, splits, grid, folder, size, bits)
    return Made(folder, *written, len(plan.colours), _notes(plan, splits, written))


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
    lines = [f"pairs: {counts}", f"phase -> amplitude: {train}{made.folder / AMPLITUDE}"]
    if made.colours == 3:
        rgb = f"{train}{made.folder / RGB} --config.model.out_channels=3"
        lines.append(f"phase -> colours:    {rgb}")
    return tuple(lines)


def _notes(plan: Plan, splits: Mapping[str, str], written: Written) -> tuple[str, ...]:
    notes = []
    if not splits:
        notes.append(
            f"there is one field, {plan.fields[0].name}: train and val are two parts of it, with a gap; numbers on "
            "val say that a network learns, not how well it generalises"
        )
    if not written.counts.get("val"):
        notes.append("no tile validates: configs/pair_fpm.py needs some, give more fields or splits that have val")
    if written.left_out:
        notes.append(f"{written.left_out} tiles were left out, less than {LEAST_VALID:.0%} of them is valid")
    return tuple(notes)
