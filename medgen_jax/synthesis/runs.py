"""Whose sampler draws."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medgen_jax import systems
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Field
from medgen_jax.engine import restore
from medgen_jax.engine.restore import OpenRun
from medgen_jax.sampler_inputs import IMAGE

#: Which of a key's images is wanted; a code of random numbers.
NUMBER, CODE = "number", "z"
#: Samplers: images out of noise; images of given codes.
SAMPLE, LATENT = "sample", "latent"
_TRANSLATES = re.compile(r"\w+2\w+")


@dataclass(frozen=True, eq=False)
class Run(OpenRun):
    """A run that can draw.

    Attributes:
      sampler: name of the one that draws.
    """

    sampler: str

    @property
    def inputs(self) -> Mapping[str, Field]:
        """What the sampler takes."""
        return self.system.sampler_inputs[self.sampler]

    @property
    def image(self) -> Field:
        """One image of the training data."""
        stream = next(iter(self.system.streams.values()))
        return next(field for _, field in stream.fields if len(field.shape) == 3)


def open_run(workdir: str | Path) -> Run:
    """A run that can draw.

    That is one with a sampler that takes numbers or codes: ``sample``, out of noise alone, or any beside images.

    Raises:
      UserError: no run, or one whose samplers draw nothing; it names the command that applies them.
    """
    system, config = restore.open_run(workdir)
    kind, known = systems.name_of(config), system.sampler_inputs
    drawing = [
        name for name, takes in known.items() if {NUMBER, CODE} & set(takes) and (IMAGE in takes or name == SAMPLE)
    ]
    chosen = SAMPLE if SAMPLE in drawing else next(iter(drawing), None)
    if chosen is None:
        command = "translate" if any(_TRANSLATES.fullmatch(name) for name in known) else "evaluate"
        raise UserError(
            f"{workdir}: a run of {kind} draws no images, it has the sampler{'s' if len(known) > 1 else ''} "
            f"{', '.join(known) or 'none'}: use python -m medgen_jax.{command}"
        )
    return Run(Path(workdir).expanduser(), kind, system, config, chosen)
