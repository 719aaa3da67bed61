"""The seal of a prepared data set, in words for its user."""

from __future__ import annotations

from pathlib import Path

from medgen_jax.core import manifest
from medgen_jax.core.errors import UserError


def verify(directory: Path, full: bool = False) -> None:
    """Compare a prepared set with its manifest; sets written by other programs have none and pass.

    Args:
      directory: one version of a prepared set.
      full: also compare the sha256 of every file; otherwise names and sizes only.

    Raises:
      UserError: naming the first file that is missing, unknown or differs.
    """
    if not manifest.is_sealed(directory):
        return
    try:
        manifest.verify(directory, sizes_only=not full)
    except manifest.Damaged as error:
        raise UserError(f"{error}; prepare the data set again") from error
