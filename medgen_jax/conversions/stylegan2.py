"""What the weight layouts of two StyleGAN2 projects have in common, joined with runs of `stylegan2`.

Networks without classes become runs of one class and come back without (`medgen_jax.interop.stylegan2_single_class`).
Optimisers, path lengths and the strength of augmentation start anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.conversions import runs, settings
from medgen_jax.core import trees
from medgen_jax.engine import restore
from medgen_jax.interop.stylegan2_single_class import with_one_class, without_classes
from medgen_jax.interop.stylegan2_tables import Info
from medgen_jax.interop.torch_layout import State
from medgen_jax.systems import stylegan2
from medgen_jax.systems.base import System, TrainState

PyTree = Any

SYSTEM = "stylegan2"
PICKLE = ".pkl"
#: 25 million images, as both projects' large trainings, for a run whose configuration nobody gave.
_TRAINING = {"train.steps": 781_250, "train.batch_size": 32}
#: Fields of `Info` that ``config.model`` has too.
_FIELDS = ("channels", "z_dim", "w_dim", "map_layers", "channel_base", "channel_max")
#: Codes whose mean w stands in for an average that is in no file: as many as the reference draws when it samples.
_CODES = 4096


@dataclass(frozen=True)
class Project:
    """What is its own in each of the projects.

    Attributes:
      name: of its layout.
      layout: module with ``networks_info``, ``from_torch`` and ``to_torch``.
      file_name: of a run's networks, by the step.
      read_file: the tensors of a file, with a UserError where it cannot be read.
    """

    name: str
    layout: ModuleType
    file_name: str
    read_file: Callable[[Path], State]


# ---- from a file to a run ------------------------------------------------------------------------


def read(project: Project, file: str | Path, output: str | Path, config: stylegan2.Config | None = None) -> list[str]:
    """Make a run directory from a weight file.

    Args:
      project: whose file it is.
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
    runs.check_config(config, project.name, SYSTEM)
    folder = runs.empty_rundir(output)
    state = project.read_file(Path(file))
    with runs.naming(file):
        info = project.layout.networks_info(state)
        networks = project.layout.from_torch(state, info)
    lines = [_described(info), *runs.fresh(("d",), networks)]
    lines += [f"network {name!r}: not given, as the other one" for name in ("g", "g_ema") if name not in networks]
    if "d" in networks and info.judge_layers not in (0, info.map_layers):
        lines.append(
            f"network 'd': starts fresh, for its mapping in the file has {info.judge_layers} layers and the "
            f"generator's {info.map_layers}; config.model.map_layers is one number for both"
        )
        del networks["d"]
    if not info.classes:
        networks, info = with_one_class(networks, info)
        lines.append("no classes in the file: the run has one, of which the generator knows nothing")
    config = settings.fitted(
        file, config, _told(info, config, "d" in networks), fresh=settings.adopt(stylegan2.Config(), _TRAINING)
    )
    config = settings.with_classes(file, config, info.classes)
    lines.append(f"classes: {', '.join(config.data.classes)}")
    runs.make(folder, config, networks, lines, fill=_filled)
    return lines


def _told(info: Info, config: stylegan2.Config | None, judged: bool) -> dict[str, Any]:
    """Settings that a file says, but for those that differ from a configuration's and make the same networks."""
    own = stylegan2.Config() if config is None else config
    told = {"data.crop_size": info.size} | {f"model.{field}": getattr(info, field) for field in _FIELDS}
    if judged and info.deviation != bool(own.model.minibatch_group):
        told["model.minibatch_group"] = stylegan2.ModelConfig().minibatch_group if info.deviation else 0
    if config is not None and _info(config, info.classes).widths == info.widths:
        # Two numbers cap the widths; others than those that were read off them may make the same.
        del told["model.channel_base"], told["model.channel_max"]
    return told


def _filled(system: System, networks: Mapping[str, PyTree], lines: list[str]) -> TrainState:
    """A fresh state with the found networks in place; lines tell what was."""
    judge = {"d": (networks["d"]["params"], {})} if "d" in networks else {}
    state = runs.filled(system, judge, lines)
    averaged = networks.get("g_ema", networks.get("g", {}))
    raw = networks.get("g", averaged) if state.ema else averaged
    counts = {name: trees.count(tree["params"]) for name, tree in networks.items() if name != "d"}
    lines += [f"network {name!r}: {count:,} parameters matched" for name, count in counts.items()]
    averages = averaged.get("averages")
    if averages is None:
        averages = {"mapping": {"w": _mean_w(system, averaged["params"])}}
        lines.append(f"no average of w in the file: that of {_CODES} codes, to truncate towards")
    return state.replace(
        params={**state.params, "g": raw["params"]},
        mutable={**state.mutable, "g": {"constants": averaged["constants"], "averages": averages}},
        ema=dict.fromkeys(state.ema, averaged["params"]),
    )


def _mean_w(system: System, params: PyTree) -> np.ndarray:
    """Mean w of a generator of one class, (w_dim,)."""
    generator = system.maker.generator.clone(dtype=jnp.float32)
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


def write(project: Project, workdir: str | Path, output: str | Path, which: str | int = "last") -> list[str]:
    """Write a run's networks, of which the samplers use the averaged generator, as one file of state dicts.

    The file holds no optimisers: that project's code draws images of it, but does not train on from it.

    Args:
      project: in whose layout.
      workdir: a run of `stylegan2`, of one class where the project knows none.
      output: folder for the file, made if need be.
      which: ``last``, ``best``, or a step that is kept.

    Returns:
      Lines that say what was written.

    Raises:
      UserError: no such run, a run of another system, networks that the layout cannot express, or a file that exists
        already.
    """
    system, config = runs.opened(workdir, project.name, [SYSTEM])
    step = restore.intact_step(workdir, which)
    [file] = runs.vacant(output, project.file_name.format(int(step.name)))

    def networks(state: TrainState) -> PyTree:
        g = {"params": state.params["g"], **state.mutable["g"]}
        return {"g": g, "d": {"params": state.params["d"]}, "g_ema": system.inference_variables(state)}

    found = runs.arrays(system, step, networks)
    info = _info(config, len(found["g"]["params"]["mapping"]["embed"]["kernel"]))
    if info.classes == 1:
        found, info = without_classes(found, info)
    with runs.naming(workdir):
        state = project.layout.to_torch(found, info)
    runs.write_file(file, state)
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
