"""Joins the weight layouts of two StyleGAN2 projects with runs of `stylegan2`.

``stylegan2-rosinality`` are checkpoints of stylegan2-pytorch, without classes. ``stylegan2-ada`` are snapshots of
stylegan2-ada-pytorch, with or without classes: the pickle as that project writes it, of which nothing is run, or the
state dicts of its networks. Networks without classes become runs of one class and come back without
(`medgen_jax.interop.stylegan2_single_class`). Optimisers, path lengths and the strength of augmentation start anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax import conversion, conversion_settings, systems
from medgen_jax.core import config as configs
from medgen_jax.core import trees
from medgen_jax.core.errors import UserError
from medgen_jax.engine import restore
from medgen_jax.interop import stylegan2_ada_layout, stylegan2_rosinality_layout, torch_file
from medgen_jax.interop.inert_pickles import read_modules
from medgen_jax.interop.stylegan2_single_class import with_one_class, without_classes
from medgen_jax.interop.stylegan2_tables import NETWORKS, Info
from medgen_jax.interop.torch_layout import State
from medgen_jax.systems import stylegan2, stylegan2_options
from medgen_jax.systems.base import System, TrainState

PyTree = Any

SYSTEM = "stylegan2"
ROSINALITY, ADA = "stylegan2-rosinality", "stylegan2-ada"
LAYOUTS = {ROSINALITY: stylegan2_rosinality_layout, ADA: stylegan2_ada_layout}
#: File of a run's step in each layout.
_FILES = {ROSINALITY: "{:06d}.pt", ADA: "network-snapshot-{:06d}.pt"}
_PICKLE = ".pkl"
#: 25 million images, as both projects' large trainings, for a run whose configuration nobody gave.
_STEPS, _BATCH = 781_250, 32
#: Fields of `Info` that ``config.model`` has too.
_FIELDS = ("channels", "z_dim", "w_dim", "map_layers", "channel_base", "channel_max")
#: Codes whose mean w stands in for an average that is in no file: as many as the reference draws when it samples.
_CODES = 4096


# ---- from a file to a run ------------------------------------------------------------------------


def from_stylegan2(
    name: str, file: str | Path, output: str | Path, config: stylegan2.Config | None = None
) -> list[str]:
    """Make a run directory from a weight file.

    Args:
      name: one of `LAYOUTS`.
      file: a checkpoint or snapshot. What it has of generator, averaged generator and discriminator is taken; of two
        generators one stands for both, a discriminator starts fresh, so that the run draws images but would not train
        on as it was.
      output: run directory to make.
      config: names of the classes and settings of training, engine fields unset; its sizes must be the file's. None:
        sizes are read off the file, the classes are called 0, 1, ...

    Returns:
      Lines that say what was matched.

    Raises:
      UserError: a configuration of another system or out of range; an unreadable file; one of other networks or
        sizes, naming the settings that would fit; or a directory that holds a run.
    """
    conversion_settings.check(config, SYSTEM, f"{name} is a layout")
    folder = conversion.empty_rundir(output)
    state = _read_file(name, Path(file))
    try:
        info = LAYOUTS[name].networks_info(state)
        networks = LAYOUTS[name].from_torch(state, info)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    lines = [_described(info)]
    fates = {name: "starts fresh" if name == "d" else "as the other one" for name in NETWORKS if name not in networks}
    lines += [f"network {name!r}: not in the file, {fate}" for name, fate in fates.items()]
    if "d" in networks and info.judge_layers not in (0, info.map_layers):
        lines.append(
            f"network 'd': starts fresh, for its mapping in the file has {info.judge_layers} layers and the "
            f"generator's {info.map_layers}; config.model.map_layers is one number for both"
        )
        del networks["d"]
    if not info.classes:
        networks, info = with_one_class(networks, info)
        lines.append("no classes in the file: the run has one, of which the generator knows nothing")
    config = configs.resolve(_configured(file, info, config, "d" in networks), num_train=1)
    filled = _filled(stylegan2.build(config), config, networks, lines)
    conversion.write_run(folder, config, filled)
    return [*lines, f"classes: {', '.join(config.data.classes)}", f"run written to {folder}"]


def _read_file(name: str, file: Path) -> State:
    if file.suffix != _PICKLE:
        return torch_file.read_state_dict(file)
    if name != ADA:
        raise UserError(f"{file}: is a pickle; {name} has files of torch.save, and --from {ADA} reads pickles")
    try:
        return read_modules(file.read_bytes(), str(file))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def _configured(file: str | Path, info: Info, config: stylegan2.Config | None, judged: bool) -> stylegan2.Config:
    """A configuration of the file's sizes, with names for its classes; a UserError where one that is given differs."""
    told = {"data.crop_size": info.size} | {f"model.{field}": getattr(info, field) for field in _FIELDS}
    own = stylegan2.Config() if config is None else config
    if judged and info.deviation != bool(own.model.minibatch_group):
        told["model.minibatch_group"] = stylegan2.ModelConfig().minibatch_group if info.deviation else 0
    if config is None:
        own.train.steps, own.train.batch_size = _STEPS, _BATCH
        conversion_settings.adopt(own, told)
    elif _info(config, info.classes).widths == info.widths:
        # Two numbers cap the widths; others than those that were read off them may make the same.
        told |= {f"model.{field}": getattr(own.model, field) for field in ("channel_base", "channel_max")}
    conversion_settings.require_same(file, own, told)
    return conversion_settings.with_classes(file, own, info.classes)


