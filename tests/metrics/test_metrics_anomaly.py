"""Anomaly maps: hand-computed overlap, pointing and energy, loops over a data set, degenerate maps."""

import jax
import numpy as np
import pytest
from hashed import hashed

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import anomaly, ranking

accumulate = jax.jit(anomaly.accumulate, static_argnums=6)


def rectangle(size, rows, columns):
    mask = np.zeros((1, *size), bool)
    mask[0, rows[0] : rows[1], columns[0] : columns[1]] = True
    return mask


def peak(size, row, column):
    image = np.zeros((1, *size), np.float32)
    image[0, row, column] = 1
    return image


def some(count=6, size=(12, 16)):
    """Maps on a grid of 64 values, targets of which every third is empty, and regions."""
    maps = np.float32(np.floor(hashed(1, count, *size) * 64) / 64)
    rows, columns = np.mgrid[: size[0], : size[1]]
    centres = hashed(2, count, 2) * size
    targets = (abs(rows - centres[:, :1, None]) < 3) & (abs(columns - centres[:, 1:, None]) < 4)
    targets[2::3] = False
    return maps + np.float32(0.25) * targets, targets, hashed(3, count, *size) < 0.8


EDGES = 128  # in every test, as each number is compiled


def rising(*values):
    return np.pad(np.float32(values), (0, EDGES - len(values)), constant_values=np.inf)


def measure(maps, targets, edges, region=None):
    """Sums of images of 12x16 pixels in batches of six, filled with what must not count."""
    region = np.ones(maps.shape, bool) if region is None else region
    acc = anomaly.init(edges)
    for start in range(0, len(maps), 6):
        fields = [field[start : start + 6] for field in (maps, targets, region)]
        mask = np.arange(6) < len(fields[0])
        fill = [(0, 6 - len(fields[0])), (0, 0), (0, 0)]
        a, b, c = (np.pad(x, fill, constant_values=v) for x, v in zip(fields, (np.nan, True, True), strict=True))
        acc = accumulate(acc, a, b, mask, edges, c, 2.0)
    return acc


def test_overlap_by_hand():
    """4 pixels marked, 6 in the target, 2 common: Dice 4/10, IoU 2/8. At 0 all 16 are marked: 12/22, 6/16."""
    target = rectangle((4, 4), (0, 2), (0, 3))
    maps = np.float32(rectangle((4, 4), (1, 3), (1, 3)))
    maps[0, 3, 3] = maps[0, 0, 0] = 0.4
    got = anomaly.overlap(maps, target, np.array([0.0, 0.5, 2.0], np.float32))
    np.testing.assert_allclose(got.dice, [[12 / 22, 4 / 10, 0]], rtol=1e-6)
    np.testing.assert_allclose(got.iou, [[6 / 16, 2 / 8, 0]], rtol=1e-6)


def test_overlap_of_nothing_with_nothing_is_whole():
    nothing = np.zeros((1, 4, 4), bool)
    got = anomaly.overlap(np.zeros((1, 4, 4), np.float32), nothing, np.array([0.0, 0.5], np.float32))
    np.testing.assert_array_equal(got.dice, [[0, 1]])
    np.testing.assert_array_equal(got.iou, [[0, 1]])


def test_pointing_at_the_border_of_a_box():
    """Rows 2 to 4, columns 3 to 6. Inside up to the last pixel; one beyond is a distance of 1."""
    target = rectangle((10, 12), (2, 5), (3, 7))

    def hit(row, column, tolerance):
        return float(anomaly.pointing_hits(peak((10, 12), row, column), target, tolerance)[0])

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
    assert float(anomaly.pointing_hits(two, target)[0]) == 0.5
    for value in (0.0, 7.0):
        assert float(anomaly.pointing_hits(np.full((1, 4, 4), value, np.float32), target)[0]) == 4 / 16
    assert float(anomaly.pointing_hits(two, np.zeros_like(target), 3.0)[0]) == 0
    assert float(anomaly.pointing_hits(two, target, 0.0, ~rectangle((4, 4), (3, 4), (3, 4)))[0]) == 1


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.5, 6.0])
def test_tolerance_is_a_euclidean_distance(tolerance):
    targets = hashed(5, 2, 11, 14) < 0.02
    rows, columns = np.mgrid[:11, :14]
    near = anomaly._within(targets, tolerance)
    for target, got in zip(targets, near, strict=True):
        squared = [(rows - i) ** 2 + (columns - j) ** 2 for i, j in np.argwhere(target)]
        np.testing.assert_array_equal(got, np.any(np.array(squared) <= tolerance**2, axis=0))


