"""The public face: trained models as jitted functions, for use elsewhere.

    from medgen_jax.sampling import load_sampler
    stain = load_sampler("runs/quickstart")
    stained = stain({"image": tiles})        # (b, h, w, c) uint8, uint16, or float in [-1, 1]

Importing this module needs jax and NumPy only; the trainer is never imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medgen_jax.core.errors import UserError

PyTree = Any


@dataclass(frozen=True, eq=False)
class LoadedSampler:
    """A trained sampler. Call it with a dict of arrays; it compiles once per set of shapes.

    Attributes:
      name: which of the system's samplers this is.
      system: registered name of the system.
      config: the run's resolved configuration.
      variables: averaged or raw parameters and statistics, on the default device.
      function: ``(variables, inputs, key) -> images``, pure and un-jitted, for embedding in other
        jitted code.
    """

    name: str
    system: str
    config: Any
    variables: PyTree
    function: Any
    jitted: Any

    def __repr__(self) -> str:
        return f"LoadedSampler({self.name!r} of system {self.system!r})"

    def __call__(self, inputs: Mapping[str, Any], key: jax.Array | int = 0) -> jax.Array:
        """Images, float32 NHWC in [-1, 1].

        Args:
          inputs: what the sampler names, such as ``{"image": (b, h, w, c)}``: uint8 and uint16 are
            scaled by their range, floats are taken to be in [-1, 1].
          key: a PRNG key or an integer seed; only samplers that draw random numbers use it.

        Raises:
          UserError: inputs that are no dict, images that are no batch or lie outside [-1, 1].
        """
        _check(inputs)
        key = jax.random.key(key) if isinstance(key, int) else key
        return self.jitted(self.variables, dict(inputs), key)


def _check(inputs: Mapping[str, Any]) -> None:
    if not isinstance(inputs, Mapping):
        raise UserError(f"a sampler takes a dict such as {{'image': array}}, not {type(inputs).__name__}")
    if "image" not in inputs:
        return
    image = inputs["image"]
    if np.ndim(image) != 4:
        raise UserError(f"'image' has shape {np.shape(image)}; a batch (b, h, w, c) is needed")
    # Only host arrays: looking at device arrays would wait for them.
    if isinstance(image, np.ndarray) and image.dtype.kind == "f" and image.size and not np.abs(image).max() <= 1.001:
        raise UserError("'image' holds floats outside [-1, 1]: scale them, or pass uint8 or uint16")


def load_sampler(workdir: str | Path, name: str | None = None, which: str | int = "last") -> LoadedSampler:
    """Load a sampler of a run: a trained one, one still training, or a converted one.

    Args:
      workdir: the run's directory.
      name: which sampler (``a2b``, ``sample``, ...); the system's first when None.
      which: ``last``, ``best``, or a step that is kept.

    Raises:
      UserError: when there is no run, no intact checkpoint, or no such sampler.
    """
    from medgen_jax import systems
    from medgen_jax.engine import restore

    system, config = restore.open_run(workdir)
    names = list(system.samplers)
    name = name or names[0]
    if name not in names:
        raise UserError(f"{workdir}: has no sampler {name!r}; it has: {', '.join(names)}")
    variables = restore.inference_variables(system, restore.intact_step(workdir, which))
    function = system.samplers[name]
    return LoadedSampler(name, systems.name_of(config), config, variables, function, jax.jit(function))
