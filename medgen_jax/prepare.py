"""Prepare a data set: decode every image once and write ArrayRecord shards.

    python -m medgen_jax.prepare --dataset paired_folder --source DIR --data_dir OUT [--size 256]

Then train with ``--config.data.source=`` followed by the directory that is printed. Run again on the
same files, it verifies every written byte instead.
"""

from __future__ import annotations

from absl import flags, logging

from medgen_jax import cli
from medgen_jax.core.errors import UserError

_DATASET = flags.DEFINE_string("dataset", None, "What to prepare: paired_folder, unpaired_folder.")
_SOURCE = flags.DEFINE_string("source", None, "Directory of the original files.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where prepared data sets are kept.")
_SIZE = flags.DEFINE_integer("size", None, "Resize every image to this square; without it images keep their size.")


def main(_: list[str]) -> int:
    """Prepare what the flags say."""
    from medgen_jax.data.builders import prepare

    for flag in (_DATASET, _SOURCE, _DATA_DIR):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing; see python -m medgen_jax.prepare --help")
    logging.set_verbosity(logging.ERROR)  # TFDS warns about a configuration that it does not know by name
    prepare(_DATASET.value, _SOURCE.value, _DATA_DIR.value, _SIZE.value)
    return 0


if __name__ == "__main__":
    cli.run(main)
