"""Severity from residuals: features by hand, agreement, patients kept apart, planted and permuted scores."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import ridge, severity
from medgen_jax.metrics.severity import FEATURES


def named(residual, **options):
    """Features of one residual (h, w) by name."""
    residual = np.asarray(residual, np.float32)[None, :, :, None]
    return dict(zip(FEATURES, severity.residual_features(residual, **options)[0], strict=True))


# ---- features --------------------------------------------------------------------------------------


def test_the_names_are_fixed():
    assert len(set(FEATURES)) == len(FEATURES) == 38
    assert FEATURES[:3] == ("absolute", "positive_all", "positive_left") and FEATURES[-1] == "band_4"


def test_a_constant_residual_by_hand():
    found = named(np.full((18, 24), 0.5))
    assert found["absolute"] == 0.25  # half of the difference: a share of the full range
    for name, value in found.items():
        expected = 0 if name.startswith(("negative", "band")) else 1 if name.startswith("extent") else 0.25
        assert value == pytest.approx(expected, abs=1e-7), name


@pytest.mark.parametrize(
    ("rows", "columns", "region", "others"),
    [
        (slice(0, 18), slice(0, 12), "left", "right"),
        (slice(0, 18), slice(12, 24), "right", "left"),
        (slice(0, 6), slice(0, 24), "upper", "middle lower"),
        (slice(6, 12), slice(0, 24), "middle", "upper lower"),
        (slice(12, 18), slice(0, 24), "lower", "upper middle"),
        (slice(12, 18), slice(0, 12), "left_lower", "left_upper left_middle right_lower right"),
        (slice(6, 12), slice(12, 24), "right_middle", "right_upper right_lower left_middle left"),
    ],
)
def test_each_region_sees_its_pixels(rows, columns, region, others):
    residual = np.zeros((18, 24))
    residual[rows, columns] = 0.6
    share = (residual > 0).mean()
    for sign, other in (("positive", "negative"), ("negative", "positive")):
        found = named(residual if sign == "positive" else -residual)
        assert found[f"{sign}_{region}"] == pytest.approx(0.3)
        assert [found[f"{sign}_all"], found["absolute"]] == pytest.approx([0.3 * share] * 2)
        assert not any(found[f"{sign}_{name}"] for name in others.split())
        assert not any(value for name, value in found.items() if name.startswith(other))


def test_quantiles_and_extents_of_a_ramp():
    ramp = np.linspace(0, 0.3, 432)[np.random.default_rng(0).permutation(432)].reshape(18, 24)
    found = named(2 * ramp * np.where(np.arange(24) % 2, 1, -1))
    for share in (50, 75, 90, 95, 99):
        assert found[f"quantile_{share}"] == pytest.approx(0.3 * share / 100)
    for level in (2, 5, 10):
        assert found[f"extent_{level}"] == pytest.approx(1 - level / 30, abs=1 / 432)


def test_bands_tell_coarse_from_fine():
    x = np.arange(64)
    for frequency, band in ((3 / 64, 1), (6 / 64, 2), (0.2, 3), (0.4, 4)):
        found = named(np.broadcast_to(0.4 * np.sin(2 * np.pi * frequency * x), (64, 64)))
        bands = [found[f"band_{k}"] for k in range(5)]
        assert bands[band] == pytest.approx(0.2 / np.sqrt(2), rel=0.1)
        assert np.argmax(bands) == band


def test_the_control_takes_its_size_away_and_no_more():
    residual, control = np.full((18, 24), -0.5), np.full((18, 24), 0.2)
    control[:, 12:] = 0.9
    found = named(residual, control_residual=control[None, :, :, None])
    assert found["negative_left"] == pytest.approx(0.15)
    assert found["negative_right"] == found["positive_all"] == 0
    assert found["absolute"] == pytest.approx(0.075)


def test_lungs_set_the_pixels_and_the_regions():
    lungs = np.zeros((1, 18, 24), bool)
    lungs[0, 4:16, 6:18] = True
    residual = np.full((18, 24), 0.8)
    residual[4:16, 6:18] = 0
    assert not any(named(residual, lungs=lungs).values())
    residual[12:16, 12:18] = 0.4
    found = named(residual, lungs=lungs)
    assert found["positive_right_lower"] == pytest.approx(0.2)
    assert found["positive_left"] == found["positive_upper"] == 0
    assert found["extent_10"] == pytest.approx(1 / 6)


def test_channels_are_averaged():
    grey = np.random.default_rng(0).normal(0, 0.1, (1, 18, 24, 1))
    np.testing.assert_allclose(
        severity.residual_features(grey), severity.residual_features(grey * [0.5, 1, 1.5]), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((18, 18)),), r"residual is \(18, 18\); it must be \(b, h, w, c\)"),
        ((np.zeros((0, 18, 18, 1)),), "not empty"),
        ((np.stack([np.zeros((18, 18, 1)), np.full((18, 18, 1), np.nan)]),), "residual of image 1 holds NaN"),
        ((np.zeros((1, 8, 8, 1)),), "at least 16"),
        ((np.zeros((2, 18, 18, 1)), np.zeros((1, 18, 18, 1))), "those of the control"),
        ((np.zeros((1, 18, 18, 1)), None, np.ones((1, 9, 9))), "the lungs"),
        ((np.zeros((1, 18, 18, 1)), None, np.zeros((1, 18, 18))), "image 0 has no lungs"),
    ],
)
def test_unfit_residuals_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        severity.residual_features(*arguments)


# ---- agreement -------------------------------------------------------------------------------------


def test_agreement_by_hand():
    found = severity.agreement(np.array([0.0, 1, 10]), np.array([0.0, 2, 3]))
    assert found["mae"] == pytest.approx(8 / 3)
    assert found["spearman"] == pytest.approx(1)
    assert found["pearson"] == pytest.approx(np.corrcoef([0, 1, 10], [0, 2, 3])[0, 1])
    tied = severity.agreement(np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 2, 50]))
    assert tied["spearman"] == pytest.approx(4.5 / np.sqrt(4.5 * 5))  # ranks 1, 2.5, 2.5, 4
    assert severity.agreement(np.array([1.0, 2]), np.array([4.0, 3]))["pearson"] == pytest.approx(-1)


def test_correlations_of_constants_are_left_out():
    assert severity.agreement(np.ones(3), np.arange(3.0)) == {"mae": pytest.approx(2 / 3)}
    with pytest.raises(UserError, match="NaN or infinity"):
        severity.agreement(np.array([np.nan, 1]), np.zeros(2))
    with pytest.raises(UserError, match=r"\(3,\) answers for \(2,\) scores"):
        severity.agreement(np.zeros(3), np.zeros(2))


def mean_of(values):
    return lambda drawn: {"mean": float(values[drawn].mean())}


def test_intervals_draw_whole_patients():
    """Each of 25 patients has 40 images alike: the interval is that of 25 values, not of 1000."""
    values = np.random.default_rng(0).normal(size=25).repeat(40)
    patients = [f"P{i // 40}" for i in range(1000)]
    low, high, level, method = severity.patient_intervals(mean_of(values), patients)["mean"]
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 5, rel=0.1)
    assert low < values.mean() < high and (level, method) == (0.95, "bootstrap percentile by patient")
    singly = severity.patient_intervals(mean_of(values), range(1000), resamples=500)["mean"]
    assert singly.high - singly.low < 0.25 * (high - low)


def test_numbers_that_resamples_do_not_define_or_change_have_no_interval():
    patients = ["a", "b", "c"]
    assert severity.patient_intervals(mean_of(np.ones(3)), patients) == {}
    rarely = severity.patient_intervals(lambda i: {"x": float(i[1])} if len(set(i)) > 2 else {}, patients)
    assert rarely == {}
    with pytest.raises(UserError, match="no interval of level 0.95 from 20 resamples"):
        severity.patient_intervals(mean_of(np.ones(3)), patients, resamples=20)


def test_readers_are_compared_where_both_read():
    first, second = np.array([1, 2, np.nan, 4, 5]), np.array([1, 4, 3, 4, np.nan])
    assert severity.reader_agreement(first, second)["mae"] == pytest.approx(2 / 3)


def test_a_copy_is_no_second_reading():
    first = np.array([1, 2, np.nan, 4])
    with pytest.raises(UserError, match="the same on all 3 images; a copy says nothing of agreement"):
        severity.reader_agreement(first, first)
    with pytest.raises(UserError, match="no image that both readers scored"):
        severity.reader_agreement(first, np.array([np.nan, np.nan, 1, np.nan]))


# ---- labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "share", "expected"), [(6, 0.3, 2), (7, 0.9, 3), (40, 0.25, 10), (12, 0.01, 2)])
def test_a_share_of_the_patients_is_held_out(count, share, expected):
    patients = [f"P{i % count}" for i in range(3 * count)]
    drawn = [severity.held_out_patients(patients, share, seed) for seed in range(8)]
    assert {len(held_out) for held_out in drawn} == {expected}
    assert len(set(drawn)) > 1
    assert drawn[0] == severity.held_out_patients(patients[::-1], share, 0)
    assert severity.is_held_out(patients, drawn[0]).sum() == 3 * expected


def test_too_few_patients_are_refused():
    with pytest.raises(UserError, match="5 patients with scores; at least 6"):
        severity.held_out_patients(list("abcde") * 9)
    with pytest.raises(UserError, match="1.0 of the patients cannot be held out"):
        severity.held_out_patients(list("abcdefgh"), 1.0)


@pytest.mark.parametrize(
    ("patients", "expected"), [(3, (3,)), (4, (4,)), (5, (4, 5)), (16, (4, 8, 16)), (40, (4, 8, 16, 32, 40))]
)
def test_labels_double_up_to_all(patients, expected):
    assert severity.label_counts(patients) == expected


def planted(seed=0, patients=48, noise=0.03):
    """Two images of each patient with a blob whose mass follows the score, on noise: features, scores, patients."""
    rng = np.random.default_rng(seed)
    severities = rng.uniform(0, 8, patients)
    scores = np.clip(severities.repeat(2) + rng.normal(0, 0.1, 2 * patients), 0, 8)
    y, x = np.mgrid[:24, :24]
    residuals = rng.normal(0, noise, (2 * patients, 24, 24))
    for residual, score in zip(residuals, scores, strict=True):
        row, column = rng.uniform(5, 19, 2)
        residual += 0.05 * score * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 18)
    owners = [f"P{i // 2}" for i in range(2 * patients)]
    return severity.residual_features(residuals[..., None]), scores, owners


@pytest.fixture(scope="module")
def study():
    features, scores, owners = planted()
    return features, scores, owners, severity.held_out_patients(owners)


def answers(features, scores, owners, held_out):
    testing = severity.is_held_out(owners, held_out)
    patients = [owner for owner in owners if owner not in held_out]
    model = ridge.fit(features[~testing], scores[~testing], patients, limits=(0, 8))
    return ridge.predict(model, features[testing]), scores[testing]


def test_planted_opacity_is_found_and_the_curve_falls(study):
    features, scores, owners, held_out = study
    predicted, truth = answers(*study)
    assert severity.agreement(predicted, truth)["pearson"] > 0.97
    curve = severity.label_efficiency(features, scores, owners, held_out, limits=(0, 8), repeats=6)
    assert curve.patients.tolist() == [4, 8, 16, 32, 34] and curve.images.tolist() == [8, 16, 32, 64, 68]
    assert curve.errors.shape == (5, 6)
    assert curve.mean[0] > curve.mean[1] > curve.mean[2] > curve.mean[-1]
    assert curve.mean[-1] < 0.5 * curve.mean[0]
    assert curve.spread[0] == pytest.approx(np.std(curve.errors[0], ddof=1)) and curve.spread[-1] == 0
    assert curve.errors[-1, 0] == pytest.approx(severity.agreement(predicted, truth)["mae"])


def test_permuted_scores_are_not_found(study):
    """Whole patients are permuted, so that images of one stay alike."""
    features, scores, owners, held_out = study
    holding = []
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(len(scores) // 2)
        shuffled = scores.reshape(-1, 2)[order].ravel()
        predicted, truth = answers(features, shuffled, owners, held_out)
        tested = [owner for owner in owners if owner in held_out]

        def pearson(drawn, predicted=predicted, truth=truth):
            return severity.agreement(predicted[drawn], truth[drawn])

        interval = severity.patient_intervals(pearson, tested, resamples=200).get("pearson")
        holding.append(interval is None or interval.low <= 0 <= interval.high)
    assert sum(holding) >= 8


def test_no_patient_is_ever_on_both_sides(study, monkeypatch):
    """Whatever is drawn: who is learned from is not held out, and grows from draw to draw; the held-out stay."""
    features, scores, owners, held_out = study
    learned, true_fit = [], ridge.fit

    def fit(features, scores, patients, **options):
        learned.append(set(patients))
        return true_fit(features, scores, patients, **options)

    monkeypatch.setattr(ridge, "fit", fit)
    severity.label_efficiency(features, scores, owners, held_out, repeats=3)
    assert [len(patients) for patients in learned] == [4] * 3 + [8] * 3 + [16] * 3 + [32] * 3 + [34]
    assert not any(patients & held_out for patients in learned)
    for few, more in zip(learned[:9], learned[3:12], strict=True):
        assert few < more
    assert learned[-1] | held_out == set(owners)


def test_scores_of_the_held_out_reach_no_regression(study):
    features, scores, owners, held_out = study
    other = np.where(severity.is_held_out(owners, held_out), 8 - scores, scores)
    np.testing.assert_array_equal(answers(*study)[0], answers(features, other, owners, held_out)[0])


def test_every_set_of_features_learns_from_the_same_patients(study):
    _, scores, owners, held_out = study
    nothing = np.zeros((len(scores), 1))
    flat = severity.label_efficiency(nothing, scores, owners, held_out, repeats=3, seed=4)
    testing = severity.is_held_out(owners, held_out)
    assert flat.errors[-1, 0] == pytest.approx(np.abs(scores[testing] - scores[~testing].mean()).mean())
    again = severity.label_efficiency(np.ones((len(scores), 3)), scores, owners, held_out, repeats=3, seed=4)
    np.testing.assert_array_equal(flat.errors, again.errors)
    other = severity.label_efficiency(nothing, scores, owners, held_out, repeats=3, seed=5)
    assert not np.array_equal(flat.errors, other.errors)


def test_a_side_without_images_is_refused(study):
    features, scores, owners, _ = study
    for nobody in (frozenset(), frozenset(owners)):
        with pytest.raises(UserError, match="held-out images"):
            severity.label_efficiency(features, scores, owners, nobody)
