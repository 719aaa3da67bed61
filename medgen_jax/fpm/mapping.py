"""Frozen dataclasses from plain mappings, such as a YAML file holds, and back.

Numbers may be text (YAML reads ``630e-9`` as text, because its floats want a point), lists become tuples. Unknown,
missing and mistyped fields are errors that name the field.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from medgen_jax.core.errors import UserError

T = TypeVar("T")


def read(cls: type[T], mapping: Any, where: str) -> T:
    """An instance of the dataclass ``cls`` whose fields are the keys of ``mapping``.

    Args:
      cls: its fields are float, int, bool, str, tuples, unions (the first that fits) and optionals of these, or
        dataclasses of the same kind.
      mapping: field -> value.
      where: what the fields belong to, in messages.

    Raises:
      UserError: a field that is unknown, missing or of another type.
    """
    check_table(mapping, where)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    check_known(mapping, fields, where)
    missing = [name for name, f in fields.items() if name not in mapping and not _has_default(f)]
    if missing:
        raise UserError(f"{where}: field {missing[0]!r} is missing")
    hints = typing.get_type_hints(cls)
    return cls(**{name: convert(value, hints[name], f"{where}.{name}") for name, value in mapping.items()})


def check_table(mapping: Any, where: str) -> None:
    """Refuse what is no mapping.

    Raises:
      UserError: saying what was found.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where}: expected fields with values, got {type(mapping).__name__} {_short(mapping)}")


def check_known(mapping: Mapping[str, Any], known: typing.Collection[str], where: str) -> None:
    """Refuse keys that nobody reads.

    Raises:
      UserError: naming the key, and the known one that it resembles.
    """
    for name in mapping:
        if name not in known:
            close = difflib.get_close_matches(str(name), list(known), 1)
            guess = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            raise UserError(f"{where}: field {name!r} is unknown; {guess}")


def write(value: Any) -> Any:
    """The mapping that `read` turns back into ``value``: defaults included, tuples as lists, no None."""
    if dataclasses.is_dataclass(value):
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init)
        return {name: write(item) for name, item in items if item is not None}
    return [write(item) for item in value] if isinstance(value, tuple) else value


def convert(value: Any, hint: Any, where: str) -> Any:
    """``value`` as what an annotation asks for.

    Raises:
      UserError: naming the field.
    """
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        chosen = [option for option in options if option is not type(None)]
        known = any(dataclasses.is_dataclass(option) and isinstance(value, option) for option in chosen)
        absent = value is None and len(chosen) < len(options)
        return value if known or absent else _first_that_fits(value, chosen, where)
    if origin is tuple:
        return _row(value, options, where)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else read(hint, value, where)
    if hint is float:
        return _number(value, where)
    if hint is int:
        number = _number(value, where)
        if number != round(number):
            raise UserError(f"{where} = {value!r}: expected a whole number")
        return round(number)
    if not isinstance(value, hint):
        raise UserError(f"{where} = {_short(value)}: expected {hint.__name__}")
    return value


def _first_that_fits(value: Any, hints: Sequence[Any], where: str) -> Any:
    """What the first of several hints that can makes of a value.

    Raises:
      UserError: of the first hint, where none can.
    """
    errors = []
    for hint in hints:
        try:
            return convert(value, hint, where)
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _row(value: Any, items: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UserError(f"{where} = {_short(value)}: expected a list")
    if items[-1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise UserError(f"{where} = {_short(value)}: expected {len(items)} values, got {len(value)}")
    return tuple(convert(v, hint, f"{where}[{i}]") for i, (v, hint) in enumerate(zip(value, items, strict=True)))


def _number(value: Any, where: str) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise UserError(f"{where} = {_short(value)}: expected a number")
    return number


def _has_default(field: dataclasses.Field) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