def test_energy_by_hand():
    """Inside 3 of 4; the negative part has no energy. A map without a positive value scores its area."""
    target = rectangle((4, 4), (0, 2), (0, 2))
    maps = 3 * peak((4, 4), 0, 1) + peak((4, 4), 3, 3) - 9 * peak((4, 4), 2, 2)
    assert float(anomaly.energy_in_mask(maps, target)[0]) == 0.75
    for scale in (1e-42, 1e-30, 1e37):
        got = anomaly.energy_in_mask(np.float32(scale) * np.ones((1, 4, 4), np.float32), target)
        assert float(got[0]) == pytest.approx(4 / 16)
    for flat in (0.0, -1.0):
        assert float(anomaly.energy_in_mask(np.full((1, 4, 4), flat, np.float32), target)[0]) == 4 / 16
    assert float(anomaly.energy_in_mask(maps, np.zeros_like(target))[0]) == 0


def test_image_scores_by_hand():
    maps = np.float32(np.arange(16).reshape(1, 4, 4))
    region = maps < 9  # 0 to 8
    for top, whole, inside in ((1.0, 7.5, 4.0), (0.0, 15.0, 8.0), (0.25, 13.5, 7.0), (0.2, 13.5, 7.5)):
        assert float(anomaly.image_scores(maps, top=top)[0]) == whole
        assert float(anomaly.image_scores(maps, region, top)[0]) == inside


def test_nothing_outside_the_region_counts():
    maps, targets, region = some()
    wild = np.where(region, maps, np.nan)
    edges = np.linspace(0, 1.25, EDGES, dtype=np.float32)
    for measured in (
        lambda m, t: anomaly.overlap(m, t, edges, region).dice,
        lambda m, t: anomaly.pointing_hits(m, t, 0.0, region),
        lambda m, t: anomaly.energy_in_mask(m, t & region, region),
        lambda m, t: anomaly.image_scores(m, region, 0.1),
    ):
        np.testing.assert_array_equal(measured(wild, targets), measured(maps * region, targets))
    acc = measure(wild, targets, edges, region)
    got = anomaly.compute(acc, edges)
    assert got["pixel_auroc"] == pytest.approx(
        ranking.ranking_scores(maps[region], targets[region])["auroc"], abs=got["pixel_auroc_error"] + 1e-9
    )
    inside = [np.mean(maps[i][region[i] & targets[i]].sum() / maps[i][region[i]].sum()) for i in (0, 1, 3, 4)]
    assert got["energy"] == pytest.approx(np.mean(inside), rel=1e-5)


