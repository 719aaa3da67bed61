"""Speed of Fourier ptychography beside NumPy and SciPy: one JSON line per form.

    python -m benchmarks.fpm --out lines.jsonl

``sweep``        one pass of EPRY over the LEDs of one tile, and of 16 tiles
``reconstruct``  a whole stack: 20 passes with gains and residuals, beside 20 bare passes of the other form

Tiles of 64 and of 128 pixels under 15 x 15 LEDs, an object four times as fine. Before anything is timed both forms must
make the same spectrum. `partners.epry` is the NumPy form; its transforms take ``--workers`` threads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import lines, machine
from benchmarks.cases import PAPER, SMALL
from benchmarks.partners import epry
from benchmarks.timing import Form, in_turns, significant, summary
from medgen_jax.fpm import Board, Grid, Optics, Settings, sequential, simulate, solve
from medgen_jax.fpm.backends import over_tiles
from medgen_jax.fpm.forward import locate
from medgen_jax.fpm.preparation import first_guess
from medgen_jax.fpm.problem import Guess, Tile
from medgen_jax.fpm.pupils import known_pupil

PASSES, STEP, PUPIL_STEP = 20, 1.0, 0.5
#: Relative difference of spectra above which the other form does other work.
MOST_APART = 1e-3


def optics(leds: int) -> Optics:
    """A 4x objective under ``leds`` x ``leds`` LEDs; the object is four times as fine as the frames."""
    return Optics(0.63e-6, 0.1, 4, 5.5e-6, Board(Grid(leds, leds, 4e-3), 0.1875), upsampling=4)


def tile_of(microscope: Optics, size: int, seed: int = 0) -> Tile:
    """A simulated tile: smooth amplitude and phase."""
    side, rng = microscope.factor * size, np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side)] * 2))
    smooth = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) * (frequency < 0.1)).real for _ in range(2)]
    amplitude, phase = (part / np.abs(part).max() for part in smooth)
    stack = np.asarray(simulate(microscope, (0.75 + 0.25 * amplitude) * np.exp(1j * phase)))
    count = len(stack)
    return Tile(
        stack, np.zeros(count, np.float32), np.float32(1), np.float32(np.inf), locate(microscope, size),
        np.arange(count, dtype=np.int32), np.ones(count, np.float32), np.ones(count, bool),
    )  # fmt: skip


class Sweep:
    """One pass over the same tiles in both forms."""

    def __init__(self, microscope: Optics, size: int, tiles: int, workers: int, device: jax.Device):
        made = [tile_of(microscope, size, seed) for seed in range(tiles)]
        within, shape = known_pupil(microscope, size), (size, microscope.factor * size)
        tiled = jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *made), device)
        # The start is the frame nearest to the axis, which has no part in a pass.
        middle = jnp.full(made[0].order.shape, microscope.count // 2, jnp.int32)

        def first(tile: Tile) -> Guess:
            return first_guess(tile._replace(order=middle), microscope, shape, True)

        def one(given: tuple[Guess, Tile]) -> Guess:
            scales = jnp.ones(given[1].order.shape, jnp.float32)
            rule = {"rule": sequential.epry, "damping": 0.0, "step": STEP, "pupil_step": PUPIL_STEP}
            return sequential.one_pass(given[0], None, given[1], scales, within, **rule)[0]

        self._given = jax.jit(lambda tiles: over_tiles(first, tiles))(tiled), tiled
        self._program = jax.jit(lambda given: over_tiles(one, given)).lower(self._given).compile()
        pupils = np.stack([np.asarray(within(rest), np.complex64) for rest in jnp.asarray(made[0].windows.rest)])
        self._problems = [epry.Problem(np.sqrt(tile.stack), pupils, tile.windows.start) for tile in made]
        self._starts = jax.device_get(self._given[0])
        self._workers = workers

    def with_jax(self) -> Guess:
        """Guesses after the pass, tiles first."""
        return jax.block_until_ready(self._program(self._given))

    def with_scipy(self, passes: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
        """Spectrum and pupil of each tile after so many passes."""
        found = []
        for problem, *start in zip(self._problems, *self._starts, strict=True):
            for _ in range(passes):
                start = epry.sweep(problem, *start, STEP, PUPIL_STEP, self._workers)
            found.append(tuple(start))
        return found

    def difference(self) -> float:
        """Largest relative difference of a spectrum between the forms."""
        ours, theirs = np.asarray(self.with_jax().spectrum), [spectrum for spectrum, _ in self.with_scipy()]
        return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs, strict=True))


def measured(size: int, leds: int, tiles: int, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Lines of a sweep and, of a single tile, of its reconstruction.

    Raises:
      ValueError: when the forms do other work.
    """
    device, microscope = jax.devices()[0], optics(leds)
    sweep = Sweep(microscope, size, tiles, given.workers, device)
    if not (apart := sweep.difference()) <= MOST_APART:
        raise ValueError(f"spectra of both forms differ by {apart:.2g} after one sweep")
    common = {"benchmark": "fpm", "system": "fpm", "side": size, "leds": leds**2, "tiles": tiles}
    forms = {"jax": sweep.with_jax, "scipy": sweep.with_scipy}
    yield from _lines({**common, "what": "sweep", "spectra_apart": significant(apart, 2)}, forms, given.rounds, device)
    if tiles == 1:
        stack, settings = tile_of(microscope, size).stack, Settings(method="epry", passes=given.passes)
        whole: dict[str, Callable[[], Any]] = {
            "jax": lambda: solve(stack, microscope, settings),
            "scipy": lambda: sweep.with_scipy(given.passes),
        }
        yield from _lines({**common, "what": "reconstruct", "passes": given.passes}, whole, given.rounds, device)


def _lines(common: dict[str, Any], forms: dict[str, Form], rounds: int, device: jax.Device) -> Iterator[dict[str, Any]]:
    found = {name: summary(seconds) for name, seconds in in_turns(forms, rounds).items()}
    for name, numbers in found.items():
        rate = {"images_per_s": significant(1e3 * common["tiles"] / numbers["ms_p50"])}
        line = {**common, "size": PAPER if common["side"] == 128 else SMALL, "batch": common["tiles"], "form": name}
        line |= {"rounds": rounds, **numbers, **rate}
        if name == "jax":
            ratio = significant(found["scipy"]["ms_p50"] / numbers["ms_p50"])
            line |= {"best_partner": "scipy", "times_faster": ratio}
        yield {**line, **machine.facts(device)}


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128], help="of tiles, pixels")
    parser.add_argument("--leds", type=int, default=15, help="along either side of the board")
    parser.add_argument("--tiles", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--workers", type=int, default=2, help="threads of a transform of SciPy's")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines, appended to")
    given = parser.parse_args()
    for size in given.sides:
        for tiles in given.tiles:
            for line in measured(size, given.leds, tiles, given):
                lines.append(given.out, line)
                faster = f", {line['times_faster']} x scipy" if "times_faster" in line else ""
                what = f"{line['what']} {size} px, {tiles} tiles, {line['form']}"
                print(f"{what}: {line['ms_p50']:.1f} ms{faster}", flush=True)


if __name__ == "__main__":
    main()
