"""Joins the weight layout of guided-diffusion with runs of `diffusion` and `noise_classifier`.

Its files (``256x256_diffusion_uncond.pt``, ``ema_0.9999_100000.pt``, ``256x256_classifier.pt``) hold one network each.
A configuration of ours says what a file should hold, and what no file tells: the side of the images, number and order
of the heads, the process, what is predicted, the names of the classes.

Networks of that project have no null row: none was ever told that a class is unknown. One of zeros is made, of which
the network has learned nothing. Guidance without a classifier is therefore not possible in such a run, and its
configuration says so: ``condition.drop = 0``. Of an unconditional network every row is zero, so that no class
changes anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medgen_jax import systems
from medgen_jax.conversions import runs, settings
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import LABEL
from medgen_jax.engine import restore
from medgen_jax.interop import guided_diffusion_layout as layout
from medgen_jax.interop import torch_file
from medgen_jax.interop.guided_diffusion_tables import GROUPS, ClassifierInfo, EncoderInfo, UNetInfo
from medgen_jax.interop.torch_layout import State
from medgen_jax.systems.base import System
from medgen_jax.systems.diffusion_options import Noise, Prediction

PyTree = Any

LAYOUT = "guided-diffusion"
INFOS: dict[str, type[EncoderInfo]] = {"diffusion": UNetInfo, "noise_classifier": ClassifierInfo}
_KINDS = {"diffusion": "diffusion U-Net", "noise_classifier": "noise classifier"}
#: Field of a network's description -> field of the configuration, where it is not ``network.FIELD``.
_ELSEWHERE = {"learned_variance": "loss.learned_variance", "pool": "head.pool"}


# ---- what both projects know ---------------------------------------------------------------------


def _require_counterpart(config: Any, name: str, where: str = "") -> None:
    """Raise a UserError that names the first field whose value that project's code cannot express."""
    network, conditional = config.network, name == "diffusion"
    odd = {
        "network.groups": network.groups != GROUPS and f"has {GROUPS} groups in every norm",
        "process.noise": config.process.noise is Noise.SIGMOID and "knows linear and cosine",
        "data.views": conditional and config.data.views and "has one table, that of the classes, so there must be none",
        "loss.prediction": conditional and config.loss.prediction is Prediction.V and "predicts epsilon or x0",
        "network.head_width": (
            not conditional
            and config.head.pool == "attention"
            and network.head_width is None
            and "counts the heads of its attention pool by their width: say it"
        ),
    }
    for field, rule in odd.items():
        if rule:
            section, leaf = field.split(".")
            value = getattr(getattr(config, section), leaf)
            raise UserError(f"{where}config.{field} = {getattr(value, 'value', value)!r}: guided-diffusion {rule}")


def _info(system: System, name: str) -> Any:
    """What the layout wants to know of a system's network."""
    return INFOS[name](**{f.name: getattr(system.network, f.name) for f in dataclasses.fields(INFOS[name])})


def _untold(config: Any, name: str) -> str:
    """What is in no file, in words."""
    network, process = config.network, config.process
    heads = f"{network.heads} heads" if network.head_width is None else f"heads of {network.head_width} channels"
    told = [f"{config.data.crop_size} px", f"{heads} in {network.head_order.value} order"]
    told.append(f"{process.noise.value} noise of {process.steps} steps")
    if name == "diffusion":
        told.append(f"prediction of {config.loss.prediction.value}")
    return ", ".join(told)


# ---- from a file to a run ------------------------------------------------------------------------


