"""Numbers of the study by hand: sources with several outputs, means over pairs, diversity, energy in the lungs."""

from __future__ import annotations

import types

import numpy as np
import pytest
import small_xrays

from medgen_jax.evaluation import distances
from medgen_jax.evaluation.distances import Reference
from medgen_jax.evaluation.scores import Score
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.synthesis_study import lungs, table
from medgen_jax.evaluation.synthesis_study.diversity import GROUP, Diversity, DiversityRows
from medgen_jax.evaluation.synthesis_study.draws import Made

SETTINGS = Settings(resamples=200, seed=1)


def made_of(features, source="ill"):
    return Made(source, "well", features, np.zeros((1, 2, 2, 1), np.uint8), np.array([0]), np.zeros(0))


def test_outputs_of_one_source_are_drawn_together():
    """Ten copies of 12 features know no more than the 12: the error is theirs, not that of 120 images."""
    rng = np.random.default_rng(0)
    real, twelve = Reference.of(rng.normal(size=(400, 2))), rng.normal(1, 1, (12, 2))
    copied = table.distances_of(real, made_of(twelve.repeat(GROUP, 0)), SETTINGS)
    alone = table.distances_of(real, made_of(twelve, source=None), SETTINGS)
    blind = distances.fid(real, twelve.repeat(GROUP, 0), SETTINGS)
    errors = [scored["fid"].extras["standard_error"] for scored in (copied, alone, blind)]
    assert errors[0] == pytest.approx(errors[1], rel=0.4) and errors[2] < 0.5 * errors[0]
    assert copied["fid"].value == pytest.approx(blind["fid"].value)
    assert "of 12 sources" in copied["fid"].method and copied["kid"].interval[0] < copied["kid"].value
    few = table.distances_of(real, made_of(twelve[:3].repeat(GROUP, 0)), SETTINGS)
    assert few["fid"].interval is None and few["kid"].method == "none: 3 sources are too few to know their spread"


def test_means_of_pairs():
    def pair(fid, diversity, error):
        extras = {"standard_error": error, "floor": 0.5}
        return {"fid": Score(fid, None, "", extras, ("few",)), "diversity": Score(diversity, None, "", extras)}

    found = table.mean_of([pair(2.0, 0.1, 3.0), pair(4.0, 0.3, 4.0)], Settings(level=0.5))
    assert (found["fid"].value, found["fid"].extras["standard_error"]) == (3, 3.5)  # they share real images
    assert (found["diversity"].value, found["diversity"].extras["standard_error"]) == (pytest.approx(0.2), 2.5)
    assert found["fid"].extras["floor"] == 0.5 and found["fid"].warnings == ("few",)
    # Half of a normal distribution lies within 0.6745 standard errors.
    assert found["fid"].interval == pytest.approx((3 - 0.6745 * 3.5, 3 + 0.6745 * 3.5), abs=1e-3)
    unknown = {"fid": Score(1.0, None, "")}
    assert table.mean_of([pair(2.0, 0.1, 3.0), unknown], SETTINGS)["fid"].interval is None


def test_diversity_is_the_mean_over_the_pairs_of_whole_groups():
    """Of ten greys 0, 10, ..., 90 in each group; an eleventh image begins no whole group."""
    rows = DiversityRows(Diversity(small_xrays.NETWORKS["lpips_points"], batch=1))
    for number in range(2 * GROUP + 3):
        rows.add(np.full((4, 4, 1), 10 * (number % GROUP), np.uint8))
    levels = 10 / 127.5 * np.arange(GROUP)
    squares = [(a - b) ** 2 for i, a in enumerate(levels) for b in levels[:i]]
    np.testing.assert_allclose(rows.array(), [4 * np.mean(squares)] * 2, rtol=1e-5)
    score = table.diversity_of(np.array([0.1, 0.3]), "sources", Settings(level=0.5))["diversity"]
    assert score.value == pytest.approx(0.2) and score.extras["standard_error"] == pytest.approx(0.1)
    assert table.diversity_of(np.zeros(0), "groups", SETTINGS) == {}


def test_no_more_groups_are_measured_than_asked_for():
    rows = DiversityRows(Diversity(small_xrays.NETWORKS["lpips_points"], batch=4), most=1)
    for number in range(3 * GROUP):
        rows.add(np.full((4, 4, 1), number % 2, np.uint8))
    assert len(rows.array()) == 1


def answering(maps):
    """A judge that has two classes, of which the second has the maps, and answers with the second for image 0 alone."""

    def of(images):
        for i, (image, found) in enumerate(zip(images, maps, strict=True)):
            yield image, np.array([0.0, 1.0] if i == 0 else [1.0, 0.0]), np.stack([np.ones_like(found), found], -1)

    return types.SimpleNamespace(maps=of)


def test_energy_by_hand():
    """Of four pixels the first column is lung: maps with 3 of 4 there, all, and one that is negative elsewhere."""
    maps = np.array([[[2, 1], [1, 0]], [[1, 0], [1, 0]], [[1, -5], [0, 1]]], np.float32)
    own = np.broadcast_to(np.array([[True, False], [True, False]]), (3, 2, 2))
    images = np.zeros((3, 2, 2, 3), np.uint8)
    found = lungs.look(answering(maps), images, 1, own[0], SETTINGS, own).scored
    assert found["energy_own"].value == pytest.approx((3 / 4 + 1 + 1 / 2) / 3) and found["area_own"].value == 0.5
    assert found["energy_mean"].interval[0] < 0.75 < found["energy_mean"].interval[1]
    assert found["area_mean"].interval is None  # the same for every image
    # Who is told no class is asked about the judge's own answer: the map of ones where that is the first class.
    answered = lungs.look(answering(maps), images, None, own[0], SETTINGS).scored
    assert answered["energy_mean"].value == pytest.approx((3 / 4 + 1 / 2 + 1 / 2) / 3) and "energy_own" not in answered
    by_patient = lungs.look(answering(maps), images, 1, own[0], SETTINGS, own, ("a", "a", "b")).scored["energy_own"]
    assert "by group, 2 patients" in by_patient.method and by_patient.interval[0] <= 0.5 + 1e-9


def test_mean_lungs_are_where_half_of_the_images_have_theirs():
    masks = np.array([[[1, 1, 0]], [[1, 0, 0]], [[1, 1, 0]], [[1, 0, 1]]], bool)
    np.testing.assert_array_equal(lungs.mean_lungs(masks), [[True, True, False]])
