"""NIH ChestX-ray14: findings, boxes, both editions of the table, the official lists."""

from __future__ import annotations

import shutil

import chest_trees
import numpy as np
import pytest

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.data.builders import prepare
from medgen_jax.data.builders.nih14 import BOXED, FINDINGS, open_source
from medgen_jax.data.sources import open_tables

pytestmark = pytest.mark.filterwarnings("ignore:.*ages above:UserWarning")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return chest_trees.nih14(tmp_path_factory.mktemp("nih"))


@pytest.fixture
def own(tree, tmp_path):
    """A copy to be spoiled."""
    return shutil.copytree(tree, tmp_path / "nih")


def present(listing, index):
    return {name for name in FINDINGS if listing.labels[name.lower()][index]}


def test_findings_are_fourteen_labels(tree):
    found = open_source(tree, val_share=0.0)
    assert {split: len(its) for split, its in found.items()} == {"train": 5, "test": 2}
    train = found["train"]
    assert [present(train, i) for i in range(5)] == [
        {"Cardiomegaly"},
        {"Cardiomegaly", "Emphysema"},
        set(),
        {"Hernia"},
        {"Mass", "Nodule", "Pleural_Thickening"},
    ]
    assert train.groups == ("1", "1", "2", "3", "4")
    assert (train.labels["sex"], train.classes["sex"]) == ((1, 1, 1, 0, 1), ("F", "M"))
    assert (train.labels["view"], train.classes["view"]) == ((0, 0, 1, 0, 1), ("PA", "AP"))
    np.testing.assert_array_equal(train.values["age"], [58, 58, 81, np.nan, 82])
    assert train.ids[4] == "image_000004"
    with pytest.warns(UserWarning, match="1 ages above 120"):
        open_source(tree, val_share=0.0)


def test_boxes_lie_with_their_finding_and_count_once(tree):
    test = open_source(tree, val_share=0.0)["test"]
    assert test.boxes["box_infiltration"] == (((1.5, 2.25, 3, 4),), ())
    assert test.boxes["box_mass"] == ((), ((0, 0, 2, 2), (4, 4, 2, 2)))
    assert set(test.boxes) == {f"box_{name.lower()}" for name in FINDINGS if name in BOXED.values()}


def test_val_is_dealt_by_patient_out_of_the_training_list(tree):
    found = open_source(tree, val_share=0.5, split_seed=1)
    assert set(found) == {"train", "val", "test"}
    assert not set(found["train"].groups) & set(found["val"].groups)
    assert len(found["train"]) + len(found["val"]) == 5
    with pytest.raises(UserError, match=r"val would get none of the 4 patients or slides; --set split_seed=\d+ gives"):
        open_source(tree)
    with pytest.raises(UserError, match=r"--set val_share=1 test_share=0: must not be negative, and together below 1"):
        open_source(tree, val_share=1.0)


def test_it_is_prepared(tree, tmp_path):
    target = prepare("nih14", tree, tmp_path, options={"val_share": 0}, say=lambda line: None)
    table = open_tables(DataConfig(source=str(target)), "train")["records"]
    # One file of the tree has three channels.
    assert sorted(int(table[i]["image"][0, 0, 0]) for i in range(5)) == [0, 1, 2, 3, 4]
    assert table.classes["hernia"] == ("absent", "present")
    assert sum(table.labels["cardiomegaly"]) == 2
    assert len(set(table.groups)) == 4
    text = b"".join(path.read_bytes() for path in target.iterdir())
    assert b"00000001" not in text  # the patient


def test_the_first_edition_and_flat_folders_are_read(own):
    flat = own / "images"
    flat.mkdir()
    for folder in sorted(own.glob("images_*/images")):
        for file in folder.iterdir():
            file.rename(flat / file.name)
        shutil.rmtree(folder.parent)
    # Names of the other sex column, ages with a unit, a comma too many on every line.
    path = own / "Data_Entry_2017_v2020.csv"
    text = path.read_text().replace("Patient Sex", "Patient Gender").replace(",58,", ",058Y,").replace("\n", ",\n")
    path.with_name("Data_Entry_2017.csv").write_text(text)
    path.unlink()
    (own / "BBox_List_2017.csv").unlink()
    with pytest.warns(UserWarning, match="absent, so that no image has boxes"):
        found = open_source(own, val_share=0.0)
    assert found["train"].values["age"][:3] == (58, 58, 81)
    assert found["test"].boxes["box_mass"] == ((), ())


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("Data_Entry_2017_v2020.csv", "Hernia", "Hernja", r"line 5: findings: 'hernja' is not one of Atelectasis"),
        ("Data_Entry_2017_v2020.csv", ",414,", ",old,", r"line 5: age: 'old' is no age"),
        ("Data_Entry_2017_v2020.csv", "81,M,AP", "81,M,LL", r"line 4: view: 'LL' is not one of PA, AP"),
        ("Data_Entry_2017_v2020.csv", "00000002_000.png", "00000001_000.png", r"line 4: names an image of an earlier"),
        ("Data_Entry_2017_v2020.csv", "Patient ID", "Person", r"lacks the column Patient ID"),
        (
            "BBox_List_2017.csv",
            "00000006_000.png,Mass,0,0,2,2",
            "00000006_000.png,Mass,0,0,2,",
            "line 4: has some of x",
        ),
        ("BBox_List_2017.csv", "Mass,0,0,2,2", "Ball,0,0,2,2", r"line 4: Finding Label: 'Ball' is not one of"),
        ("BBox_List_2017.csv", "00000006_000.png,Mass,0,0", "9.png,Mass,0,0", r"line 4: names an image that the table"),
        ("train_val_list.txt", "00000004_000.png", "x.png", r"1 images are in neither .* \(00000004_000\.png\)"),
        ("train_val_list.txt", "00000004_000.png", "00000005_000.png", r"1 images are in both train_val_list\.txt and"),
    ],
)
def test_wrong_lines_are_told_by_number(own, file, old, new, message):
    chest_trees.change(own / file, old, new)
    with pytest.raises(UserError, match=message):
        open_source(own)


def test_patients_on_both_sides_of_the_official_lists_are_refused(own, tmp_path):
    chest_trees.change(own / "train_val_list.txt", "00000001_001.png\n", "")
    (own / "test_list.txt").write_text((own / "test_list.txt").read_text() + "00000001_001.png\n")
    with pytest.raises(UserError, match=r"more than one split: 1 in train and test \(1 \+ 1 records\)"):
        prepare("nih14", own, tmp_path / "out", options={"val_share": 0}, say=lambda line: None)


def test_absent_images_are_counted(own):
    shutil.rmtree(own / "images_002")
    with pytest.raises(UserError, match=r"3 of the images that it names are absent \(first: 00000004_000\.png\)"):
        open_source(own)
    with pytest.warns(UserWarning, match="3 of the images that it names are absent"):
        found = open_source(own, skip_missing=True, val_share=0.0)
    assert {split: len(its) for split, its in found.items()} == {"train": 4}
    shutil.copy(own / "images_001" / "images" / "00000001_000.png", own / "x.png")
    (own / "images_003" / "images").mkdir(parents=True)
    (own / "x.png").rename(own / "images_003" / "images" / "00000001_000.png")
    with pytest.raises(UserError, match=r"images_003/images/00000001_000\.png: .* has the same name"):
        open_source(own)
    for folder in own.glob("images_*"):
        shutil.rmtree(folder)
    with pytest.raises(UserError, match="holds no images_001/images"):
        open_source(own)
