"""What Fourier ptychography gives back of an object that is known: error against the truth, as JSON lines and a table.

    python -m benchmarks.fpm_simulation --amplitude slide.jpg --phase texture.png --out lines.jsonl --table table.md

The microscope is that of ``configs/fpm/bloodsmear_red.yaml``, in focus: NA 0.1, 225 LEDs behind a slide, frames of
``--size`` pixels (128) under an object four times as fine. One image becomes the amplitude, as the root of its light,
another the phase, from -1.5 to 1.5 rad. Frames are made of an object on a grid twice as fine as the one that is solved
for, with LED centres where they are; the truth is that object low-passed to the union of the pupils. The error is
``|found - truth| / |truth|`` over all pixels, complex, after a factor and a ramp of phase that nobody can know.

``known``        the pupil is known: LED centres as they are, rounded to whole cells, and data that lie on the grid
``joint``        the pupil has astigmatism that the solver is not told, and finds beside the object
``convergence``  the known pupil again: other steps, momentum, batches, after so many passes
``noise``        Gaussian noise, rms over the highest intensity, for every solver
``shift``        the whole board beside its place by cells of the spectrum, untold
``defocus``      m, untold
``aberration``   astigmatism, rad rms, untold

Where something is untold the pupil is free. LEDs are equally bright, and the solver knows it. What is in ``--out``
already is not run again: the same call goes on with one that was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from benchmarks import lines as files
from benchmarks import machine
from benchmarks.timing import significant
from medgen_jax.fpm import Board, Centres, Grid, Optics, Slab, simulate, solve
from medgen_jax.fpm.alignment import compare
from medgen_jax.fpm.solve import METHODS

#: Radians to either side.
PHASE = 1.5
#: Least light of the amplitude's image, over the most.
DARKEST = 0.02
NOISE = (1e-4, 1e-3, 1e-2, 1e-1)
SHIFTS = (0.25, 0.5, 1.0, 2.0)
DEFOCUS = (10e-6, 20e-6, 40e-6, 80e-6)
ABERRATION = (0.25, 0.5, 1.0, 2.0)
#: Noll's index of the astigmatism, and its size where one is wanted.
ASTIGMATISM, STRENGTH = 6, 0.5
#: What the best known-pupil results are to stay below.
BARS = {"exact centres": 0.02, "on the grid": 1e-3}

EXACT, ROUNDED = "exact", "rounded"
GROUPS = ("known", "joint", "convergence", "noise", "shift", "defocus", "aberration")


@dataclasses.dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
      group: of the runs that are compared.
      name: of the run in its group.
      settings: of the solver, `medgen_jax.fpm.Settings`.
      value: of what the group varies.
      made_with, solved_with: ``exact`` LED centres or ``rounded`` ones.
      noise: rms over the highest intensity.
      shift: of the board along x, cells.
      defocus: m.
      aberration: astigmatism, rad rms.
    """

    group: str
    name: str
    settings: Mapping[str, Any]
    value: float | None = None
    made_with: str = EXACT
    solved_with: str = EXACT
    noise: float = 0.0
    shift: float = 0.0
    defocus: float = 0.0
    aberration: float = 0.0


class Specimen(NamedTuple):
    """What frames are made of, (2 M, 2 M), and what a solver may find of it, (M, M), both complex64."""

    fine: np.ndarray
    truth: np.ndarray


def known_pupil(passes: int, **settings: Any) -> dict[str, Any]:
    """Settings of a solver that has only the object to find, and no reason to shorten its steps."""
    return {"passes": passes, "pupil_step": 0.0, "gains": False, "decay": 1.0, **settings}


