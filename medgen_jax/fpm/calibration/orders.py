"""In which order, and which way round, the LEDs light up: every way that a description could mean, tried in turn.

What no data can tell, and what is said about it: all LEDs turned by half a turn show the same frames of the conjugate
object, out of focus to the other side. In focus, such a pair is one candidate; out of focus the sign of the defocus
tells them apart, if it is right.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from medgen_jax.fpm.calibration.brightness import mean_light
from medgen_jax.fpm.calibration.reports import Report, Verdict, compared
from medgen_jax.fpm.calibration.trials import heldout, prepare, residuals
from medgen_jax.fpm.leds import ORDERS, Board, Centres, Grid
from medgen_jax.fpm.optics import Optics


def check_order(stack: Any, optics: Optics, **light: Any) -> tuple[Optics, Report]:
    """Whether another order or orientation of the LEDs fits the frames better.

    Args:
      stack: (n, N, N) of one tile.
      optics: as described.
      **light: ``amplitude``, ``background``, ``saturation`` as `medgen_jax.fpm.solve` takes them.

    Returns:
      the microscope with the order that predicts LEDs held out better than every other one, beyond noise; as it was
      where that is the described one or where nothing can be decided; and what was found.

    Raises:
      UserError: as `medgen_jax.fpm.solve`.
    """
    trials = prepare(stack, optics, **light)
    named = candidates(optics)
    means = mean_light(trials.tile.stack, trials.squared, np.asarray(trials.tile.background))
    # A frame that is bright though its LED is outside of the aperture speaks against an order, whatever is solved.
    wrong = np.array([misplaced(one, means) for one in named.values()])
    # The described order is the measure, however many frames speak against it.
    tried = [name for name, count in zip(named, wrong, strict=True) if count <= wrong[0]]
    values = residuals(trials, [named[name] for name in tried])
    ranking = [tried[number] for number in np.argsort(values, kind="stable")]
    table = {name: float(value) for name, value in zip(tried, values, strict=True) if np.isfinite(value)}
    described, first = tried[0], ranking[0]
    rival = ranking[1] if len(ranking) > 1 else None
    numbers = {"described": described, "best": first, "second": rival, "residuals": table, "tried": len(tried)}
    if rival is None:
        said = "order: no other order puts the bright frames within the aperture"
        return optics, Report("order", False, float("nan"), float("nan"), {**numbers, "decided": True}, said)
    relative, weights = heldout(trials, [named[name] for name in (rival, first, described)])
    over_rival, over_described = (compared(relative[[i, 1]], weights[[i, 1]]) for i in (0, 2))
    decided, kept = over_rival.fell, over_rival.fell and first != described and over_described.fell
    said = f"order: {_words(described, first, rival, decided, over_rival)}{_twin(optics)}"
    before, after = (over_described.before, over_described.after) if kept else (over_rival.before, over_rival.after)
    report = Report("order", kept, before, after, {**numbers, "decided": decided}, said)
    return (named[first] if kept else optics), report


def candidates(optics: Optics) -> dict[str, Optics]:
    """Every way to light these LEDs that a description could mean, by name; the described one first.

    Flips and quarter turns of any board, the orders of `Grid` besides; those that are the same are left out, as are
    half turns of others where the object is in focus.
    """
    leds = optics.leds
    if isinstance(leds, Centres):
        ways = {name: _turned_centres(leds, *turn) for name, turn in _TURNS.items()}
    elif isinstance(leds.layout, Grid):
        grids = [dataclasses.replace(leds.layout, order=order) for order in ORDERS if order != leds.layout.order]
        ways = {name: _turned_board(leds, *turn) for name, turn in _TURNS.items()}
        for grid, (name, turn) in itertools.product(grids, {"": (False, False, False), **_TURNS}.items()):
            label = f"order {grid.order}{', ' * bool(name)}{name}"
            ways[label] = _turned_board(dataclasses.replace(leds, layout=grid), *turn)
    else:
        ways = {name: _turned_board(leds, *turn) for name, turn in _TURNS.items()}
    found = {"as described": optics}
    for name, way in ways.items():
        one = dataclasses.replace(optics, leds=way)
        if not any(_same(one, other) for other in found.values()):
            found[name] = one
    return found


def misplaced(optics: Optics, means: np.ndarray) -> int:
    """Frames on the wrong side of the middle between bright and dark, for LEDs clearly on either side of the rim.

    Args:
      optics: gives the LEDs.
      means: (n,) mean intensities of the frames.
    """
    distance = np.hypot(*optics.sines.T) / optics.na
    middle = np.median(means[optics.bright_field]) / 4 if optics.bright_field.any() else np.inf
    return int(((distance < 0.9) & (means < middle / 4)).sum() + ((distance > 1.1) & (means > middle)).sum())


#: Names of ways to turn a board: (flip_x, flip_y, quarter turn).
_TURNS = {
    "mirrored left to right": (True, False, False),
    "mirrored top to bottom": (False, True, False),
    "turned by 180 degrees": (True, True, False),
    "turned by 90 degrees": (False, False, True),
    "x and y exchanged": (False, True, True),
    "x and y exchanged, turned by 180 degrees": (True, False, True),
    "turned by -90 degrees": (True, True, True),
}


def _turned_board(board: Board, flip_x: bool, flip_y: bool, quarter: bool) -> Board:
    degrees = (board.rotation_degrees + 90 * quarter + 180) % 360 - 180
    flips = {"flip_x": board.flip_x ^ flip_x, "flip_y": board.flip_y ^ flip_y}
    return dataclasses.replace(board, rotation_degrees=degrees, **flips)


def _turned_centres(centres: Centres, flip_x: bool, flip_y: bool, quarter: bool) -> Centres:
    cells = (np.array(centres.cells) + centres.shift) * np.where([flip_x, flip_y], -1, 1)
    cells = cells @ np.array([[0, 1], [-1, 0]]) if quarter else cells
    return dataclasses.replace(centres, cells=tuple((float(x), float(y)) for x, y in cells), shift=(0.0, 0.0))


def _same(one: Optics, other: Optics) -> bool:
    """Whether frames cannot tell them apart: equal directions, in focus also opposite ones."""
    signs = (1,) if one.defocus else (1, -1)
    return any(np.abs(one.sines - sign * other.sines).max() < 1e-6 for sign in signs)


def _words(described: str, first: str, rival: str, decided: bool, over: Verdict) -> str:
    against = f"held-out residual {over.after:.4g} against {over.before:.4g}, {over.errors:+.1f} standard errors"
    if not decided:
        return f"cannot decide between '{first}' and '{rival}' ({against}); it stays as described"
    if first == described:
        return f"as described, the next best is '{rival}' ({against})"
    return f"'{first}' fits best, before '{rival}' ({against}); in use, look at the picture"


def _twin(optics: Optics) -> str:
    if optics.defocus:
        return ""
    return "; in focus, a board turned by 180 degrees shows the same frames of the conjugate object"
