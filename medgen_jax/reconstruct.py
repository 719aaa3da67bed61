"""Amplitude and phase of a stack of LED frames: ``python -m medgen_jax.reconstruct STACK --optics FILE --output DIR``.

STACK is a MAT, HDF5, NPZ, NPY or TIFF file, or a folder of TIFF or PNG frames, one per LED. FILE describes microscope
and stack, see ``medgen_jax.reconstruction.description`` and ``configs/fpm/``. ``--preview`` draws where the LEDs
should be over the measured spectra, and solves nothing. ``--demo`` takes a stack that ships with the package, in place
of STACK and FILE. ``--pairs`` makes pairs of phase and amplitude for training out of many stacks, see
``medgen_jax.reconstruction.pairs.plan``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from absl import flags

from medgen_jax import cli

if TYPE_CHECKING:
    from medgen_jax.reconstruction.commands import Given

_STACK = flags.DEFINE_string("stack", None, "The stack, which may also stand first on the command line.")
_OPTICS = flags.DEFINE_string("optics", None, "YAML file of the microscope, or the name of a packaged one.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results; made when missing.")
_TILE = flags.DEFINE_integer("tile", None, "Side of tiles, pixels of a frame; 256 where the frames are larger.")
_OVERLAP = flags.DEFINE_integer("overlap", None, "Least overlap of tiles, pixels; a quarter of a tile by default.")
_METHOD = flags.DEFINE_string("method", None, "projection, epry, rpie, quasi_newton, gradient or admm.")
_PASSES = flags.DEFINE_integer("passes", None, "Passes over all LEDs, at most; 12 by default.")
_HELD_OUT = flags.DEFINE_float("held_out", None, "Share of LEDs kept out of the solution, such as 0.1: they stop it.")
_PREVIEW = flags.DEFINE_bool("preview", False, "Only draw predicted circles over measured spectra.")
_DEMO = flags.DEFINE_bool("demo", False, "Take the stack that ships with the package; needs --output alone.")
_PAIRS = flags.DEFINE_string("pairs", None, "Folder of stacks, or YAML file of fields and colours, to make pairs of.")
_PAIR_SIZE = flags.DEFINE_integer("pair_size", 256, "Side of a pair, pixels of the object.")
_BITS = flags.DEFINE_integer("bits", 8, "Bits of a pair's levels, 8 or 16 (train with --config.data.bits=16).")
_CALIBRATE = flags.DEFINE_string(
    "calibrate", None, "Calibrate before solving: order,defocus,position,brightness,leds or some of these."
)
_BACKGROUND = flags.DEFINE_string("background", None, "Stray light: counts, or auto to estimate it frame by frame.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace results that are already in --output.")


def main(_: list[str]) -> int:
    """Check, open, solve, write."""
    from medgen_jax.engine import runtime
    from medgen_jax.reconstruction import calibrating, commands, demo

    calibrating.check_alone(_CALIBRATE.value, pairs=_PAIRS.value is not None, preview=_PREVIEW.value)
    if _PAIRS.value is not None:
        return _make_pairs()
    stack, optics = _STACK.value, _OPTICS.value
    if _DEMO.value:
        stack, optics = demo.chosen(stack, optics)
    commands.check_given(stack, optics, _OUTPUT.value)
    runtime.start()
    given = _given(stack, optics)
    if _PREVIEW.value:
        print(f"preview: {commands.preview(given, _say)}")
        return 0
    done = commands.reconstruct(given, _say)
    for note in done.notes:
        _say(note)
    print(commands.outcome(done.scores))
    print(f"results: {done.folder}")
    return 0


def _make_pairs() -> int:
    from medgen_jax.engine import runtime
    from medgen_jax.reconstruction.pairs import commands as pairs

    pairs.check_given(_OUTPUT.value, stack=_STACK.value, demo=_DEMO.value, preview=_PREVIEW.value)
    runtime.start()
    made = pairs.make_pairs(_given(_PAIRS.value, _OPTICS.value or ""), _PAIR_SIZE.value, _BITS.value, _say)
    for note in made.notes:
        _say(f"note: {note}")
    print("\n".join(pairs.summary(made, _BITS.value)))
    return 0


def _given(stack: str, optics: str) -> Given:
    from medgen_jax.reconstruction.calibrating import steps_of
    from medgen_jax.reconstruction.commands import Given

    return Given(
        stack, optics, _OUTPUT.value, tile=_TILE.value, overlap=_OVERLAP.value, method=_METHOD.value,
        passes=_PASSES.value, held_out=_HELD_OUT.value, overwrite=_OVERWRITE.value,
        calibrate=steps_of(_CALIBRATE.value), background=_BACKGROUND.value,
    )  # fmt: skip


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    # absl leaves words without a flag to the end, where cli.run refuses them: the stack, standing first, becomes one.
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"--stack={sys.argv[1]}"
    cli.run(main)
