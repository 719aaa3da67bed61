"""Severity scores from residuals: ``python -m medgen_jax.severity``.

    --residuals OUT --scores FILE.csv --column opacity --output EVAL
    --residuals OUT --residuals OUT2 --scores RALO --column geographic --encoder inception --output EVAL

OUT is a folder made by python -m medgen_jax.counterfactual; FILE.csv has the columns file, patient_id and scores; RALO
is that set's folder. EVAL gets metrics.json, metrics.csv, per_image.csv, label_efficiency.json and index.html.
"""

from __future__ import annotations

from absl import flags

from medgen_jax import cli

_RESIDUALS = flags.DEFINE_multi_string("residuals", [], "Folder of counterfactuals; may be given several times.")
_SCORES = flags.DEFINE_string(
    "scores", None, "CSV file with the columns file, patient_id and scores, or RALO's folder."
)
_COLUMN = flags.DEFINE_string("column", None, "Which score, such as opacity or geographic.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.")
_ENCODER = flags.DEFINE_enum("encoder", None, ["inception"], "Compare with this network's features of the images.")
_RANGE = flags.DEFINE_list("range", None, "Lowest and highest score of the scale, such as 0,6; RALO's is 0,8.")
_HELD_OUT = flags.DEFINE_float("held_out", 0.3, "Share of the patients on whom everything is tested.")
_REPEATS = flags.DEFINE_integer("repeats", 20, "How often the scored patients are drawn, for each number of them.")
_WEIGHTS = flags.DEFINE_string("weights", None, "Folder of pretrained weights (python -m medgen_jax.weights).")
_LEVEL = flags.DEFINE_float("level", 0.95, "Level of the intervals.")
_RESAMPLES = flags.DEFINE_integer("resamples", None, "Resamples for intervals; 2000 by default, 0 for none.")
_SEED = flags.DEFINE_integer("seed", 0, "Of everything random.")
_BATCH = flags.DEFINE_integer("batch", 16, "Images per call of the encoder, over all devices.")
_PICTURES = flags.DEFINE_integer("pictures", 4, "Largest errors on the page; 0 for none.")
_NAMES = flags.DEFINE_bool("names", False, "Write image names into per_image.csv; they often hold patient identifiers.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace results that are there.")


def _limits() -> tuple[float, float] | None:
    if _RANGE.value is None:
        return None
    try:
        low, high = map(float, _RANGE.value)
    except ValueError:
        raise cli.UserError(f"--range {','.join(_RANGE.value)}: must be two numbers, such as 0,8") from None
    return low, high


def main(_: list[str]) -> int:
    """Check the flags, learn, test, print the numbers."""
    for flag, meaning in (
        (_RESIDUALS, "a folder made by python -m medgen_jax.counterfactual"),
        (_SCORES, "a CSV file with scores, or RALO's folder"),
        (_COLUMN, "which score, such as opacity"),
        (_OUTPUT, "a folder for the results"),
    ):
        if not flag.value:
            raise cli.UserError(f"--{flag.name} is missing: {meaning}")
    limits = _limits()
    from medgen_jax.engine import runtime
    from medgen_jax.engine.console import Console
    from medgen_jax.evaluation import results, severity
    from medgen_jax.evaluation.settings import Settings

    runtime.start()
    request = severity.Request(
        tuple(_RESIDUALS.value), _SCORES.value, _COLUMN.value,
        encoder=_ENCODER.value, limits=limits, held_out=_HELD_OUT.value, repeats=_REPEATS.value,
    )  # fmt: skip
    settings = Settings(
        weights=_WEIGHTS.value, level=_LEVEL.value, resamples=_RESAMPLES.value, seed=_SEED.value, batch=_BATCH.value,
        pictures=_PICTURES.value, names=_NAMES.value, overwrite=_OVERWRITE.value,
    )  # fmt: skip
    found = severity.evaluate(request, _OUTPUT.value, settings, say=Console().say)
    print("\n".join(results.lines(found)))
    return 0


if __name__ == "__main__":
    cli.run(main)
