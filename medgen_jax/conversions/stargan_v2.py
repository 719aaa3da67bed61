"""Joins the weight layout of the StarGAN v2 reference with runs of `stargan_v2`.

Its files are ``{step}_nets_ema.ckpt``, the averaged generator, mapping network and style encoder, and
``{step}_nets.ckpt``, all four networks as they were trained. They tell every size; what no file tells is the names of
the domains, which its code counts in the alphabetical order of their folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medgen_jax.conversions import runs, settings
from medgen_jax.core.errors import UserError
from medgen_jax.engine import restore
from medgen_jax.interop import stargan_v2_layout as layout
from medgen_jax.interop import torch_file
from medgen_jax.interop.stargan_v2_layout import Info
from medgen_jax.interop.torch_layout import State, Tree
from medgen_jax.nn.stargan_v2_blocks import halvings
from medgen_jax.systems import stargan_v2
from medgen_jax.systems.base import TrainState

PyTree = Any

LAYOUT, SYSTEM = "stargan-v2", "stargan_v2"
#: Of the reference's training, for a run whose configuration nobody gave.
_TRAINING = {"train.steps": 100_000, "train.batch_size": 8}
#: Field of `Info` -> field of the configuration.
_FIELDS = {
    "size": "data.crop_size", "channels": "model.channels", "width": "model.width", "max_width": "model.max_width",
    "style_width": "model.style", "latent_width": "model.latent", "hidden": "model.hidden", "w_hpf": "model.w_hpf",
}  # fmt: skip


# ---- from a file to a run ------------------------------------------------------------------------


def read(file: str | Path, output: str | Path, config: stargan_v2.Config | None = None) -> list[str]:
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
    runs.check_config(config, LAYOUT, SYSTEM)
    folder = runs.empty_rundir(output)
    state = torch_file.read_state_dict(file)
    with runs.naming(file):
        info, params = _networks(state, config)
    config = settings.fitted(file, config, _told(info, config), fresh=settings.adopt(stargan_v2.Config(), _TRAINING))
    config = settings.with_classes(file, config, info.domains)
    lines = [_described(info), *runs.fresh(layout.NETWORKS, params), f"classes: {', '.join(config.data.classes)}"]
    runs.make(folder, config, {name: (tree, {}) for name, tree in params.items()}, lines)
    return lines


def _networks(state: State, config: stargan_v2.Config | None) -> tuple[Info, dict[str, Tree]]:
    """Sizes and parameters of a file's networks; a configuration may say how strong high-pass skips are."""
    try:
        info = layout.networks_info(state, w_hpf=(config.model.w_hpf or None) if config else None)
    except UserError as error:
        where = " (config.model.w_hpf of a --config)" if "w_hpf" in str(error) else ""
        raise UserError(f"{error}{where}") from error
    return info, layout.from_torch(state, info)


def _told(info: Info, config: stargan_v2.Config | None) -> settings.Settings:
    """Settings that a file says, but for those that differ from a configuration's and make the same networks.

    Widths that are left open follow from the size, and a limit that no level reaches limits nothing.
    """
    asked = None if config is None else _info(config)
    return {
        field: getattr(info, name)
        for name, field in _FIELDS.items()
        if asked is None or getattr(asked, name) != getattr(info, name)
    }


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


def write(workdir: str | Path, output: str | Path, which: str | int = "last") -> list[str]:
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
    system, config = runs.opened(workdir, LAYOUT, [SYSTEM])
    step, info = restore.intact_step(workdir, which), _info(config)
    kinds = ("nets_ema", "nets")
    files = runs.vacant(output, *(f"{int(step.name):06d}_{kind}.ckpt" for kind in kinds))

    def networks(state: TrainState) -> PyTree:
        return {"nets_ema": system.inference_variables(state), "nets": state.params}

    found = runs.arrays(system, step, networks)
    states = [layout.to_torch(found[kind], info) for kind in kinds]
    lines = []
    for kind, state, file in zip(kinds, states, files, strict=True):
        runs.write_file(file, layout.split(state))
        lines.append(f"{', '.join(found[kind])}: {sum(array.size for array in state.values()):,} values -> {file}")
    return [*lines, f"domains in the order of the file: {', '.join(config.data.classes)}"]
