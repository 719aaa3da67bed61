"""Scored opacities: RALO with its two raters, and the scores of the COVID-19 Image Data Collection."""

from __future__ import annotations

import shutil

import chest_trees
import numpy as np
import pytest

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.data.builders import covid_severity, prepare, ralo
from medgen_jax.data.sources import open_tables

pytestmark = pytest.mark.filterwarnings("ignore:.*not known without:UserWarning")
ALL = dict(val_share=0.0, test_share=0.0)


def test_the_mean_of_two_raters_or_of_the_one_there_is(tmp_path):
    found = ralo.open_source(chest_trees.ralo(tmp_path), **ALL)["train"]
    assert found.values["geographic"] == (4.5, 1, 0, 8)
    assert found.values["opacity"] == (7, 3, 0, 7.75)
    assert found.values["opacity_1"] == (6, 2, 0, 7.5)
    np.testing.assert_array_equal(found.values["geographic_2"], [5, np.nan, 0, 8])
    assert [file.name for file in found.columns["image"]] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert (found.ids, found.groups) == (("row_0000", "row_0001", "row_0002", "row_0003"), ())


def test_rows_keep_their_images_beyond_ten(tmp_path):
    rows = [(f"P{i}", str(i % 9), "0", str(i % 9), "0") for i in range(12)]
    found = ralo.open_source(chest_trees.ralo(tmp_path / "RALO-Dataset", rows).parent, **ALL)["train"]
    for name, file, score in zip(found.ids, found.columns["image"], found.values["geographic"], strict=True):
        assert (int(name[4:]), score) == (int(file.stem), int(file.stem) % 9)


def test_patients_are_those_of_a_column(tmp_path):
    source = chest_trees.ralo(tmp_path / "set")
    with pytest.warns(UserWarning, match="patients are not known without --set patient=COLUMN"):
        ralo.open_source(source, **ALL)
    assert ralo.open_source(source, patient="Subject_ID", **ALL)["train"].groups == ("P1", "P1", "P2", "P3")
    with pytest.raises(UserError, match="line 2 lacks the column Patient; it has: subject_id, exam_datetime"):
        ralo.open_source(source, patient="Patient")
    options = {"patient": "Subject_ID", "val_share": "0", "test_share": "0"}
    target = prepare("ralo", source, tmp_path / "out", options=options, say=lambda line: None)
    table = open_tables(DataConfig(source=str(target)), "train")["records"]
    scores = {int(table[i]["image"][0, 0, 0]): table.values["geographic"][i] for i in range(4)}
    assert scores == {0: 4.5, 1: 1, 2: 0, 3: 8}
    assert table[0]["geographic"].dtype == np.float32
    assert len(set(table.groups)) == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("P1,20200401,4,6", "P1,20200401,4,9", r"line 3: opacity_1: '9' is no number from 0 to 8"),
        ("P2,20200401,0,0,0,0", "P2,20200401,0,,0,", r"line 5: has no score of either rater"),
        ("P2,20200401,0,0,0,0", "P2,20200401,0", r"line 5: has 3 fields, the header 6"),
        ("P2,", ",", r"line 5: Subject_ID: empty"),
    ],
)
def test_wrong_scores_are_told_by_line(tmp_path, old, new, message):
    source = chest_trees.ralo(tmp_path)
    chest_trees.change(source / "ralo-dataset-metadata.csv", old, new)
    with pytest.raises(UserError, match=message):
        ralo.open_source(source, patient="Subject_ID")


def test_absent_images_and_tables(tmp_path):
    source = chest_trees.ralo(tmp_path)
    (source / "CXR_images_scored" / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of the images that it names are absent \(first: 1\)"):
        ralo.open_source(source)
    with pytest.warns(UserWarning, match="absent"):
        found = ralo.open_source(source, skip_missing=True, **ALL)["train"]
    assert (found.ids, found.values["geographic"]) == (("row_0000", "row_0002", "row_0003"), (4.5, 0, 8))
    shutil.rmtree(source / "CXR_images_scored")
    with pytest.raises(UserError, match="lacks the folder CXR_images_scored"):
        ralo.open_source(source)
    (source / "ralo-dataset-metadata.csv").unlink()
    with pytest.raises(UserError, match=r"lacks ralo-dataset-metadata\.csv"):
        ralo.open_source(source)


def test_the_miniature(shared):
    found = ralo.open_source(shared / "data" / "cxr" / "ralo_mini", patient="Subject_ID", **ALL)["train"]
    assert len(found) == 14
    assert found.values["geographic"][:2] == (4.7, 1.3)
    assert found.groups[:2] == ("ieee8023-20", "ieee8023-21")
    assert max(found.values["opacity"]) <= 8


# ---- COVID-19 Image Data Collection --------------------------------------------------------------


def test_published_scores_with_their_patients(tmp_path):
    found = covid_severity.open_source(chest_trees.covid_severity(tmp_path), **ALL)["train"]
    assert found.values["geographic"] == (6, 2.7, 0)
    assert found.values["opacity_of_6"] == (4, 3, 0)
    np.testing.assert_allclose(found.values["opacity"], [16 / 3, 4, 0])
    assert (found.groups, found.ids[1]) == (("2", "2", "5"), "image_001")
    assert [file.name for file in found.columns["image"]] == ["a.jpeg", "b-PA.png", "c.jpg"]


def test_wrong_names_scores_and_strangers(tmp_path):
    source = chest_trees.covid_severity(tmp_path)
    table = source / "annotations" / "covid-severity-scores.csv"
    whole = table.read_text()
    for new, message in (
        ("../metadata.csv,2.7,3.0", "line 8: filename: is no name of a file in images/"),
        ("b-PA.png,2.7,6.5", r"line 8: opacity: '6\.5' is no number from 0 to 6"),
        ("b-PA.png,2.7,", "line 8: opacity: empty"),
        ("a.jpeg,2.7,3.0", "line 8: names an image of an earlier line"),
        ("other.png,2.7,3.0", r"1 of the images that it names are absent \(first: other\.png\)"),
    ):
        table.write_text(whole.replace("b-PA.png,2.7,3.0", new))
        with pytest.raises(UserError, match=message):
            covid_severity.open_source(source)
    table.write_text(whole)
    chest_trees.change(source / "metadata.csv", ",c.jpg", ",d.jpg")
    with pytest.raises(UserError, match=r"metadata\.csv: lacks 1 scored images \(first: c\.jpg\)"):
        covid_severity.open_source(source)
