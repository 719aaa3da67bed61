"""RSNA Pneumonia Detection Challenge: tables, DICOM headers, patients and the paper's split."""

from __future__ import annotations

import json
import math
import shutil

import chest_trees
import numpy as np
import pytest

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.data.builders import prepare
from medgen_jax.data.builders.rsna import CLASSES, Split, View, open_source
from medgen_jax.data.sources import open_tables

pytestmark = pytest.mark.filterwarnings("ignore:.*(not known without|ages above|do not name):UserWarning")
ALL = dict(val_share=0.0, test_share=0.0)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return chest_trees.rsna(tmp_path_factory.mktemp("rsna"))


@pytest.fixture
def own(tree, tmp_path):
    """A copy to be spoiled."""
    return shutil.copytree(tree, tmp_path / "rsna")


def test_an_image_has_class_boxes_view_sex_and_age(tree):
    found = open_source(tree, **ALL)["train"]
    assert found.ids == tuple(chest_trees.RSNA)
    assert [found.classes["label"][i] for i in found.labels["label"]] == [a[0] for a in chest_trees.RSNA.values()]
    assert found.boxes["opacity"] == tuple(a[1] for a in chest_trees.RSNA.values())
    assert [found.classes["view"][i] for i in found.labels["view"]] == [a[2] for a in chest_trees.RSNA.values()]
    assert [found.classes["sex"][i] for i in found.labels["sex"]] == ["F", "M", "M", "F", "M", "unknown"]
    # Plain years, none, an age nobody reaches, and DICOM's own form.
    np.testing.assert_array_equal(found.values["age"], [43, 61, math.nan, math.nan, 7, 19])
    assert found.groups == ()
    with pytest.warns(UserWarning, match="1 ages above 120 years are taken for unknown"):
        open_source(tree, **ALL)


def test_views_and_classes_can_be_chosen(tree):
    assert open_source(tree, view=View.PA, **ALL)["train"].ids == ("aaaa-00", "cccc-02", "ffff-05")
    found = open_source(tree, classes=("Lung Opacity", "Normal"), **ALL)["train"]
    assert found.labels["label"] == (1, 0, 1, 0, 1)
    assert found.classes["label"] == ("Lung Opacity", "Normal")
    with pytest.raises(UserError, match="classes=Pneumonia: 'Pneumonia' is not one of Normal, Lung Opacity, No Lung"):
        open_source(tree, classes=("Pneumonia",))
    with pytest.raises(UserError, match=r"no image of view=PA and classes=Lung Opacity"):
        open_source(tree, view=View.PA, classes=("Lung Opacity",))


def test_patients_are_those_of_the_map(tree, tmp_path):
    with pytest.warns(UserWarning, match="one patient may be in several splits"):
        open_source(tree, **ALL)
    expected = ("11", "11", "12", "13", "14", "15")
    assert open_source(tree, nih_map=tree / "map.csv", **ALL)["train"].groups == expected
    official = tmp_path / "mappings.json"
    entries = [{"subset_img_id": name, "img_id": about[5]} for name, about in chest_trees.RSNA.items()]
    official.write_text(json.dumps(entries))
    assert open_source(tree, nih_map=official, **ALL)["train"].groups == expected
    for seed in range(20):
        try:
            found = open_source(tree, nih_map=official, val_share=0.4, test_share=0.0, split_seed=seed)
        except UserError:  # a split without a patient
            continue
        assert not set(found["train"].groups) & set(found["val"].groups)
    official.write_text(json.dumps(entries[1:]))
    with pytest.raises(UserError, match=r"does not know 1 of 6 images \(first: aaaa-00\)"):
        open_source(tree, nih_map=official)
    official.write_text(json.dumps({"a": 1}))
    with pytest.raises(UserError, match=r"mappings\.json: cannot be read as RSNA's list"):
        open_source(tree, nih_map=official)


def test_the_papers_split_is_prepared_and_its_leak_told(tree, tmp_path):
    with pytest.warns(UserWarning, match="not known without"):
        found = open_source(tree, split=Split.SEED)
    # 3 Normal and 2 Lung Opacity in the paper's proportion, the third class left out.
    assert {split: len(its) for split, its in found.items()} == {"train": 4, "val": 1}
    assert {its.classes["label"] for its in found.values()} == {("Normal", "Lung Opacity")}
    for seed in range(50):
        found = open_source(tree, split=Split.SEED, nih_map=tree / "map.csv", split_seed=seed)
        if set(found["train"].groups) & set(found["val"].groups):
            break
    said = []
    options = {"split": "seed", "nih_map": str(tree / "map.csv"), "split_seed": str(seed)}
    target = prepare("rsna", tree, tmp_path, options=options, say=said.append)
    assert "split=seed has patients or slides in more than one split: 1 in train and val (1 + 1 records)" in said[0]
    notes = json.loads((target / "manifest.json").read_text())["source"]["notes"]
    assert "1 in train and val" in notes[0]


