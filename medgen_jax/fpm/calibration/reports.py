"""Whether a calibration is believed, and what it says: held-out LEDs decide, in doubt for the nominal value."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from medgen_jax.fpm.calibration.trials import Trials, heldout
from medgen_jax.fpm.optics import Optics

#: Standard errors by which the held-out residual must fall.
SURE = 3.0
#: Share of the held-out residual that must go: less makes no difference to a picture.
WORTH = 0.01


class Report(NamedTuple):
    """What one calibration found.

    Attributes:
      name: of the calibration.
      kept: whether what was found is in use; False: the nominal value is.
      before, after: residuals of LEDs held out, with the nominal value and with what was found; NaN where nothing
        was tried.
      values: plain numbers, text and lists: what was nominal and what was found.
      said: a sentence for people.
    """

    name: str
    kept: bool
    before: float
    after: float
    values: dict[str, Any]
    said: str

    def to_mapping(self) -> dict[str, Any]:
        """Everything as plain values for a JSON file; numbers that are none become None."""
        numbers = {"before": self.before, "after": self.after}
        plain = {name: float(value) if np.isfinite(value) else None for name, value in numbers.items()}
        return {"kept": self.kept, **plain, **self.values, "said": self.said}


class Verdict(NamedTuple):
    """Two candidates compared on the same LEDs.

    Attributes:
      before, after: their residuals.
      errors: by how many standard errors the second is lower: of the mean logarithm of the ratio of relative errors,
        LED by LED, which a few bright frames cannot decide alone.
    """

    before: float
    after: float
    errors: float

    @property
    def fell(self) -> bool:
        """Whether the second is lower beyond noise, and by more than nothing."""
        return self.errors > SURE and self.after < (1 - WORTH) * self.before

    def words(self) -> str:
        """Both residuals, and how sure the difference is."""
        if not np.isfinite(self.after):
            return "what was found leaves the spectrum"
        return (
            f"residual of LEDs held out {self.before:.4g}, then {self.after:.4g}, LED by LED lower by "
            f"{self.errors:.1f} standard errors"
        )


def compared(relative: np.ndarray, weights: np.ndarray) -> Verdict:
    """The verdict on two candidates.

    Args:
      relative: (2, m) relative errors of LEDs.
      weights: (2, m) of the LEDs, alike for both but for rounding.
    """
    shares = weights[0] / weights[0].sum()
    before, after = relative @ shares
    if not np.isfinite(relative).all():
        return Verdict(float(before), float(after), float("-inf"))
    ratios = np.log(np.maximum(relative[0], 1e-30) / np.maximum(relative[1], 1e-30))
    error = ratios.std(ddof=1) / np.sqrt(len(ratios)) if len(ratios) > 1 else np.inf
    return Verdict(float(before), float(after), float(ratios.mean() / max(error, 1e-12)))


def judged(trials: Trials, before: Optics, after: Optics) -> Verdict:
    """Compare two microscopes on LEDs that their solutions have not seen."""
    return compared(*heldout(trials, (before, after)))
