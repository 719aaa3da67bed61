"""Encoded images, kept beside what they were made with, so that another strength or target needs no new encoding."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgen_jax.data.counterfactual_folders import write_npz

FOLDER = "latents"


@dataclass(frozen=True, eq=False)
class Latent:
    """An encoded image.

    Attributes:
      states: one array (h, w, c), or two (EDICT, BDIA).
      control: (h, w, c), what comes back unguided.
      depth: noising steps.
      numbers: of the encoding, by name.
    """

    states: tuple[np.ndarray, ...]
    control: np.ndarray
    depth: int
    numbers: Mapping[str, float]


def save(folder: Path, name: str, latent: Latent, key: Mapping[str, Any]) -> None:
    """Write a latent, whole or not at all.

    Args:
      folder: of the results.
      name: of the image.
      latent: what is kept.
      key: what it was made with, JSON types.
    """
    states = {f"latent_{i}": state for i, state in enumerate(latent.states)}
    about = json.dumps({"key": dict(key), "depth": latent.depth, "numbers": dict(latent.numbers)}, sort_keys=True)
    write_npz(_file(folder, name), {**states, "control": latent.control, "about": np.array(about)})


def load(folder: Path, name: str, key: Mapping[str, Any]) -> tuple[Latent | None, str]:
    """What `save` wrote, and why not.

    Returns:
      The latent where it was made with ``key``, else None; and of a latent that was not, which part of the key
      differs. No file, no reason.
    """
    file = _file(folder, name)
    if not file.is_file():
        return None, ""
    try:
        with np.load(file, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            wanted = json.loads(json.dumps(dict(key)))
            differ = sorted(k for k in {*wanted, *about["key"]} if wanted.get(k) != about["key"].get(k))
            if differ:
                return None, f"made with another {', '.join(differ)}"
            states = tuple(stored[k] for k in sorted(k for k in stored.files if k.startswith("latent_")))
            found = Latent(states, stored["control"], int(about["depth"]), about["numbers"])
    # The reader raises nearly every type on damaged files.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        return None, "damaged"
    good = states and all(np.shape(a) == np.shape(found.control) and np.isfinite(a).all() for a in states)
    return (found, "") if good else (None, "damaged")


def together(latents: Sequence[Latent]) -> Any:
    """Latents of a batch as a decoder takes them: (b, h, w, c), or a pair of such arrays."""
    states = tuple(np.stack(parts) for parts in zip(*(latent.states for latent in latents), strict=True))
    return states[0] if len(states) == 1 else states


def _file(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.npz"