def read(file: str | Path, output: str | Path, config: Any, *, null_row: bool = False) -> list[str]:
    """Make a run directory from a weight file.

    Args:
      file: a state dict of a U-Net or a classifier.
      output: run directory to make.
      config: of `diffusion` or `noise_classifier`, engine fields unset. Without ``data.classes`` the classes are called
        0, 1, ...
      null_row: the last row of the file's table of classes is that of an unknown class, as `write` can write it.

    Returns:
      Lines that say what was matched, and what was made.

    Raises:
      UserError: a configuration that the layout cannot express; an unreadable file; one of another network, naming
        the first tensor that does not fit and the fields that would; or a directory that holds a run.
    """
    name = runs.require_system(config, LAYOUT, INFOS, "--config")
    _require_counterpart(config, name)
    module = systems.load(name)
    module.build(config)  # checks every range before the file is read
    folder = runs.empty_rundir(output)
    state = torch_file.read_state_dict(file)
    found = _read_info(file, state, config, name, null_row)
    classes = _class_count(found)
    if classes and not config.data.classes:
        config = settings.with_classes(file, config, classes)
    params, lines = _parameters(file, state, found, _info(module.build(config), name), null_row)
    if lines:
        config = dataclasses.replace(config, condition=dataclasses.replace(config.condition, drop=0.0))
        lines.append("config.condition.drop is 0: without a null row that was trained, scale must be 0")
    if names := config.data.classes:
        lines.append(f"classes: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
    lines.append(f"not in the file, by the configuration: {_untold(config, name)}")
    runs.make(folder, config, {"net": (params, {})}, lines)
    return lines


def _read_info(file: str | Path, state: State, config: Any, name: str, null_row: bool) -> Any:
    """What the file says about its network; a UserError where it is not of the kind that the configuration is."""
    if "time_embed.0.weight" not in state:
        raise UserError(f"{file}: has no time_embed.0.weight, as networks of guided-diffusion do; whose file is it?")
    kind = "noise_classifier" if layout.is_classifier(state) else "diffusion"
    if kind != name:
        has = "no output_blocks" if kind == "noise_classifier" else "output_blocks"
        raise UserError(f"{file}: has {has}, it is a {_KINDS[kind]}'s; give a --config of {kind}, not of {name}")
    size, blocks = config.data.crop_size, config.network.blocks
    try:
        if kind == "diffusion":
            return layout.unet_info(state, size=size, condition=LABEL, null_row=null_row)
        return layout.classifier_info(state, size=size, blocks=blocks)
    except UserError as error:
        used = f"config.data.crop_size = {size}, config.network.blocks = {blocks}"
        raise UserError(f"{file}: {error} ({used})") from error


def _class_count(info: UNetInfo | ClassifierInfo) -> int:
    """Classes of a network; 0 of an unconditional one."""
    return info.classes if isinstance(info, ClassifierInfo) else sum(count for _, count in info.conditions)


def _parameters(file: str | Path, state: State, found: Any, wanted: Any, null_row: bool) -> tuple[PyTree, list[str]]:
    """Parameters and what was made to fit them; a UserError names tensor and fields where they do not."""
    try:
        if isinstance(wanted, UNetInfo):
            return layout.unet_from_torch(state, wanted, null_row=null_row)
        return layout.classifier_from_torch(state, wanted), []
    except UserError as error:
        says = list(_settings(found, wanted, null_row))
        remedy = f"the file says {', '.join(says)}" if says else "the settings fit: the file was cut or changed"
        raise UserError(f"{file}: {error}; {remedy}") from error


def _settings(found: Any, wanted: Any, null_row: bool) -> Iterator[str]:
    """Settings with which the configuration would describe the file."""
    for field in ("channels", "width", "multipliers", "blocks", "attention", "film", "resample", *_ELSEWHERE):
        told, asked = getattr(found, field, None), getattr(wanted, field, None)
        if told != asked and not (field == "attention" and set(told) == set(asked)):
            yield f"config.{_ELSEWHERE.get(field, f'network.{field}')}={told}"
    told, asked = _class_count(found), _class_count(wanted)
    if null_row and told < 1:
        yield "no classes: leave out --null_row"
    elif told and told != asked:
        or_null_row = isinstance(found, UNetInfo) and told == asked + 1 and not null_row
        yield f"config.data.classes of {told} names{', or --null_row' if or_null_row else ''}"


# ---- from a run to a file ------------------------------------------------------------------------


def write(workdir: str | Path, output: str | Path, which: str | int = "last", *, null_row: bool = False) -> list[str]:
    """Write a run's network as ``ema_RATE_STEP.pt``, or ``modelSTEP.pt`` where no average is kept.

    Args:
      workdir: a run of `diffusion` or `noise_classifier`.
      output: folder for the file, made if need be.
      which: ``last``, ``best``, or a step that is kept.
      null_row: write the null row as a last class; else it is left out, for that project has none.

    Returns:
      Lines that say what was written, and what the file does not tell.

    Raises:
      UserError: no such run, a network without a counterpart in the layout, or a file that exists already.
    """
    system, config = runs.opened(workdir, LAYOUT, INFOS)
    name = systems.name_of(config)
    info = _info(system, name)
    _require_counterpart(config, name, f"{workdir}: ")
    layout.check_counterpart(f"{workdir}: {_KINDS[name]}", info)
    step, rate = restore.intact_step(workdir, which), getattr(config, "ema", 0.0)
    number = f"{int(step.name):06d}"
    [file] = runs.vacant(output, f"ema_{rate}_{number}.pt" if rate else f"model{number}.pt")
    lines: list[str] = []
    params = runs.arrays(system, step, system.inference_variables)["params"]
    if isinstance(info, UNetInfo):
        state = layout.unet_to_torch(params, info, null_row=null_row)
        if "label_emb.weight" not in state:
            lines.append("no class changes anything: written as an unconditional network, without label_emb")
        elif not null_row:
            lines.append("the null row is left out, guided-diffusion has none; --null_row writes it as a last class")
    else:
        state = layout.classifier_to_torch(params, info)
    runs.write_file(file, state)
    count = sum(array.size for array in state.values())
    return [f"network 'net': {count:,} parameters -> {file}", *lines, f"not in the file: {_untold(config, name)}"]
