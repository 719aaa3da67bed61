"""From what was typed to a folder of results: everything is checked before anything compiles."""

from __future__ import annotations

import dataclasses
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import Settings, Solution
from medgen_jax.fpm.field_of_view import Cover, Field, cover_of, optics_of, solve_field, solve_tiles
from medgen_jax.reconstruction import calibrating, pictures, results
from medgen_jax.reconstruction.description import Description, check_background, read_description
from medgen_jax.reconstruction.stacks import Opened, open_described, summary
from medgen_jax.viz.grids import save_png

#: Share of LEDs that a second solution keeps out, where the first one used them all.
HELD_OUT = 0.1

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Given:
    """What was typed.

    Attributes:
      stack: file or folder.
      optics: its description.
      output: folder of the results.
      tile, overlap: pixels of a frame; None as `medgen_jax.fpm.field_of_view.cover_of` chooses.
      method, passes, held_out: in place of the description's; None: as it says.
      overwrite: whether results may be replaced.
      calibrate: names of calibrations to be made before, out of `medgen_jax.fpm.calibration.STEPS`.
      background: counts, or ``auto``, in place of the description's; None: as it says.
    """

    stack: str
    optics: str
    output: str
    tile: int | None = None
    overlap: int | None = None
    method: str | None = None
    passes: int | None = None
    held_out: float | None = None
    overwrite: bool = False
    calibrate: tuple[str, ...] = ()
    background: str | None = None


class Done(NamedTuple):
    """What came out: the folder, what is in its ``scores.json``, and sentences for people."""

    folder: Path
    scores: dict[str, Any]
    notes: tuple[str, ...]


def reconstruct(given: Given, say: Say = lambda text: None) -> Done:
    """Solve a stack and write everything.

    Args:
      given: what was typed.
      say: takes sentences while it goes on.

    Raises:
      UserError: the first thing that does not fit.
    """
    return reconstruct_opened(given, *_opened(given, say), say)


def reconstruct_opened(given: Given, opened: Opened, settings: Settings, say: Say = lambda text: None) -> Done:
    """The rest of `reconstruct`, of a stack that is open: calibrate where that was asked for, solve, write.

    Raises:
      UserError: tiles that do not fit, a folder that holds results or cannot be made.
    """
    if not given.calibrate:
        return _solved(given, opened, settings, say)
    folder = results.prepared(given.output, given.overwrite)
    opened, described, found = calibrating.calibrated(opened, given.calibrate, say)
    calibrating.write(folder, opened.optics, described, settings)
    return _solved(given, opened, settings, say, {"calibration": found})


