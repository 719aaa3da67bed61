"""Joins the weight layout of the StarGAN v2 reference with runs of `stargan_v2`.

Its files are ``{step}_nets_ema.ckpt``, the averaged generator, mapping network and style encoder, and
``{step}_nets.ckpt``, all four networks as they were trained. They tell every size; what no file tells is the names of
the domains, which its code counts in the alphabetical order of their folders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medgen_jax import conversion, conversion_settings, systems
from medgen_jax.core import config as configs
from medgen_jax.core.errors import UserError
from medgen_jax.engine import restore
from medgen_jax.interop import stargan_v2_layout as layout
from medgen_jax.interop import torch_file
from medgen_jax.interop.stargan_v2_layout import Info
from medgen_jax.nn.stargan_v2_blocks import halvings
from medgen_jax.systems import stargan_v2
from medgen_jax.systems.base import TrainState

PyTree = Any

SYSTEM = "stargan_v2"
#: Steps and images per step of the reference's training, for a run whose configuration nobody gave.
_STEPS, _BATCH = 100_000, 8
#: Field of `Info` -> field of ``config.model``.
_FIELDS = {
    "channels": "channels", "width": "width", "max_width": "max_width", "style_width": "style",
    "latent_width": "latent", "hidden": "hidden", "w_hpf": "w_hpf",
}  # fmt: skip


# ---- from a file to a run ------------------------------------------------------------------------


def from_stargan_v2(file: str | Path, output: str | Path, config: stargan_v2.Config | None = None) -> list[str]:
    """Make a run directory from a weight file.

    Args:
      file: ``nets_ema.ckpt`` or ``nets.ckpt``. Without a discriminator, as in the first, a fresh one is put in its
        place: the run translates, but would not train on as it was.
      output: run directory to make.
      config: names of the classes and settings of training, engine fields unset; its sizes must be the file's. None:
        sizes are read off the file, the classes are called 0, 1, ... Of high-pass skips that are in the file without
        their strength, it says the strength: ``model.w_hpf``.

    Returns:
      Lines that say what was matched.

    Raises:
      UserError: a configuration of another system or out of range; an unreadable file; one of other networks or
        sizes, naming the settings that would fit; or a directory that holds a run.
    """
    conversion_settings.check(config, SYSTEM, "StarGAN v2 is the layout")
    folder = conversion.empty_rundir(output)
    state = torch_file.read_state_dict(file)
    try:
        info = layout.networks_info(state, w_hpf=(config.model.w_hpf or None) if config else None)
        params = layout.from_torch(state, info)
    except UserError as error:
        where = " (config.model.w_hpf of a --config)" if "w_hpf" in str(error) else ""
        raise UserError(f"{file}: {error}{where}") from error
    config = configs.resolve(_configured(file, info, config), num_train=1)
    lines = [_described(info)]
    filled = conversion.filled(stargan_v2.build(config), {name: (tree, {}) for name, tree in params.items()}, lines)
    conversion.write_run(folder, config, filled)
    lines += [f"network {name!r}: not in the file, starts fresh" for name in layout.NETWORKS if name not in params]
    return [*lines, f"classes: {', '.join(config.data.classes)}", f"run written to {folder}"]


def _configured(file: str | Path, info: Info, config: stargan_v2.Config | None) -> stargan_v2.Config:
    """A configuration of the file's sizes, with names for its domains; a UserError where one that is given differs."""
    if config is None:
        config = stargan_v2.Config()
        config.train.steps, config.train.batch_size, config.data.crop_size = _STEPS, _BATCH, info.size
        config.model = stargan_v2.ModelConfig(**{field: getattr(info, name) for name, field in _FIELDS.items()})
    asked = _info(config)
    told = {"data.crop_size": "size"} | {f"model.{field}": name for name, field in _FIELDS.items()}
    differ = [field for field, name in told.items() if getattr(info, name) != getattr(asked, name)]
    if differ:
        says = ", ".join(f"config.{field}={getattr(info, told[field])}" for field in differ)
        raise UserError(f"{file}: holds networks of other sizes; the file says {says}")
    names = config.data.classes or tuple(map(str, range(info.domains)))
    if len(names) != info.domains:
        raise UserError(f"{file}: has {info.domains} domains, config.data.classes names {len(names)}")
    return dataclasses.replace(config, data=dataclasses.replace(config.data, classes=names))


def _described(info: Info) -> str:
    skips = f"high-pass skips over {info.w_hpf:g}" if info.w_hpf else "no high-pass skips"
    return (
        f"StarGAN v2: {info.size} px, {info.channels} channels, {info.domains} domains, width {info.width} to "
        f"{info.max_width}, {skips}"
    )


def _info(config: stargan_v2.Config) -> Info:
    """What the layout wants to know of a configuration's networks."""
    model, size, system = config.model, config.data.crop_size, stargan_v2.build(config)
    widths = dict(system.networks)[stargan_v2.ENCODER].widths(halvings(size, 4))
    return Info(
        size=size,
        channels=model.channels,
        width=widths[0],
        max_width=widths[-1],
        domains=system.domains,
        style_width=model.style,
        latent_width=model.latent,
        hidden=model.hidden,
        w_hpf=model.w_hpf,
    )


# ---- from a run to files -------------------------------------------------------------------------


def to_stargan_v2(workdir: str | Path, output: str | Path, which: str | int = "last") -> list[str]:
    """Write a run's networks as ``STEP_nets_ema.ckpt``, those that its samplers use, and ``STEP_nets.ckpt``, all four.

    Args:
      workdir: a run of `stargan_v2`.
      output: folder for the files, made if need be.
      which: ``last``, ``best``, or a step that is kept.

    Returns:
      Lines that say what was written.

    Raises:
      UserError: no such run, a run of another system, or files that exist already.
    """
    system, config = restore.open_run(workdir)
    if (name := systems.name_of(config)) != SYSTEM:
        raise UserError(f"{workdir}: is a run of {name!r}; StarGAN v2 is the layout of {SYSTEM!r} runs")
    step, info = restore.intact_step(workdir, which), _info(config)
    folder = Path(output).expanduser()
    files = {kind: folder / f"{int(step.name):06d}_{kind}.ckpt" for kind in ("nets_ema", "nets")}
    for file in files.values():
        if file.exists():
            raise UserError(f"{file}: exists already; give another --output")

    def networks(state: TrainState) -> PyTree:
        return {"nets_ema": system.inference_variables(state), "nets": state.params}

    found = jax.tree.map(np.asarray, jax.device_get(restore.read_part(system, step, networks)))
    states = {kind: layout.to_torch(params, info) for kind, params in found.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for kind, file in files.items():
        torch_file.write_state_dict(file, _by_network(states[kind]))
    counts = {kind: sum(array.size for array in state.values()) for kind, state in states.items()}
    lines = [f"{', '.join(found[kind])}: {counts[kind]:,} values -> {file}" for kind, file in files.items()]
    return [*lines, f"domains in the order of the file: {', '.join(config.data.classes)}"]


def _by_network(state: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Names joined by dots as one dictionary per network, as the reference's files have them."""
    nested: dict[str, dict[str, np.ndarray]] = {}
    for name, array in state.items():
        network, _, rest = name.partition(".")
        nested.setdefault(network, {})[rest] = array
    return nested
