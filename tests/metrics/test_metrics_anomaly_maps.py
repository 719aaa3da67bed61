"""Single anomaly maps: hand-computed overlap, pointing and energy, degenerate maps."""

import jax
import numpy as np
import pytest
from hashed import hashed
from lesions import peak, rectangle, some

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import anomaly_maps, ranking


def test_overlap_by_hand():
    """4 pixels marked, 6 in the target, 2 common: Dice 4/10, IoU 2/8. At 0 all 16 are marked: 12/22, 6/16."""
    target = rectangle((4, 4), (0, 2), (0, 3))
    maps = np.float32(rectangle((4, 4), (1, 3), (1, 3)))
    maps[0, 3, 3] = maps[0, 0, 0] = 0.4
    got = anomaly_maps.overlap(maps, target, np.array([0.0, 0.5, 2.0], np.float32))
    np.testing.assert_allclose(got.dice, [[12 / 22, 4 / 10, 0]], rtol=1e-6)
    np.testing.assert_allclose(got.iou, [[6 / 16, 2 / 8, 0]], rtol=1e-6)


def test_overlap_of_nothing_with_nothing_is_whole():
    nothing = np.zeros((1, 4, 4), bool)
    got = anomaly_maps.overlap(np.zeros((1, 4, 4), np.float32), nothing, np.array([0.0, 0.5], np.float32))
    np.testing.assert_array_equal(got.dice, [[0, 1]])
    np.testing.assert_array_equal(got.iou, [[0, 1]])


def test_pointing_at_the_border_of_a_box():
    """Rows 2 to 4, columns 3 to 6. Inside up to the last pixel; one beyond is a distance of 1."""
    target = rectangle((10, 12), (2, 5), (3, 7))

    def hit(row, column, tolerance):
        return float(anomaly_maps.pointing_hits(peak((10, 12), row, column), target, tolerance)[0])

    for row, column in ((2, 3), (4, 6), (2, 6), (4, 3)):
        assert hit(row, column, 0.0) == 1
    for row, column in ((1, 3), (5, 6), (4, 7), (2, 2)):
        assert (hit(row, column, 0.0), hit(row, column, 0.9), hit(row, column, 1.0)) == (0, 0, 1)
    assert (hit(5, 7, 1.0), hit(5, 7, 1.42)) == (0, 1)  # the corner is a diagonal away
    assert (hit(7, 10, 4.9), hit(7, 10, 5.0)) == (0, 1)  # 3 down and 4 across
    assert hit(9, 11, 40.0) == 1


def test_pointing_with_several_maxima_is_the_chance_to_hit():
    target = rectangle((4, 4), (0, 2), (0, 2))
    two = peak((4, 4), 0, 0) + peak((4, 4), 3, 3)
    assert float(anomaly_maps.pointing_hits(two, target)[0]) == 0.5
    for value in (0.0, 7.0):
        assert float(anomaly_maps.pointing_hits(np.full((1, 4, 4), value, np.float32), target)[0]) == 4 / 16
    assert float(anomaly_maps.pointing_hits(two, np.zeros_like(target), 3.0)[0]) == 0
    assert float(anomaly_maps.pointing_hits(two, target, 0.0, ~rectangle((4, 4), (3, 4), (3, 4)))[0]) == 1


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.5, 6.0])
def test_tolerance_is_a_euclidean_distance(tolerance):
    targets = hashed(5, 2, 11, 14) < 0.02
    rows, columns = np.mgrid[:11, :14]
    near = anomaly_maps._within(targets, tolerance)
    for target, got in zip(targets, near, strict=True):
        squared = [(rows - i) ** 2 + (columns - j) ** 2 for i, j in np.argwhere(target)]
        np.testing.assert_array_equal(got, np.any(np.array(squared) <= tolerance**2, axis=0))


