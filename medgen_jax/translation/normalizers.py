"""Stain normalisers as samplers, so that whatever is done for translators is done for them: files, slides, pages.

Each image is measured and given the look of the target; tiles of a large image or a slide are measured together,
so that one transform holds for all of it. After that every pixel goes its own way: neither the tiles nor their
overlap can be seen in the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax

from medgen_jax import stain
from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Field
from medgen_jax.ops.scale import to_unit
from medgen_jax.sampling import LoadedSampler
from medgen_jax.translation import translator
from medgen_jax.translation.translator import Translator

PyTree = Any
Inputs = Mapping[str, jax.Array]

#: Side of tiles, pixels; images of up to so many of their areas are not cut, 2048 x 2048 pixels.
TILE, WHOLE_AREAS = 512, 16
#: The normaliser that is trained: `medgen_jax.systems.stain_classifier`.
LEARNED = "lstainnorm"

_KIND = "Stain normalisation"
_DATA = DataConfig()


def of_method(name: str, target: PyTree, about: str, data: DataConfig = _DATA) -> Translator:
    """A classical method and a target as what is applied to files.

    Args:
      name: one of `medgen_jax.stain.METHODS`.
      target: look of that method, pooled.
      about: what the page calls the target.
      data: how values become levels where samples are not 8 or 16 bits (``range_low``, ``range_high``).

    Raises:
      UserError: an unknown method.
    """
    facts = {"Method": name, "Target": about}
    return Translator(
        sampler(name, target, data),
        f"{name.capitalize()}, to {about}",
        facts,
        kind=_KIND,
        origin=_origin(name),
        dark="white glass is taken for stain: stretch them to the full range first",
        overlap=0,
        whole_areas=WHOLE_AREAS,
        needs_tissue=True,
    )


def of_run(workdir: str | Path, which: str | int = "last") -> Translator:
    """The learned normaliser of a ``stain_classifier`` run.

    Raises:
      UserError: as `medgen_jax.sampling.load_sampler`.
    """
    found = translator.of_run(workdir, "normalize", which)
    function = _of_colours(found.model.function)
    model = replace(found.model, function=function, jitted=jax.jit(function))
    facts = {"Method": LEARNED, "Run": found.title, "Checkpoint": str(which)}
    return replace(found, model=model, facts=facts, kind=_KIND, origin=_origin(LEARNED), needs_tissue=True)


def sampler(name: str, target: PyTree, data: DataConfig = _DATA) -> LoadedSampler:
    """A classical method as a sampler: ``{"image": (b, h, w, 3)}`` -> recoloured images in [-1, 1].

    Its variables are the looks ``target`` and, once pooled, ``source``; without that each image is measured by itself.

    Args:
      name, target, data: as in `of_method`.

    Raises:
      UserError: an unknown method; when called, images that are not of three channels.
    """
    method = stain.load(name)

    def attempt(variables: PyTree, inputs: Inputs, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        made = method.transform(variables["target"], _from_zero(inputs["image"]), variables.get("source"))
        return 2 * made.images - 1, made.ok

    def function(variables: PyTree, inputs: Inputs, key: jax.Array) -> jax.Array:
        return attempt(variables, inputs, key)[0]

    def measure(image: jax.Array) -> PyTree:
        return jax.tree.map(lambda x: x[0], method.measure(_from_zero(image[None])))

    def pool(variables: PyTree, inputs: Inputs, key: jax.Array) -> PyTree:
        # One by one, so that memory does not grow with their number.
        return {**variables, "source": method.pool(jax.lax.map(measure, inputs["image"]))}

    function, attempt = _of_colours(function), _of_colours(attempt)
    return LoadedSampler(
        name, "stain normalisation", SimpleNamespace(data=data), {"target": target}, function, jax.jit(function),
        {"image": Field((TILE, TILE, 3), "uint8")}, jax.jit(pool), jax.jit(attempt),
    )  # fmt: skip


def _of_colours(function: Any) -> Any:
    """The function, which refuses what has no colours."""

    def checked(variables: PyTree, inputs: Inputs, key: jax.Array) -> Any:
        if (channels := inputs["image"].shape[-1]) != 3:
            raise UserError(
                f"has {channels} channel{'s' if channels > 1 else ''}, and stains are told apart by their colours; "
                "give RGB images"
            )
        return function(variables, inputs, key)

    return checked


def _from_zero(image: jax.Array) -> jax.Array:
    """Raw samples, or floats in [-1, 1], in [0, 1]."""
    return (to_unit(image) + 1) / 2


def _origin(name: str) -> str:
    return f"Recoloured image: stain normalisation ({name}) of a scanned slide, not the colours that were scanned."
