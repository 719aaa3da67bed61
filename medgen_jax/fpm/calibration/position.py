"""Where the board stands: shift, rotation and height, by the residual of short solutions.

What a residual cannot tell: LEDs that are all beside their place by whole cells show the same frames of a tilted
object. The circles of the bright field do tell (`medgen_jax.fpm.calibration.circles`): they give the shift, and the
residual only its fraction of a cell. Height and scale of a flat board are one number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from medgen_jax.fpm.calibration import circles
from medgen_jax.fpm.calibration.moves import Move, moved, placement
from medgen_jax.fpm.calibration.reports import Report, judged
from medgen_jax.fpm.calibration.search import compass
from medgen_jax.fpm.calibration.trials import Trials, prepare, residuals
from medgen_jax.fpm.optics import Optics

#: Rounds of the search.
ROUNDS = 12
#: How far the residual may move the board from where the circles have it, cells along x and y: less than what would be
#: another tilt of the object.
FRACTION = 0.6


class Bounds(NamedTuple):
    """Within which the board is sought, to either side of its nominal place.

    Attributes:
      shift: share of the radius of the pupil, along x and y each; without circles, less than a cell.
      degrees: rotation.
      spread: share of the height.
    """

    shift: float = 0.3
    degrees: float = 5.0
    spread: float = 0.08


def fit_position(stack: Any, optics: Optics, bounds: Bounds | None = None, **light: Any) -> tuple[Optics, Report]:
    """Find the place of the LED board.

    Args:
      stack: (n, N, N) of one tile.
      optics: the nominal microscope.
      bounds: None: the defaults.
      **light: ``amplitude``, ``background``, ``saturation`` as `medgen_jax.fpm.solve` takes them.

    Returns:
      the microscope with the board where it was found, or as it was where the residual of LEDs held out did not fall;
      and what was found.

    Raises:
      UserError: as `medgen_jax.fpm.solve`.
    """
    bounds = bounds or Bounds()
    trials = prepare(stack, optics, **light)
    cells = bounds.shift * optics.radius(trials.size)
    guess, seen = circles.guess(trials, np.array([cells, cells, bounds.degrees]))
    found, count = _searched(trials, bounds, guess or Move())
    best = moved(optics, found, trials.cell) or optics
    verdict = judged(trials, optics, best)
    values = {
        "nominal": placement(optics), "found": placement(best), "move": found._asdict(), "circles": seen,
        "bounds": bounds._asdict(), "trials": count,
    }  # fmt: skip
    kept = verdict.fell
    said = f"position: {_words(found)}, {verdict.words()}; {'in use' if kept else 'the nominal position stays'}"
    return (best if kept else optics), Report("position", kept, verdict.before, verdict.after, values, said)


def _searched(trials: Trials, bounds: Bounds, guess: Move) -> tuple[Move, int]:
    """The best move near the shift of a guess, and how many moves were tried."""
    box, count = np.array([FRACTION, FRACTION, bounds.degrees, bounds.spread]), 0
    shift = np.array([guess.x, guess.y, 0, 0])

    def move(point: np.ndarray) -> Move:
        return Move(*map(float, point + shift))

    def evaluate(points: np.ndarray) -> np.ndarray:
        nonlocal count
        count += len(points)
        return residuals(trials, [moved(trials.optics, move(point), trials.cell) for point in points])

    start = np.clip([0, 0, guess.degrees, guess.spread], -box, box)
    return move(compass(evaluate, start, box, ROUNDS).point), count


def _words(move: Move) -> str:
    return (
        f"moved by ({move.x:+.2f}, {move.y:+.2f}) cells, turned by {move.degrees:+.2f} degrees, centres "
        f"{100 * move.spread:+.2f} % apart"
    )
