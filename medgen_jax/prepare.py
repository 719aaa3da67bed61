"""Prepare a data set: decode every image once and write ArrayRecord shards.

    python -m medgen_jax.prepare --dataset rsna --source DIR --data_dir OUT [--size 256] [--set split=seed]
    python -m medgen_jax.prepare --dataset rsna --help_options

Then train with ``--config.data.source=`` followed by the directory that is printed. Run again on the
same files, it verifies every written byte instead.
"""

from __future__ import annotations

from absl import flags, logging

from medgen_jax import cli
from medgen_jax.core.errors import UserError

_DATASET = flags.DEFINE_string("dataset", None, "What to prepare: folder, csv, rsna, ...; any other word lists them.")
_SOURCE = flags.DEFINE_string("source", None, "Directory of the original files; for csv the file.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where prepared data sets are kept.")
_SIZE = flags.DEFINE_integer("size", None, "Resize every image to this square; without it images keep their size.")
_SET = flags.DEFINE_multi_string("set", [], "An option of the data set, name=value; may be given several times.")
_HELP_OPTIONS = flags.DEFINE_bool("help_options", False, "Print the options of the data set, and nothing else.")


def main(_: list[str]) -> int:
    """Prepare what the flags say."""
    from medgen_jax.data import builders
    from medgen_jax.data.builders.options import split_words

    needed = (_DATASET,) if _HELP_OPTIONS.value else (_DATASET, _SOURCE, _DATA_DIR)
    for flag in needed:
        if not flag.value:
            raise UserError(f"--{flag.name} is missing; see python -m medgen_jax.prepare --help")
    if _HELP_OPTIONS.value:
        print("\n".join(builders.describe_options(_DATASET.value)))
        return 0
    logging.set_verbosity(logging.ERROR)  # TFDS warns about a configuration that it does not know by name
    builders.prepare(_DATASET.value, _SOURCE.value, _DATA_DIR.value, _SIZE.value, split_words(_SET.value))
    return 0


if __name__ == "__main__":
    cli.run(main)
