"""From a stack of frames to object, pupil and brightness of LEDs: checks, start, passes and end, as one program."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import gradient, noise_robust, sequential, stopping
from medgen_jax.fpm.backends import over_tiles, placed
from medgen_jax.fpm.forward import object_of
from medgen_jax.fpm.gains import fitted_scales
from medgen_jax.fpm.multiplexing import Frames
from medgen_jax.fpm.optics import Optics
from medgen_jax.fpm.preparation import axial_lens, check_stack, first_guess, make_tiles
from medgen_jax.fpm.problem import Guess, Tile, light_of, measurement, views
from medgen_jax.fpm.pupils import PupilAt, known_pupil
from medgen_jax.fpm.residuals import Misfit, misfit, residual, residual_best_gain

METHODS = (*sequential.RULES, "gradient", "admm")
#: What needs frames of one LED each.
OF_ONE_LED = ("admm",)
#: Settings that are arguments of the compiled program: other values compile nothing.
NUMBERS = ("step", "pupil_step", "decay", "damping", "momentum", "penalty", "gain_bound")


@dataclass(frozen=True)
class Settings:
    """How a stack is solved; the defaults are for every stack.

    Attributes:
      method: one of `METHODS`: the rules of `medgen_jax.fpm.sequential`, `medgen_jax.fpm.gradient`, or
        ``admm``, `medgen_jax.fpm.noise_robust`.
      passes: at most.
      step, pupil_step: of the first passes; a ``pupil_step`` of 0 keeps the pupil as it is known.
      constant: passes before steps shrink.
      decay: factor of the steps from pass to pass afterwards; 1 for none.
      damping: of the rules rpie and quasi_newton.
      momentum: share of the velocity that is kept: by the sequential rules with ``momentum_every``, by gradient.
      momentum_every: LEDs between two kicks of momentum; 0 for a sequential solution without.
      batch: LEDs per step of gradient.
      penalty: of admm; larger values follow single measurements less.
      gains: whether the brightness of LEDs is found.
      gain_bound: of amplitude scales, to either side of 1.
      dark: gains stay 1 for frames whose mean is below this share of a bright frame.
      held_out: share of LEDs kept out of the solution, for the stop rule and an honest residual; 0 for none.
      patience: passes without progress on the LEDs held out before the end; needs ``held_out``.
      seed: of what is held out.
    """

    method: str = "epry"
    passes: int = 12
    step: float = 1.0
    pupil_step: float = 0.5
    constant: int = 2
    decay: float = 0.7
    damping: float = 0.3
    momentum: float = 0.5
    momentum_every: int = 0
    batch: int = 8
    penalty: float = 0.5
    gains: bool = True
    gain_bound: float = 2.0
    dark: float = 1e-4
    held_out: float = 0.0
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"method = {self.method!r}: expected one of {', '.join(METHODS)}")
        ranges = {
            "passes": (1, 10_000), "step": (0, 10), "pupil_step": (0, 10), "constant": (0, 10_000), "decay": (0, 1),
            "damping": (1e-6, 1), "momentum": (0, 0.999), "momentum_every": (0, 1_000_000), "batch": (1, 1_000_000),
            "penalty": (0, 1e3), "gain_bound": (1, 1e3), "dark": (0, 1), "held_out": (0, 0.5), "patience": (1, 10_000),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} = {getattr(self, name)}: must lie between {low:g} and {high:g}")


class Solution(NamedTuple):
    """What a stack shows; of several tiles, every array has the tiles as its first axis and ``ended`` is a tuple.

    Attributes:
      obj: (M, M) complex64, the object in units in which a bright frame through nothing is about 1.
      spectrum: (M, M) complex64, its centred Fourier coefficients.
      pupil: (K, K) complex64, values of the free pupil; 1 where it is as known.
      gains: (n,) float32, brightness of LEDs, or of whole frames where several are lit in one; geometric mean 1.
      residual, residual_best_gain: over the LEDs in use; see `medgen_jax.fpm.residuals`.
      residual_heldout: with the best gains, over the LEDs held out; NaN where none were.
      curve, curve_heldout: (passes,) float32, best-gain residuals while each pass ran; NaN after the last.
      passes: that were made.
      heldout: (n,) bool, the LEDs held out; frames where several are lit in one.
      ended: one sentence, from `medgen_jax.fpm.stopping.verdict`.
    """

    obj: Any
    spectrum: Any
    pupil: Any
    gains: Any
    residual: Any
    residual_best_gain: Any
    residual_heldout: Any
    curve: Any
    curve_heldout: Any
    passes: Any
    heldout: Any
    ended: Any


def solve(
    stack: Any,
    optics: Optics | Sequence[Optics],
    settings: Settings | None = None,
    *,
    amplitude: bool = False,
    background: Any = 0.0,
    saturation: float | None = None,
    frames: Frames | None = None,
    **changes: Any,
) -> Solution:
    """Object and pupil behind a stack of frames.

    Args:
      stack: (n, N, N) uint8, uint16 or float, one frame per LED in their order; (tiles, n, N, N) of several tiles,
        which all devices of this process share where they go round.
      optics: of the tile; of several tiles, one each, alike but for where they look and where their LEDs are.
      settings: None: the defaults.
      amplitude: whether the stack holds amplitudes, not intensities.
      background: stray light in counts of intensity, () or (n,) or (tiles, n); what it exceeds counts as dark.
      saturation: count from which a pixel is saturated and does not count. None: none.
      frames: numbers of the LEDs that are lit in each frame, `medgen_jax.fpm.multiplexing`. None: one after the other.
      **changes: fields of `Settings` that differ.

    Returns:
      a `Solution` whose arrays are NumPy arrays.

    Raises:
      UserError: a stack that does not fit its optics, is not finite, or shows nothing; optics that violate sampling.
    """
    settings = dataclasses.replace(settings or Settings(), **_known(changes))
    single = isinstance(optics, Optics)
    each = (optics,) if single else tuple(optics)
    stack = np.asarray(stack)[None] if single else np.asarray(stack)
    if frames is not None and settings.method in OF_ONE_LED:
        raise UserError(f"method = {settings.method!r}: needs one LED per frame; take epry or gradient")
    check_stack(stack, each, saturation, frames)
    tiles, chosen = make_tiles(stack, each, settings, amplitude, background, saturation, frames)
    lens = axial_lens(each[0])
    shape = (stack.shape[-1], each[0].factor * stack.shape[-1])
    numbers = {name: jnp.float32(getattr(settings, name)) for name in NUMBERS}
    form = {"lens": lens, "shape": shape, "settings": _form(settings), "squared": not amplitude}
    # In focus the pupil is its aperture: none of its phases is computed, LED by LED.
    defocus = jnp.float32(each[0].defocus) if each[0].defocus else None
    found = _solve(placed(tiles), defocus, numbers, **form)
    return _solution(jax.device_get(found), chosen, settings, single)


def solve_colours(
    stacks: Sequence[Any], optics: Sequence[Optics], settings: Settings | None = None, **options: Any
) -> tuple[Solution, ...]:
    """One field in several colours, as `medgen_jax.fpm.simulate_colours` makes it: each with its own optics.

    Objects differ from colour to colour, and so nothing is shared but the settings and the grid of the objects.

    Args:
      stacks: one per colour, each as `solve` takes it.
      optics: one per colour, of equal ``factor`` (set ``upsampling``).
      settings: None: the defaults.
      **options: of `solve`, for all colours.

    Returns:
      one `Solution` per colour.

    Raises:
      UserError: as `solve`; colours that do not go together.
    """
    if len(stacks) != len(optics):
        raise UserError(f"there are {len(stacks)} stacks and {len(optics)} optics: expected one per colour")
    factors = [one.factor for one in optics]
    if len(set(factors)) > 1:
        raise UserError(
            f"colours with upsampling {factors}: expected one; set optics.upsampling to {max(factors)} in all"
        )
    return tuple(solve(stack, one, settings, **options) for stack, one in zip(stacks, optics, strict=True))


def _known(changes: dict[str, Any]) -> dict[str, Any]:
    names = [f.name for f in dataclasses.fields(Settings)]
    for name in changes:
        if name not in names:
            raise UserError(f"solve: setting {name!r} is unknown; known are {', '.join(names)}")
    return changes


def _form(settings: Settings) -> Settings:
    """What of the settings shapes the program."""
    plain = {name: getattr(Settings(), name) for name in (*NUMBERS, "dark", "seed")}
    return dataclasses.replace(settings, **plain, held_out=0.5 if settings.held_out else 0.0)


class _Run(NamedTuple):
    """What a solution carries from pass to pass."""

    guess: Guess
    memory: Any
    scales: jax.Array
    number: jax.Array
    watch: stopping.Watch
    best: tuple[Guess, jax.Array]
    curves: jax.Array


@functools.partial(jax.jit, static_argnames=("lens", "shape", "settings", "squared"))
def _solve(
    tiles: Tile,
    defocus: jax.Array | None,
    numbers: dict[str, jax.Array],
    *,
    lens: Optics,
    shape: tuple[int, int],
    settings: Settings,
    squared: bool,
) -> dict[str, Any]:
    within = known_pupil(lens, shape[0], 0.0 if defocus is None else defocus)
    form = (within, numbers, lens, shape, settings, squared)
    return over_tiles(lambda tile: _solve_tile(tile, *form), tiles)


def _solve_tile(
    tile: Tile,
    within: PupilAt,
    numbers: dict[str, jax.Array],
    lens: Optics,
    shape: tuple[int, int],
    settings: Settings,
    squared: bool,
) -> dict[str, Any]:
    validated = settings.held_out > 0
    guess = first_guess(tile, lens, shape, squared)
    scales = jnp.ones(tile.order.shape, jnp.float32)
    run = _Run(
        guess, _memory(guess, tile, settings, numbers), scales, jnp.int32(0), stopping.start_watch(), (guess, scales),
        jnp.full((2, settings.passes), jnp.nan),
    )  # fmt: skip

    def go_on(run: _Run) -> jax.Array:
        patient = run.watch.since < settings.patience if validated else True
        return (run.number < settings.passes) & patient

    def one(run: _Run) -> _Run:
        guess, memory, sums = _pass(run, tile, within, numbers, settings, squared)
        scales = fitted_scales(sums.best_scale, tile.lit, numbers["gain_bound"]) if settings.gains else run.scales
        values = jnp.stack([residual_best_gain(sums, tile.used), residual_best_gain(sums, 1 - tile.used)])
        watch, better = stopping.watched(run.watch, values[1 if validated else 0])
        keep = better if validated else jnp.isfinite(values[0])
        best = jax.tree.map(lambda new, old: jnp.where(keep, new, old), (guess, scales), run.best)
        curves = run.curves.at[:, run.number].set(values)
        return _Run(guess, memory, scales, run.number + 1, watch, best, curves)

    run = jax.lax.while_loop(go_on, one, run)
    guess, scales = run.best
    if settings.gains:
        guess, scales = in_step(guess, tile, scales, within, numbers["gain_bound"], squared)
    sums = misfits(guess, tile, scales, within, squared)
    return {
        "obj": object_of(guess.spectrum), "spectrum": guess.spectrum, "pupil": guess.values, "gains": scales**-2.0,
        "residual": residual(sums, tile.used), "residual_best_gain": residual_best_gain(sums, tile.used),
        "residual_heldout": residual_best_gain(sums, 1 - tile.used),
        "curve": run.curves[0], "curve_heldout": run.curves[1], "passes": run.number,
    }  # fmt: skip


def misfits(guess: Guess, tile: Tile, scales: jax.Array, within: PupilAt, squared: bool) -> Misfit:
    """Misfits (n,) of all frames with one guess, one frame at a time."""

    def one(frame: jax.Array) -> Misfit:
        m = measurement(tile, frame, squared)
        return misfit(jnp.sqrt(light_of(views(guess, tile, within, frame))), m.amplitude, m.weight, scales[frame])

    return jax.lax.map(one, jnp.arange(len(tile.order)))


def in_step(
    guess: Guess, tile: Tile, scales: jax.Array, within: PupilAt, bound: jax.Array, squared: bool
) -> tuple[Guess, jax.Array]:
    """Scales as the last guess has them, and the object brought to their mean, which moves while it is found."""
    best = misfits(guess, tile, scales, within, squared).best_scale
    free = tile.lit & (best > 0)
    common = jnp.exp(jnp.sum(jnp.where(free, jnp.log(jnp.where(free, best, 1.0)), 0.0)) / jnp.maximum(free.sum(), 1))
    return Guess(guess.spectrum / common, guess.values), fitted_scales(best, tile.lit, bound)


def _memory(guess: Guess, tile: Tile, settings: Settings, numbers: dict[str, jax.Array]) -> Any:
    if settings.method == "gradient":
        return gradient.optimiser(numbers["momentum"]).init(guess)
    if settings.method == "admm":
        return noise_robust.start(guess, tile)
    return sequential.start(guess) if settings.momentum_every else None


def _pass(
    run: _Run, tile: Tile, within: PupilAt, numbers: dict[str, jax.Array], settings: Settings, squared: bool
) -> tuple[Guess, Any, Misfit]:
    """One pass of the chosen method."""
    shrunk = numbers["decay"] ** jnp.maximum(run.number - settings.constant + 1, 0).astype(jnp.float32)
    steps = {"step": numbers["step"] * shrunk, "pupil_step": numbers["pupil_step"] * shrunk, "squared": squared}
    given = (run.guess, run.memory, tile, run.scales, within)
    if settings.method == "gradient":
        return gradient.one_pass(*given, batch=settings.batch, momentum=numbers["momentum"], **steps)
    if settings.method == "admm":
        return noise_robust.one_pass(*given, penalty=numbers["penalty"], first=run.number == 0, **steps)
    rule = {"rule": sequential.RULES[settings.method], "damping": numbers["damping"]}
    kicks = {"friction": numbers["momentum"], "every": settings.momentum_every}
    return sequential.one_pass(*given, **rule, **kicks, **steps)


def _solution(found: dict[str, Any], chosen: Any, settings: Settings, single: bool) -> Solution:
    curves = found["curve_heldout"] if settings.held_out else found["curve"]
    ended = tuple(
        stopping.verdict(curve[:count], settings.passes) for curve, count in zip(curves, found["passes"], strict=True)
    )
    solution = Solution(**found, heldout=np.asarray(chosen), ended=ended)
    return Solution(*(value[0] for value in solution)) if single else solution
