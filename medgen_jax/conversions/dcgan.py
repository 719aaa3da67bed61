"""Joins the weight layout of a published DCGAN baseline of chest X-ray synthesis with runs of `dcgan`.

Its files are ``model_final.pth`` and ``model_epoch_N.pth``, with generator and discriminator. Its code draws images by
the statistics of the batch that is drawn; runs of ours use the running ones, so that no image depends on others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medgen_jax.conversions import runs, settings
from medgen_jax.core import trees
from medgen_jax.engine import restore
from medgen_jax.interop import dcgan_layout as layout
from medgen_jax.interop import torch_file
from medgen_jax.interop.dcgan_layout import Info
from medgen_jax.systems import dcgan
from medgen_jax.systems.base import TrainState

PyTree = Any

LAYOUT = SYSTEM = "dcgan"
FILE = "model_final.pth"
#: Of the baseline's training, for a run whose configuration nobody gave.
_TRAINING = {"train.epochs": 100.0, "train.batch_size": 128}


def read(file: str | Path, output: str | Path, config: dcgan.Config | None = None) -> list[str]:
    """Make a run directory from a weight file.

    Args:
      file: ``model_final.pth`` or one like it, or the state dict of a generator. Without a discriminator, a fresh one
        is put in its place: the run draws images, but would not train on as it was.
      output: run directory to make.
      config: settings of training, engine fields unset; its sizes must be the file's. None: sizes are read off the
        file.

    Returns:
      Lines that say what was matched.

    Raises:
      UserError: a configuration of another system or out of range; an unreadable file; one of other networks or
        sizes, naming the settings that would fit; or a directory that holds a run.
    """
    runs.check_config(config, LAYOUT, SYSTEM)
    folder = runs.empty_rundir(output)
    state = torch_file.read_state_dict(file)
    with runs.naming(file):
        info = layout.networks_info(state)
        found = layout.from_torch(state, info)
    config = settings.fitted(file, config, _told(info), fresh=settings.adopt(dcgan.Config(), _TRAINING))
    lines = [f"DCGAN: {info.size} px, {info.channels} channels, codes of {info.latent} numbers, ngf {info.ngf}"]
    lines += runs.fresh(layout.NAMES, found)
    runs.make(folder, config, found, lines)
    return lines


def _told(info: Info) -> settings.Settings:
    told = {"data.crop_size": info.size}
    told |= {f"model.{field}": getattr(info, field) for field in ("channels", "latent", "ngf")}
    return told if info.ndf is None else told | {"model.ndf": info.ndf}


def write(workdir: str | Path, output: str | Path, which: str | int = "last") -> list[str]:
    """Write a run's networks, of generators the one that its samplers use, as `FILE`; undoes `read`.

    Beside them are the sizes that the baseline's code makes its networks of, ``params``.

    Args:
      workdir: a run of `dcgan`.
      output: folder for the file, made if need be.
      which: ``last``, ``best``, or a step that is kept.

    Returns:
      Lines that say what was written.

    Raises:
      UserError: no such run, a run of another system, or a file that exists already.
    """
    system, config = runs.opened(workdir, LAYOUT, [SYSTEM])
    [file] = runs.vacant(output, FILE)
    step, model = restore.intact_step(workdir, which), config.model

    def networks(state: TrainState) -> PyTree:
        g = system.inference_variables(state)
        return {
            "g": (g["params"], g["batch_stats"]),
            "d": (state.params["d"], state.mutable["d"]["batch_stats"]),
        }

    found = runs.arrays(system, step, networks)
    info = Info(config.data.crop_size, model.channels, model.latent, model.ngf, model.ndf)
    sizes = {"imsize": info.size, "nc": info.channels, "nz": info.latent, "ngf": info.ngf, "ndf": model.ndf}
    state = layout.to_torch(found, info, batches_tracked=int(step.name))
    runs.write_file(file, {**state, "params": {name: np.array(size) for name, size in sizes.items()}})
    return [f"network {name!r}: {trees.count(found[name][0]):,} parameters -> {file}" for name in found]
