"""Which pictures stand on the page, and what lies below and above a frequency."""

from __future__ import annotations

import numpy as np
import pytest
import small_counterfactuals as small
from small_counterfactuals import NORMAL, OPACITY

from medgen_jax.evaluation.counterfactuals import measures, pictures
from medgen_jax.evaluation.counterfactuals.measures import Measured

SIZE = 32


def wave(halves):
    """(SIZE, SIZE, 1): a cosine of so many half waves across, which a cosine transform holds in one number."""
    row = np.cos(np.pi * (np.arange(SIZE) + 0.5) * halves / SIZE)
    return np.float32(np.broadcast_to(row, (SIZE, SIZE)))[..., None]


COARSE, FINE = 0.4 * wave(4), 0.1 * wave(16)  # 1/16 and 1/4 cycles per pixel; the two parts meet at 1/8


def gain(cycles):
    """Of the low part: Butterworth's, order 2."""
    return 1 / (1 + (cycles / pictures.CUTOFF) ** 4)


def measured(folder, rows):
    """A folder as a pass over it leaves it, without what pictures do not need."""
    method = measures.open_methods([small.write(folder, rows)])[0]
    arrays = [method.folder.arrays(entry) for entry in method.entries]
    means = {"residual": np.array([np.abs(own.residual).mean() / 2 for own in arrays])}
    means["control"] = means["residual"] * 0
    digests = tuple((measures._digest(own.image), measures._digest(own.counterfactual)) for own in arrays)
    return Measured(method, (), means, {}, None, {}, {}, {}, digests)


def row(level, label, counterfactual=None, control=None):
    image = np.float32(COARSE + FINE + level)
    changed = image if counterfactual is None else np.float32(counterfactual + level)
    return {"image": image, "counterfactual": changed, "control": image if control is None else control, "label": label}


def test_low_and_high_part_of_an_image_and_of_what_was_made_of_it(tmp_path):
    own = measured(tmp_path / "blur", [row(0.0, NORMAL, COARSE), row(0.1, OPACITY, COARSE)])
    found = pictures.filtered([own])
    assert [case.heading for case in found] == [f"Spectra as pictures: {name}" for name in [NORMAL] * 3 + [OPACITY] * 3]
    names = ["record 0", "blur round trip", "blur", "record 1", "blur round trip", "blur"]
    assert [case.caption.partition(";")[0] for case in found] == names
    assert all("below and above 1/8 cycles per pixel, the latter 8 times as strong" in case.caption for case in found)
    image, trip, made = (dict(case.pictures) for case in found[3:])
    np.testing.assert_allclose(image["low"], 0.1 + gain(1 / 16) * COARSE + gain(1 / 4) * FINE, atol=1e-4)
    np.testing.assert_allclose(image["high"] / 8, image["whole"] - image["low"], atol=1e-4)
    np.testing.assert_array_equal(trip["high"], image["high"])
    # Of what was blurred the fine wave is gone, and the coarse one is as it was.
    np.testing.assert_allclose(made["low"], 0.1 + gain(1 / 16) * COARSE, atol=1e-4)
    np.testing.assert_allclose(made["high"] / 8, (1 - gain(1 / 16)) * COARSE, atol=1e-4)


def test_the_median_image_of_each_class_in_all_folders_that_hold_it(tmp_path):
    rows = [row(0.1 * i, NORMAL, COARSE + shift) for i, shift in enumerate((0.5, 0.1, 0.3))]
    first = measured(tmp_path / "first", rows)
    assert [int(i) for i in pictures._typical(first)] == [2]
    same = measured(tmp_path / "same", [rows[2], rows[0]])
    without = measured(tmp_path / "without", rows[:2])
    names = [case.caption.partition(";")[0] for case in pictures.filtered([first, without, same])]
    assert names == ["record 2", "first round trip", "first", "same round trip", "same"]


def test_pictures_may_be_left_out_and_constant_images_have_them(tmp_path):
    flat = {name: np.full((SIZE, SIZE, 1), 0.25, np.float32) for name in ("image", "counterfactual", "control")}
    own = measured(tmp_path / "flat", [flat])
    assert pictures.cases([own], 0) == []
    found = pictures.cases([own], 1)
    assert [case.heading for case in found] == ["Spectra as pictures: all images"] * 3 + ["flat: changed most"]
    assert dict(found[0].pictures)["low"] == pytest.approx(0.25, abs=1e-5)
    assert np.abs(dict(found[0].pictures)["high"]).max() < 1e-4  # rounding is not blown up
