"""What a sampler is told beside the numbers of its images: classes, and one value of everything else for all images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import LABEL, VIEW, Field
from medgen_jax.sampler_inputs import IMAGE, UNKNOWN
from medgen_jax.synthesis.folder import PICTURES
from medgen_jax.synthesis.runs import CODE, NUMBER

#: Instead of a class: each of them in turn.
ALL = "all"
#: What is filled in here, for every image.
_COUNTED = (NUMBER, CODE, IMAGE, LABEL)
#: What is meant when nothing is said: codes as they are drawn; no guidance.
_DEFAULTS = {"truncation": "1", "scale": "0"}


class Classes(NamedTuple):
    """The classes to draw.

    Attributes:
      labels: what the sampler is told, in turn; empty where it is told no class.
      names: of each.
      folders: of each its folder; empty where all images lie in one.
    """

    labels: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


def classes_of(word: str | None, inputs: Mapping[str, Field], known: Sequence[str]) -> Classes:
    """The classes that a word means.

    Args:
      word: a class by name or place, ``unknown`` where the sampler takes it, `ALL`, or None for nothing said.
      inputs: what the sampler takes.
      known: names of the run's classes.

    Raises:
      UserError: no such class, none where one is needed, or one where none is told.
    """
    if LABEL not in inputs:
        if word is not None:
            raise UserError(f"--class {word}: this run draws all classes together, it is told none; leave --class out")
        return Classes()
    unknown = (UNKNOWN,) if inputs[LABEL].unknown else ()
    listed = ", ".join((*known, *unknown, ALL)) if known else "the number of one, because the run has no names for them"
    if word is None:
        raise UserError(f"--class is missing: {listed}")
    if word == ALL:
        if not known:
            raise UserError(f"--class {ALL}: the run does not say which classes there are; give {listed}")
        return Classes(tuple(range(len(known))), tuple(known), tuple(_folders(known)))
    if word in known:
        return Classes((list(known).index(word),), (word,))
    if word in unknown:
        return Classes((-1,), (word,))
    if not word.isdecimal() or (known and int(word) >= len(known)):
        raise UserError(f"--class {word}: is no class of this run; there are: {listed}")
    return Classes((int(word),), (known[int(word)] if known else word,))


def constants_of(
    texts: Mapping[str, str], inputs: Mapping[str, Field], data: DataConfig, sampler: str
) -> dict[str, np.ndarray]:
    """A scalar of its own dtype for everything that is the same for all images.

    Args:
      texts: input -> value as a user types it: a number, the name of a view, or ``unknown``.
      inputs: what the sampler takes.
      data: names of views.
      sampler: what messages call it.

    Raises:
      UserError: an input without a value, a value without an input, or one that does not fit.
    """
    wanted = [name for name in inputs if name not in _COUNTED]
    for name in texts:
        if name == LABEL:
            raise UserError(f"--set {LABEL}: is what --class says; give --class {texts[name]}")
        if name not in wanted:
            have = ", ".join(wanted) or "none"
            raise UserError(f"{name}: sampler {sampler!r} is told no such value; those it is told are: {have}")
    return {name: _value(name, texts.get(name), inputs[name], _names(name, data)) for name in wanted}


def _names(name: str, data: DataConfig) -> tuple[str, ...]:
    return tuple(data.views) if name == VIEW else ()


def _value(name: str, text: str | None, field: Field, names: Sequence[str]) -> np.ndarray:
    if field.shape:
        raise UserError(
            f"this sampler also needs {name}, an array of shape {field.shape} for every image: call it from Python "
            "(medgen_jax.sampling.load_sampler)"
        )
    if text is None:
        text = _DEFAULTS.get(name, UNKNOWN if field.unknown else None)
    if text is None:
        raise UserError(f"this sampler also needs {name}; add --set {name}={'|'.join(names) or 'NUMBER'}")
    if text in names:
        return np.asarray(list(names).index(text), field.dtype)
    if field.unknown and text == UNKNOWN:
        return np.asarray(-1, field.dtype)
    try:
        value = np.asarray(int(text) if jnp.issubdtype(field.dtype, jnp.integer) else float(text), field.dtype)
    except (ValueError, OverflowError):
        value = None
    if value is None or not np.isfinite(value) or (names and not 0 <= value < len(names)):
        number = "a whole number" if jnp.issubdtype(field.dtype, jnp.integer) else "a number"
        raise UserError(f"{name} = {text}: expected {'one of ' + ', '.join(names) if names else number}")
    return value


def _folders(names: Sequence[str]) -> list[str]:
    """Names of classes as names of folders, no two alike, none hidden."""
    made = [PICTURES]
    for name in names:
        plain = "".join("_" if letter in "/\\\0:" else letter for letter in name).strip(" .") or "class"
        endings = ("", *(f"_{i}" for i in range(2, len(names) + 3)))
        made.append(next(plain + ending for ending in endings if plain + ending not in made))
    return made[1:]
