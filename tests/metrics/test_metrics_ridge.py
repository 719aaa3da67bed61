"""Ridge regression: equal to the normal equations, the penalty that leaving patients out by hand would choose."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import ridge


def problem(seed: int, records: int, width: int, noise: float = 1.0):
    rng = np.random.default_rng(seed)
    features = rng.normal(3, 2, (records, width))
    scores = features @ rng.normal(size=width)
    return features * np.geomspace(1e-3, 1e3, width), scores + noise * rng.normal(size=records)


def by_least_squares(standard, scores, penalty):
    """Weights and free intercept from rows sqrt(penalty) e_j -> 0 below the data."""
    records, width = standard.shape
    above = np.hstack([standard, np.ones((records, 1))])
    below = np.hstack([np.sqrt(penalty) * np.eye(width), np.zeros((width, 1))])
    found = np.linalg.lstsq(np.vstack([above, below]), np.append(scores, np.zeros(width)), rcond=None)[0]
    return found[:-1], found[-1]


def test_a_line_by_hand():
    """Three points on a line: sum of squares 3 after scaling, so a penalty of 3 halves the slope."""
    x, y = np.array([[1.0], [2.0], [3.0]]), np.array([0.0, 1.0, 2.0])
    model = ridge.fit(x, y, penalties=(3.0,))
    np.testing.assert_allclose(ridge.predict(model, x), [0.5, 1, 1.5], rtol=1e-12)
    assert (model.intercept, model.penalty) == (1.0, 3.0)


@pytest.mark.parametrize(("records", "width"), [(40, 5), (9, 30), (6, 6)])
def test_it_solves_the_normal_equations(records, width):
    features, scores = problem(records, records, width)
    model = ridge.fit(features, scores, penalties=(0.3,))
    standard = (features - features.mean(0)) / features.std(0)
    gram = standard.T @ standard + 0.3 * width * np.eye(width)
    np.testing.assert_allclose(model.weights, np.linalg.solve(gram, standard.T @ (scores - scores.mean())), rtol=1e-8)
    weights, intercept = by_least_squares(standard, scores, 0.3 * width)
    others = problem(1, 7, width)[0]
    expected = intercept + (others - features.mean(0)) / features.std(0) @ weights
    np.testing.assert_allclose(ridge.predict(model, others), expected, rtol=1e-8)


@pytest.mark.parametrize("seed", range(6))
def test_the_penalty_is_that_of_leaving_each_patient_out_and_fitting_again(seed):
    features, scores = problem(seed, 30, 12, noise=0.5 * 2**seed)
    patients = [f"P{i % 11}" for i in range(30)]
    limits = (float(np.quantile(scores, 0.1)), float(scores.max()))
    model = ridge.fit(features, scores, patients, limits=limits)
    standard = (features - features.mean(0)) / features.std(0)
    wrong = {}
    for penalty in ridge.PENALTIES:
        squares = []
        for patient in set(patients):
            out = np.array([p == patient for p in patients])
            weights, intercept = by_least_squares(standard[~out], scores[~out], penalty * 12)
            squares += [*np.square(np.clip(standard[out] @ weights + intercept, *limits) - scores[out])]
        wrong[penalty * 12] = np.mean(squares)
    assert model.penalty == pytest.approx(min(wrong, key=wrong.get))


def test_copies_of_a_patient_do_not_make_noise_learnable():
    """Five images alike of each patient, scores drawn at random: singly, each image is known from its copies."""
    shrunk = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        features, scores = rng.normal(size=(12, 30)).repeat(5, 0), rng.normal(size=12).repeat(5)
        singly, whole = ridge.fit(features, scores), ridge.fit(features, scores, np.arange(12).repeat(5))
        assert singly.penalty == 30 * min(ridge.PENALTIES)
        shrunk += whole.penalty > 1000 * singly.penalty
    assert shrunk >= 15


def test_what_does_not_vary_has_no_weight():
    features, scores = problem(0, 20, 3, noise=0)
    padded = np.hstack([features, np.full((20, 1), 0.1), np.zeros((20, 1))])
    model = ridge.fit(padded, scores)
    assert not model.weights[3:].any()
    moved = padded + np.array([0, 0, 0, 7, 7])
    np.testing.assert_array_equal(ridge.predict(model, moved), ridge.predict(model, padded))


def test_equal_scores_are_answered_by_themselves():
    features = problem(0, 10, 4)[0]
    model = ridge.fit(features, np.full(10, 2.5))
    np.testing.assert_array_equal(ridge.predict(model, 5 * features), np.full(10, 2.5))
    assert model.penalty == 4 * max(ridge.PENALTIES)


def test_answers_stay_within_the_limits():
    x = np.arange(20.0)[:, None]
    model = ridge.fit(x, np.arange(20.0), limits=(0, 19))
    np.testing.assert_allclose(ridge.predict(model, np.array([[-50.0], [7.0], [80.0]])), [0, 7, 19], atol=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(features=np.ones(4)), r"shape \(4,\) and scores \(4,\); give \(n, f\)"),
        (dict(scores=np.ones(3)), r"and scores \(3,\)"),
        (dict(scores=np.array([1, np.nan, 2, 3])), r"record 1 holds NaN or infinity \(1 of 4 do\)"),
        (dict(patients=["a", "b"]), "2 patients for 4 records"),
        (dict(patients=["a"] * 4), "there is one only; add patients"),
        (dict(penalties=(1.0, 0.0)), "must be positive"),
        (dict(penalties=()), "must be positive"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = dict(features=np.arange(8.0).reshape(4, 2), scores=np.arange(4.0)) | change
    with pytest.raises(UserError, match=message):
        ridge.fit(**arguments)
