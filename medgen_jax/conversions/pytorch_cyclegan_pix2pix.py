"""Joins the weight layout of pytorch-CycleGAN-and-pix2pix with our systems and run directories.

Its files are ``{epoch}_net_{G,D}.pth`` of pix2pix and of networks trained or published for one direction, and
``{epoch}_net_{G_A,G_B,D_A,D_B}.pth`` of CycleGAN. What kind of generator a file holds decides about the system:
a U-Net becomes a run of ``pix2pix``, a residual generator one of ``cyclegan``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgen_jax import systems
from medgen_jax.conversions import runs
from medgen_jax.core import trees
from medgen_jax.core.errors import UserError
from medgen_jax.engine import restore
from medgen_jax.interop import pix2pix_layout, resnet_layout
from medgen_jax.interop.torch_file import read_state_dict
from medgen_jax.systems import cyclegan, pix2pix
from medgen_jax.systems.base import TrainState
from medgen_jax.systems.cyclegan_options import ModelConfig as CycleGANModel
from medgen_jax.systems.options import Norm, Stats, Upsample

LAYOUT = "pytorch-cyclegan-pix2pix"
PyTree = Any
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Family:
    """Networks of one system and their files.

    Attributes:
      files: our name of a network -> the layout's.
      readers: first letter of the name -> state dict to ``(params, batch_stats, info)``.
      writers: first letter -> the way back.
      configure: ``(infos by network, size, stats, dropout) -> config``.
    """

    files: Mapping[str, str]
    readers: Mapping[str, Callable[[Arrays], tuple[PyTree, PyTree, Any]]]
    writers: Mapping[str, Callable[..., Arrays]]
    configure: Callable[[Mapping[str, Any], int, str, bool], Any]


# ---- the two systems -----------------------------------------------------------------------------


def _pix2pix_config(infos: Mapping[str, Any], size: int, stats: str, dropout: bool) -> pix2pix.Config:
    g = infos["g"]
    config = pix2pix.Config()
    config.model = pix2pix.ModelConfig(
        in_channels=g.in_channels, out_channels=g.out_channels, ngf=g.ngf, downs=g.downs, norm=Norm(g.norm)
    )
    config.inference = pix2pix.InferenceConfig(stats=Stats(stats), dropout=dropout)
    if d := infos.get("d"):
        if d.norm != g.norm or d.in_channels != g.in_channels + g.out_channels:
            raise UserError(
                f"discriminator: judges {d.in_channels} channels with {d.norm} norm, but the generator makes "
                f"{g.in_channels} + {g.out_channels} with {g.norm} norm; are both from one training?"
            )
        config.model.ndf, config.model.disc_layers = d.ndf, d.layers
    return config


def _cyclegan_config(infos: Mapping[str, Any], size: int, stats: str, dropout: bool) -> cyclegan.Config:
    g = infos["g_a"]
    wanted = {"g_a": (g.in_channels, g.out_channels), "g_b": (g.out_channels, g.in_channels)}
    for name, info in infos.items():
        if info.norm != "instance":
            raise UserError(f"network {name!r}: has {info.norm} norm; CycleGAN runs have instance norm")
        if name[0] == "d":
            continue
        if (info.in_channels, info.out_channels, info.ngf, info.blocks) != (*wanted[name], g.ngf, g.blocks):
            raise UserError(
                f"network {name!r}: is a {_described(info)}, which does not undo the {_described(g)}; "
                "are both from one training?"
            )
    judged = {"d_a": g.out_channels, "d_b": g.in_channels}
    for name in judged.keys() & infos.keys():
        if infos[name].in_channels != judged[name]:
            raise UserError(
                f"network {name!r}: judges {infos[name].in_channels} channels, its generator makes {judged[name]}"
            )
    config = cyclegan.Config()
    config.model = CycleGANModel(g.in_channels, g.out_channels, ngf=g.ngf, blocks=g.blocks)
    config.loss.identity = 0.5 if g.in_channels == g.out_channels else 0.0
    if d := infos.get("d_a"):
        config.model.ndf, config.model.disc_layers = d.ndf, d.layers
    return config


FAMILIES = {
    "pix2pix": Family(
        {"g": "G", "d": "D"},
        {"g": pix2pix_layout.unet_from_torch, "d": pix2pix_layout.patchgan_from_torch},
        {"g": pix2pix_layout.unet_to_torch, "d": pix2pix_layout.patchgan_to_torch},
        _pix2pix_config,
    ),
    "cyclegan": Family(
        {"g_a": "G_A", "g_b": "G_B", "d_a": "D_A", "d_b": "D_B"},
        {"g": resnet_layout.resnet_from_torch, "d": pix2pix_layout.patchgan_from_torch},
        {"g": resnet_layout.resnet_to_torch, "d": pix2pix_layout.patchgan_to_torch},
        _cyclegan_config,
    ),
}


# ---- from files to a run -------------------------------------------------------------------------


def find_files(folder: str | Path, epoch: str = "latest") -> dict[str, Path]:
    """The weight files of one epoch in a checkpoint folder, by the layout's names (G, D, G_A, ...).

    Raises:
      UserError: when there is no generator of that epoch.
    """
    folder = Path(folder).expanduser()
    names = {name for family in FAMILIES.values() for name in family.files.values()}
    found = {name: folder / f"{epoch}_net_{name}.pth" for name in sorted(names)}
    found = {name: file for name, file in found.items() if file.is_file()}
    if not found.keys() & {"G", "G_A"}:
        have = sorted({f.name.split("_net_")[0] for f in folder.glob("*_net_*.pth")})
        there = f"it has the epochs {', '.join(have)}" if have else "it holds no *_net_*.pth"
        raise UserError(f"{folder}: no {epoch}_net_G.pth or {epoch}_net_G_A.pth; {there}")
    return found


def read(
    files: Mapping[str, str | Path],
    output: str | Path,
    *,
    size: int = 256,
    stats: str = "running",
    dropout: bool = False,
) -> list[str]:
    """Make a run directory from weight files.

    Widths, channels and norms are read off the files. What is missing starts fresh: without discriminators the
    run translates, but would not train further as it was; without ``G_B`` it translates one way.

    Args:
      files: the layout's name (``G``, ``D``, or ``G_A``, ``G_B``, ``D_A``, ``D_B``) -> file. A residual generator
        alone may also be called ``G``.
      output: run directory to make.
      size: side of the training images, pixels.
      stats: of a U-Net with batch norm, ``running`` or ``batch`` statistics at inference.
      dropout: whether inference of a U-Net keeps dropout on.

    Returns:
      Lines that say what was matched.

    Raises:
      UserError: unreadable files, names that do not match, or a directory that holds a run.
    """
    folder = runs.empty_rundir(output)
    weights = {name: (file, read_state_dict(file)) for name, file in files.items()}
    one_way = "G" in weights and resnet_layout.is_resnet(weights["G"][1])
    if one_way:
        weights = {f"{name}_A": one for name, one in weights.items()}
    family = FAMILIES["cyclegan" if "G_A" in weights else "pix2pix"]
    found, infos, lines = {}, {}, []
    for name, other in family.files.items():
        if other in weights:
            file, state = weights[other]
            with runs.naming(file):
                params, statistics, infos[name] = family.readers[name[0]](state)
            found[name] = params, statistics
            lines.append(f"network {name!r}: {_described(infos[name])}")
    config = family.configure(infos, size, stats, dropout)
    config.data.crop_size = size
    config.train.epochs = 200.0
    lines += runs.fresh(family.files, found)
    runs.make(folder, config, found, lines)
    return lines


def _described(info: Any) -> str:
    if hasattr(info, "layers"):
        return f"PatchGAN, {info.in_channels} channels, ndf {info.ndf}, {info.layers} layers, {info.norm} norm"
    kind, depth = ("U-Net", f"downs {info.downs}") if hasattr(info, "downs") else ("ResNet", f"{info.blocks} blocks")
    return f"{kind}, {info.in_channels} -> {info.out_channels} channels, ngf {info.ngf}, {depth}, {info.norm} norm"


# ---- from a run to files -------------------------------------------------------------------------


def write(workdir: str | Path, output: str | Path, which: str | int = "last") -> list[str]:
    """Write a run's networks as ``latest_net_*.pth``; undoes `read`.

    Generators are those that the samplers use: averaged where the run keeps an average.

    Args:
      workdir: a run directory.
      output: folder for the files, made if need be.
      which: ``last``, ``best``, or a step that is kept.

    Returns:
      Lines that say what was written.

    Raises:
      UserError: no such run, a run of a system or networks without a counterpart in the layout, or files that
        exist already.
    """
    system, config = runs.opened(workdir, LAYOUT, FAMILIES)
    if config.model.upsample is not Upsample.CONVT or getattr(config.model, "residual", False):
        raise UserError(f"{workdir}: the layout knows generators with upsample=convt and residual=False only")
    family = FAMILIES[systems.name_of(config)]
    files = runs.vacant(output, *(f"latest_net_{other}.pth" for other in family.files.values()))
    step = restore.intact_step(workdir, which)

    def networks(state: TrainState) -> PyTree:
        params = {**state.params, **state.ema}
        return {n: (params[n], state.mutable.get(n, {}).get("batch_stats", {})) for n in family.files}

    found, norm = runs.arrays(system, step, networks), config.model.norm.value
    # All of them before the first file, so that a network without a counterpart leaves none behind.
    states = {
        network: family.writers[network[0]](params, statistics, norm=norm, batches_tracked=int(step.name))
        for network, (params, statistics) in found.items()
    }
    lines = []
    for network, file in zip(family.files, files, strict=True):
        runs.write_file(file, states[network])
        lines.append(f"network {network!r}: {trees.count(found[network][0]):,} parameters -> {file}")
    return lines
