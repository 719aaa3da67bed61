"""``python -m medgen_jax``: the list of commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import medgen_jax

#: Module of this package -> what it does; each runs as ``python -m medgen_jax.NAME``.
VERBS = {
    "train": "train a system: --config FILE --workdir DIR; the same command resumes",
    "datacheck": "look at a data set before training: all faults, copies, odd files, with a page of pictures",
    "prepare": "decode a folder of images once into records that read fast",
    "defocus": "blur in-focus images as a microscope would: pairs for systems that restore focus",
    "translate": "run a trained system over a folder of images",
    "sample": "draw images from a trained generator in bulk, marked as synthetic",
    "normalize": "give stained tissue the colours of a target: images, folders, whole slides",
    "counterfactual": "show X-rays as they might have been, with residual maps and their controls",
    "reconstruct": "amplitude and phase out of a stack of LED frames: Fourier ptychography, whole fields in tiles",
    "evaluate": "judge generated images, or a run on a split of its data: numbers with intervals",
    "severity": "learn graded severity from residuals, beside an encoder, by the number of scored patients",
    "convert": "bring reference PyTorch weights into a run directory",
    "weights": "list, download and convert the pretrained weights of the metrics",
    "doctor": "check this installation and say what to mend",
}


def overview() -> str:
    """All commands, one line each."""
    lines = [f"  python -m medgen_jax.{name:<14} {purpose}" for name, purpose in VERBS.items()]
    return "\n".join([f"medgen_jax {medgen_jax.__version__}", *lines, "Each explains itself with --help."])


def main(argv: Sequence[str]) -> int:
    """Print the overview; any other word than --help or --version is a mistake, exit code 2."""
    words = set(argv) - {"-h", "--help", "--version"}
    if words:
        print(f"error: a command is its own module: python -m medgen_jax.{argv[0]}", file=sys.stderr)
    print(overview(), file=sys.stderr if words else sys.stdout)
    return 2 if words else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
