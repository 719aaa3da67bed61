"""The forms of the command ``evaluate``: which flags belong together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medgen_jax.core.errors import UserError

OF_SETS = ("real", "fake", "train", "held_out", "patients", "save_statistics")
OF_RUNS = ("split", "sampler", "data", "study")
OF_COUNTERFACTUALS = ("judge", "train_boxes")
OF_SYNTHESIS = ("judge", "n", "tstr", "data", "study")
#: Flag that chooses a form -> other flags of that form, and what they are about.
_FORMS = {
    "counterfactuals": (OF_COUNTERFACTUALS, "counterfactuals"),
    "workdir": (OF_RUNS, "a run"),
    "workdirs": (OF_SYNTHESIS, "runs side by side"),
    None: (OF_SETS, "folders of images"),
}
#: Study -> the flag that chooses its form.
_STUDIES = {"noise": "workdir", "medstylegan2": "workdirs"}


def require_one(given: Mapping[str, Any]) -> None:
    """Refuse flags that belong to another form of the command, and missing ones.

    Args:
      given: the flags above, and ``counterfactuals``, ``workdir``, ``workdirs`` and ``output``; None or empty where
        not given.

    Raises:
      UserError: naming the flag.
    """
    form = next((name for name in _FORMS if name and given[name]), None)
    for chooser, (names, about) in _FORMS.items():
        for name in (*names, *([chooser] if chooser else ())) if chooser != form else ():
            if not given[name] or name in _FORMS[form][0]:
                continue
            if form is None:
                raise UserError(f"--{name} is about {about}: --{chooser} is missing")
            raise UserError(f"--{name} does not go with --{form}")
    if (study := given["study"]) and _STUDIES[study] != form:
        raise UserError(f"--study {study}: does not go with --{form}; give --{_STUDIES[study]}")
    needed = {
        "counterfactuals": {"output": "a folder for results"},
        "workdir": {},
        "workdirs": {"study": "medstylegan2", "output": "a folder for results"},
        None: {"fake": "a folder of generated images, or --workdir RUN", "output": "a folder for results"},
    }[form]
    if form is None and not given["fake"] and given["save_statistics"]:
        return
    for name, meaning in needed.items():
        if not given[name]:
            raise UserError(f"--{name} is missing: {meaning}")
