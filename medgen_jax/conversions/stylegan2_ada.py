"""Joins the weight layout of stylegan2-ada-pytorch with runs of `stylegan2`.

Its files are snapshots, with or without classes: the pickle as that project writes it, of which nothing is run, or the
state dicts of its networks. The latter are written.
"""

from __future__ import annotations

from pathlib import Path

from medgen_jax.conversions import stylegan2
from medgen_jax.core.errors import UserError
from medgen_jax.interop import stylegan2_ada_layout, torch_file
from medgen_jax.interop.inert_pickles import read_modules
from medgen_jax.interop.torch_layout import State
from medgen_jax.systems.stylegan2 import Config

LAYOUT = "stylegan2-ada"


def _read_file(file: Path) -> State:
    if file.suffix != stylegan2.PICKLE:
        return torch_file.read_state_dict(file)
    try:
        return read_modules(file.read_bytes(), str(file))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


_PROJECT = stylegan2.Project(LAYOUT, stylegan2_ada_layout, "network-snapshot-{:06d}.pt", _read_file)


def read(file: str | Path, output: str | Path, config: Config | None = None) -> list[str]:
    """Make a run directory from a snapshot: `medgen_jax.conversions.stylegan2.read`."""
    return stylegan2.read(_PROJECT, file, output, config)


def write(workdir: str | Path, output: str | Path, which: str | int = "last") -> list[str]:
    """Write a run's networks as state dicts: `medgen_jax.conversions.stylegan2.write`."""
    return stylegan2.write(_PROJECT, workdir, output, which)