def test_a_data_set_equals_loops_over_its_images():
    maps, targets, _ = some()
    edges = ranking.quantile_edges(maps, EDGES)
    threshold = float(edges[30])
    acc = anomaly.merge(*(measure(maps[part], targets[part], edges) for part in (slice(4), slice(4, 6))))
    got = anomaly.compute(acc, edges, threshold)
    exact = ranking.ranking_scores(maps, targets)
    assert {f"pixel_{name}": got[f"pixel_{name}"] for name in exact} == pytest.approx(
        {f"pixel_{name}": value for name, value in exact.items()}
    )
    lesions = [i for i in range(6) if targets[i].any()]

    def dice(i, level):
        marked = maps[i] >= level
        return 2 * np.sum(marked & targets[i]) / (marked.sum() + targets[i].sum())

    finite = edges[np.isfinite(edges)]
    table = np.array([[dice(i, level) for level in finite] for i in lesions])
    marked = maps >= threshold
    iou = [np.sum(marked[i] & targets[i]) / np.sum(marked[i] | targets[i]) for i in lesions]
    wanted = {
        "images": 6,
        "lesion_images": len(lesions),
        "constant_maps": 0,
        "auroc_per_image": np.mean([ranking.ranking_scores(maps[i], targets[i])["auroc"] for i in lesions]),
        "pointing": np.mean([anomaly.pointing_hits(maps[i : i + 1], targets[i : i + 1], 2.0)[0] for i in lesions]),
        "energy": np.mean([maps[i][targets[i]].sum() / maps[i].sum() for i in lesions]),
        "threshold": threshold,
        "dice": np.mean([dice(i, threshold) for i in lesions]),
        "iou": np.mean(iou),
        "healthy_area": np.mean([marked[i].mean() for i in range(6) if i not in lesions]),
        "best_dice": table.mean(0).max(),
        "best_dice_threshold": finite[table.mean(0).argmax()],
        "best_dice_per_image": table.max(1).mean(),
    }
    assert {name: got[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    # Above every healthy pixel, where an image without a lesion overlaps with it perfectly.
    high = float(edges[70])
    iou = [np.sum(marked[i] & targets[i]) / targets[i].sum() for marked in [maps >= high] for i in lesions]
    assert high > 1 and anomaly.compute(acc, edges, high)["iou"] == pytest.approx(np.mean(iou), rel=1e-5)
    assert 0 < len(lesions) < 6 and got["best_dice_per_image"] > got["best_dice"] > got["dice"]


def test_all_ones_have_the_dice_of_the_area_and_chance_elsewhere():
    """A quarter of the image: 2 * 1/4 / (1 + 1/4)."""
    target, edges = rectangle((12, 16), (0, 6), (0, 8)), rising(1)
    got = anomaly.compute(measure(np.ones((1, 12, 16), np.float32), target, edges), edges, 1.0)
    assert got["dice"] == got["best_dice"] == pytest.approx(0.4)
    assert got["pixel_auroc"] == got["auroc_per_image"] == 0.5
    assert got["pixel_auprc"] == got["energy"] == 0.25
    assert got["constant_maps"] == 1 and "healthy_area" not in got


def test_padding_never_counts_even_if_not_finite():
    """Seven images in batches of six leave five places, which `measure` fills with NaN."""
    maps, targets, _ = some(7)
    edges = ranking.quantile_edges(maps, EDGES)
    got = anomaly.compute(measure(maps, targets, edges), edges)
    assert got["images"] == 7 and got["lesion_images"] == targets.any((1, 2)).sum()
    assert got["pixel_auroc"] == pytest.approx(ranking.ranking_scores(maps, targets)["auroc"])


def test_a_threshold_is_calibrated_on_other_images():
    """Lesions at 3, all else at most 2: the best Dice is at 3. An eighth of the healthy image reaches 2."""
    targets = np.concatenate([rectangle((12, 16), (0, 2), (0, 2)), np.zeros((1, 12, 16), bool)])
    maps = np.zeros((2, 12, 16), np.float32)
    maps[0][targets[0]] = 3
    maps[0, 9, 9], maps[1, :3, :8], maps[1, 3:6, :8] = 2, 1, 2
    edges = rising(0, 1, 2, 3)
    acc = measure(maps, targets, edges)
    assert anomaly.calibrated_threshold(acc, edges) == 3
    for area, threshold in ((1.0, 0), (0.25, 1), (0.24, 2), (0.125, 2), (0.12, 3), (0.0, 3)):
        assert anomaly.calibrated_threshold(acc, edges, healthy_area=area) == threshold
    assert anomaly.compute(acc, edges, 2)["healthy_area"] == pytest.approx(0.125)
    with pytest.raises(UserError, match="validation: none of the 1 images has a lesion"):
        anomaly.calibrated_threshold(measure(maps[1:], targets[1:], edges), edges, name="validation")
    with pytest.raises(UserError, match="none of the 1 images is free of lesions"):
        anomaly.calibrated_threshold(measure(maps[:1], targets[:1], edges), edges, healthy_area=0.1)


def test_a_share_of_healthy_pixels_that_no_edge_keeps_is_refused():
    for edges in (np.linspace(0, 0.5, EDGES, dtype=np.float32), rising(0, 0.5)):
        acc = measure(np.ones((1, 12, 16), np.float32), np.zeros((1, 12, 16), bool), edges)
        with pytest.raises(UserError, match="the highest edge marks more than 0.05"):
            anomaly.calibrated_threshold(acc, edges, healthy_area=0.05)


def test_sharded_batches_give_the_same_sums():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    over_data = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    maps, targets, _ = some(8)
    mask, edges = np.arange(8) < 7, ranking.quantile_edges(maps, EDGES)
    sharded = accumulate(anomaly.init(edges), *jax.device_put((maps, targets, mask), over_data), edges, None, 2.0)
    assert anomaly.compute(sharded, edges) == pytest.approx(
        anomaly.compute(measure(maps[:7], targets[:7], edges), edges)
    )


def test_bad_maps_are_named():
    maps, targets, region = some()
    bad, empty = maps.copy(), region.copy()
    bad[4, 3, 3], empty[5] = np.nan, False
    edges = ranking.quantile_edges(maps, EDGES)
    names = [f"{i}.png" for i in range(6)]
    with pytest.raises(UserError, match=r"4.png: the map holds NaN or infinity; .* \(1 of 6 records\)"):
        anomaly.check_maps(bad, targets, names=names)
    with pytest.raises(UserError, match="record 5: the region is empty"):
        anomaly.check_maps(maps, targets, empty)
    with pytest.raises(UserError, match="record 0: the target is not 0 and 1"):
        anomaly.check_maps(maps, 255 * targets.astype(int))
    for measured in (anomaly.pointing_hits, anomaly.energy_in_mask, lambda m, t: anomaly.overlap(m, t, edges)):
        with pytest.raises(UserError, match="record 4: the map holds NaN"):
            measured(bad, targets)
        with pytest.raises(UserError, match=r"maps have shape \(6, 12, 16\), targets \(5, 12, 16\)"):
            measured(maps, targets[:5])
    with pytest.raises(UserError, match="record 4: the map holds NaN"):
        anomaly.image_scores(bad)
    with pytest.raises(UserError, match="give a share from 0 to 1"):
        anomaly.image_scores(maps, top=5)
    with pytest.raises(UserError, match="rising numbers"):
        anomaly.overlap(maps, targets, edges[::-1])


def test_under_jit_a_bad_map_is_not_hidden():
    maps, targets, region = some()
    bad, empty = maps.copy(), region.copy()
    bad[4, 3, 3], empty[5] = np.inf, False
    edges = ranking.quantile_edges(maps, EDGES)
    for measured in (
        anomaly.pointing_hits,
        anomaly.energy_in_mask,
        lambda m, t: anomaly.overlap(m, t, edges).iou[:, 0],
    ):
        np.testing.assert_array_equal(np.isnan(jax.jit(measured)(bad, targets)), np.arange(6) == 4)
    np.testing.assert_array_equal(np.isnan(jax.jit(anomaly.image_scores)(maps, empty)), np.arange(6) == 5)
    with pytest.raises(UserError, match="1 of 6 maps hold NaN or infinity"):
        anomaly.compute(measure(bad, targets, edges), edges)
    with pytest.raises(UserError, match="1 of 6 regions are empty"):
        anomaly.compute(measure(maps, targets, edges, empty), edges)


def test_sets_without_lesions_and_foreign_thresholds_are_refused():
    maps, targets, _ = some()
    edges = ranking.quantile_edges(maps, EDGES)
    with pytest.raises(UserError, match="none of the 6 images has a lesion"):
        anomaly.compute(measure(maps, np.zeros_like(targets), edges), edges)
    with pytest.raises(UserError, match="none of the 0 images"):
        anomaly.compute(anomaly.init(edges), edges)
    with pytest.raises(UserError, match="threshold 0.123 is not one of the edges"):
        anomaly.compute(measure(maps, targets, edges), edges, 0.123)