def _filled(system: System, config: stylegan2.Config, networks: Mapping[str, PyTree], lines: list[str]) -> TrainState:
    """A fresh state with the found networks in place; lines tell what was."""
    judge = {"d": (networks["d"]["params"], {})} if "d" in networks else {}
    state = conversion.filled(system, judge, lines)
    averaged = networks.get("g_ema", networks.get("g", {}))
    raw = networks.get("g", averaged) if state.ema else averaged
    counts = {name: trees.count(tree["params"]) for name, tree in networks.items() if name != "d"}
    lines += [f"network {name!r}: {count:,} parameters matched" for name, count in counts.items()]
    averages = averaged.get("averages")
    if averages is None:
        averages = {"mapping": {"w": _mean_w(config, averaged["params"])}}
        lines.append(f"no average of w in the file: that of {_CODES} codes, to truncate towards")
    return state.replace(
        params={**state.params, "g": raw["params"]},
        mutable={**state.mutable, "g": {"constants": averaged["constants"], "averages": averages}},
        ema=dict.fromkeys(state.ema, averaged["params"]),
    )


def _mean_w(config: stylegan2.Config, params: PyTree) -> np.ndarray:
    """Mean w of a generator of one class, (w_dim,)."""
    generator, _ = stylegan2_options.networks(config, 1, jnp.float32)
    codes = jax.random.normal(jax.random.key(0), (_CODES, generator.z_dim))
    averages = {"mapping": {"w": jnp.zeros(generator.w_dim)}}

    def mean(params: PyTree) -> jax.Array:
        variables, labels = {"params": params, "averages": averages}, jnp.zeros(_CODES, jnp.int32)
        return jnp.mean(generator.apply(variables, codes, labels, method="latents"), axis=0)

    return np.asarray(jax.jit(mean)(params))


def _described(info: Info) -> str:
    widths = ", ".join(f"{width} at {side}" for side, width in info.widths.items())
    return (
        f"StyleGAN2: {info.size} px, {info.channels} channels, {info.classes} classes, codes of {info.z_dim} numbers, "
        f"w of {info.w_dim}, {info.map_layers} mapping layers; widths {widths} px"
    )


# ---- from a run to a file ------------------------------------------------------------------------


def to_stylegan2(name: str, workdir: str | Path, output: str | Path, which: str | int = "last") -> list[str]:
    """Write a run's networks, of which the samplers use the averaged generator, as one file of state dicts.

    The file holds no optimisers: that project's code draws images of it, but does not train on from it.

    Args:
      name: one of `LAYOUTS`.
      workdir: a run of `stylegan2`; of one class for `ROSINALITY`.
      output: folder for the file, made if need be.
      which: ``last``, ``best``, or a step that is kept.

    Returns:
      Lines that say what was written.

    Raises:
      UserError: no such run, a run of another system, networks that the layout cannot express, or a file that exists
        already.
    """
    system, config = restore.open_run(workdir)
    if (own := systems.name_of(config)) != SYSTEM:
        raise UserError(f"{workdir}: is a run of {own!r}; {name} is a layout of {SYSTEM!r} runs")
    step = restore.intact_step(workdir, which)
    file = Path(output).expanduser() / _FILES[name].format(int(step.name))
    if file.exists():
        raise UserError(f"{file}: exists already; give another --output")

    def networks(state: TrainState) -> PyTree:
        g = {"params": state.params["g"], **state.mutable["g"]}
        return {"g": g, "d": {"params": state.params["d"]}, "g_ema": system.inference_variables(state)}

    found = jax.tree.map(np.asarray, jax.device_get(restore.read_part(system, step, networks)))
    info = _info(config, len(found["g"]["params"]["mapping"]["embed"]["kernel"]))
    if info.classes == 1:
        found, info = without_classes(found, info)
    try:
        state = LAYOUTS[name].to_torch(found, info)
    except UserError as error:
        raise UserError(f"{workdir}: {error}") from error
    file.parent.mkdir(parents=True, exist_ok=True)
    torch_file.write_state_dict(file, state)
    lines = [f"network {n!r}: {trees.count(tree['params']):,} parameters -> {file}" for n, tree in found.items()]
    order = f"classes in the order of the file: {', '.join(config.data.classes)}"
    return [*lines, _described(info), *([order] if info.classes else [])]


def _info(config: stylegan2.Config, classes: int) -> Info:
    """What the layouts want to know of a configuration's networks."""
    model = config.model
    return Info(
        size=config.data.crop_size,
        classes=classes,
        judge_layers=model.map_layers if classes else 0,
        deviation=bool(model.minibatch_group),
        **{field: getattr(model, field) for field in _FIELDS},
    )
