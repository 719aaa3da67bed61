"""The circles of the bright field: where straight light passes the pupil, read off the spectra of single frames.

A bright frame is the interference of straight light with what the object scatters into the pupil. Its spectrum shows
the pupil twice, around plus and minus the LED's centre, on the weaker spectrum of scattered light with itself (Eckert
2018, section 3). All frames are fitted at once: the shift and rotation at which their spectra fall most across the
predicted circles, measured by a filter that is positive inside of the edge and negative outside. How far apart the
centres are is not sought: a few percent of the bright field are less than the width of an edge.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.fpm.calibration.moves import Move, moved, placement
from medgen_jax.fpm.calibration.reports import Report, judged
from medgen_jax.fpm.calibration.search import compass
from medgen_jax.fpm.calibration.trials import Trials, prepare
from medgen_jax.fpm.optics import Optics

#: LEDs whose circles are looked for, distance of the centre over the radius: nearer to the axis both circles coincide
#: and say nothing to first order, farther out the frame is dark.
NEAREST, FARTHEST = 0.25, 0.95
#: Frames needed: three numbers are sought.
LEAST_FRAMES = 4
#: Width of the edge, cells.
EDGE = 1.5
#: Response over that of noise from which circles count as seen.
SEEN = 8.0
#: Positions of the first, coarse search along x and y.
COARSE = 9


def fit_circles(stack: Any, optics: Optics, bounds: Any = None, **light: Any) -> tuple[Optics, Report]:
    """Find the place of the LED board from the bright-field circles alone, without solving anything.

    Args:
      stack: (n, N, N) of one tile.
      optics: the nominal microscope.
      bounds: (3,) of x and y in cells, degrees. None: a third of the radius, 5 degrees.
      **light: ``amplitude``, ``background``, ``saturation`` as `medgen_jax.fpm.solve` takes them.

    Returns:
      the microscope with the board where the circles have it, or as it was where there are none or where the residual
      of LEDs held out did not fall; and what was found.

    Raises:
      UserError: as `medgen_jax.fpm.solve`.
    """
    trials = prepare(stack, optics, **light)
    radius = optics.radius(trials.size)
    bounds = np.array([radius / 3, radius / 3, 5.0]) if bounds is None else np.asarray(bounds, np.float64)
    move, values = guess(trials, bounds)
    if move is None:
        said = f"circles: {values['said']}; the nominal position stays"
        return optics, Report("circles", False, float("nan"), float("nan"), values, said)
    best = moved(optics, move, trials.cell) or optics
    verdict = judged(trials, optics, best)
    kept, place = verdict.fell, {"nominal": placement(optics), "found": placement(best)}
    said = f"circles: {values['said']}, {verdict.words()}; {'in use' if kept else 'the nominal position stays'}"
    return (best if kept else optics), Report("circles", kept, verdict.before, verdict.after, values | place, said)


def guess(trials: Trials, bounds: np.ndarray) -> tuple[Move | None, dict[str, Any]]:
    """The move that the circles suggest, None where there are none to be seen, and numbers about them.

    Args:
      trials: the stack.
      bounds: (3,) of x, y, degrees.
    """
    radius = trials.optics.radius(trials.size)
    distance = np.hypot(*trials.optics.centres(trials.size).T) / radius
    chosen = np.flatnonzero((distance >= NEAREST) & (distance <= FARTHEST))
    if len(chosen) < LEAST_FRAMES:
        said = f"{len(chosen)} LEDs of the bright field are far enough from the axis, {LEAST_FRAMES} are needed"
        return None, {"frames": len(chosen), "said": said}
    levels = spectra(trials, chosen)

    def evaluate(points: np.ndarray) -> np.ndarray:
        centres = np.full((len(points), len(chosen), 2), np.inf)
        for number, point in enumerate(points):
            candidate = moved(trials.optics, Move(*map(float, point)), trials.cell)
            if candidate is not None:
                centres[number] = candidate.centres(trials.size)[chosen]
        usable = np.isfinite(centres).all((1, 2))
        found = -np.asarray(_responses(levels, np.where(np.isfinite(centres), centres, 0), radius), np.float64)
        return np.where(usable, found, np.inf)

    axis = np.linspace(-1, 1, COARSE)
    grid = np.array([(x, y, 0) for x in axis for y in axis]) * bounds
    values = evaluate(grid)
    start = grid[np.argmin(values)]
    found = compass(evaluate, start, bounds, 7)
    move, response = Move(*map(float, found.point)), -found.value
    said = (
        f"{len(chosen)} frames, response {response:.1f} of noise at ({move.x:+.2f}, {move.y:+.2f}) cells, "
        f"{move.degrees:+.2f} degrees"
    )
    values = {
        "frames": len(chosen),
        "response": response,
        "needed": SEEN,
        "x": move.x,
        "y": move.y,
        "degrees": move.degrees,
    }
    if response < SEEN:
        return None, {**values, "said": f"no circles are seen ({said}; {SEEN:g} are needed)"}
    return move, {**values, "said": said}


def spectra(trials: Trials, leds: np.ndarray) -> np.ndarray:
    """Logarithms (m, N, N) float32 of frames' power spectra, frequency 0 in the middle, of mean 0 and deviation 1.

    What frames have in common is the object's spectrum: it is taken off.

    Args:
      trials: the stack.
      leds: (m,) numbers of frames.
    """
    frames = np.asarray(trials.tile.stack)[leds].astype(np.float64)
    light = frames if trials.squared else frames**2
    size = light.shape[-1]
    window = np.hanning(size + 2)[1:-1]
    means = light.mean(axis=(1, 2), keepdims=True)
    power = np.abs(np.fft.fft2((light / np.maximum(means, 1e-30) - 1) * window[:, None] * window)) ** 2
    levels = np.fft.fftshift(np.log(power + 1e-9 * power.mean() + 1e-30), axes=(1, 2))
    levels -= levels.mean(axis=0)
    levels -= levels.mean(axis=(1, 2), keepdims=True)
    spread = levels.std(axis=(1, 2), keepdims=True)
    return (levels / np.where(spread > 0, spread, 1)).astype(np.float32)


@jax.jit
def _responses(levels: jax.Array, centres: jax.Array, radius: jax.Array) -> jax.Array:
    """(k,) responses of all frames together over that of white noise.

    Args:
      levels: (m, N, N), see `spectra`.
      centres: (k, m, 2) x and y of circles, cells.
      radius: of the circles, cells.
    """
    size = levels.shape[-1]
    steps = jnp.arange(size, dtype=jnp.float32) - size // 2

    def one(centre: jax.Array, level: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows, columns = steps[:, None], steps[None, :]
        inwards = radius - jnp.sqrt((columns - centre[0]) ** 2 + (rows - centre[1]) ** 2)
        other = radius - jnp.sqrt((columns + centre[0]) ** 2 + (rows + centre[1]) ** 2)
        # Within the other circle there is no edge, and near frequency 0 only what is left of the frame's mean.
        alone = (other < -2 * EDGE) & (jnp.hypot(rows, columns) > 3)
        kernel = jnp.where(alone, inwards * jnp.exp(-((inwards / EDGE) ** 2) / 2), 0.0)
        return jnp.sum(kernel * level), jnp.sum(kernel**2)

    def all_frames(of_frames: jax.Array) -> jax.Array:
        found, noise = jax.vmap(one)(of_frames, levels)
        return jnp.sum(found) / jnp.sqrt(jnp.maximum(jnp.sum(noise), 1e-30))

    return jax.lax.map(all_frames, jnp.asarray(centres, jnp.float32))
