"""Counterfactuals of images, with their controls: ``python -m medgen_jax.counterfactual``.

--workdir RUN --input FILE|DIR --output DIR     images of your own, as if they were normal
--workdir RUN --split val --output DIR          a split of the run's data: labels, views, patients and boxes are known
"""

from __future__ import annotations

from absl import flags

from medgen_jax import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a run of diffusion or cyclegan.")
_WHICH = flags.DEFINE_string("checkpoint", "last", "Of --workdir: last, best, or a step.")
_CLASSIFIER = flags.DEFINE_string("classifier", None, "Directory of a run of noise_classifier that guides.")
_CLASSIFIER_WHICH = flags.DEFINE_string("classifier_checkpoint", "last", "Of --classifier: last, best, or a step.")
_CLASSIFIER_SCALE = flags.DEFINE_float("classifier_scale", None, "How strongly the classifier guides, such as 10.")
_INPUT = flags.DEFINE_string("input", None, "An image (PNG, TIFF, DICOM), or a folder of them.")
_SPLIT = flags.DEFINE_string("split", None, "Instead of --input: a split of the run's own data, such as val.")
_COUNT = flags.DEFINE_integer("count", None, "Only so many images, evenly spread over them.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results; made when missing.")
_TARGET = flags.DEFINE_string("target", None, "Class to decode as; by default the one called normal, in any case.")
_SOURCE = flags.DEFINE_string("source", "unknown", "Class to encode as, or unknown.")
_VIEW = flags.DEFINE_string("view", "unknown", "View of the images of --input, or unknown.")
_SCALE = flags.DEFINE_string("scale", None, "Classifier-free guidance, 0: plainly conditional; auto: per image.")
_SCALE_RANGE = flags.DEFINE_list("scale_range", [], "LOW,HIGH: ends of --scale auto; 0,3 by default.")
_REFERENCE = flags.DEFINE_string("reference", None, "Split whose images set what --scale auto calls strong; train.")
_STEPS = flags.DEFINE_integer("steps", None, "Steps of every walk; 100 by default.")
_DEPTH = flags.DEFINE_string("depth", None, "Noising steps to encode, half the process by default; auto: per image.")
_ENSEMBLE = flags.DEFINE_list("ensemble", [], "Depths D1,D2,...: mean residual over them, and its deviation.")
_METHOD = flags.DEFINE_string("method", "fixed_point", "source, destination, fixed_point, edict or bdia.")
_INTERVAL = flags.DEFINE_list("interval", [], "START,STOP: guide at these steps of the process only.")
_CLIP = flags.DEFINE_bool("clip", None, "Limit predicted clean images to the range; as the run samples by default.")
_DIRECTION = flags.DEFINE_enum("direction", None, ["a2b", "b2a"], "Of a CycleGAN; b2a by default.")
_SUBTRACT = flags.DEFINE_bool("subtract_control", False, "Pictures of what changed more than in the control.")
_LATENTS = flags.DEFINE_string("latents", None, "Another folder of results whose latents may be used.")
_BATCH = flags.DEFINE_integer("batch", None, "Images per call; 8 by default.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Make anew what is in --output; latents that fit are used.")
#: Flags that a CycleGAN has no use for.
_OF_DIFFUSION = (
    _CLASSIFIER, _CLASSIFIER_SCALE, _TARGET, _SOURCE, _VIEW, _SCALE, _SCALE_RANGE, _REFERENCE, _STEPS, _DEPTH,
    _ENSEMBLE, _METHOD, _INTERVAL, _CLIP, _LATENTS,
)  # fmt: skip


def main(_: list[str]) -> int:
    """Check, load, encode, decode, write."""
    from medgen_jax.counterfactuals import commands, files
    from medgen_jax.engine import runtime

    for flag, meaning in ((_WORKDIR, "a run of diffusion or cyclegan"), (_OUTPUT, "a folder")):
        if flag.value is None:
            raise cli.UserError(f"--{flag.name} is missing: {meaning}")
    if (_INPUT.value is None) == (_SPLIT.value is None):
        raise cli.UserError("give --input, an image or a folder, or --split, a split of the run's data; one of them")
    runtime.start()
    given = commands.Given(
        _WORKDIR.value, _OUTPUT.value, _INPUT.value, _SPLIT.value, _COUNT.value, commands.step_or_name(_WHICH.value),
        _CLASSIFIER.value, commands.step_or_name(_CLASSIFIER_WHICH.value), _DIRECTION.value, _LATENTS.value,
        tuple(flag.name for flag in _OF_DIFFUSION if flag.present),
    )  # fmt: skip
    asked = commands.request_of(
        target=_TARGET.value, source=_SOURCE.value, view=_VIEW.value, scale=_SCALE.value, steps=_STEPS.value,
        classifier_scale=_CLASSIFIER_SCALE.value, depth=_DEPTH.value, method=_METHOD.value, clip=_CLIP.value,
        interval=_INTERVAL.value, ensemble=_ENSEMBLE.value, scale_range=_SCALE_RANGE.value, reference=_REFERENCE.value,
    )  # fmt: skip
    maker, cases = commands.opened(given, asked)
    done = files.write(
        maker, cases, _OUTPUT.value, batch=_BATCH.value, overwrite=_OVERWRITE.value,
        subtract_control=_SUBTRACT.value, say=lambda doubt: print(f"note: {doubt}", flush=True),
    )  # fmt: skip
    print(commands.summary(done))
    print(f"report: {_OUTPUT.value.rstrip('/')}/index.html")
    return 0


if __name__ == "__main__":
    cli.run(main)