def test_prepared_records_have_everything(tree, tmp_path):
    target = prepare("rsna", tree, tmp_path, 4, {"val_share": "0", "test_share": "0"}, say=lambda line: None)
    table = open_tables(DataConfig(source=str(target)), "train")["records"]
    place = next(i for i in range(6) if table.record_id(i) == "train/bbbb-01")
    record = table[place]
    assert (record["image"].shape, int(record["image"][0, 0, 0])) == ((4, 4, 1), 10)
    assert (CLASSES[record["label"]], float(record["age"])) == ("Lung Opacity", 61.0)
    # Half the size, half the boxes.
    np.testing.assert_array_equal(table.boxes["opacity"][place], [[0.5, 1, 1.5, 2], [2.75, 0, 1, 1]])
    assert [len(boxes) for boxes in table.boxes["opacity"]].count(0) == 4
    text = b"".join(path.read_bytes() for path in target.iterdir())
    assert b"Doe" not in text


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("labels", "bbbb-01,1,2,3,4,1", "bbbb-01,1,2,x,4,1", r"labels\.csv: 1 line is wrong: line 3: width: 'x' is n"),
        ("labels", "bbbb-01,1,2,3,4,1", "bbbb-01,1,2,-3,4,1", r"line 3: its box is -3 wide and 4 high"),
        ("labels", "bbbb-01,1,2,3,4,1", "bbbb-01,1,2,,4,1", r"line 3: has some of x, y, width, height, but not all"),
        ("labels", "bbbb-01,1,2,3,4,1", "bbbb-01,1,2,3,1", r"line 3: has 5 fields, the header 6"),
        ("labels", "aaaa-00,,,,,0", "aaaa-00,,,,,1", r"line 2: Target: 1, but the image's class is Normal"),
        ("labels", "eeee-04,0,0,8,8,1", "eeee-04,,,,,1", r"line 7: Target: 1 without a box"),
        ("labels", "aaaa-00,,,,,0", "zzzz,,,,,0", r"line 2: patientId: 'zzzz' has no line in stage_2_detailed"),
        ("labels", "Target", "target class", r"line 1 lacks the column Target; it has: patientid, x"),
        ("labels", "aaaa-00,,,,,0\n", "", r"lacks 1 images that stage_2_detailed_class_info\.csv has \(aaaa-00\)"),
        ("class", "aaaa-00,Normal", "aaaa-00,normals", r"line 2: class: 'normals' is not one of Normal, Lung Opacity"),
        ("class", "cccc-02,", "bbbb-01,", r"line 5: class: another one than on an earlier line"),
    ],
)  # fmt: skip
def test_wrong_lines_are_told_by_number(own, file, old, new, message):
    names = {"labels": "stage_2_train_labels.csv", "class": "stage_2_detailed_class_info.csv"}
    chest_trees.change(own / names[file], old, new)
    with pytest.raises(UserError, match=message):
        open_source(own)


def test_repeated_lines_count_once(own):
    path = own / "stage_2_train_labels.csv"
    path.write_text(path.read_text() + "bbbb-01,1,2,3,4,1\naaaa-00,,,,,0\n")
    assert open_source(own, **ALL)["train"].boxes["opacity"][:2] == ((), ((1, 2, 3, 4), (5.5, 0, 2, 2)))


def test_absent_and_unknown_images_are_counted(own):
    folder = own / "stage_2_train_images"
    (folder / "cccc-02.dcm").unlink()
    (folder / "ffff-05.dcm").rename(folder / "gggg-06.dcm")
    with pytest.raises(
        UserError, match=r"2 of the images that it names are absent \(first: cccc-02\).*skip_missing=true"
    ):
        open_source(own)
    with (
        pytest.warns(UserWarning, match="1 images that the tables do not name are left out"),
        pytest.warns(UserWarning, match="2 of the images that it names are absent"),
    ):
        found = open_source(own, skip_missing=True, **ALL)["train"]
    assert found.ids == ("aaaa-00", "bbbb-01", "dddd-03", "eeee-04")


def test_files_that_are_missing_broken_or_elsewhere_are_named(own):
    path = own / "stage_2_train_images" / "aaaa-00.dcm"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"aaaa-00\.dcm"):
        open_source(own)
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(UserError, match=r"aaaa-00\.dcm: is a link out of"):
        open_source(own)
    (own / "stage_2_detailed_class_info.csv").unlink()
    with pytest.raises(UserError, match="lacks stage_2_detailed_class_info.csv, which comes with the data set"):
        open_source(own)


def test_a_box_out_of_its_image_is_refused(own, tmp_path):
    chest_trees.change(own / "stage_2_train_labels.csv", "eeee-04,0,0,8,8,1", "eeee-04,4,0,8,8,1")
    with pytest.raises(UserError, match=r"eeee-04\.dcm: the box \(x 4, y 0, 8 wide, 8 high\) reaches out of its image"):
        prepare("rsna", own, tmp_path / "out", say=lambda line: None)


def test_the_miniature_of_real_headers_and_boxes(shared):
    source = shared / "data" / "cxr" / "rsna_mini"
    found = open_source(source, nih_map=source / "provenance.csv", **ALL)["train"]
    assert len(found) == 52
    assert np.bincount(found.labels["label"]).tolist() == [20, 20, 12]
    assert sum(map(len, found.boxes["opacity"])) == 39
    assert 0 <= np.nanmin(found.values["age"]) <= np.nanmax(found.values["age"]) < 120
    assert set(found.labels["view"]) == {0, 1}
    assert len(set(found.groups)) < 52