def settling(passes: int, **settings: Any) -> dict[str, Any]:
    """Settings with whole steps for three quarters of the passes, which find the object, and then shorter ones."""
    return {"passes": passes, "gains": False, "constant": 3 * passes // 4, "decay": 0.7, **settings}


def ways(passes: int, leds: int) -> dict[str, dict[str, Any]]:
    """Ways to the same object, for the known pupil.

    Steps that shrink early stop the solution short: what is far from solved after a few passes is the phase of low
    frequencies, and it moves by a share of what it lacks per pass. They are for noise (Zuo 2016), at the end.

    Inside of a known pupil that only shifts phases, ``|P| = 1``: there projection, EPRY and rPIE are one rule and the
    quasi-Newton rule is a shorter step, so that only steps, momentum and how many LEDs share one can make a difference.
    Momentum once a pass is that of mPIE (Maiden 2017), whole batches with Nesterov's that of Xu 2018.
    """
    found = {
        "epry": {},
        "epry, step x 0.7 per pass from the third": {"decay": 0.7, "constant": 2},
        "epry, step x 0.95 per pass from the third": {"decay": 0.95, "constant": 2},
        "epry, step x 0.7 per pass in the last quarter": {"decay": 0.7, "constant": 3 * passes // 4},
        "epry, step 1.4": {"step": 1.4},
        "epry, step 1.7": {"step": 1.7},
        "epry, gains fitted": {"gains": True},
        "rpie, damping 0.1": {"method": "rpie", "damping": 0.1},
        "quasi-newton, damping 0.01": {"method": "quasi_newton", "damping": 0.01},
        "epry, momentum 0.3 per pass": {"momentum_every": leds, "momentum": 0.3},
        "epry, momentum 0.5 per pass": {"momentum_every": leds, "momentum": 0.5},
        "epry, momentum 0.3 per 50 LEDs": {"momentum_every": 50, "momentum": 0.3},
        "gradient, batches of 8, momentum 0.5": {"method": "gradient", "batch": 8, "momentum": 0.5},
        "gradient, batches of 32, momentum 0.8": {"method": "gradient", "batch": 32, "momentum": 0.8},
        "gradient, all LEDs, momentum 0.9": {"method": "gradient", "batch": leds, "momentum": 0.9},
        "gradient, all LEDs, momentum 0.97": {"method": "gradient", "batch": leds, "momentum": 0.97},
        "admm, penalty 0.5": {"method": "admm", "penalty": 0.5},
        "admm, penalty 0.1": {"method": "admm", "penalty": 0.1},
    }
    return {name: known_pupil(passes, **settings) for name, settings in found.items()}


def cases(passes: int, leds: int, most: Sequence[int]) -> Iterator[Case]:
    """All runs of the protocol.

    Args:
      passes: of every run but those that ask how many are needed.
      leds: how many there are.
      most: numbers of passes that are compared.
    """
    alone = known_pupil(passes)
    yield Case("known", "exact centres", alone)
    yield Case("known", "rounded centres", alone, solved_with=ROUNDED)
    yield Case("known", "on the grid", alone, made_with=ROUNDED, solved_with=ROUNDED)
    yield Case("joint", "epry, the solver's defaults", {}, aberration=STRENGTH)
    for method in METHODS:
        yield Case("joint", method, settling(passes, method=method), aberration=STRENGTH)
    for count in most:
        for name, settings in ways(count, leds).items():
            yield Case("convergence", name, settings, count)
    for method in METHODS:
        free, still = (settling(passes, method=method, **more) for more in ({}, {"pupil_step": 0.0}))
        for group, values in (("noise", NOISE), ("shift", SHIFTS), ("defocus", DEFOCUS), ("aberration", ABERRATION)):
            for value in values:
                yield Case(group, method, still if group == "noise" else free, value, **{group: value})


def microscope(leds: int = 15) -> Optics:
    """The blood smear's, red and in focus."""
    board = Board(Grid(leds, leds, 4e-3, "spiral"), 90.88e-3)
    return Optics(630e-9, 0.1, 2, 3.69e-6, board, upsampling=4, glass=Slab(1e-3))


def centred(optics: Optics, size: int, shift: float = 0.0, rounded: bool = False) -> Optics:
    """The same LEDs by the centres of their windows, all moved along x by ``shift`` cells, on whole cells if asked."""
    cells = optics.centres(size) + np.array([shift, 0.0])
    cells = np.rint(cells) if rounded else cells
    return dataclasses.replace(optics, leds=Centres(tuple(map(tuple, cells.tolist())), size), glass=None)


def read_light(path: Path, side: int) -> np.ndarray:
    """The middle square of an image, (side, side) float64 grey values between 0 and 1.

    Raises:
      OSError: no such image.
    """
    with Image.open(path) as image:
        short = min(image.size)
        left, top = ((length - short) // 2 for length in image.size)
        part = image.crop((left, top, left + short, top + short)).convert("RGB")
        filters = Image.Resampling
        resized = part.resize((side, side), filters.BOX if short >= side else filters.BICUBIC)
    return np.asarray(resized, np.float64).mean(axis=-1) / 255


def specimen(amplitude: np.ndarray, phase: np.ndarray, optics: Optics, size: int) -> Specimen:
    """The object and its truth.

    Args:
      amplitude, phase: (2 M, 2 M) light of two images; the second from its 0.5 to its 99.5 percentile becomes
        -`PHASE` to `PHASE`.
      optics: whose pupils the truth is low-passed to.
      size: N; M is N times the up-sampling.
    """
    low, high = np.quantile(phase, (0.005, 0.995))
    turn = PHASE * (2 * np.clip((phase - low) / max(high - low, 1e-12), 0, 1) - 1)
    fine = np.sqrt(np.maximum(amplitude, DARKEST)) * np.exp(1j * turn)
    side = optics.factor * size
    spectrum = np.fft.fftshift(np.fft.fft2(fine, norm="forward"))
    middle = slice(side - side // 2, 2 * side - side // 2)
    cut = np.where(seen(optics, size), spectrum[middle, middle], 0)
    truth = np.fft.ifft2(np.fft.ifftshift(cut), norm="forward")
    return Specimen(fine.astype(np.complex64), truth.astype(np.complex64))


def seen(optics: Optics, size: int) -> np.ndarray:
    """(M, M) bool: the union of the pupils, frequency 0 in the middle."""
    side = optics.factor * size
    cells, union = np.arange(side) - side // 2, np.zeros((side, side), bool)
    for x, y in optics.centres(size):
        union |= (cells[:, None] - y) ** 2 + (cells - x) ** 2 <= optics.radius(size) ** 2 * (1 + 1e-6)
    return union


def error(found: np.ndarray, truth: np.ndarray) -> float:
    """Relative error of an object (M, M) after the ramp of phase and the complex factor that fit best."""
    rows, columns = (np.arange(side) for side in truth.shape)
    down, across = compare(found, truth).ramp
    level = found * np.exp(-1j * down * rows)[:, None] * np.exp(-1j * across * columns)
    factor = np.vdot(level, truth) / max(np.vdot(level, level).real, 1e-30)
    return float(np.linalg.norm(factor * level - truth) / np.linalg.norm(truth))


def run(case: Case, size: int, amplitude: np.ndarray, phase: np.ndarray, leds: int = 15) -> dict[str, Any]:
    """Make the frames of a case, solve them, and compare: what is new in its line."""
    optics = microscope(leds)
    told = centred(optics, size, rounded=case.solved_with == ROUNDED)
    stated, true = (centred(optics, size, shift, rounded=case.made_with == ROUNDED) for shift in (0.0, case.shift))
    thing = specimen(amplitude, phase, stated, size)
    stack = frames(case, thing, true)
    start = time.perf_counter()
    got = solve(stack, told, **case.settings)
    seconds = time.perf_counter() - start
    return {
        "nrmse": _number(error(got.obj, thing.truth)),
        "residual_best_gain": _number(float(got.residual_best_gain)),
        "passes": int(got.passes),
        "seconds": significant(seconds),
        "ended": got.ended,
    }


def _number(value: float) -> float | None:
    """With four digits; None for what is none."""
    return significant(value) if np.isfinite(value) else None


def frames(case: Case, thing: Specimen, optics: Optics) -> np.ndarray:
    """The stack (n, N, N) of a case: made twice as fine as it is solved; noise that leads below 0 is cut off there."""
    finer = dataclasses.replace(optics, upsampling=2 * optics.factor)
    made = {"defocus": case.defocus, "zernike": {ASTIGMATISM: case.aberration} if case.aberration else None}
    light = np.asarray(simulate(finer, thing.fine, **made))
    noise = np.random.default_rng(0).standard_normal(light.shape, np.float32) if case.noise else 0.0
    return np.maximum(light + case.noise * light.max() * noise, 0)


def key(case: Case, given: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a line from all others: the case, and what was typed."""
    return {"benchmark": "fpm_simulation", **given, **dataclasses.asdict(case), "settings": dict(case.settings)}


def table(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Lines of Markdown: bars, ways to converge, curves."""
    yield "| group | run | error | bar | residual, best gains | passes |"
    yield "|---|---|---|---|---|---|"
    for line in lines:
        if line["group"] in ("known", "joint"):
            bar = BARS.get(line["name"]) if line["group"] == "known" else None
            told = "" if bar is None else f"{bar:g}, {'met' if (line['nrmse'] or np.inf) <= bar else 'missed'}"
            yield (
                f"| {line['group']} | {line['name']} | {_told(line['nrmse'])} | {told} | "
                f"{_told(line['residual_best_gain'])} | {line['passes']} |"
            )
    for group in GROUPS[2:]:
        own = [line for line in lines if line["group"] == group]
        if own:
            yield ""
            yield from _curves(group, own)


def _curves(group: str, lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    values = sorted({line["value"] for line in lines})
    found = {(line["name"], line["value"]): line["nrmse"] for line in lines}
    heads = [f"{value:g}{' passes' if group == 'convergence' else ''}" for value in values]
    yield f"| {group} | {' | '.join(heads)} |"
    yield f"|{'---|' * (len(values) + 1)}"
    for name in dict.fromkeys(line["name"] for line in lines):
        cells = [_told(found[name, value]) if (name, value) in found else "" for value in values]
        yield f"| {name} | {' | '.join(cells)} |"


def _told(number: float | None) -> str:
    return "diverged" if number is None else f"{number:.3g}"


def main() -> None:
    """Run what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--amplitude", type=Path, required=True, help="image whose light is the object's")
    parser.add_argument("--phase", type=Path, required=True, help="image that becomes the phase")
    parser.add_argument("--size", type=int, default=128, help="side of the frames; 32 for a trial")
    parser.add_argument("--leds", type=int, default=15, help="along either side of the board")
    parser.add_argument("--passes", type=int, default=40)
    parser.add_argument("--compared", type=int, nargs="+", default=[12, 40, 100], help="passes in group convergence")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS, help="some of them")
    parser.add_argument("--out", type=Path, required=True, help="results, one JSON line per run")
    parser.add_argument("--table", type=Path, help="file for the table; printed where nothing is said")
    given = parser.parse_args()
    for image in (given.amplitude, given.phase):
        if not image.is_file():
            parser.error(f"{image}: no such image")
    optics = microscope(given.leds)
    side = 2 * optics.factor * given.size
    images = {name: read_light(getattr(given, name), side) for name in ("amplitude", "phase")}
    typed = {"size": given.size, "leds": given.leds}
    typed |= {f"{name}_sha256": hashlib.sha256(image.tobytes()).hexdigest()[:16] for name, image in images.items()}
    wanted = [case for case in cases(given.passes, optics.count, given.compared) if case.group in given.groups]
    kept = files.read([given.out]) if given.out.exists() else []
    found = []
    for case in wanted:
        own = key(case, typed)
        line = next((line for line in kept if own.items() <= line.items()), None)
        if line is None:
            line = {**own, **run(case, given.size, **images, leds=given.leds), **machine.facts(jax.devices()[0])}
            files.append(given.out, line)
            value = "" if case.value is None else f" {case.value:g}"
            print(f"{case.group} {case.name}{value}: {_told(line['nrmse'])}, {line['seconds']:.1f} s", flush=True)
        found.append(line)
    text = "\n".join(table(found)) + "\n"
    if given.table is None:
        print(text)
    else:
        given.table.write_text(text)


if __name__ == "__main__":
    main()