def _solved(
    given: Given,
    opened: Opened,
    settings: Settings,
    say: Say,
    beside: Mapping[str, Any] = types.MappingProxyType({}),
) -> Done:
    """Solve and write; what is ``beside`` goes into ``scores.json`` as well."""
    cover = _cover(given, opened)
    # Optics of every tile are made here, so that what is wrong with one of them is said before solving.
    optics_of(opened.optics, cover)
    folder = results.prepared(given.output, given.overwrite)
    begun = time.perf_counter()
    field = solve_field(
        opened.stack.read, (opened.stack.height, opened.stack.width), opened.optics, settings,
        tile=cover.tile, overlap=cover.overlap, told=_counter(say, begun, "tile"), **_light(opened),
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    judge, from_second = _judged(opened, field, settings, say)
    estimated = {report.name: report.to_mapping() for report in opened.estimated}
    scores = {**_scores(field, judge, from_second, seconds), **estimated, **beside}
    images = results.images_of(field.obj)
    about = {"stack": Path(given.stack).name, "method": settings.method, "seam_score": field.seam_score}
    results.write(folder, field, images, about)
    heldout_curve = pictures.mean_curve(judge.curve_heldout)
    title = _title(opened, scores)
    save_png(folder / results.PANEL, pictures.panel_of(opened, field, images, heldout_curve, title))
    results.write_scores(folder, scores)
    return Done(folder, scores, _endings(field.solution, field.cover))


def outcome(scores: Mapping[str, Any]) -> str:
    """The numbers that say how good a solution is, in a sentence."""
    differ = (
        ""
        if scores["tiles"] == 1
        else (
            f", tiles differ by {scores['tile_disagreement']:.1%} where they overlap, "
            f"{scores['tile_disagreement_worst']:.1%} at worst"
        )
    )
    return (
        f"residual {scores['residual']:.4f}, {scores['residual_best_gain']:.4f} with the best gains, "
        f"{scores['residual_heldout']:.4f} of {scores['leds_heldout']} LEDs held out; {scores['passes']} passes in "
        f"{scores['seconds']:.1f} s; seam score {scores['seam_score']:.3f} (1: none){differ}"
    )


def preview(given: Given, say: Say = lambda text: None) -> Path:
    """Write the preview alone, without solving anything.

    Raises:
      UserError: the first thing that does not fit.
    """
    opened, _ = _opened(given, say)
    folder = Path(given.output).expanduser()
    return save_png(folder / results.PREVIEW, pictures.preview_of(opened, _cover(given, opened)))


def _opened(given: Given, say: Say) -> tuple[Opened, Settings]:
    description = as_typed(given, read_description(given.optics))
    settings = settings_of(given, description)
    opened = open_described(given.stack, description)
    introduce(opened, say)
    return opened, settings


def settings_of(given: Given, description: Description) -> Settings:
    """The description's, but for what was typed."""
    changes = {name: getattr(given, name) for name in ("method", "passes", "held_out")}
    return dataclasses.replace(
        description.settings, **{name: value for name, value in changes.items() if value is not None}
    )


def as_typed(given: Given, description: Description) -> Description:
    """The description with the stray light that was typed, if any.

    Raises:
      UserError: neither counts nor ``auto``.
    """
    if given.background is None:
        return description
    try:
        background: float | str = float(given.background)
    except ValueError:
        background = given.background
    check_background("--background", background)
    return dataclasses.replace(description, recording=dataclasses.replace(description.recording, background=background))


def introduce(opened: Opened, say: Say) -> None:
    """Say what will be solved, and what is odd about it."""
    say(summary(opened))
    for note in opened.notes:
        say(f"note: {note}")


def _cover(given: Given, opened: Opened) -> Cover:
    return cover_of((opened.stack.height, opened.stack.width), given.tile, given.overlap)


def _light(opened: Opened) -> dict[str, Any]:
    """What the solver is told of the frames."""
    recording = opened.recording
    return {
        "amplitude": recording.values == "amplitude",
        "background": recording.background,
        "saturation": recording.saturation,
        "frames": recording.frames or None,
    }


def _judged(opened: Opened, field: Field, settings: Settings, say: Say) -> tuple[Solution, bool]:
    """A solution that kept LEDs out: the one there is, or a second one for that purpose alone."""
    if settings.held_out:
        return field.solution, False
    say(f"residual_heldout: all LEDs were used, so the stack is solved again without {HELD_OUT:.0%} of them")
    apart = dataclasses.replace(settings, held_out=HELD_OUT)
    told = _counter(say, time.perf_counter(), "second solution, tile")
    return solve_tiles(opened.stack.read, field.cover, field.optics, apart, told=told, **_light(opened)), True


def _scores(field: Field, judge: Solution, from_second: bool, seconds: float) -> dict[str, Any]:
    solution = field.solution
    return {
        "residual": float(np.mean(solution.residual)),
        "residual_best_gain": float(np.mean(solution.residual_best_gain)),
        "residual_heldout": float(np.mean(judge.residual_heldout)),
        "heldout_from_second_solution": from_second,
        "leds": field.optics[0].count,
        "frames": int(solution.gains.shape[-1]),
        "leds_heldout": int(judge.heldout[0].sum()),
        "passes": int(np.max(solution.passes)),
        "seconds": round(seconds, 3),
        "seam_score": field.seam_score,
        "tile_disagreement": field.disagreement.mean,
        "tile_disagreement_worst": field.disagreement.worst,
        "tiles": len(field.cover.corners),
        "tile": field.cover.tile,
        "upsampling": field.optics[0].factor,
        "ended": sorted(set(solution.ended)),
    }


def _endings(solution: Solution, cover: Cover) -> tuple[str, ...]:
    """How the tiles ended: every one that diverged, by its place; one sentence where all went well."""
    bad = [
        f"tile at row {top}, column {left}: {ended}"
        for (top, left), ended in zip(cover.corners, solution.ended, strict=True)
        if ended.startswith("diverged")
    ]
    if len(cover.corners) == 1:
        return (f"it {solution.ended[0]}",)
    shown = bad[:5] + ([f"... and {len(bad) - 5} more tiles"] if len(bad) > 5 else [])
    return tuple(shown) or (f"none of {len(cover.corners)} tiles diverged",)


def _title(opened: Opened, scores: dict[str, Any]) -> str:
    return (
        f"{opened.stack.frames} frames, {opened.optics.wavelength * 1e9:.0f} nm, NA {opened.optics.na:g} -> "
        f"{opened.optics.synthetic_na:.2f}: residual {scores['residual_best_gain']:.4f} with the best gains, "
        f"{scores['residual_heldout']:.4f} of LEDs held out, {scores['passes']} passes, seam score "
        f"{scores['seam_score']:.3f}"
    )


def _counter(say: Say, begun: float, what: str) -> Callable[[int, int], None]:
    def told(done: int, of: int) -> None:
        if of > 1:
            took = time.perf_counter() - begun
            say(f"{what} {done} of {of}, {took:.0f} s, about {took / done * (of - done):.0f} s left")

    return told


def check_given(stack: str | None, optics: str | None, output: str | None) -> None:
    """Refuse a command line that lacks something.

    Raises:
      UserError: naming what is missing.
    """
    if stack is None:
        raise UserError("the stack is missing: python -m medgen_jax.reconstruct STACK --optics FILE --output DIR")
    for flag, value, meaning in (("optics", optics, "a description of the microscope"), ("output", output, "a folder")):
        if value is None:
            raise UserError(f"--{flag} is missing: {meaning}")
