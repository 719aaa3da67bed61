"""Look at a data set before training on it: ``python -m medgen_jax.datacheck``.

    --input DIR|FILE.csv|isl [--layout paired]                    a folder, a CSV file, a packaged set
    --config NAME|FILE [--config.data.source=DIR]                 the data of a configuration, with its settings

Unlike training it does not stop at the first fault: it lists all of them, and what may mislead. Prints a table,
and writes OUTPUT/datacheck.json and OUTPUT/index.html with small pictures. Exit code 2 when training would
refuse the data, 0 otherwise.
"""

from __future__ import annotations

import functools
import sys
import textwrap

from absl import flags
from ml_collections import config_flags

from medgen_jax import cli

_CONFIG = config_flags.DEFINE_config_file("config", None, "A configuration file, or the name of a packaged one.")
_INPUT = flags.DEFINE_string("input", None, "Folder, CSV file, prepared or packaged data set, without a configuration.")
_LAYOUT = flags.DEFINE_string("layout", "auto", "Layout of --input: auto, paired, unpaired, classes, panels, images.")
_OUTPUT = flags.DEFINE_string("output", "datacheck", "Folder for the results; those of an earlier check are replaced.")
_LIMIT = flags.DEFINE_integer("limit", None, "Decode at most so many images per column, evenly over it.")


def main(_: list[str]) -> int:
    """Check what the flags say."""
    from medgen_jax import datachecking
    from medgen_jax.core.config import DataConfig, Layout

    trial = None
    datachecking.refuse_foreign(_OUTPUT.value)
    if (_CONFIG.value is None) == (_INPUT.value is None):
        raise cli.UserError("give either --input DIR or --config NAME, whose data are to be checked")
    if _CONFIG.value is not None:
        if _LAYOUT.present:
            raise cli.UserError("--layout is for --input; with --config set --config.data.layout")
        from medgen_jax import training

        data = _CONFIG.value.data
        trial = functools.partial(training.prepare, _CONFIG.value)
    else:
        known = [layout.value for layout in Layout]
        if _LAYOUT.value not in known:
            raise cli.UserError(f"--layout {_LAYOUT.value}: must be one of {', '.join(known)}")
        data = DataConfig(source=_INPUT.value, layout=Layout(_LAYOUT.value))
    with datachecking.progress_bar() as done:
        found = datachecking.check(data, limit=_LIMIT.value, trial=trial, done=done)
    path = datachecking.write(_OUTPUT.value, found)
    print("\n".join([*datachecking.lines(found), f"page: {path}"]))
    if found.errors:
        more = f", and {len(found.errors) - 1} more" if len(found.errors) > 1 else ""
        first = textwrap.shorten(found.errors[0].message, 160)
        raise cli.UserError(f"training refuses these data: {first}{more}; see {path}")
    return 0


if __name__ == "__main__":
    cli.run(main, takes_config=any(word.split("=")[0] in ("--config", "-config") for word in sys.argv))
