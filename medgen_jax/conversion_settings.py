"""What a weight file says about its networks, as settings of a configuration: for the files that join both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgen_jax import systems
from medgen_jax.core.errors import UserError

#: Field of a configuration by its dotted path, such as ``model.channels`` -> value.
Settings = Mapping[str, Any]


def check(config: Any | None, system: str, whose: str) -> None:
    """Check the system and every range of a configuration, if one is given, before a file is read.

    Args:
      config: engine fields unset, or None.
      system: registered name of the one it has to be of.
      whose: what the system is, such as ``DCGAN is the layout``.

    Raises:
      UserError: it is of another system, or out of range.
    """
    if config is None:
        return
    if (name := systems.name_of(config)) != system:
        raise UserError(f"--config is of the system {name!r}; {whose} of {system!r}")
    systems.load(system).build(config)


def adopt(config: Any, told: Settings) -> None:
    """Write settings into a configuration."""
    for field, value in told.items():
        section, name = field.split(".")
        setattr(getattr(config, section), name, value)


def require_same(file: str | Path, config: Any, told: Settings) -> None:
    """Compare a configuration with what a file says.

    Raises:
      UserError: naming all settings that would fit the file.
    """
    differ = []
    for field, value in told.items():
        section, name = field.split(".")
        if getattr(getattr(config, section), name) != value:
            differ.append(f"config.{field}={value}")
    if differ:
        raise UserError(f"{file}: holds networks of other sizes; the file says {', '.join(differ)}")


def with_classes(file: str | Path, config: Any, count: int) -> Any:
    """The configuration with names for the classes of a file: its own, or 0, 1, ...

    Raises:
      UserError: it names another number of classes.
    """
    names = config.data.classes or tuple(map(str, range(count)))
    if len(names) != count:
        raise UserError(f"{file}: has {count} classes, config.data.classes names {len(names)}")
    return dataclasses.replace(config, data=dataclasses.replace(config.data, classes=names))
