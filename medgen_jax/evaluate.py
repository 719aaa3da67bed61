"""Judge generated images, classifiers and counterfactuals: ``python -m medgen_jax.evaluate``.

    --real DIR --fake DIR --output OUT        a folder of generated images against a folder of real ones
    --workdir RUN --split test                a trained run on a split of its own data
    --workdir RUN --study noise               the same under noise on the sources
    --workdirs RUN,RUN --study medstylegan2   GAN, DCGAN and both Med-StyleGAN2, as in the paper
    --real DIR --save_statistics FILE.npz     keep what FID needs of the real images
    --fake DIR --train DIR --held_out DIR --metrics memorisation --output OUT
    --counterfactuals DIR[,DIR2] --judge RUN  folders of counterfactuals, each a row of the same tables

OUT gets metrics.json, metrics.csv, per_image.csv and index.html; every number has an interval and a fingerprint.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from medgen_jax import cli

_REAL = flags.DEFINE_string("real", None, "Folder of real images, or a file written by --save_statistics (FID only).")
_FAKE = flags.DEFINE_string("fake", None, "Folder of generated images.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of a run, in place of --real and --fake.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results; for a run RUN/evaluation/SPLIT by default.")
_METRICS = flags.DEFINE_list("metrics", [], "Such as fid,kid,lpips,psnr,ssim or accuracy; a wrong name lists them all.")
_RESIZE = flags.DEFINE_string("resize", "torch-fidelity", "FID protocol: torch-fidelity, clean or pytorch-fid.")
_WEIGHTS = flags.DEFINE_string("weights", None, "Folder of pretrained weights (python -m medgen_jax.weights).")
_LPIPS_NET = flags.DEFINE_string("lpips_net", "alex", "LPIPS network: alex or vgg.")
_K = flags.DEFINE_integer("k", 5, "Neighbour of precision, recall, density and coverage.")
_KID_SUBSETS = flags.DEFINE_integer("kid_subsets", 100, "Subsets in the published form of KID.")
_KID_SUBSET_SIZE = flags.DEFINE_integer("kid_subset_size", None, "Their size; 1000, or half the smaller set.")
_LEVEL = flags.DEFINE_float("level", 0.95, "Level of the intervals.")
_RESAMPLES = flags.DEFINE_integer("resamples", None, "Resamples for intervals; 0 for none, as many as affordable.")
_SEED = flags.DEFINE_integer("seed", 0, "Of everything random.")
_BATCH = flags.DEFINE_integer("batch", 16, "Images per call, over all devices.")
_PICTURES = flags.DEFINE_integer("pictures", 4, "Worst and best cases on the page, of each; 0 for none.")
_NAMES = flags.DEFINE_bool("names", False, "Write file names into per_image.csv; they often hold patient identifiers.")
_NO_CACHE = flags.DEFINE_bool("no_cache", False, "Compute the features of folders anew, and keep none.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace results that are there.")
_SAVE_STATISTICS = flags.DEFINE_string("save_statistics", None, "File (.npz) for the statistics of --real.")
_AGAINST = flags.DEFINE_string("against", None, "metrics.json of another evaluation; prints the change of each number.")
_TRAIN = flags.DEFINE_string("train", None, "Folder of training images, for the metric memorisation.")
_HELD_OUT = flags.DEFINE_string("held_out", None, "Folder of images of other patients, for memorisation.")
_PATIENTS = flags.DEFINE_string("patients", None, "CSV (file, patient) about the images of --train and --held_out.")
_SPLIT = flags.DEFINE_string("split", None, "Split of the run's data; test, or val where there is no test.")
_WHICH = flags.DEFINE_string("checkpoint", "last", "Checkpoint of the run or judge: last, best, or a step.")
_SAMPLER = flags.DEFINE_string("sampler", None, "Which of the run's samplers, such as a2b; its first by default.")
_DATA = flags.DEFINE_string("data", None, "Where the run's data are now, if they were moved.")
_STUDY = flags.DEFINE_enum("study", None, ["noise", "medstylegan2"], "Noise on a run's sources, or a paper's table.")
_NOISE = flags.DEFINE_list("noise", ["0", "5", "10", "25", "50"], "Standard deviations, 8-bit levels, of the study.")
_BANDS = flags.DEFINE_list("bands", ["none", "0.02-0.25"], "Its pass bands, low-high in cycles per pixel, or none.")
_COUNTERFACTUALS = flags.DEFINE_list("counterfactuals", [], "Folders made by counterfactual, each a row.")
_JUDGE = flags.DEFINE_string("judge", None, "Run of a classifier that did not guide them, for their flip rate.")
_TRAIN_BOXES = flags.DEFINE_string("train_boxes", None, "A folder of training images, or CSV path,x,y,width,height.")
_WORKDIRS = flags.DEFINE_list("workdirs", [], "Runs of gan, dcgan, stylegan2 and stargan_v2, side by side.")
_N = flags.DEFINE_integer("n", None, "Images that are drawn of each class out of noise; 8,000 by default.")
_TSTR = flags.DEFINE_bool("tstr", False, "Train the network of --judge on drawn and on real images, test on real ones.")
_FORMS = (_REAL, _FAKE, _TRAIN, _HELD_OUT, _PATIENTS, _SAVE_STATISTICS, _WORKDIR, _SPLIT, _SAMPLER, _DATA, _STUDY,
          _COUNTERFACTUALS, _JUDGE, _TRAIN_BOXES, _WORKDIRS, _N, _TSTR, _OUTPUT)  # fmt: skip


def _settings() -> Any:
    from medgen_jax.evaluation.settings import Settings

    alike = (_RESIZE, _WEIGHTS, _LPIPS_NET, _K, _KID_SUBSETS, _KID_SUBSET_SIZE, _LEVEL, _RESAMPLES, _SEED, _BATCH,
             _PICTURES, _NAMES, _OVERWRITE)  # fmt: skip
    metrics = tuple(name.strip() for name in _METRICS.value if name.strip())
    return Settings(metrics, cache=not _NO_CACHE.value, **{flag.name: flag.value for flag in alike})


def main(_: list[str]) -> int:
    """Check the flags, evaluate, print the numbers."""
    from medgen_jax.evaluation import forms

    forms.require_one({flag.name: flag.value for flag in _FORMS})
    from medgen_jax.engine import console, runtime
    from medgen_jax.evaluation import counterfactuals, noise, results, runs, sets, synthesis_study

    runtime.start()
    settings, say = _settings(), console.Console().say
    which = int(_WHICH.value) if _WHICH.value.isdigit() else _WHICH.value
    options = {flag.name: flag.value for flag in (_SPLIT, _SAMPLER, _DATA, _AGAINST)} | {"which": which, "say": say}
    if _STUDY.value == "noise":
        rows = noise.sources(noise.parse_levels(_NOISE.value), noise.parse_bands(_BANDS.value))
        found = noise.study(_WORKDIR.value, _OUTPUT.value, settings, rows, **options)
    elif _COUNTERFACTUALS.value:
        of_folders = {flag.name: flag.value for flag in (_COUNTERFACTUALS, _JUDGE, _TRAIN_BOXES, _AGAINST)}
        request = counterfactuals.Request(**of_folders, checkpoint=which)
        found = counterfactuals.evaluate(request, _OUTPUT.value, settings, say=say)
    elif _WORKDIRS.value:
        of_runs = {flag.name: flag.value for flag in (_WORKDIRS, _N, _JUDGE, _TSTR, _DATA, _AGAINST)}
        request = synthesis_study.Request(**of_runs, checkpoint=which)
        found = synthesis_study.evaluate(request, _OUTPUT.value, settings, say=say)
    elif _WORKDIR.value is not None:
        found = runs.evaluate(_WORKDIR.value, _OUTPUT.value, settings, **options)
    elif _FAKE.value is not None:
        flags_of_sets = (_FAKE, _REAL, _TRAIN, _HELD_OUT, _PATIENTS, _SAVE_STATISTICS, _AGAINST)
        request = sets.Request(**{flag.name: flag.value for flag in flags_of_sets})
        found = sets.evaluate(request, _OUTPUT.value, settings, say=say)
    else:
        sets.store_reference(_REAL.value, _SAVE_STATISTICS.value, settings, say=say)
        return 0
    print("\n".join(results.lines(found)))
    return 0


if __name__ == "__main__":
    cli.run(main)
