"""Measures of memorisation: points on a line, exact tests by enumeration, what each measure is blind to, bad input."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics.memorisation import measures
from medgen_jax.metrics.memorisation.sets import Sets, check, examine, prepare
from medgen_jax.metrics.memorisation.thumbnails import pixel_variants


def gaussian(seed, n=60, d=8):
    return np.random.default_rng(seed).normal(size=(n, d))


def line(*values):
    return np.array(values, float)[:, None]


@pytest.fixture(scope="module")
def on_a_line():
    """Training images 0, 1, 10, held-out 3, 20, generated 0.25, 6, 10."""
    reference = prepare(Sets(line(0, 1, 10), line(3, 20)))
    return reference, examine(line(0.25, 6, 10), reference), examine(reference.held_out, reference)


def log_ratios(facts, reference, **options):
    return measures.log_ratios(facts, reference.is_train, ~reference.is_train, **options)


def test_facts_on_a_line(on_a_line):
    """10 is its neighbour's 9 away, so of the training images' own distances 1, 1, 9 only the last is large."""
    reference, generated, held_out = on_a_line
    np.testing.assert_array_equal(reference.spacing, [1, 1, 9])
    np.testing.assert_array_equal(generated.distance, [0.25, 4, 0])
    np.testing.assert_array_equal(generated.source, [0, 2, 2])
    np.testing.assert_array_equal(generated.neighbour_distance[1], [3, 4, 5, 6, 14])
    np.testing.assert_array_equal(generated.neighbour[1], [3, 2, 1, 0, 4])
    np.testing.assert_array_equal(held_out.distance, [2, 10])


def test_authpct_by_hand(on_a_line):
    """None of the generated is authentic: 0.25 < 1, 4 < 9, 0 < 9. Both held-out ones are: 2 > 1, 10 > 9."""
    _, generated, held_out = on_a_line
    got = measures.authenticity(generated.authentic, held_out.authentic)
    assert (got["authpct"], got["authpct_held_out"]) == (0.0, 100.0)
    assert got["p_value"] == pytest.approx(1 / 10)  # of 10 ways to be authentic with 2 of 5, one is this
    assert got["authpct_interval"]["low"] == 0 and 50 < got["authpct_interval"]["high"] < 70
    even = measures.authenticity(np.array([True, False]), np.array([True, False]))
    assert even["authpct"] == 50 and even["p_value"] == pytest.approx(5 / 6)


def test_distance_ratio_by_hand(on_a_line):
    """Ratios .25 / 2.75, 4 / 3 and 0 / 7: gaps 2.5 / 3, -1 / 7 and 1."""
    reference, generated, _ = on_a_line
    ratios = log_ratios(generated, reference)
    np.testing.assert_allclose(np.exp(ratios[:2]), [1 / 11, 4 / 3])
    gap = measures.relative_gap(ratios)
    np.testing.assert_allclose(gap, [2.5 / 3, -1 / 7, 1], atol=1e-5)
    got = measures.distance_ratio(generated, reference, permutations=199)
    mean = (2.5 / 3 - 1 / 7 + 1) / 3
    assert got["ratio"] == pytest.approx((1 - mean) / (1 + mean), rel=1e-4)
    assert got["ratio_interval"]["low"] < got["ratio"] < got["ratio_interval"]["high"]
    everywhere = [sum(gaps_by_loops(split)) / 3 for split in itertools.combinations(range(5), 3)]
    expected = np.mean(np.array(everywhere) >= mean - 1e-3)
    assert got["p_value"] == pytest.approx(expected, abs=0.1)
    middle = np.mean(everywhere)
    assert got["expected_ratio"] == pytest.approx((1 - middle) / (1 + middle), rel=0.2)


def gaps_by_loops(train):
    real = (0, 1, 10, 3, 20)
    for x in (0.25, 6, 10):
        t, h = (min(abs(x - real[i]) for i in range(5) if (i in train) == kind) for kind in (True, False))
        yield (h - t) / (h + t)


def test_same_distances_and_zeros_have_a_ratio():
    reference = prepare(Sets(line(0, 4, 4), line(2, 8, 4)))
    ratios = log_ratios(examine(line(1, 8, 4), reference), reference)
    np.testing.assert_allclose(ratios, [0, math.log(measures.RATIO_CAP), 0])


def test_own_patient_does_not_count():
    """Held-out 3 and 3.5 are one patient: 3.5 is no held-out neighbour of 3, 20 is."""
    reference = prepare(Sets(line(0, 1, 10), line(3, 3.5, 20), None, ["a", "b", "c"], ["d", "d", "e"]))
    held_out, own = examine(reference.held_out, reference), reference.patient[3:]
    ratios = log_ratios(held_out, reference, patient=reference.patient, own=own)
    np.testing.assert_allclose(np.exp(ratios), [2 / 17, 2.5 / 16.5, 10 / 16.5])


def test_splits_keep_patients_whole_and_their_number():
    patient = np.array([0, 0, 1, 2, 3, 3, 4])
    is_train = np.array([1, 1, 1, 0, 0, 0, 0], bool)
    used = patient != 4
    splits = list(measures.patient_splits(patient, is_train, used, 50, np.random.default_rng(0)))
    assert all(split[0] == split[1] and split[4] == split[5] and not split[6] for split in splits)
    assert {len(np.unique(patient[split])) for split in splits} == {2}
    assert len({tuple(split) for split in splits}) == 6


def test_close_share_by_hand():
    """Below the smaller of two held-out distances lie both generated ones: 1 of 6 orders, 1/3 expected."""
    got = measures.close_share(np.array([1.0, 2]), np.array([3.0, 4]))
    assert (got["share"], got["count"], got["threshold"], got["expected_share"]) == (1.0, 2, 3.0, 1 / 3)
    assert got["p_value"] == pytest.approx(1 / 6)
    assert measures.close_share(np.array([3.0]), np.array([3.0, 4]))["p_value"] == 1.0
    assert measures.close_share(np.zeros(1), np.arange(199.0))["expected_share"] == 2 / 200


@pytest.mark.parametrize("rank", [1, 3])
def test_close_share_is_exact(rank):
    """Chance of each count, by all orders of 4 generated and 5 held-out distances."""
    quantile = (rank + 0.1) / 6
    orders = list(itertools.combinations(range(9), 4))
    results = []
    for places in orders:
        generated = np.array(places, float)
        held_out = np.array([i for i in range(9) if i not in places], float)
        results.append(measures.close_share(generated, held_out, quantile=quantile))
    counts = np.array([result["count"] for result in results])
    assert np.mean([result["share"] for result in results]) == pytest.approx(rank / 6)
    for result in results:
        assert result["p_value"] == pytest.approx(np.mean(counts >= result["count"]))


def test_hypergeometric_tail_by_enumeration():
    draws, marked, total = 4, 3, 9
    hits = [sum(i < marked for i in draw) for draw in itertools.combinations(range(total), draws)]
    for least in range(6):
        got = measures.hypergeometric_tail(least, draws=draws, marked=marked, total=total)
        assert got == pytest.approx(np.mean(np.array(hits) >= least), abs=1e-12)


def test_suspects_by_hand():
    """Tail of 5 below 0: excesses 1, 1, 1, 1, 1. An excess of 5 has the chance 6/21 (1 + 5/5)^-5."""
    held_out = np.concatenate([-np.ones(5), np.zeros(1), np.arange(14.0)])
    chance = measures.tail_chances(np.array([-5.0, 0, 20]), held_out)
    np.testing.assert_allclose(chance, [6 / 21 / 32, 8 / 21, 1])
    got = measures.suspects(np.array([0.0, -100, -40]), held_out)
    assert (got["count"], got["images"], got["share"]) == (2, [1, 2], 2 / 3)
    assert got["p_value"] == pytest.approx(3 * 6 / 21 * 21.0**-5)
    assert measures.suspects(np.zeros(1), held_out[:9])["p_value"] is None


def test_suspects_keep_their_level_on_an_exponential_tail():
    """The chance of a new value is uniform below the threshold, the scale being unknown."""
    rng = np.random.default_rng(0)
    samples = -rng.exponential(size=(4000, 41))
    chances = np.array([measures.tail_chances(row[:1], row[1:])[0] for row in samples])
    assert np.mean(chances <= 0.01) == pytest.approx(0.01, abs=0.005)
    assert np.mean(chances <= 0.05) == pytest.approx(0.05, abs=0.012)


@pytest.fixture(scope="module")
def honest():
    return prepare(Sets(gaussian(0, 120), gaussian(1, 80)))


def measure(reference, generated):
    facts, held_out = examine(generated, reference), examine(reference.held_out, reference)
    own = reference.patient[len(reference.train) :]
    ratios = log_ratios(facts, reference), log_ratios(held_out, reference, patient=reference.patient, own=own)
    return {
        "distance_ratio": measures.distance_ratio(facts, reference, permutations=199)["p_value"],
        "authenticity": measures.authenticity(facts.authentic, held_out.authentic)["p_value"],
        "data_copying": measures.data_copying_score(facts, held_out)["p_value"],
        "close_share": measures.close_share(facts.distance, held_out.distance)["p_value"],
        "suspects": measures.suspects(*ratios)["p_value"],
    }


def test_all_measures_see_half_a_set_of_copies(honest):
    copied = np.concatenate([gaussian(2, 40), honest.train[:40] + 1e-3])
    assert max(measure(honest, copied).values()) < 0.01


def test_one_copy_is_seen_by_suspects_alone(honest):
    one = np.concatenate([gaussian(2, 79), honest.train[:1]])
    p_values = measure(honest, one)
    assert p_values.pop("suspects") < 1e-6
    assert min(p_values.values()) > 0.02
    assert min(measure(honest, gaussian(2, 80)).values()) > 0.05


def test_smooth_images_do_not_set_off_the_conclusive_measures(honest):
    """Drawn towards the mean, they are near everything and copies of nothing."""
    p_values = measure(honest, 0.5 * gaussian(2, 80))
    assert p_values["authenticity"] < 0.05 and p_values["data_copying"] < 1e-3
    assert p_values["distance_ratio"] > 0.05 and p_values["suspects"] > 0.05


def test_c_t_has_an_interval(honest):
    facts = examine(gaussian(2, 80), honest), examine(honest.held_out, honest)
    got = measures.data_copying_score(*facts)
    assert got["c_t_interval"]["low"] < got["c_t"] < got["c_t_interval"]["high"]
    assert 1 < got["c_t_interval"]["high"] - got["c_t_interval"]["low"] < 5
    tiny = measures.data_copying_score(facts[0].take(np.arange(3)), facts[1])
    assert tiny["c_t"] is None and tiny["c_t_interval"] is None


def test_closest_pairs_are_ranked_by_ratio(on_a_line):
    reference, generated, _ = on_a_line
    pairs = measures.closest_pairs(generated, reference, count=2)
    assert [(pair["generated"], pair["train"], pair["distance"]) for pair in pairs] == [(2, 2, 0.0), (0, 0, 0.25)]
    assert pairs[1]["ratio"] == pytest.approx(1 / 11)


def test_facts_can_be_picked_and_joined(on_a_line):
    _, generated, _ = on_a_line
    swapped = generated.take(np.array([2])).joined(generated.take(np.array([True, True, False])))
    np.testing.assert_array_equal(swapped.distance, [0, 0.25, 4])
    assert swapped.neighbour.shape == (3, 5)


def test_constant_features_raise_no_alarm():
    flat = np.full((30, 4), 0.2)
    reference = prepare(Sets(flat, flat))
    p_values = measure(reference, flat)
    assert min(p_values.values()) >= 0.5
    assert np.isfinite(list(p_values.values())).all()


def test_one_generated_image():
    reference = prepare(Sets(gaussian(0, 20), gaussian(1, 20)))
    facts = examine(reference.train[:1], reference)
    got = measures.distance_ratio(facts, reference, permutations=9)
    assert got["ratio"] < 1e-5 and got["ratio_interval"] is None
    assert measures.authenticity(facts.authentic, np.ones(20, bool))["authpct"] == 0


def test_duplicates_in_the_training_set_hide_inexact_copies():
    """The weakness of AuthPct that its docstring names."""
    train = np.concatenate([gaussian(0, 10), gaussian(0, 10)])
    reference = prepare(Sets(train, gaussian(1, 10)))
    np.testing.assert_array_equal(reference.spacing, 0)
    assert examine(train[:3] + 1e-6, reference).authentic.all()
    assert not examine(train[:3], reference).authentic.any()


def test_bad_sets_are_named():
    good = Sets(gaussian(0, 6), gaussian(1, 4), gaussian(2, 3))
    names = ["a", "a", "b", "c", "d", "e"], ["f", "f", "g", "h"]
    assert check(dataclasses.replace(good, train_patients=names[0], held_out_patients=names[1])).train.shape == (6, 8)
    broken = good.generated.copy()
    broken[1] = np.nan
    cases = {
        r"pixels: 2 patients are in both .* instance 'a'; split": dict(
            train_patients=names[0], held_out_patients=["a", "f", "b", "h"]
        ),
        "pixels: patients of the held-out images are missing": dict(train_patients=names[0]),
        "pixels: 5 patients for 6 training images": dict(train_patients=names[0][1:], held_out_patients=names[1]),
        "pixels: 2 held-out images have no patient": dict(
            train_patients=names[0], held_out_patients=["f", None, float("nan"), "h"]
        ),
        "pixels: generated features have 7 numbers each, training features 8": dict(generated=good.generated[:, :7]),
        "pixels: generated features: number 1 holds NaN": dict(generated=broken),
        "pixels: held-out features: 1 of them; at least 2": dict(held_out=good.held_out[:1]),
        "pixels: 7 copies called 'flipped' of 6": dict(altered={"flipped": gaussian(0, 7)}),
        "pixels: 2 copies called 'none'": dict(altered={"none": gaussian(0, 2)}),
    }
    for message, change in cases.items():
        with pytest.raises(UserError, match=message):
            check(dataclasses.replace(good, **change), name="pixels")
    with pytest.raises(UserError, match="images have 3 numbers each, training features 8"):
        examine(gaussian(0, 2, 3), prepare(good), name="images")
    with pytest.raises(UserError, match="do not fit features of 8 numbers"):
        prepare(dataclasses.replace(good, variants=pixel_variants(4)))


def test_bad_options_are_named(on_a_line):
    reference, generated, _ = on_a_line
    with pytest.raises(UserError, match="0 permutations"):
        measures.distance_ratio(generated, reference, permutations=0)
    with pytest.raises(UserError, match="quantile is 1.5"):
        measures.close_share(generated.distance, generated.distance, quantile=1.5)
