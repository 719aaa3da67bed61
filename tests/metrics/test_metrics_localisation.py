"""The table of maps and baselines: what each row is, thresholds from elsewhere, real boxes, named mistakes."""

import csv
import json
import pathlib

import numpy as np
import pydicom
import pytest
from hashed import hashed

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import anomaly_maps, localisation, ranking
from medgen_jax.metrics.boxes import box_masks, padded_boxes

GOLDEN = pathlib.Path(__file__).parent / "golden" / "ranking_packages.json"
BASELINES = ["mean training mask", "all ones", "centre Gaussian", "intensity"]
SIZE = (10, 12)


def split(seed, count):
    """Noise with a bright rectangle in the right half of two images of three."""
    images = np.float32(hashed(seed, count, *SIZE, 1) - 0.8)
    targets = np.zeros((count, *SIZE), bool)
    for i in range(count):
        if i % 3:
            top, left = (int(v) for v in hashed(seed + 50 + i, 2) * [6, 3])
            targets[i, top : top + 4, 6 + left : 9 + left] = True
    return localisation.MapSet(images + np.float32(0.4) * targets[..., None], targets)


def found(of):
    """A map that knows the lesions, with noise."""
    return np.float32(of.targets + 0.8 * hashed(9, *of.targets.shape))


def table_of(*arguments, **options):
    """One batch size and tolerance, as each is compiled."""
    return localisation.localisation_table(*arguments, tolerance=1.0, batch_size=4, **options)


@pytest.fixture(scope="module")
def sets():
    return split(100, 9), split(200, 7), localisation.prior_map(split(300, 30).targets)


def test_prior_is_the_mean_of_the_masks_with_a_lesion():
    masks = np.zeros((4, 2, 2), bool)
    masks[1, 0, 0] = masks[2, 0] = masks[3, 1, 1] = True
    np.testing.assert_allclose(localisation.prior_map(iter(masks)), [[2 / 3, 1 / 3], [0, 1 / 3]])


def test_baselines_are_what_they_are_called(sets):
    test, _, prior = sets
    maps = localisation.baseline_maps(test.images, prior)
    assert list(maps) == BASELINES
    assert all(one.shape == (9, *SIZE) and one.dtype == np.float32 for one in maps.values())
    np.testing.assert_array_equal(maps["mean training mask"][3], prior)
    np.testing.assert_array_equal(maps["all ones"], 1)
    np.testing.assert_array_equal(maps["intensity"], test.images[..., 0])
    centre = maps["centre Gaussian"][0]
    np.testing.assert_allclose(centre, centre[::-1, ::-1], rtol=1e-6)
    assert np.unravel_index(centre.argmax(), SIZE) in {(4, 5), (4, 6), (5, 5), (5, 6)}
    # From the middle to a pixel a quarter of the side away a Gaussian of that deviation falls by e^-.5.
    wide = localisation.baseline_maps(np.zeros((1, 101, 101, 1)), np.zeros((101, 101)))["centre Gaussian"][0]
    assert wide[50, 50] == 1 and wide[50, 75] == pytest.approx(np.exp(-0.5 * (25 / 101 / 0.25) ** 2), rel=1e-5)


def test_table_by_definition(sets):
    test, calibration, prior = sets
    rows = {"ours": found(test)}
    table = table_of(rows, test, {"ours": found(calibration)}, calibration, prior)
    assert list(table) == ["ours", *BASELINES]
    others = {"ours": found(calibration)} | localisation.baseline_maps(calibration.images, prior)
    rows |= localisation.baseline_maps(test.images, prior)
    lesion = test.targets.any((1, 2))
    for name, row in table.items():
        exact = ranking.ranking_scores(rows[name], test.targets)
        assert abs(row["pixel_auroc"] - exact["auroc"]) <= row["pixel_auroc_error"] + 1e-9
        hits = np.asarray(anomaly_maps.pointing_hits(rows[name], test.targets, 1.0))[lesion]
        assert row["pointing"] == pytest.approx(np.mean(hits), rel=1e-5)
        assert row["threshold"] in others[name]
        dice = np.asarray(anomaly_maps.overlap(rows[name], test.targets, np.float32([row["threshold"]])).dice)[lesion]
        assert row["dice"] == pytest.approx(dice.mean(), rel=1e-5)
        image = ranking.ranking_scores(anomaly_maps.image_scores(rows[name]), lesion)
        assert (row["image_auroc"], row["image_auprc"]) == pytest.approx((image["auroc"], image["auprc"]))
    for name in BASELINES[:3]:
        assert table[name]["image_auroc"] == 0.5 and table[name]["pixel_auroc_error"] == 0
    area = test.targets[lesion].mean((1, 2))
    assert table["all ones"]["dice"] == pytest.approx(np.mean(2 * area / (1 + area)), rel=1e-5)
    assert table["all ones"]["pixel_auprc"] == pytest.approx(test.targets.mean())
    assert table["ours"]["dice"] > table["mean training mask"]["dice"] > table["all ones"]["dice"]


