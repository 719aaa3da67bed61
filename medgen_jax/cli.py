"""What every main shares: configuration by file or packaged name, one-line errors, exit codes.

Exit codes: 0 done; 1 a defect of this program (with a traceback); 2 bad input (one line);
75 stopped by SIGTERM or SIGUSR1 after saving, run the same command again; 130 Ctrl-C, saved.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from medgen_jax.core.errors import UserError
from medgen_jax.engine import heap


def config_folder() -> Path:
    """Where the packaged configurations are: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def packaged_configs() -> list[str]:
    """Names that ``--config`` takes instead of a file."""
    return sorted(p.stem for p in config_folder().glob("*.py") if not p.stem.startswith("_"))


def config_path(value: str) -> str:
    """The file that ``--config VALUE`` means.

    Raises:
      UserError: when there is neither such a file nor such a packaged configuration.
    """
    if Path(value).is_file():
        return value
    # A path such as configs/quickstart.py also works away from a checkout.
    packaged = config_folder() / f"{Path(value).stem}.py"
    looks_packaged = Path(value).parent in (Path("."), Path("configs"))
    if looks_packaged and packaged.is_file():
        return str(packaged)
    raise UserError(f"--config {value}: no such file; packaged configurations are: {', '.join(packaged_configs())}")


def resolve_config_argument(argv: Sequence[str]) -> list[str]:
    """Replace the value of ``--config`` by the file it means, before the flags are parsed.

    Raises:
      UserError: when ``--config`` is missing or names nothing.
    """
    out, seen = list(argv), False
    for i, word in enumerate(out):
        if word in ("--config", "-config") and i + 1 < len(out):
            out[i + 1], seen = config_path(out[i + 1]), True
        elif word.startswith(("--config=", "-config=")):
            name, value = word.split("=", 1)
            out[i], seen = f"{name}={config_path(value)}", True
    if not seen and not {"--help", "-h", "--helpfull", "--helpshort"} & set(out):
        raise UserError(f"--config is missing: a file, or one of {', '.join(packaged_configs())}")
    return out


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _parse(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS(list(argv), known_only=False)
    except flags.Error as error:
        _fail(str(error))
    except Exception as error:
        # config_flags runs the configuration file, and lets every error in it or of a mistyped field through.
        _fail(f"{_origin(error)}{_meaning(error)}")
    return []


def _origin(error: Exception) -> str:
    """``file:line: `` of the configuration file that raised, if one did."""
    own = {str(Path(__file__)), str(Path(config_flags.__file__).parent)}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.name in ("get_config", "<module>")]
    inside = [f for f in frames if not f.filename.startswith(tuple(own)) and "medgen_jax/" not in f.filename]
    return f"{inside[-1].filename}:{inside[-1].lineno}: " if inside else ""


#: How config_flags words a field that is not there: at the end of a dotted name, or on the way.
_NO_FIELD = (
    re.compile(r"Field (?P<field>\w+) not found on dataclass <class '(?P<owner>[\w.]+)'>"),
    re.compile(r"Attribute <class '(?P<owner>[\w.]+)'>\.(?P<field>\w+) does not exist"),
)


def _meaning(error: Exception) -> str:
    text = " ".join(str(a) for a in error.args)
    if "issubclass() arg 1 must be a class" in text:
        return "a Config class has postponed annotations; remove `from __future__ import annotations` from its file"
    for pattern in _NO_FIELD:
        if found := pattern.search(text):
            module, _, name = found["owner"].rpartition(".")
            near = _nearest(found["field"], getattr(sys.modules.get(module), name, None))
            return f"unknown configuration field {found['field']!r} of {name}{near}"
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}; --config takes a Python file with a function get_config"
    return f"{type(error).__name__}: {text}"


def _nearest(word: str, owner: Any) -> str:
    names = [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
    near = difflib.get_close_matches(word, names, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(names)}"


def run(main: Callable[[list[str]], int | None], takes_config: bool = False) -> None:
    """Run a main under absl with the exit codes above; user errors are one line, without traceback."""
    heap.keep_freed(os.environ)
    argv = sys.argv
    if takes_config:
        try:
            argv = resolve_config_argument(argv)
        except UserError as error:
            _fail(str(error))

    # Orbax narrates every save at INFO; --verbosity=0 on the command line brings that back.
    logging.set_verbosity(logging.WARNING)

    def guarded(rest: list[str]) -> int:
        if len(rest) > 1:
            _fail(f"unexpected argument {rest[1]!r}")
        try:
            return main(rest) or 0
        except UserError as error:
            _fail(str(error))
        return 0

    app.run(guarded, argv=argv, flags_parser=_parse)