def test_energy_by_hand():
    """Inside 3 of 4; the negative part has no energy. A map without a positive value scores its area."""
    target = rectangle((4, 4), (0, 2), (0, 2))
    maps = 3 * peak((4, 4), 0, 1) + peak((4, 4), 3, 3) - 9 * peak((4, 4), 2, 2)
    assert float(anomaly_maps.energy_in_mask(maps, target)[0]) == 0.75
    for scale in (1e-42, 1e-30, 1e37):
        got = anomaly_maps.energy_in_mask(np.float32(scale) * np.ones((1, 4, 4), np.float32), target)
        assert float(got[0]) == pytest.approx(4 / 16)
    for flat in (0.0, -1.0):
        assert float(anomaly_maps.energy_in_mask(np.full((1, 4, 4), flat, np.float32), target)[0]) == 4 / 16
    assert float(anomaly_maps.energy_in_mask(maps, np.zeros_like(target))[0]) == 0


def test_image_scores_by_hand():
    maps = np.float32(np.arange(16).reshape(1, 4, 4))
    region = maps < 9  # 0 to 8
    for top, whole, inside in ((1.0, 7.5, 4.0), (0.0, 15.0, 8.0), (0.25, 13.5, 7.0), (0.2, 13.5, 7.5)):
        assert float(anomaly_maps.image_scores(maps, top=top)[0]) == whole
        assert float(anomaly_maps.image_scores(maps, region, top)[0]) == inside


def test_nothing_outside_the_region_counts():
    maps, targets, region = some()
    wild = np.where(region, maps, np.nan)
    edges = np.linspace(0, 1.25, 16, dtype=np.float32)
    for measured in (
        lambda m, t: anomaly_maps.overlap(m, t, edges, region).dice,
        lambda m, t: anomaly_maps.pointing_hits(m, t, 0.0, region),
        lambda m, t: anomaly_maps.energy_in_mask(m, t & region, region),
        lambda m, t: anomaly_maps.image_scores(m, region, 0.1),
    ):
        np.testing.assert_array_equal(measured(wild, targets), measured(maps * region, targets))


def test_bad_maps_are_named():
    maps, targets, region = some()
    bad, empty = maps.copy(), region.copy()
    bad[4, 3, 3], empty[5] = np.nan, False
    edges = ranking.quantile_edges(maps, 16)
    names = [f"{i}.png" for i in range(6)]
    with pytest.raises(UserError, match=r"4.png: the map holds NaN or infinity; .* \(1 of 6 records\)"):
        anomaly_maps.check_maps(bad, targets, names=names)
    with pytest.raises(UserError, match="record 5: the region is empty"):
        anomaly_maps.check_maps(maps, targets, empty)
    with pytest.raises(UserError, match="record 0: the target is not 0 and 1"):
        anomaly_maps.check_maps(maps, 255 * targets.astype(int))
    for measured in (
        anomaly_maps.pointing_hits,
        anomaly_maps.energy_in_mask,
        lambda m, t: anomaly_maps.overlap(m, t, edges),
    ):
        with pytest.raises(UserError, match="record 4: the map holds NaN"):
            measured(bad, targets)
        with pytest.raises(UserError, match=r"maps have shape \(6, 12, 16\), targets \(5, 12, 16\)"):
            measured(maps, targets[:5])
    with pytest.raises(UserError, match="record 4: the map holds NaN"):
        anomaly_maps.image_scores(bad)
    with pytest.raises(UserError, match="give a share from 0 to 1"):
        anomaly_maps.image_scores(maps, top=5)
    with pytest.raises(UserError, match="rising numbers"):
        anomaly_maps.overlap(maps, targets, edges[::-1])


def test_under_jit_a_bad_map_is_not_hidden():
    maps, targets, region = some()
    bad, empty = maps.copy(), region.copy()
    bad[4, 3, 3], empty[5] = np.inf, False
    edges = ranking.quantile_edges(maps, 16)
    for measured in (
        anomaly_maps.pointing_hits,
        anomaly_maps.energy_in_mask,
        lambda m, t: anomaly_maps.overlap(m, t, edges).iou[:, 0],
    ):
        np.testing.assert_array_equal(np.isnan(jax.jit(measured)(bad, targets)), np.arange(6) == 4)
    np.testing.assert_array_equal(np.isnan(jax.jit(anomaly_maps.image_scores)(maps, empty)), np.arange(6) == 5)
