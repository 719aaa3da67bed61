"""Images out of a trained generator, in bulk: ``python -m medgen_jax.sample``.

--workdir RUN --n 8000 --output DIR                                 images out of noise
--workdir RUN --n 8000 --class covid --output DIR                   of one class; of each, in folders: --class all
--workdir RUN --input DIR --per_input 10 --class covid --output DIR     10 of every image, of image-to-image runs
--workdir RUN --walk walk.gif                                       a walk through the codes
"""

from __future__ import annotations

from absl import flags

from medgen_jax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a trained or converted run.")
_WHICH = flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")
_N = flags.DEFINE_integer("n", None, "How many images, over all classes together.")
_CLASS = flags.DEFINE_string("class", None, "Of runs that are told one: a class, or all: each in turn, in folders.")
_SEED = flags.DEFINE_integer("seed", 0, "Image 7 of a seed is the same in every call.")
_TRUNCATION = flags.DEFINE_float("truncation", None, "Short for --set truncation=VALUE; 1, which is none, by default.")
_SET = flags.DEFINE_multi_string("set", [], "What else the sampler is told: name=value, such as scale=2 or view=PA.")
_INPUT = flags.DEFINE_string("input", None, "For image-to-image runs: an image, or a folder of them.")
_PER_INPUT = flags.DEFINE_integer("per_input", 10, "Images of each of --input, and of each class.")
_BATCH = flags.DEFINE_integer("batch", None, "Images per call; what is worth it and fits into memory by default.")
_BITS = flags.DEFINE_enum("bits", None, ["8", "16"], "Of the samples; those of the run's data by default.")
_FORMAT = flags.DEFINE_enum("format", "png", ["png"], "Of the files; each says in its metadata that it is synthetic.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the images; made when missing, gone on with where it stopped."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the images that an earlier call left in --output.")
_GRID = flags.DEFINE_bool("grid", False, "A contact sheet, with real images beside where the run's data are at hand.")
_WALK = flags.DEFINE_string("walk", None, "A GIF file: a walk through codes, from image 0 to others and back.")
_FRAMES = flags.DEFINE_integer("frames", 60, "Of the walk.")


def main(_: list[str]) -> int:
    """Check, load, draw, write."""
    from medgen_jax.data.builders.options import split_words
    from medgen_jax.engine import runtime
    from medgen_jax.synthesis import commands

    if _WORKDIR.value is None:
        raise cli.UserError("--workdir is missing: a run directory")
    values = split_words(_SET.value)
    if _TRUNCATION.value is not None:
        if "truncation" in values:
            raise cli.UserError("--truncation and --set truncation: say it once")
        values["truncation"] = str(_TRUNCATION.value)
    which = int(_WHICH.value) if _WHICH.value.isdigit() else _WHICH.value
    runtime.start()
    asked = commands.Request(
        _WORKDIR.value, _OUTPUT.value, _N.value, _CLASS.value, values, _INPUT.value, _PER_INPUT.value,
        which, _SEED.value, None if _BITS.value is None else int(_BITS.value), _BATCH.value,
        _OVERWRITE.value, _GRID.value, _WALK.value, _FRAMES.value,
    )  # fmt: skip
    done = commands.synthesise(asked, say=lambda doubt: print(f"note: {doubt}", flush=True))
    if done.images:
        there = f", {done.before:,} of them there already" if done.before else ""
        print(f"{done.images:,} image{'' if done.images == 1 else 's'} in {_OUTPUT.value}{there}")
    if done.speed is not None:
        print(done.speed.sentence())
    for what, path in (("contact sheet", done.sheet), ("walk", done.walk)):
        if path is not None:
            print(f"{what}: {path}")
    return 0


if __name__ == "__main__":
    cli.run(main)
