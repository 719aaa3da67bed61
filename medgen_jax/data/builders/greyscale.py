"""The greyscale of a prepared set: which physical values its levels stand for, as flags, in names, in the manifest."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from medgen_jax.core.config import DataConfig, Nan, TrainConfig, validate_shared
from medgen_jax.core.errors import UserError
from medgen_jax.data import sources
from medgen_jax.data.images import View

_PLAIN = View()


def from_flags(range_low: float | None, range_high: float | None, nan: str, window: str) -> View:
    """How samples shall become levels, from flags called after the fields of `DataConfig`.

    Raises:
      UserError: naming the flag, for half a range, one that is none, and values that do not go together.
    """
    with naming_flags():
        data = DataConfig(range_low=range_low, range_high=range_high, nan=Nan(nan), window=window)
        validate_shared(data, TrainConfig(steps=1))
        return sources.view(data)


def fields(view: View) -> dict[str, Any]:
    """The fields of `DataConfig` that a view comes from, in JSON types; those alone that differ from the defaults."""
    found: dict[str, Any] = {}
    if view.range is not None:
        found |= {"range_low": float(view.range.low), "range_high": float(view.range.high)}
    if view.nan != _PLAIN.nan:
        found["nan"] = view.nan
    if view.window != _PLAIN.window:
        found["window"] = view.window if isinstance(view.window, str) else "{},{}".format(*map(float, view.window))
    return found


def words(view: View) -> list[str]:
    """`fields` as words for the name of a folder, where a minus would be lost."""
    found = [f"range_{view.range.low:g}_to_{view.range.high:g}"] if view.range else []
    found += [f"nan_{view.nan}"] if view.nan != _PLAIN.nan else []
    if view.window != _PLAIN.window:
        numbers = (view.window,) if isinstance(view.window, str) else (f"{number:g}" for number in view.window)
        found.append("_".join(("window", *numbers)))
    return [word.replace("-", "minus") for word in found]


@contextlib.contextmanager
def naming_flags() -> Iterator[None]:
    """Let errors name flags and options: readers name the fields of a configuration, after which these are called."""
    try:
        yield
    except UserError as error:
        names = "|".join(sources.GREYSCALE)
        text = re.sub(rf"\b(?:config\.)?data\.({names})\b", r"--\1", str(error)).replace('nan="low"', "--nan=low")
        text = re.sub(r"(?:\bset )?\bconfig\.data\.", "--set ", text)
        raise UserError(text) from error
