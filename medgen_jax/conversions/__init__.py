"""Weights of other projects as runs, and runs as weights of other projects: the command ``convert``.

It joins the layouts of `medgen_jax.interop` with systems and run directories.

* `LAYOUTS`: whose files are read and written. Each has a module here with ``read``, which makes a run directory of
  files, and ``write``, which makes files of a run; both return lines that say what was matched.
* ``settings``: what a file says about its networks, beside a configuration.
* ``runs``: the run that is made, and the run that is written.
* ``stylegan2``: what the layouts of two StyleGAN2 projects have in common.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Layout:
    """How the files of a project are read and written; options are those of the command, by name.

    Attributes:
      module: its module in this package.
      needed: options without which files cannot be read.
      reading: options of the module's ``read(weights, output, **options)``.
      writing: options of the module's ``write(workdir, output, which, **options)``.
    """

    module: str
    needed: tuple[str, ...] = ("file",)
    reading: tuple[str, ...] = ("config",)
    writing: tuple[str, ...] = ()


LAYOUTS = {
    "pytorch-cyclegan-pix2pix": Layout("pytorch_cyclegan_pix2pix", needed=(), reading=("size", "stats", "dropout")),
    "guided-diffusion": Layout("guided_diffusion", ("file", "config"), ("config", "null_row"), ("null_row",)),
    "stargan-v2": Layout("stargan_v2"),
    "stylegan2-rosinality": Layout("stylegan2_rosinality"),
    "stylegan2-ada": Layout("stylegan2_ada"),
    "dcgan": Layout("dcgan"),
}


def load(name: str) -> ModuleType:
    """The module of one of `LAYOUTS`, imported when it is asked for."""
    return importlib.import_module(f"{__name__}.{LAYOUTS[name].module}")
