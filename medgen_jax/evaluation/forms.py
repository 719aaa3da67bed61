"""The forms of the command ``evaluate``: which flags belong together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medgen_jax.core.errors import UserError

OF_SETS = ("real", "fake", "train", "held_out", "patients", "save_statistics")
OF_RUNS = ("split", "sampler", "data", "study")
OF_COUNTERFACTUALS = ("judge", "train_boxes")
#: Flag that chooses a form -> other flags of that form, and what they are about.
_FORMS = {
    "counterfactuals": (OF_COUNTERFACTUALS, "counterfactuals"),
    "workdir": (OF_RUNS, "a run"),
    None: (OF_SETS, "folders of images"),
}


def require_one(given: Mapping[str, Any]) -> None:
    """Refuse flags that belong to another form of the command, and missing ones.

    Args:
      given: the flags above, and ``counterfactuals``, ``workdir`` and ``output``; None or empty where not given.

    Raises:
      UserError: naming the flag.
    """
    form = next((name for name in ("counterfactuals", "workdir") if given[name]), None)
    for chooser, (names, about) in _FORMS.items():
        for name in (*names, *([chooser] if chooser else ())) if chooser != form else ():
            if not given[name]:
                continue
            if form is None:
                raise UserError(f"--{name} is about {about}: --{chooser} is missing")
            raise UserError(f"--{name} does not go with --{form}")
    needed = {
        "counterfactuals": {"output": "a folder for results"},
        "workdir": {},
        None: {"fake": "a folder of generated images, or --workdir RUN", "output": "a folder for results"},
    }[form]
    if form is None and not given["fake"] and given["save_statistics"]:
        return
    for name, meaning in needed.items():
        if not given[name]:
            raise UserError(f"--{name} is missing: {meaning}")
