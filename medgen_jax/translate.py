"""Translate images with a trained run: ``python -m medgen_jax.translate --workdir RUN --input DIR --output DIR``."""

from __future__ import annotations

from absl import flags

from medgen_jax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a trained or converted run.")
_INPUT = flags.DEFINE_string("input", None, "An image, or a folder of images.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the translated images; made when missing.")
_SAMPLER = flags.DEFINE_string("sampler", None, "Which of the run's samplers; its first by default.")
_WHICH = flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")
_TILE = flags.DEFINE_integer("tile", None, "Side of tiles, pixels; that of the training images by default.")
_OVERLAP = flags.DEFINE_integer("overlap", None, "Least overlap of tiles, pixels; a quarter of a tile by default.")
_BATCH = flags.DEFINE_integer("batch", 4, "Images or tiles per call.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace images that are already in --output.")


def main(_: list[str]) -> int:
    """Check, load, translate, write."""
    from medgen_jax import translation
    from medgen_jax.engine import runtime

    for flag, meaning in ((_WORKDIR, "a run directory"), (_INPUT, "images"), (_OUTPUT, "a folder")):
        if flag.value is None:
            raise cli.UserError(f"--{flag.name} is missing: {meaning}")
    runtime.start()
    which = int(_WHICH.value) if _WHICH.value.isdigit() else _WHICH.value
    done = translation.translate(
        _WORKDIR.value, _INPUT.value, _OUTPUT.value,
        sampler=_SAMPLER.value, which=which, tile=_TILE.value, overlap=_OVERLAP.value,
        batch=_BATCH.value, overwrite=_OVERWRITE.value,
    )  # fmt: skip
    tiled = [d for d in done if d.tiles > 1]
    print(f"{len(done)} images written to {_OUTPUT.value}")
    if tiled:
        worst = max(tiled, key=lambda d: d.seam_score)
        print(
            f"{len(tiled)} of them in tiles; highest seam score {worst.seam_score:.3f} (1: none), {worst.output.name}"
        )
    return 0


if __name__ == "__main__":
    cli.run(main)
