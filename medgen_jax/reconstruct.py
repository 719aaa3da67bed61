"""Amplitude and phase of a stack of LED frames: ``python -m medgen_jax.reconstruct STACK --optics FILE --output DIR``.

STACK is a MAT, HDF5, NPZ, NPY or TIFF file, or a folder of TIFF or PNG frames, one per LED. FILE describes microscope
and stack, see ``medgen_jax.reconstruction.description`` and ``configs/fpm/``. ``--preview`` draws where the LEDs
should be over the measured spectra, and solves nothing.
"""

from __future__ import annotations

import sys

from absl import flags

from medgen_jax import cli

_STACK = flags.DEFINE_string("stack", None, "The stack, which may also stand first on the command line.")
_OPTICS = flags.DEFINE_string("optics", None, "YAML file of the microscope, or the name of a packaged one.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results; made when missing.")
_TILE = flags.DEFINE_integer("tile", None, "Side of tiles, pixels of a frame; 256 where the frames are larger.")
_OVERLAP = flags.DEFINE_integer("overlap", None, "Least overlap of tiles, pixels; a quarter of a tile by default.")
_METHOD = flags.DEFINE_string("method", None, "projection, epry, rpie, quasi_newton, gradient or admm.")
_PASSES = flags.DEFINE_integer("passes", None, "Passes over all LEDs, at most; 12 by default.")
_HELD_OUT = flags.DEFINE_float("held_out", None, "Share of LEDs kept out of the solution, such as 0.1: they stop it.")
_PREVIEW = flags.DEFINE_bool("preview", False, "Only draw predicted circles over measured spectra.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace results that are already in --output.")


def main(_: list[str]) -> int:
    """Check, open, solve, write."""
    from medgen_jax.engine import runtime
    from medgen_jax.reconstruction import commands

    commands.check_given(_STACK.value, _OPTICS.value, _OUTPUT.value)
    runtime.start()
    given = commands.Given(
        _STACK.value, _OPTICS.value, _OUTPUT.value, tile=_TILE.value, overlap=_OVERLAP.value, method=_METHOD.value,
        passes=_PASSES.value, held_out=_HELD_OUT.value, overwrite=_OVERWRITE.value,
    )  # fmt: skip
    if _PREVIEW.value:
        print(f"preview: {commands.preview(given, _say)}")
        return 0
    done = commands.reconstruct(given, _say)
    for note in done.notes:
        _say(note)
    scores = done.scores
    print(
        f"residual {scores['residual']:.4f}, {scores['residual_best_gain']:.4f} with the best gains, "
        f"{scores['residual_heldout']:.4f} of {scores['leds_heldout']} LEDs held out; {scores['passes']} passes in "
        f"{scores['seconds']:.1f} s; seam score {scores['seam_score']:.3f} (1: none)"
    )
    print(f"results: {done.folder}")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    # absl leaves words without a flag to the end, where cli.run refuses them: the stack, standing first, becomes one.
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"--stack={sys.argv[1]}"
    cli.run(main)
