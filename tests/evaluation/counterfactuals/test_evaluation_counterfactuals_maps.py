"""With every image counted once, the numbers of a row are those of the localisation table; weights are repetitions."""

from __future__ import annotations

import lesions
import numpy as np
import pytest

from medgen_jax.evaluation.counterfactuals import maps as map_statistics
from medgen_jax.evaluation.counterfactuals.localisation import BETTER
from medgen_jax.metrics.localisation import MapSet, localisation_table
from medgen_jax.metrics.ranking import ranking_scores

HALF = np.array([True, False, True, True, False, False] * 2)


@pytest.fixture(scope="module")
def row():
    """A row's statistics, and the tables of both halves."""
    maps, targets, _ = lesions.some(12)
    images = np.zeros((*maps.shape, 1), np.float32)
    prior = np.zeros(maps.shape[1:], np.float32)

    def table(test):
        sides = [({"m": maps[own]}, MapSet(images[own], targets[own])) for own in (test, ~test)]
        return localisation_table(*sides[0], *sides[1], prior)["m"]

    tables = [table(half) for half in (HALF, ~HALF)]
    statistics = map_statistics.statistics_of(maps, targets, (HALF, ~HALF), [t["threshold"] for t in tables])
    return statistics, tables, maps, targets


def test_they_are_the_tables_numbers(row):
    statistics, tables, _, targets = row
    found = statistics(np.ones((1, 12)))
    assert set(found) == set(BETTER)
    ill = targets.any((1, 2))
    over = (
        dict.fromkeys(BETTER, np.ones(12, bool))
        | {"healthy_area": ~ill}
        | dict.fromkeys(("dice", "iou", "pointing"), ill)
    )
    for name, (value,) in found.items():
        counts = [(half & over[name]).sum() for half in (HALF, ~HALF)]
        expected = sum(table[name] * count for table, count in zip(tables, counts, strict=True)) / sum(counts)
        assert value == pytest.approx(expected, rel=1e-5), name


def test_weights_are_repetitions(row):
    """Images of the first half alone, some of them twice: exact areas of their repeated pixels."""
    statistics, _, maps, targets = row
    weights = np.where(HALF, 1 + np.arange(12) % 2, 0).astype(int)
    found = statistics(weights[None].astype(float))
    repeated = ranking_scores(np.repeat(maps, weights, 0), np.repeat(targets, weights, 0))
    # The other half's 64 values are all edges, so nothing is rounded.
    assert found["pixel_auroc"][0] == pytest.approx(repeated["auroc"], rel=1e-6)
    assert found["pixel_auprc"][0] == pytest.approx(repeated["auprc"], rel=1e-6)


def test_resamples_without_a_lesion_are_undefined(row):
    statistics, _, _, targets = row
    found = statistics((~targets.any((1, 2)))[None].astype(float))
    assert np.isnan([found[name][0] for name in ("pixel_auroc", "pixel_auprc", "dice", "image_auroc")]).all()
    assert np.isfinite(found["healthy_area"][0])
