"""Options of a data set: the keyword-only arguments of the function that lists it.

Their annotations say what they take (int, float, bool, str, Path, an enum, tuples of one of these,
or Optional of one), their defaults what they are, and the docstring what they mean.
"""

from __future__ import annotations

import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medgen_jax.core.errors import UserError

_COLUMN = 36  # where explanations begin
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Option(NamedTuple):
    """One option: its type as annotated, what it is when not given, and a sentence about it."""

    name: str
    kind: Any
    default: Any
    meaning: str


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """Name -> option, in the order of the arguments."""
    kinds, meanings = typing.get_type_hints(function), _meanings(function)
    arguments = inspect.signature(function).parameters.values()
    return {
        argument.name: Option(argument.name, kinds[argument.name], argument.default, meanings.get(argument.name, ""))
        for argument in arguments
        if argument.kind is inspect.Parameter.KEYWORD_ONLY
    }


def split_words(words: Sequence[str]) -> dict[str, str]:
    """``name=value`` words by name.

    Raises:
      UserError: for a word of another form, or a name given twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UserError(f"--set {word}: write --set name=value")
        if name in found:
            raise UserError(f"--set {name}: is given twice, {found[name]!r} and {value!r}")
        found[name] = value
    return found


def read_options(dataset: str, function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options with their types; text is read as the annotation says, other values are taken as they are.

    Raises:
      UserError: for an unknown name, which lists the options, or a value of the wrong kind.
    """
    known, found = options_of(function), {}
    for name, value in given.items():
        if name not in known:
            there = ", ".join(f"{o.name} ({_shown(o.default)})" for o in known.values())
            raise UserError(f"--set {name}: {dataset} has {f'the options {there}' if there else 'no options'}")
        found[name] = _read(name, value, known[name].kind) if isinstance(value, str) else value
    return found


def describe(function: Callable[..., Any]) -> list[str]:
    """The first line of the docstring, then one line per option: name, default, choices and meaning."""
    lines = [(inspect.getdoc(function) or "").partition("\n")[0]]
    for option in options_of(function).values():
        told = f"{_takes(option.kind)}: {option.meaning}"
        start = f"  --set {option.name}={_shown(option.default)}"
        lines.append(start.ljust(max(_COLUMN, len(start) + 2)) + told.rstrip(": "))
    return [line.replace("`", "") for line in lines]


def as_text(value: Any) -> str:
    """A value as it would be given; of a path its name alone."""
    if isinstance(value, tuple):
        return ",".join(map(as_text, value))
    if isinstance(value, Path):
        return value.name
    if isinstance(value, bool):
        return str(value).lower()
    return str(value.value if isinstance(value, enum.Enum) else value)


def _shown(value: Any) -> str:
    return "none" if value is None or value == () else as_text(value)


def _read(name: str, text: str, kind: Any) -> Any:
    """A value from its text."""
    kind, optional = _inner(kind)
    if optional and text.strip().casefold() == "none":
        return None
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return tuple(_read(name, part.strip(), item) for part in text.split(",") if part.strip())
    try:
        if kind is bool:
            return _BOOLEANS[text.strip().casefold()]
        return Path(text).expanduser() if kind is Path else kind(text)
    except (ValueError, KeyError):
        raise UserError(f"--set {name}={text}: must be {_takes(kind)}") from None


def _takes(kind: Any) -> str:
    """What an option takes, in words."""
    kind, optional = _inner(kind)
    if optional:
        return f"{_takes(kind)}, or none"
    if typing.get_origin(kind) is tuple:
        return f"{_takes(typing.get_args(kind)[0])}; several separated by commas"
    if isinstance(kind, enum.EnumMeta):
        return "one of " + ", ".join(str(choice.value) for choice in kind)
    return {bool: "true or false", int: "an integer", float: "a number", Path: "a file or folder"}.get(kind, "text")


def _inner(kind: Any) -> tuple[Any, bool]:
    """The type inside Optional, and whether it was one."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        inside = [part for part in typing.get_args(kind) if part is not type(None)]
        return inside[0], True
    return kind, False


def _meanings(function: Callable[..., Any]) -> dict[str, str]:
    """Argument -> its text in the section Args of the docstring."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", inspect.getdoc(function) or "", re.MULTILINE)
    entries = re.findall(r"^  (\w+): (.*(?:\n {4,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}
