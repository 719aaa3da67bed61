"""Joins the weight layout of rosinality's stylegan2-pytorch with runs of `stylegan2`.

Its files are checkpoints, whose networks know no classes, or files that were converted from TensorFlow.
"""

from __future__ import annotations

from pathlib import Path

from medgen_jax.conversions import stylegan2
from medgen_jax.core.errors import UserError
from medgen_jax.interop import stylegan2_rosinality_layout, torch_file
from medgen_jax.interop.torch_layout import State
from medgen_jax.systems.stylegan2 import Config

LAYOUT = "stylegan2-rosinality"


def _read_file(file: Path) -> State:
    if file.suffix == stylegan2.PICKLE:
        raise UserError(
            f"{file}: is a pickle; {LAYOUT} has files of torch.save, and --from stylegan2-ada reads pickles"
        )
    return torch_file.read_state_dict(file)


_PROJECT = stylegan2.Project(LAYOUT, stylegan2_rosinality_layout, "{:06d}.pt", _read_file)


def read(file: str | Path, output: str | Path, config: Config | None = None) -> list[str]:
    """Make a run directory from a checkpoint: `medgen_jax.conversions.stylegan2.read`."""
    return stylegan2.read(_PROJECT, file, output, config)


def write(workdir: str | Path, output: str | Path, which: str | int = "last") -> list[str]:
    """Write a run's networks, of one class, as a checkpoint: `medgen_jax.conversions.stylegan2.write`."""
    return stylegan2.write(_PROJECT, workdir, output, which)
