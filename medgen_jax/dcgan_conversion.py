"""Joins the weight layout of a published DCGAN baseline of chest X-ray synthesis with runs of `dcgan`.

Its files are ``model_final.pth`` and ``model_epoch_N.pth``, with generator and discriminator. Its code draws images by
the statistics of the batch that is drawn; runs of ours use the running ones, so that no image depends on others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from medgen_jax import conversion, conversion_settings, systems
from medgen_jax.core import config as configs
from medgen_jax.core import trees
from medgen_jax.core.errors import UserError
from medgen_jax.engine import restore
from medgen_jax.interop import dcgan_layout as layout
from medgen_jax.interop import torch_file
from medgen_jax.interop.dcgan_layout import Info
from medgen_jax.systems import dcgan
from medgen_jax.systems.base import TrainState

PyTree = Any

SYSTEM = "dcgan"
FILE = "model_final.pth"
#: Of the baseline's training, for a run whose configuration nobody gave.
_EPOCHS, _BATCH = 100.0, 128


def from_dcgan(file: str | Path, output: str | Path, config: dcgan.Config | None = None) -> list[str]:
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
    conversion_settings.check(config, SYSTEM, "this is the layout")
    folder = conversion.empty_rundir(output)
    state = torch_file.read_state_dict(file)
    try:
        info = layout.networks_info(state)
        found = layout.from_torch(state, info)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    config = configs.resolve(_configured(file, info, config), num_train=1)
    lines = [f"DCGAN: {info.size} px, {info.channels} channels, codes of {info.latent} numbers, ngf {info.ngf}"]
    filled = conversion.filled(dcgan.build(config), found, lines)
    conversion.write_run(folder, config, filled)
    lines += [f"network {name!r}: not in the file, starts fresh" for name in layout.NAMES if name not in found]
    return [*lines, f"run written to {folder}"]


def _configured(file: str | Path, info: Info, config: dcgan.Config | None) -> dcgan.Config:
    """A configuration of the file's sizes; a UserError where one that is given differs."""
    told = {"data.crop_size": info.size}
    told |= {f"model.{field}": getattr(info, field) for field in ("channels", "latent", "ngf")}
    told |= {} if info.ndf is None else {"model.ndf": info.ndf}
    if config is None:
        config = dcgan.Config()
        config.train.epochs, config.train.batch_size = _EPOCHS, _BATCH
        conversion_settings.adopt(config, told)
    conversion_settings.require_same(file, config, told)
    return config


def to_dcgan(workdir: str | Path, output: str | Path, which: str | int = "last") -> list[str]:
    """Write a run's networks, of generators the one that its samplers use, as `FILE`; undoes `from_dcgan`.

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
    system, config = restore.open_run(workdir)
    if (name := systems.name_of(config)) != SYSTEM:
        raise UserError(f"{workdir}: is a run of {name!r}; this is the layout of {SYSTEM!r} runs")
    file = Path(output).expanduser() / FILE
    if file.exists():
        raise UserError(f"{file}: exists already; give another --output")
    step, model = restore.intact_step(workdir, which), config.model

    def networks(state: TrainState) -> PyTree:
        g = system.inference_variables(state)
        return {
            "g": (g["params"], g["batch_stats"]),
            "d": (state.params["d"], state.mutable["d"]["batch_stats"]),
        }

    found = jax.tree.map(np.asarray, jax.device_get(restore.read_part(system, step, networks)))
    info = Info(config.data.crop_size, model.channels, model.latent, model.ngf, model.ndf)
    sizes = {"imsize": info.size, "nc": info.channels, "nz": info.latent, "ngf": info.ngf, "ndf": model.ndf}
    state = layout.to_torch(found, info, batches_tracked=int(step.name))
    file.parent.mkdir(parents=True, exist_ok=True)
    torch_file.write_state_dict(file, {**state, "params": {name: np.array(size) for name, size in sizes.items()}})
    return [f"network {name!r}: {trees.count(found[name][0]):,} parameters -> {file}" for name in found]
