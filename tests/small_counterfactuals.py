"""Folders of counterfactuals whose every residual is chosen by hand."""

from __future__ import annotations

import numpy as np

from medgen_jax.data import counterfactual_folders as folders
from medgen_jax.data.counterfactual_folders import Arrays, Entry

NORMAL, OPACITY = "NORMAL", "OPACITY"


def texture(seed, size=24):
    """Noise of standard deviation .1 around grey, within [-.3, .3]; (size, size, 1) float32."""
    return np.float32(np.clip(np.random.default_rng(seed).normal(0, 0.1, (size, size, 1)), -0.3, 0.3))


def write(folder, images, *, settings=None, target=NORMAL):
    """A folder as the command leaves it.

    Args:
      folder: where.
      images: dicts of ``image``, ``counterfactual``, ``control`` (arrays) and fields of an entry.
      settings, target: what made it, and the class it was decoded as.
    """
    entries = []
    for i, given in enumerate(images):
        name = given.get("name", f"doe-{i}")
        folders.write_arrays(folder, name, Arrays(*(given[part] for part in Arrays._fields)))
        known = {key: value for key, value in given.items() if key not in (*Arrays._fields, "name")}
        entries.append(Entry(name, source={"label": None}, target={"label": target}, **known))
    folders.write_scores(folder, {"target": target} | (settings or {}), entries)
    return folder


def shifted(seed, shift, control=0.0, size=24, **known):
    """An image that guidance darkened everywhere by ``shift``, and the unguided round trip by ``control``."""
    image = texture(seed, size)
    return {
        "image": image,
        "counterfactual": image - np.float32(shift),
        "control": image - np.float32(control),
        **known,
    }
