"""Joins the weight layouts of other projects with our systems and run directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from medgen_jax import systems
from medgen_jax.core import config as configs
from medgen_jax.core import trees
from medgen_jax.core.errors import UserError
from medgen_jax.engine import restore, rundir, runtime
from medgen_jax.engine.checkpoint import CheckpointStore, sealed_steps
from medgen_jax.engine.loop import Progress
from medgen_jax.interop import pix2pix_layout, torch_file
from medgen_jax.interop.torch_file import read_state_dict
from medgen_jax.systems import pix2pix
from medgen_jax.systems.base import System, TrainState

PyTree = Any


def pix2pix_from_torch(
    generator: str | Path,
    discriminator: str | Path | None,
    output: str | Path,
    *,
    size: int = 256,
    stats: str = "running",
    dropout: bool = False,
) -> list[str]:
    """Make a run directory from the weights of a pix2pix U-Net (and PatchGAN).

    Widths, channels and norms are read off the files. Without a discriminator the run translates;
    training it further would start from a fresh discriminator.

    Args:
      generator: ``*_net_G.pth``.
      discriminator: ``*_net_D.pth`` or None.
      output: run directory to make.
      size: side of the training images, pixels.
      stats: ``running`` or ``batch`` statistics at inference.
      dropout: whether inference keeps dropout on.

    Returns:
      Lines that say what was matched.

    Raises:
      UserError: unreadable files, names that do not match, or a directory that holds a run.
    """
    folder = rundir.open_rundir(output)
    if sealed_steps(folder / "checkpoints"):
        raise UserError(f"--output {folder}: holds a run already; give another directory")
    g_params, g_stats, g = pix2pix_layout.unet_from_torch(read_state_dict(generator))
    lines = [
        f"generator: U-Net, {g.in_channels} -> {g.out_channels} channels, ngf {g.ngf}, downs {g.downs}, {g.norm} norm"
    ]
    config = pix2pix.Config()
    config.model = pix2pix.ModelConfig(
        in_channels=g.in_channels, out_channels=g.out_channels, ngf=g.ngf, downs=g.downs, norm=pix2pix.Norm(g.norm)
    )
    config.data.crop_size = size
    config.train.epochs = 200.0
    config.inference = pix2pix.InferenceConfig(stats=pix2pix.Stats(stats), dropout=dropout)
    found = {"g": (g_params, g_stats)}
    if discriminator is not None:
        d_params, d_stats, d = pix2pix_layout.patchgan_from_torch(read_state_dict(discriminator))
        if d.norm != g.norm or d.in_channels != g.in_channels + g.out_channels:
            raise UserError(
                f"{discriminator}: judges {d.in_channels} channels with {d.norm} norm, but the generator makes "
                f"{g.in_channels} + {g.out_channels} with {g.norm} norm; are both from one training?"
            )
        config.model.ndf, config.model.disc_layers = d.ndf, d.layers
        found["d"] = (d_params, d_stats)
        lines.append(
            f"discriminator: PatchGAN, {d.in_channels} channels, ndf {d.ndf}, {d.layers} layers, {d.norm} norm"
        )
    config = configs.resolve(config, num_train=1)
    system = pix2pix.build(config)
    state = _filled(system, found, lines)
    _write(folder, config, state)
    return [*lines, f"run written to {folder}"]


def pix2pix_to_torch(workdir: str | Path, output: str | Path, which: str | int = "last") -> list[str]:
    """Write a pix2pix run's networks as ``latest_net_G.pth`` and ``latest_net_D.pth``; undoes `pix2pix_from_torch`.

    The generator is the one the samplers use: averaged where the run keeps an average.

    Args:
      workdir: a run directory.
      output: folder for the two files, made if need be.
      which: ``last``, ``best``, or a step that is kept.

    Returns:
      Lines that say what was written.

    Raises:
      UserError: no such run, a run of another system, networks without a counterpart in the layout, or files that
        exist already.
    """
    system, config = restore.open_run(workdir)
    if not isinstance(system, pix2pix.Pix2Pix):
        raise UserError(f"{workdir}: is a run of {systems.name_of(config)!r}; this layout is that of 'pix2pix' runs")
    folder = Path(output).expanduser()
    files = {name: folder / f"latest_net_{name.upper()}.pth" for name in ("g", "d")}
    for file in files.values():
        if file.exists():
            raise UserError(f"{file}: exists already; give another --output")

    def networks(state: TrainState) -> PyTree:
        g = system.inference_variables(state)
        return {"g": (g["params"], g["batch_stats"]), "d": (state.params["d"], state.mutable["d"]["batch_stats"])}

    step = restore.intact_step(workdir, which)
    found = jax.device_get(restore.read_part(system, step, networks))
    writers = {"g": pix2pix_layout.unet_to_torch, "d": pix2pix_layout.patchgan_to_torch}
    norm, tracked = config.model.norm.value, int(step.name) if step.name.isdigit() else 0
    states = {name: writers[name](*found[name], norm=norm, batches_tracked=tracked) for name in files}
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        torch_file.write_state_dict(file, states[name])
    return [f"network {name!r}: {trees.count(found[name][0]):,} parameters -> {file}" for name, file in files.items()]


def _filled(system: System, found: dict[str, tuple[PyTree, PyTree]], lines: list[str]) -> TrainState:
    """A fresh state with the found networks put in place."""
    state = jax.jit(system.init)(jax.random.key(0))
    params, mutable = dict(state.params), dict(state.mutable)
    for name, (new_params, new_stats) in found.items():
        params[name] = _checked(name, params[name], new_params)
        mutable[name] = {**mutable[name], "batch_stats": _checked(name, mutable[name]["batch_stats"], new_stats)}
        lines.append(
            f"network {name!r}: {trees.count(new_params):,} of {trees.count(params[name]):,} parameters matched"
        )
    return state.replace(params=params, mutable=mutable)


def _checked(name: str, own: PyTree, found: PyTree) -> PyTree:
    shapes = jax.tree.map(lambda x: tuple(x.shape), own)
    if shapes != jax.tree.map(lambda x: tuple(x.shape), found):
        raise UserError(f"network {name!r}: the file's tensors do not have the shapes of the network they describe")
    return jax.tree.map(np.asarray, found)


def _write(folder: Path, config: Any, state: TrainState) -> None:
    store = CheckpointStore(folder / "checkpoints")
    rundir.write_config(folder, systems.name_of(config), configs.to_dict(config), runtime.environment())
    store.save(0, jax.device_put(state), {"progress": Progress().to_json()})
    store.close()
