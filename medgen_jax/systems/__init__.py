"""The systems, one file each. Systems never import each other; shared parts live in the rooms below.

`REGISTRY` holds lazy names, so a run imports only its own system. Adding a system means: one file
here that defines ``Config`` and ``build`` (see `base`), one line in `REGISTRY`, one file in
``configs/``.
"""

from __future__ import annotations

import dataclasses
import importlib
from types import ModuleType
from typing import Any

from medgen_jax.core.errors import UserError

REGISTRY: dict[str, str] = {
    "cyclegan": "medgen_jax.systems.cyclegan",
    "dcgan": "medgen_jax.systems.dcgan",
    "diffusion": "medgen_jax.systems.diffusion",
    "gan": "medgen_jax.systems.gan",
    "noise_classifier": "medgen_jax.systems.noise_classifier",
    "pix2pix": "medgen_jax.systems.pix2pix",
    "stain_classifier": "medgen_jax.systems.stain_classifier",
    "stargan_v2": "medgen_jax.systems.stargan_v2",
    "stylegan2": "medgen_jax.systems.stylegan2",
}


def load(name: str) -> ModuleType:
    """Import the module of a registered system and see that it has what the engine asks for.

    Raises:
      UserError: an unknown name, or what the module lacks.
    """
    if name not in REGISTRY:
        raise UserError(f"system {name!r} is unknown; known are: {', '.join(sorted(REGISTRY))}")
    module = importlib.import_module(REGISTRY[name])
    for member in ("Config", "build"):
        if not hasattr(module, member):
            raise UserError(f"{REGISTRY[name]}: defines no {member}; see medgen_jax/systems/base.py")
    missing = {"data", "train", "num_train", "steps_per_epoch"} - {f.name for f in dataclasses.fields(module.Config)}
    if missing:
        raise UserError(
            f"{REGISTRY[name]}.Config: lacks the field {sorted(missing)[0]!r}; see medgen_jax/systems/base.py"
        )
    return module


def name_of(config: Any) -> str:
    """The registered name of the system that a configuration belongs to."""
    module = type(config).__module__
    for name, path in REGISTRY.items():
        if path == module:
            return name
    raise UserError(
        f"{module}.{type(config).__name__} belongs to no registered system; add it to medgen_jax/systems/__init__.py"
    )
