"""The stack that ships with the package; ``medgen_jax/data/hololab/README.md`` says where it is from."""

from __future__ import annotations

from pathlib import Path

from medgen_jax.core.errors import UserError

_FOLDER = Path(__file__).resolve().parents[1] / "data" / "hololab"
STACK, OPTICS = _FOLDER / "stack.h5", _FOLDER / "optics.yaml"


def chosen(stack: str | None, optics: str | None) -> tuple[str, str]:
    """Stack and description of the demo.

    Raises:
      UserError: others were given beside ``--demo``.
    """
    for flag, value in (("stack", stack), ("optics", optics)):
        if value is not None:
            raise UserError(f"--demo takes its own stack and description; leave --{flag} {value} out")
    return str(STACK), str(OPTICS)
