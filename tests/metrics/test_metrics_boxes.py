"""Boxes as masks: slices at the original size, exact fractions at others, real boxes, named mistakes."""

import csv
from fractions import Fraction

import jax
import numpy as np
import pytest
from hashed import hashed

from medgen_jax.core.errors import UserError
from medgen_jax.metrics.boxes import box_masks, padded_boxes

masks_of = jax.jit(box_masks, static_argnums=2)


def mask_of(boxes, image_size, map_size):
    return np.asarray(masks_of(padded_boxes([boxes], [image_size]), np.array([image_size]), map_size))[0]


def by_fractions(boxes, image_size, map_size):
    """Centres inside half-open boxes, in exact arithmetic."""

    def inside(i, start, length, extent, pixels):
        return start <= Fraction(2 * i + 1, 2) * Fraction(extent, pixels) < start + length

    mask = np.zeros(map_size, bool)
    for x, y, width, height in boxes:
        rows = [inside(i, y, height, image_size[0], map_size[0]) for i in range(map_size[0])]
        columns = [inside(i, x, width, image_size[1], map_size[1]) for i in range(map_size[1])]
        mask |= np.outer(rows, columns)
    return mask


def test_at_the_original_size_a_box_is_a_slice():
    wanted = np.zeros((10, 12), bool)
    wanted[2:5, 3:10] = True
    np.testing.assert_array_equal(mask_of([[3, 2, 7, 3]], (10, 12), (10, 12)), wanted)


def test_half_a_pixel_decides_by_its_centre():
    """At a quarter of the size the centres lie at 2, 6, 10, ...: a box from 2 holds the first, one from 3 does not."""
    for start, first in ((2, 0), (3, 1), (6, 1), (7, 2)):
        rows = np.flatnonzero(mask_of([[0, start, 40, 8]], (40, 40), (10, 10)).any(1))
        np.testing.assert_array_equal(rows, [first, first + 1])


@pytest.mark.parametrize(
    ("image_size", "map_size"), [((1024, 1024), (64, 64)), ((1982, 1804), (224, 224)), ((342, 417), (97, 61))]
)
def test_agrees_with_exact_fractions(image_size, map_size):
    height, width = image_size
    for seed in range(20):
        a, b, c, d = hashed(seed, 4)
        x, y = int(a * width * 0.7), int(b * height * 0.7)
        box = [x, y, 40 + int(c * (width - x - 40)), 40 + int(d * (height - y - 40))]
        got = mask_of([box, [1, 2, 50, 45]], image_size, map_size)
        np.testing.assert_array_equal(got, by_fractions([box, [1, 2, 50, 45]], image_size, map_size), str(box))


def test_a_centre_on_the_edge_is_inside_whatever_the_sizes():
    """2000 / 60 is no float32: dividing by it would move this edge past the centre of row 7, at 250."""
    box = [0, 250, 2000, 200]
    mask = box_masks(padded_boxes([[box]], [(2000, 2000)]), np.array([(2000, 2000)]), (60, 60))[0]
    np.testing.assert_array_equal(mask, by_fractions([box], (2000, 2000), (60, 60)))


def test_a_box_between_two_centres_is_not_lost():
    """On a 7x7 map cells are 146 pixels wide; boxes of 20 pixels keep the cell that their own centre is in."""
    mask = mask_of([[300, 10, 20, 20], [1004, 1004, 20, 20]], (1024, 1024), (7, 7))
    assert np.argwhere(mask).tolist() == [[0, 2], [6, 6]]


def test_images_without_boxes_and_of_several_sizes():
    boxes = [[], [[0, 0, 50, 100]], np.zeros((0, 4)), [[0, 0, 4, 4], [4, 4, 4, 4]]]
    sizes = np.array([(10, 10), (100, 100), (30, 20), (8, 8)])
    padded = padded_boxes(boxes, sizes)
    assert padded.shape == (4, 2, 4)
    masks = np.asarray(masks_of(padded, sizes, (4, 4)))
    np.testing.assert_array_equal(masks.sum((1, 2)), [0, 8, 0, 8])
    assert masks[1, :, :2].all() and masks[3, :2, :2].all() and masks[3, 2:, 2:].all()
    assert not np.asarray(masks_of(padded_boxes([[], []], sizes[:2]), sizes[:2], (4, 4))).any()


def test_real_boxes_lie_where_their_table_says(shared):
    """39 boxes of 20 images, in pixels of 1024x1024: slices there, every sixteenth centre at 64x64."""
    with open(shared / "data/cxr/rsna_mini/stage_2_train_labels.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["Target"] == "1"]
    patients = sorted({row["patientId"] for row in rows})
    assert (len(rows), len(patients)) == (39, 20)
    values = [(row["patientId"], [int(float(row[key])) for key in ("x", "y", "width", "height")]) for row in rows]
    boxes = [[box for patient, box in values if patient == one] for one in patients]
    sizes = [(1024, 1024)] * 20
    padded = padded_boxes(boxes, sizes, patients)
    full, small = (np.asarray(masks_of(padded, np.array(sizes), size)) for size in ((1024, 1024), (64, 64)))
    for mask, scaled, own in zip(full, small, boxes, strict=True):
        wanted = np.zeros((1024, 1024), bool)
        for x, y, width, height in own:
            wanted[y : y + height, x : x + width] = True
        np.testing.assert_array_equal(mask, wanted)
        np.testing.assert_array_equal(scaled, wanted[8::16, 8::16])


def test_bad_boxes_are_named():
    sizes, names = [(100, 200)] * 2, ["a.dcm", "b.dcm"]
    for box, message in (
        ([0, 0, np.nan, 5], "b.dcm: a box holds NaN"),
        ([0, 0, 0, 5], "b.dcm: the box .* has no size"),
        ([0, 0, 5, -5], "b.dcm: the box .* has no size"),
        ([150, 10, 60, 10], "b.dcm: the box .* reaches outside the image of 200x100 pixels"),
        ([-4, 10, 60, 10], "b.dcm: the box .* reaches outside"),
        ([0, 0, 5], r"b.dcm: boxes have shape \(1, 3\)"),
    ):
        with pytest.raises(UserError, match=message):
            padded_boxes([[[0, 0, 200, 100]], [box]], sizes, names)
    with pytest.raises(UserError, match="record 0: a box holds NaN"):
        padded_boxes([[[np.nan] * 4]], [(10, 10)])
    with pytest.raises(UserError, match="boxes of 1 images, 2 sizes and 2 names"):
        padded_boxes([[]], sizes, names)
