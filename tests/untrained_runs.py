"""Runs of any configuration with the parameters they start from: for tests of what follows training."""

from __future__ import annotations

import jax

from medgen_jax import systems
from medgen_jax.core import config as configs
from medgen_jax.engine import rundir, runtime
from medgen_jax.engine.checkpoint import CheckpointStore
from medgen_jax.engine.loop import Progress


def write(folder, config):
    """A run directory at step 0, as `load_sampler` reads it."""
    config = configs.resolve(config, num_train=16)
    system = systems.load(systems.name_of(config)).build(config)
    state = jax.jit(system.init)(jax.random.key(0))
    store = CheckpointStore(folder / "checkpoints")
    rundir.write_config(folder, systems.name_of(config), configs.to_dict(config), runtime.environment())
    store.save(0, jax.device_put(state), {"progress": Progress().to_json()})
    store.close()
    return folder
