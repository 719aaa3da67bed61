"""Translate images with a trained run: ``python -m medgen_jax.translate --workdir RUN --input DIR --output DIR``."""

from __future__ import annotations

from absl import flags

from medgen_jax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a trained or converted run.")
_INPUT = flags.DEFINE_string("input", None, "An image, or a folder of images.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the translated images; made when missing.")
_SAMPLER = flags.DEFINE_string("sampler", None, "Which of the run's samplers; its first by default.")
_WHICH = flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")
_BATCH = flags.DEFINE_integer("batch", 4, "Images per call, where their sizes agree.")
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
    count = translation.translate(
        _WORKDIR.value, _INPUT.value, _OUTPUT.value,
        sampler=_SAMPLER.value, which=which, batch=_BATCH.value, overwrite=_OVERWRITE.value,
    )  # fmt: skip
    print(f"{count} images written to {_OUTPUT.value}")
    return 0


if __name__ == "__main__":
    cli.run(main)
