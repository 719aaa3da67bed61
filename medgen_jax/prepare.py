"""Prepare a data set: decode every image once and write ArrayRecord shards.

    python -m medgen_jax.prepare --dataset paired_folder --source DIR --data_dir OUT [--size 256]

Then train with ``--config.data.source=`` followed by the directory that is printed. Run again on the
same files, it verifies every written byte instead.
"""

from __future__ import annotations

from absl import flags, logging

from medgen_jax import cli
from medgen_jax.core.errors import UserError


def define_flags() -> None:
    """Register the command-line flags (once per process)."""
    flags.DEFINE_string("dataset", None, "what to prepare: paired_folder, unpaired_folder")
    flags.DEFINE_string("source", None, "directory of the original files")
    flags.DEFINE_string("data_dir", None, "where prepared data sets are kept")
    flags.DEFINE_integer("size", None, "resize every image to this square; images keep their size without it")


def main(argv: list[str]) -> None:
    """Prepare what the flags say."""
    from medgen_jax.data.builders import prepare

    values = flags.FLAGS
    for name in ("dataset", "source", "data_dir"):
        if not values[name].value:
            raise UserError(f"--{name} is missing; see python -m medgen_jax.prepare --help")
    logging.set_verbosity(logging.ERROR)  # TFDS warns about a configuration that it does not know by name
    prepare(values.dataset, values.source, values.data_dir, values.size)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
