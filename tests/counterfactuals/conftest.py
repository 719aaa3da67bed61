"""Runs of every system that makes counterfactuals, not trained but shaken, and made-up X-rays for them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import small_systems
from made_up_xrays import xray

from medgen_jax import systems
from medgen_jax.core import config as configs
from medgen_jax.data.images import write_image
from medgen_jax.engine import rundir, runtime
from medgen_jax.engine.checkpoint import CheckpointStore
from medgen_jax.engine.loop import Progress

CLASSES = ("Normal", "Lung Opacity")


@pytest.fixture(scope="session")
def xrays(tmp_path_factory):
    """``data.csv``: 2 images to train with and 5 in val; every second one sick, two of each patient, three views."""
    folder = tmp_path_factory.mktemp("xrays")
    lines = ["path,label,patient_id,split,view"]
    for split, count in (("train", 2), ("val", 5)):
        for i in range(count):
            write_image(folder / f"{split}{i}.png", xray(i, bool(i % 2)))
            lines.append(f"{split}{i}.png,{CLASSES[i % 2]},{split}-{i // 2},{split},{('PA', 'AP', '')[i % 3]}")
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    return folder


def write_run(folder, name, change):
    """A run directory of a configuration of `small_systems`, whose beginning other tests compile as well.

    Its parameters are shaken: a network that has just begun says nothing.
    """
    config = small_systems.CONFIGS[name]()
    change(config)
    config = configs.resolve(config, num_train=16)
    state = jax.device_get(small_systems.initial_state(name))
    leaves, tree = jax.tree.flatten(state.params)
    rng = np.random.default_rng(0)
    params = tree.unflatten([p + 0.05 * rng.standard_normal(p.shape).astype(np.float32) for p in leaves])
    store = CheckpointStore(folder / "checkpoints")
    rundir.write_config(folder, systems.name_of(config), configs.to_dict(config), runtime.environment())
    state = state.replace(params=params, ema={name: params[name] for name in state.ema})
    store.save(1, jax.device_put(state), {"progress": Progress().to_json()})
    store.close()
    return folder


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory):
    """Where the runs lie, by name."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def diffusion_run(xrays, runs_folder):
    """A diffusion model of 16 px and 40 steps of noise, told the class."""

    def change(config):
        config.data.source, config.data.classes = str(xrays / "data.csv"), CLASSES

    return write_run(runs_folder / "rsna", "diffusion", change)


@pytest.fixture(scope="session")
def views_run(xrays, runs_folder):
    """The same told the view as well, with a learned variance."""

    def change(config):
        config.data.source, config.data.classes = str(xrays / "data.csv"), CLASSES

    return write_run(runs_folder / "views", "diffusion-variance", change)


@pytest.fixture(scope="session")
def classifier_run(xrays, runs_folder):
    """A classifier of noisy images that fits both."""

    def change(config):
        config.data.source, config.data.classes = str(xrays / "data.csv"), CLASSES

    return write_run(runs_folder / "judge", "noise_classifier", change)


@pytest.fixture(scope="session")
def cycle_run(xrays, runs_folder):
    """A CycleGAN of 24 px between the classes."""

    def change(config):
        config.data.source, config.data.load_size = str(xrays / "data.csv"), 24
        config.data.class_a, config.data.class_b = CLASSES

    return write_run(runs_folder / "cycle", "cyclegan", change)
