"""Folders of counterfactuals: what is written is read, what is damaged is named, what was there is kept."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.data import counterfactual_folders as folders
from medgen_jax.data.counterfactual_folders import Arrays, Entry

ARRAYS = Arrays(*(np.full((2, 2, 1), value, np.float32) for value in (0.5, 0.25, 0.625)))
ONE = Entry(
    "one", "Lung Opacity", "AP", "p00001", ((1.0, 0.0, 1.0, 2.0),), {"label": None}, {"label": "Normal"}, 500, 3.0,
    {"mean_absolute_residual": 0.125}, "00ff",
)  # fmt: skip


def write(path, *entries, **settings):
    for entry in entries:
        folders.write_arrays(path, entry.name, ARRAYS)
    folders.write_scores(path, settings, entries)
    return path


def change(path, **fields):
    """Other fields in the first entry of the scores."""
    content = json.loads((path / "scores.json").read_text())
    content["images"][0].update(fields)
    (path / "scores.json").write_text(json.dumps(content))


def test_what_is_written_is_read(tmp_path):
    path = write(tmp_path / "new/out", ONE, Entry("two"), scale=3.0)
    found = folders.read(path)
    assert found.entries == (ONE, Entry("two")) and found.settings == {"scale": 3.0} and found.path == path
    for mine, theirs in zip(found.arrays(ONE), ARRAYS, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(found.arrays("two").residual, 0.25)
    np.testing.assert_array_equal(found.arrays("two").control_residual, -0.125)
    np.testing.assert_array_equal(found.arrays("two").subtracted, 0.125)
    assert json.loads((path / "scores.json").read_text())["format"] == 1


def test_where_the_control_lost_more_nothing_is_left():
    swapped = Arrays(ARRAYS.image, ARRAYS.control, ARRAYS.counterfactual)
    np.testing.assert_array_equal(swapped.subtracted, 0.0)


def test_entries_are_merged_by_name_and_settings_replaced(tmp_path):
    path = write(tmp_path, ONE, Entry("two"), scale=3.0)
    write(path, dataclasses.replace(ONE, depth=7), Entry("three"), scale=1.0)
    found = folders.read(path)
    assert [(e.name, e.depth) for e in found.entries] == [("one", 7), ("two", None), ("three", None)]
    assert found.settings == {"scale": 1.0} and not list(path.rglob("*.part"))


def test_values_beyond_the_range_are_limited_and_a_deviation_stays_beside(tmp_path):
    arrays = ARRAYS._replace(counterfactual=np.full((2, 2, 1), -1.5, np.float64))
    folders.write_arrays(tmp_path, "one", arrays, np.full((2, 2, 1), 0.3))
    found = folders.read_arrays(tmp_path, "one")
    assert found.counterfactual.dtype == np.float32 and (found.counterfactual == -1).all()
    np.testing.assert_allclose(folders.read_deviation(tmp_path, "one"), 0.3, rtol=1e-6)
    folders.write_arrays(tmp_path, "two", ARRAYS)
    assert folders.read_deviation(tmp_path, "two") is None


@pytest.mark.parametrize(
    "wrong", [ARRAYS.image[..., 0], np.zeros((3, 2, 1), np.float32), np.full((2, 2, 1), np.nan, np.float32)]
)
def test_arrays_that_cannot_be_are_not_written(tmp_path, wrong):
    with pytest.raises(ValueError, match="arrays"):
        folders.write_arrays(tmp_path, "one", ARRAYS._replace(control=wrong))
    assert not (tmp_path / "arrays").exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "a\0"])
def test_names_that_no_file_can_have(tmp_path, name):
    with pytest.raises(ValueError, match="is no name of a file"):
        folders.write_scores(tmp_path, {}, [Entry(name)])
    with pytest.raises(ValueError, match="is no name of a file"):
        folders.write_arrays(tmp_path, name, ARRAYS)
    assert not list(tmp_path.iterdir())


def test_numbers_are_finite(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        folders.write_scores(tmp_path, {}, [Entry("one", numbers={"round_trip_rms": float("nan")})])
    assert not (tmp_path / "scores.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "scores.json: cannot be read; make it again with python -m medgen_jax.counterfactual"),
        ("[]", "scores.json: cannot be read"),
        ('{"format": 2}', "has format 2, this program reads 1"),
        ('{"format": 1}', "scores.json: is damaged"),
        ('{"format": 1, "settings": {}, "images": [{}]}', "scores.json: is damaged"),
        ('{"format": 1, "settings": {}, "images": [3]}', "scores.json: is damaged"),
        ('{"format": 1, "settings": {}, "images": [{"name": "../x"}]}', "scores.json: is damaged"),
    ],
)
def test_damaged_scores_are_named(tmp_path, content, message):
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(UserError, match=message):
        folders.read(tmp_path)
    with pytest.raises(UserError, match=message):
        folders.write_scores(tmp_path, {}, [Entry("one")])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"boxes": [[1, 2, 3]]}, "a box of one is no x, y, width, height"),
        ({"numbers": {"round_trip_rms": float("inf")}}, "a number of one is not finite"),
        ({"name": "two"}, "names an image twice"),
        ({"name": "five"}, "five.npz: missing; make it again"),
        ({"surprise": 1}, "is damaged"),
    ],
)
def test_damaged_entries_are_named(tmp_path, fields, message):
    path = write(tmp_path, ONE, Entry("two"))
    change(path, **fields)
    with pytest.raises(UserError, match=message):
        folders.read(path)


def test_no_folder_and_damaged_arrays_are_named(tmp_path):
    with pytest.raises(UserError, match="none: holds no scores.json; give a folder made by python -m medgen_jax.count"):
        folders.read(tmp_path / "none")
    path = write(tmp_path / "out", ONE)
    file = path / "arrays/one.npz"
    whole = file.read_bytes()
    for broken in (whole[:100], b"", whole.replace(b"control", b"contrxl")):
        file.write_bytes(broken)
        with pytest.raises(UserError, match="one.npz: is missing or damaged"):
            folders.read(path).arrays(ONE)
    np.savez(file, **{**ARRAYS._asdict(), "image": ARRAYS.image.astype(np.float64)})
    with pytest.raises(UserError, match="one.npz: is missing or damaged"):
        folders.read(path).arrays("one")


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        folders.write_arrays(tmp_path / "file", "one", ARRAYS)
    with pytest.raises(UserError, match="cannot be written"):
        folders.write_scores(tmp_path / "file", {}, [ONE])
