"""What a weight file says about its networks, as settings of a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgen_jax.core.errors import UserError

#: Field of a configuration by its dotted path, such as ``model.channels`` -> value.
Settings = Mapping[str, Any]


def adopt(config: Any, told: Settings) -> Any:
    """Write settings into a configuration, and return it."""
    for field, value in told.items():
        section, name = field.split(".")
        setattr(getattr(config, section), name, value)
    return config


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


def fitted(file: str | Path, config: Any | None, told: Settings, fresh: Any) -> Any:
    """A configuration that says what a file says: the one that is given, or ``fresh`` with the file's settings.

    Raises:
      UserError: one is given that says something else, naming all settings that would fit the file.
    """
    if config is None:
        return adopt(fresh, told)
    require_same(file, config, told)
    return config


def with_classes(file: str | Path, config: Any, count: int) -> Any:
    """The configuration with names for the classes of a file: its own, or 0, 1, ...

    Raises:
      UserError: it names another number of classes.
    """
    names = config.data.classes or tuple(map(str, range(count)))
    if len(names) != count:
        raise UserError(f"{file}: has {count} classes, config.data.classes names {len(names)}")
    return dataclasses.replace(config, data=dataclasses.replace(config.data, classes=names))
