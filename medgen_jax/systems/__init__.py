"""The systems, one file each. Systems never import each other; shared parts live in the rooms below.

`REGISTRY` holds lazy names, so a run imports only its own system. Adding a system means: one file
here that defines ``Config`` and ``build`` (see `base`), one line in `REGISTRY`, one file in
``configs/``.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from medgen_jax.core.errors import UserError

REGISTRY: dict[str, str] = {
    "pix2pix": "medgen_jax.systems.pix2pix",
}


def load(name: str) -> ModuleType:
    """Import the module of a registered system."""
    if name not in REGISTRY:
        raise UserError(f"system {name!r} is unknown; known are: {', '.join(sorted(REGISTRY))}")
    return importlib.import_module(REGISTRY[name])


def name_of(config: Any) -> str:
    """The registered name of the system that a configuration belongs to."""
    module = type(config).__module__
    for name, path in REGISTRY.items():
        if path == module:
            return name
    raise UserError(
        f"{module}.{type(config).__name__} belongs to no registered system; add it to medgen_jax/systems/__init__.py"
    )
