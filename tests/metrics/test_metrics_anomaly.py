"""Anomaly maps of a data set: loops over its images, padding, shards, thresholds."""

import jax
import numpy as np
import pytest
from lesions import rectangle, some

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import anomaly, anomaly_maps, ranking

accumulate = jax.jit(anomaly.accumulate, static_argnums=6)


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


def test_nothing_outside_the_region_counts():
    maps, targets, region = some()
    edges = np.linspace(0, 1.25, EDGES, dtype=np.float32)
    got = anomaly.compute(measure(np.where(region, maps, np.nan), targets, edges, region), edges)
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
        "pointing": np.mean([anomaly_maps.pointing_hits(maps[i : i + 1], targets[i : i + 1], 2.0)[0] for i in lesions]),
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


def test_a_data_set_with_a_bad_map_is_refused():
    maps, targets, region = some()
    bad, empty = maps.copy(), region.copy()
    bad[4, 3, 3], empty[5] = np.inf, False
    edges = ranking.quantile_edges(maps, EDGES)
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
