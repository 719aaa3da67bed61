"""Under which conditions a number was made.

FID of one pair of sets changes with the weights, the resize, the number of images and the reference, often by more
than what is to be measured. Numbers therefore carry their conditions, as a dict and as a short string; two of them may
be compared when nothing but the generated set differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import medgen_jax

Conditions = dict[str, Any]

#: How each protocol scales pixel values v of 0..255 for the network.
SCALING = {"torch-fidelity": "(v-128)/128", "clean-fid": "(v-128)/128", "pytorch-fid": "v/127.5-1"}

#: Condition -> (its name for reading, why a difference matters), in the order in which they are printed.
_MEANING = {
    "metric": ("metric", "other quantities"),
    "network": ("network", "other features"),
    "weights": ("weights", "other features"),
    "resize": ("resize", "changes FID by more than many differences between generators"),
    "scaling": ("scaling", "other features"),
    "quantisation": ("quantisation", "other pixels"),
    "values": ("pixel values", "other roundings"),
    "settings": ("settings", "another definition"),
    "source": ("disturbance of the sources", "other inputs"),
    "split": ("split", "other images"),
    "n_real": ("number of real images", "bias and spread depend on it"),
    "n_fake": ("number of generated images", "bias and spread depend on it"),
    "reference": ("reference images", "another yardstick"),
    "seed": ("seed", "other random draws in intervals, subsets and samplers"),
    "version": ("version of medgen_jax", "definitions may have changed"),
}
#: What an evaluation is about, and so is meant to differ.
_JUDGED = ("fake", "run")
_HASHES = ("weights", "reference", "fake")


def conditions(metric: str, **found: Any) -> Conditions:
    """The conditions of one number, in canonical order and without those that do not apply.

    Args:
      metric: its name.
      found: any of ``network`` (name), ``weights`` (sha256), ``resize``, ``scaling``, ``quantisation``, ``values``
        (what of paired images is compared), ``settings`` (such as ``k=5``), ``source`` (what was done to a sampler's
        inputs), ``split``, ``n_real``, ``n_fake``, ``reference`` and ``fake`` (sha256 of the contents), ``run`` (what
        made the images) and ``seed``.

    Raises:
      KeyError: for a condition of another name.
    """
    given = {**found, "metric": metric, "version": medgen_jax.__version__}
    if unknown := sorted(set(given) - {*_MEANING, *_JUDGED}):
        raise KeyError(f"no such condition: {unknown[0]}")
    return {name: given[name] for name in (*_MEANING, *_JUDGED) if given.get(name) is not None}


def text(found: Mapping[str, Any]) -> str:
    """The conditions in one short line: hashes by 8 digits, both numbers of images as N=real/fake."""
    short = {name: str(value)[:8] if name in _HASHES else value for name, value in found.items()}
    parts = [str(short.get("metric", "?"))]
    if "network" in short:
        parts.append(f"{short['network']} w={short.get('weights', '?')}")
    parts += [
        str(short[name])
        for name in ("resize", "scaling", "quantisation", "values", "settings", "source")
        if name in short
    ]
    parts += [f"split={short['split']}"] if "split" in short else []
    parts.append(f"N={short.get('n_real', '?')}/{short.get('n_fake', '?')}")
    parts += [f"{label}={short[name]}" for name, label in (("reference", "real"), ("fake", "fake")) if name in short]
    parts += [str(short["run"])] if "run" in short else []
    parts += [f"seed={short['seed']}"] if "seed" in short else []
    return "|".join([*parts, f"medgen_jax {short.get('version', '?')}"])


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """In words, what makes two numbers incomparable: every condition that differs but the generated images.

    Args:
      a, b: what `conditions` returned, perhaps read from ``metrics.json``.
    """
    found = []
    for name, (label, reason) in _MEANING.items():
        if a.get(name) != b.get(name):
            one, other = (_shown(name, side.get(name)) for side in (a, b))
            found.append(f"{label}: {one} against {other} ({reason})")
    return found


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "none"
    return str(value)[:8] if name in _HASHES else str(value)