def test_region_and_sets_of_one_kind(sets):
    """Inside the right half alone the prior knows less; without healthy images there is no image level."""
    test, calibration, prior = sets
    region = np.zeros(SIZE, bool)
    region[:, 6:] = True

    def inside(one, kept):
        return localisation.MapSet(
            one.images[kept], one.targets[kept], np.broadcast_to(region, one.targets[kept].shape)
        )

    arguments = ({}, test, {}, calibration, prior)
    whole = table_of(*arguments)["mean training mask"]
    every, lesions = slice(None), test.targets.any((1, 2))
    half = table_of({}, inside(test, lesions), {}, inside(calibration, every), prior)
    assert half["mean training mask"]["pixel_auroc"] < whole["pixel_auroc"]
    assert half["all ones"]["pixel_prevalence"] == pytest.approx(2 * test.targets[lesions].mean(), rel=1e-6)
    assert "image_auroc" not in half["all ones"] and "healthy_area" not in half["all ones"]


def test_a_constant_map_is_counted_and_scores_chance(sets):
    test, calibration, prior = sets
    flat = table_of(
        {"flat": np.zeros(test.targets.shape)}, test, {"flat": np.zeros(calibration.targets.shape)}, calibration, prior
    )["flat"]
    assert flat["constant_maps"] == 9 and flat["pixel_auroc"] == flat["image_auroc"] == 0.5
    assert all(np.isfinite(value) for value in flat.values())


def test_real_boxes_and_intensity_as_scikit_learn_scores_them(shared):
    """52 radiographs at 64x64: the brightness of a pixel says nothing about its boxes."""
    stored = json.loads(GOLDEN.read_text())["rsna_mini"]
    folder = shared / "data/cxr/rsna_mini"
    with open(folder / "stage_2_train_labels.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["Target"] == "1"]
    files = sorted((folder / "stage_2_train_images").glob("*.dcm"))
    pixels = np.stack([pydicom.dcmread(file).pixel_array for file in files])
    maps = pixels.reshape(len(files), 64, 16, 64, 16).mean((2, 4)) / 127.5 - 1
    boxes = [[[float(row[k]) for k in ("x", "y", "width", "height")] for row in rows if row["patientId"] == file.stem]
             for file in files]  # fmt: skip
    sizes = [image.shape for image in pixels]
    targets = np.asarray(box_masks(padded_boxes(boxes, sizes), np.array(sizes), (64, 64)))
    lesion = targets.any((1, 2))
    assert (len(files), lesion.sum(), targets.sum()) == (
        stored["images"],
        stored["lesion_images"],
        stored["mask_pixels"],
    )
    exact = ranking.ranking_scores(maps, targets)
    assert exact["auroc"] == pytest.approx(stored["pixel_roc_auc_score"], abs=1e-6)
    assert exact["auprc"] == pytest.approx(stored["pixel_average_precision_score"], abs=1e-6)
    everything = localisation.MapSet(np.float32(maps)[..., None], targets)
    prior = localisation.prior_map(targets)
    table = localisation.localisation_table({}, everything, {}, everything, prior)
    row = table["intensity"]
    assert row["pixel_auroc"] == pytest.approx(stored["pixel_roc_auc_score"], abs=row["pixel_auroc_error"] + 1e-6)
    assert row["pixel_auprc_low"] < stored["pixel_average_precision_score"] < row["pixel_auprc_high"]
    assert row["auroc_per_image"] == pytest.approx(stored["mean_per_image_roc_auc_score"], abs=1e-3)
    assert row["image_auroc"] == pytest.approx(stored["image_roc_auc_score"], abs=1e-6)
    assert row["image_auprc"] == pytest.approx(stored["image_average_precision_score"], abs=1e-6)
    assert (
        table["mean training mask"]["pixel_auroc"] > 0.85
    )  # that of the same images: optimistic, yet no image was seen


def test_bad_input_is_named(sets):
    test, calibration, prior = sets
    ours, theirs = {"ours": found(test)}, {"ours": found(calibration)}
    named = test._replace(names=tuple(f"{i}.dcm" for i in range(9)))
    bad = ours["ours"].copy()
    bad[7, 0, 0] = np.inf
    with pytest.raises(UserError, match="7.dcm: the map holds NaN or infinity"):
        table_of({"ours": bad}, named, theirs, calibration, prior)
    with pytest.raises(UserError, match=r"maps are \['ours'\] and calibration maps \['other'\]"):
        table_of(ours, test, {"other": theirs["ours"]}, calibration, prior)
    with pytest.raises(UserError, match=r"maps: \['intensity'\] are names of baselines"):
        table_of({"intensity": ours["ours"]}, test, {"intensity": theirs["ours"]}, calibration, prior)
    with pytest.raises(UserError, match="2 names for 9 maps"):
        table_of(ours, test._replace(names=("a", "b")), theirs, calibration, prior)
    with pytest.raises(UserError, match=r"training mask has \(5, 5\) pixels and the images \(10, 12\)"):
        table_of(ours, test, theirs, calibration, np.zeros((5, 5)))
    with pytest.raises(UserError, match=r"maps have shape \(7, 10, 12\), targets \(9, 10, 12\)"):
        table_of(theirs, test, theirs, calibration, prior)
    healthy = calibration._replace(targets=np.zeros_like(calibration.targets))
    with pytest.raises(UserError, match="calibration set: none of the 7 images has a lesion"):
        table_of(ours, test, theirs, healthy, prior)
    with pytest.raises(UserError, match="no training image has a lesion"):
        localisation.prior_map(healthy.targets)
    with pytest.raises(UserError, match=r"training mask 1 has \(2, 3\) pixels, the others \(2, 2\)"):
        localisation.prior_map([np.ones((2, 2)), np.ones((2, 3))])
