"""Prepare a data set: decode every image once and write ArrayRecord shards.

    python -m medgen_jax.prepare --dataset rsna --source DIR --data_dir OUT [--size 256] [--set split=seed]
    python -m medgen_jax.prepare --dataset rsna --help_options
    python -m medgen_jax.prepare --dataset folder --source DIR --data_dir OUT --range_low=-1000 --range_high=400

Then train with ``--config.data.source=`` followed by the directory that is printed; what became black and
white is known there and need not be said again. Run again on the same files, it verifies every written byte
instead.
"""

from __future__ import annotations

from absl import flags, logging

from medgen_jax import cli
from medgen_jax.core.errors import UserError

_DATASET = flags.DEFINE_string("dataset", None, "What to prepare: folder, csv, rsna, ...; any other word lists them.")
_SOURCE = flags.DEFINE_string("source", None, "Directory of the original files; for csv the file.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where prepared data sets are kept.")
_SIZE = flags.DEFINE_integer("size", None, "Resize every image to this square; without it images keep their size.")
_RANGE_LOW = flags.DEFINE_float(
    "range_low", None, "Physical value (HU, radians) that becomes black; floating-point files need both ends. Colours "
    "of 8 or 16 bits stay as they are.",
)  # fmt: skip
_RANGE_HIGH = flags.DEFINE_float("range_high", None, "Physical value that becomes white.")
_NAN = flags.DEFINE_enum("nan", "refuse", ["refuse", "low"], "NaN and infinity: refuse the file, or make them black.")
_WINDOW = flags.DEFINE_string(
    "window", "file", "Greyscale of DICOM files where no range is given: file, full, or CENTRE,WIDTH in physical units."
)
_SET = flags.DEFINE_multi_string("set", [], "An option of the data set, name=value; may be given several times.")
_HELP_OPTIONS = flags.DEFINE_bool("help_options", False, "Print the options of the data set, and nothing else.")


def main(_: list[str]) -> int:
    """Prepare what the flags say."""
    from medgen_jax.data import builders
    from medgen_jax.data.builders import greyscale
    from medgen_jax.data.builders.options import split_words

    if _DATASET.value:
        options = builders.describe_options(_DATASET.value)
        if _HELP_OPTIONS.value:
            print("\n".join(options))
            return 0
    for flag in (_DATASET, _SOURCE, _DATA_DIR):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing; see python -m medgen_jax.prepare --help")
    view = greyscale.from_flags(_RANGE_LOW.value, _RANGE_HIGH.value, _NAN.value, _WINDOW.value)
    logging.set_verbosity(logging.ERROR)  # TFDS warns about a configuration that it does not know by name
    words = split_words(_SET.value)
    builders.prepare(_DATASET.value, _SOURCE.value, _DATA_DIR.value, _SIZE.value, words, view=view)
    return 0


if __name__ == "__main__":
    cli.run(main)
