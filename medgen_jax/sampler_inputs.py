"""What a sampler takes beside images: refused where it is missing, checked, or said once for all images.

Most samplers take ``image`` alone. One that is told a class as well declares ``label`` (`System.sampler_inputs`);
whoever has images only, as the commands do, fixes the rest: ``with_constants(sampler, {"label": "NORMAL"})``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import LABEL, Field

if TYPE_CHECKING:
    from medgen_jax.sampling import LoadedSampler

PyTree = Any

IMAGE = "image"
#: What `with_constants` takes for -1, of inputs that may be unknown.
UNKNOWN = "unknown"


def require_all(given: Mapping[str, Any], inputs: Mapping[str, Field]) -> None:
    """Refuse inputs of which one is missing.

    Raises:
      UserError: naming those that are missing.
    """
    if missing := sorted(set(inputs) - set(given)):
        raise UserError(f"inputs are {sorted(given)}; this sampler also needs {missing}")


def complete(function: Any, inputs: Mapping[str, Field]) -> Any:
    """``function(variables, inputs, key)``, which refuses, whoever calls it, to be traced while an input is missing."""

    @functools.wraps(function)
    def checked(variables: PyTree, given: Mapping[str, Any], key: Any) -> Any:
        require_all(given, inputs)
        return function(variables, given, key)

    return checked


def converted(
    given: Mapping[str, Any], inputs: Mapping[str, Field], classes: Sequence[str] | None = None
) -> dict[str, Any]:
    """Inputs as arrays: images as they are, lists and NumPy arrays of anything else in the dtype of the sampler.

    Args:
      given: input name -> batch; what the sampler does not know is passed on.
      inputs: one record of each.
      classes: what ``label`` counts; unknown, and so not checked, when empty. Values of device arrays are not looked
        at, which would wait for them.

    Raises:
      UserError: no dict, an input that is missing, of another shape or kind, or a class that there is not.
    """
    if not isinstance(given, Mapping):
        raise UserError(f"a sampler takes a dict such as {{'image': array}}, not {type(given).__name__}")
    require_all(given, inputs)
    found = dict(given)
    for name, field in inputs.items():
        value = given[name]
        if len(field.shape) == 3:
            _check_images(name, value)
        else:
            found[name] = _others(name, value, field, classes or ())
    counts = {name: np.shape(found[name])[0] for name in inputs}
    if len(set(counts.values())) > 1:
        raise UserError(f"inputs have different numbers of records: {counts}")
    return found


def _check_images(name: str, image: Any) -> None:
    if np.ndim(image) != 4:
        raise UserError(f"{name!r} has shape {np.shape(image)}; a batch (b, h, w, c) is needed")
    if not hasattr(image, "dtype"):
        raise UserError(f"{name!r} is a {type(image).__name__}; make an array of it, of uint8, uint16 or float32")
    # Only host arrays: looking at device arrays would wait for them. Other inputs of this shape may be noise.
    floats = name == IMAGE and isinstance(image, np.ndarray) and image.dtype.kind == "f"
    if floats and image.size and not np.abs(image).max() <= 1.001:
        raise UserError(f"{name!r} holds floats outside [-1, 1]: scale them, or pass uint8 or uint16")


def _others(name: str, value: Any, field: Field, classes: Sequence[str]) -> Any:
    on_host = not isinstance(value, jax.Array)
    array = np.asarray(value) if on_host else value
    if array.shape[1:] != field.shape or array.ndim == 0 or not _fits(array.dtype, field.dtype):
        wanted = f"{field.dtype} ({', '.join(('any number', *map(str, field.shape)))})"
        counted = f": of each image the place of its class in {', '.join(classes)}" if name == LABEL and classes else ""
        raise UserError(f"{name!r} is {array.dtype} {array.shape}; this sampler takes {wanted}{counted}")
    if not on_host:
        return array
    lowest = -1 if field.unknown else 0
    if name == LABEL and classes and array.size and (array.min() < lowest or array.max() >= len(classes)):
        wrong = array.min() if array.min() < lowest else array.max()
        unknown = f"; -1 is {UNKNOWN}" if field.unknown else ""
        listed = f"{', '.join(classes)}{unknown}"
        raise UserError(f"{name!r} holds {wrong}; the classes are 0 to {len(classes) - 1}: {listed}")
    return array.astype(field.dtype)


def _fits(found: Any, wanted: str) -> bool:
    """Whether values of one dtype may stand for another: whole numbers for each other and for floats."""
    if jnp.issubdtype(wanted, jnp.integer):
        return jnp.issubdtype(found, jnp.integer)
    return jnp.issubdtype(found, jnp.integer) or jnp.issubdtype(found, jnp.floating)


# -- images alone -----------------------------------------------------------------------------------


def beside_images(sampler: LoadedSampler) -> list[str]:
    """Names of what a sampler takes beside ``image``."""
    return [name for name in sampler.inputs if name != IMAGE]


def require_images_alone(sampler: LoadedSampler, remedy: str = "") -> None:
    """Refuse a sampler that needs more than images, or none.

    Raises:
      UserError: naming what it needs.
    """
    if IMAGE not in sampler.inputs:
        raise UserError(f"sampler {sampler.name!r} takes no image but {', '.join(sampler.inputs) or 'nothing'}")
    if others := beside_images(sampler):
        raise UserError(f"sampler {sampler.name!r} takes more than an image: it also needs {', '.join(others)}{remedy}")


def with_constants(sampler: LoadedSampler, texts: Mapping[str, str]) -> LoadedSampler:
    """A sampler of images alone: each of its other inputs has one value for all images.

    Args:
      sampler: one that takes ``image``.
      texts: input -> value as a user types it: a number, or of ``label`` the name of a class.

    Raises:
      UserError: an input without a value, one that the sampler does not take or that is no single number, or a value
        that is none.
    """
    others = beside_images(sampler)
    if strangers := [name for name in texts if name not in others]:
        have = ", ".join(others) or "nothing"
        raise UserError(f"--set {strangers[0]}: sampler {sampler.name!r} takes {have} beside images")
    classes = tuple(getattr(sampler.config.data, "classes", ()))
    for name in others:
        if sampler.inputs[name].shape:
            raise UserError(
                f"sampler {sampler.name!r} also needs {name}, an array of shape {sampler.inputs[name].shape} for every "
                "image, which --set cannot give: call it from Python (medgen_jax.sampling.load_sampler)"
            )
    if any(name not in texts for name in others):
        said = " ".join(f"--set {name}={_example(name, classes)}" for name in others if name not in texts)
        require_images_alone(sampler, f"; add {said}{_listed(LABEL in others, classes)}")
    if not others:
        return sampler
    constants = {name: _number(name, texts[name], sampler.inputs[name], classes) for name in others}

    def of_images(function: Any) -> Any:
        def bound(variables: PyTree, given: Mapping[str, jax.Array], key: jax.Array) -> Any:
            count = given[IMAGE].shape[0]
            return function(variables, {**given, **{n: jnp.full((count,), v) for n, v in constants.items()}}, key)

        return bound

    function = of_images(sampler.function)
    pool, attempt = (jax.jit(of_images(part)) if part else None for part in (sampler.pool, sampler.attempt))
    inputs = {IMAGE: sampler.inputs[IMAGE]}
    return dataclasses.replace(
        sampler, function=function, jitted=jax.jit(function), inputs=inputs, pool=pool, attempt=attempt
    )


def _number(name: str, text: str, field: Field, classes: Sequence[str]) -> np.ndarray:
    counts_classes, whole = name == LABEL and bool(classes), jnp.issubdtype(field.dtype, jnp.integer)
    if counts_classes and text in classes:
        return np.asarray(classes.index(text), field.dtype)
    if field.unknown and text == UNKNOWN:
        return np.asarray(-1, field.dtype)
    try:
        value = np.asarray(int(text) if whole else float(text), field.dtype)
    except (ValueError, OverflowError):
        value = None
    if value is None or not np.isfinite(value) or (counts_classes and not 0 <= value < len(classes)):
        wanted = "no class" if counts_classes else "no whole number" if whole else "no number"
        raise UserError(f"--set {name}={text}: is {wanted}{_listed(counts_classes, classes)}")
    return value


def _example(name: str, classes: Sequence[str]) -> str:
    return "CLASS" if name == LABEL and classes else "NUMBER"


def _listed(of_classes: bool, classes: Sequence[str]) -> str:
    return f" (the classes are {', '.join(classes)})" if of_classes and classes else ""
