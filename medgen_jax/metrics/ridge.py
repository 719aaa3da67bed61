"""Ridge regression in closed form, its penalty chosen by leaving patients out. NumPy in float64 on the host.

The features are standardised by the training records, Z = (X - mean) / scale, and the intercept is free:

    w = argmin |y - mean(y) - Z w|^2 + penalty |w|^2

(Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2009, section 3.4.1). One singular value
decomposition Z = U S V' serves all penalties, w = V diag(s / (s^2 + penalty)) U' y, and so does the choice among them:
with the hat matrix H = 1/n + U diag(s^2 / (s^2 + penalty)) U' and the residuals e, the errors on the records G of one
patient, had the patient not been there, are (I - H_GG)^-1 e_G. Scales stay those of all training records; they know
nothing of the scores.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from medgen_jax.core.errors import UserError

#: Candidates, in units of the number of features, so that a set of features may grow without moving them; falling.
PENALTIES = tuple(10.0**k for k in np.arange(4, -4.5, -0.5))
_UNLIMITED = (-np.inf, np.inf)
_FLAT = 1e-9  # spread of a feature, relative to its size, that is rounding


class Ridge(NamedTuple):
    """A fitted regression, float64.

    Attributes:
      weights: (f,) scores per standard deviation of each feature; 0 of those that did not vary.
      mean, scale: (f,) of the training features.
      intercept: mean of the training scores.
      penalty: the one that was chosen.
      limits: of the answers.
    """

    weights: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    intercept: float
    penalty: float
    limits: tuple[float, float]


def fit(
    features: Float[np.ndarray, "n f"],
    scores: Float[np.ndarray, "n"],
    patients: Sequence[Hashable] | None = None,
    *,
    penalties: Sequence[float] = PENALTIES,
    limits: tuple[float, float] = _UNLIMITED,
) -> Ridge:
    """Fit to the training records, and to nothing else.

    Args:
      features: finite.
      scores: finite.
      patients: (n,) whose record each is; all of one patient are left out together. None: each is its own.
      penalties: candidates, positive, each to be multiplied by f. The one with the least mean squared error on
        patients left out is taken, the largest of equals; a single one is taken unasked.
      limits: lowest and highest score there is.

    Raises:
      UserError: shapes that do not fit, values that are not finite, penalties that are not positive, or a
        choice with fewer than two patients.
    """
    features, scores = _checked(features, scores)
    groups = _members(patients, len(scores))
    candidates = sorted((float(p) * features.shape[1] for p in penalties), reverse=True)
    if not candidates or not candidates[-1] > 0:
        raise UserError(f"ridge: penalties {tuple(penalties)}: they must be positive")
    if len(candidates) > 1 and len(groups) < 2:
        raise UserError("ridge: the penalty is chosen by leaving patients out, and there is one only; add patients")
    mean, spread = features.mean(0), features.std(0)
    scale = np.where(spread > _FLAT * np.abs(features).max(0), spread, np.inf)
    left, values, right = np.linalg.svd((features - mean) / scale, full_matrices=False)
    intercept = float(scores.mean())
    along = left.T @ (scores - intercept)
    penalty = candidates[0]
    if len(candidates) > 1:
        shrunk = np.stack([values**2 / (values**2 + p) for p in candidates])
        errors = _left_out_errors(left, shrunk, scores - intercept - (shrunk * along) @ left.T, groups)
        wrong = np.square(scores - np.clip(scores - errors, *limits)).mean(1)
        penalty = candidates[int(np.flatnonzero(wrong <= wrong.min() * (1 + 1e-9))[0])]
    weights = right.T @ (values / (values**2 + penalty) * along)
    return Ridge(weights, mean, scale, intercept, penalty, limits)


def predict(model: Ridge, features: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n"]:
    """Scores of other records, within the model's limits."""
    standard = (np.asarray(features, np.float64) - model.mean) / model.scale
    return np.clip(model.intercept + standard @ model.weights, *model.limits)


def _left_out_errors(
    left: np.ndarray, shrunk: Float[np.ndarray, "p r"], residuals: Float[np.ndarray, "p n"], groups: list[np.ndarray]
) -> Float[np.ndarray, "p n"]:
    """Errors on every record by the fit to all other patients, under each of p penalties."""
    errors = np.empty_like(residuals)
    for members in groups:
        own = left[members]
        hat = 1 / len(left) + (own * shrunk[:, None]) @ own.T
        solved = np.linalg.solve(np.eye(len(members)) - hat, residuals[:, members, None])
        errors[:, members] = solved[..., 0]
    return errors


def _members(patients: Sequence[Hashable] | None, count: int) -> list[np.ndarray]:
    """Indices of each patient's records."""
    if patients is None:
        return [np.array([i]) for i in range(count)]
    if len(patients) != count:
        raise UserError(f"ridge: {len(patients)} patients for {count} records; give one each")
    places: dict[Hashable, list[int]] = {}
    for index, patient in enumerate(patients):
        places.setdefault(patient, []).append(index)
    return [np.array(own) for own in places.values()]


def _checked(features: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features, scores = np.asarray(features, np.float64), np.asarray(scores, np.float64)
    if features.ndim != 2 or scores.shape != features.shape[:1] or not features.size:
        raise UserError(f"ridge: features have shape {features.shape} and scores {scores.shape}; give (n, f) and (n,)")
    bad = np.flatnonzero(~(np.isfinite(features).all(1) & np.isfinite(scores)))
    if len(bad):
        raise UserError(f"ridge: record {bad[0]} holds NaN or infinity ({len(bad)} of {len(scores)} do)")
    return features, scores
