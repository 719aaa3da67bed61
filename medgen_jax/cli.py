"""What every main shares: configuration by file or packaged name, one-line errors, exit codes.

Exit codes: 0 done; 1 a defect of this program (with a traceback); 2 bad input (one line);
75 stopped by SIGTERM or SIGUSR1 after saving, run the same command again; 130 Ctrl-C, saved.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging

from medgen_jax.core.errors import UserError


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
    except (KeyError, AttributeError) as error:
        # config_flags lets the lookup error of a mistyped field through as it is.
        _fail(f"unknown configuration field: {' '.join(str(a) for a in error.args)}")
    except flags.Error as error:
        _fail(str(error))
    return []


def run(main: Callable[[list[str]], int | None], takes_config: bool = False) -> None:
    """Run a main under absl with the exit codes above; user errors are one line, without traceback."""
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
