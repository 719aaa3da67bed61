"""MIMIC-CXR-JPG: gzipped tables, views, label policies, the official split."""

from __future__ import annotations

import gzip
import shutil

import chest_trees
import pytest

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.data.builders import prepare
from medgen_jax.data.builders.mimic_cxr import FINDINGS, Labeller, Uncertain, View, open_source
from medgen_jax.data.sources import open_tables

pytestmark = pytest.mark.filterwarnings("ignore:.*studies without labels:UserWarning")
FIRST, LATERAL, SECOND, THIRD, FOURTH, UNLABELLED = chest_trees.MIMIC


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return chest_trees.mimic_cxr(tmp_path_factory.mktemp("mimic"))


@pytest.fixture
def own(tmp_path):
    """A tree with unpacked tables, to be spoiled."""
    return chest_trees.mimic_cxr(tmp_path / "mimic", packed=False)


def test_frontal_images_in_the_official_split(tree):
    with pytest.warns(UserWarning, match="1 images of studies without labels are left out"):
        found = open_source(tree)
    assert {split: its.ids for split, its in found.items()} == {
        "train": (FIRST, SECOND),
        "val": (THIRD,),
        "test": (FOURTH,),
    }
    assert found["train"].groups == ("10000032", "10000764")
    assert (found["train"].labels["view"], found["train"].classes["view"]) == ((0, 1), ("PA", "AP"))
    assert {split: its.ids for split, its in open_source(tree, view=View.PA).items()} == {
        "train": (FIRST,),
        "test": (FOURTH,),
    }


@pytest.mark.parametrize(
    ("policy", "atelectasis", "pneumonia"),
    [
        (Uncertain.KEEP, ["present", "unmentioned", "absent", "unmentioned"], ["uncertain", "absent", "unmentioned"]),
        (Uncertain.ZEROS, ["present", "absent", "absent", "absent"], ["absent", "absent", "absent"]),
        (Uncertain.ONES, ["present", "absent", "absent", "absent"], ["present", "absent", "absent"]),
    ],
)
def test_uncertain_findings_follow_the_policy(tree, policy, atelectasis, pneumonia):
    found = open_source(tree, uncertain=policy).values()
    for name, expected in (("atelectasis", atelectasis), ("pneumonia", [*pneumonia, "present"])):
        assert [its.classes[name][label] for its in found for label in its.labels[name]] == expected


def test_it_is_prepared_without_naming_a_subject(tree, tmp_path):
    target = prepare("mimic_cxr", tree, tmp_path, options={"uncertain": "zeros"}, say=lambda line: None)
    table = open_tables(DataConfig(source=str(target)), "train")["records"]
    assert sorted(int(table[i]["image"][0, 0, 0]) for i in range(2)) == [0, 2]
    assert len([name for name in table.labels if name != "view"]) == len(FINDINGS) == 14
    assert len(set(table.groups)) == 2
    assert b"10000032" not in b"".join(path.read_bytes() for path in target.iterdir())
    assert open_tables(DataConfig(source=str(target)), "val")["records"].record_id(0) == f"val/{THIRD}"


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("chexpert", "50771383,0.0", "50771383,2.0", r"line 4: Atelectasis: '2\.0' is not 1, 0, -1 or empty"),
        ("chexpert", "Pneumothorax", "Pneumo", r"lacks the column Pneumothorax"),
        ("split", ",validate", ",holdout", r"line 5: split: 'holdout' is not train, validate or test"),
        ("split", f"{SECOND},", "x,", rf"lacks 1 of 4 images \(first: {SECOND}\)"),
        ("metadata", f"{SECOND},10000764,57375967", f"../{SECOND},10000764,57375967", r"line 4: dicom_id, study_id or"),
        (
            "metadata",
            f"{SECOND},10000764",
            f"{SECOND},../../10000764",
            r"line 4: dicom_id, study_id or subject_id is of",
        ),
        ("metadata", f"{SECOND},", f"{FIRST},", r"line 4: names an image of an earlier line"),
    ],
)
def test_wrong_lines_are_told_by_number(own, table, old, new, message):
    chest_trees.change(own / f"mimic-cxr-2.0.0-{table}.csv", old, new)
    with pytest.raises(UserError, match=message):
        open_source(own)


def test_contradicting_studies_are_refused(own):
    path = own / "mimic-cxr-2.0.0-chexpert.csv"
    path.write_text(path.read_text() + "1,50414267,0.0,,,,,,,,,,,,,\n")
    with pytest.raises(UserError, match="line 6: contradicts an earlier line of the same study"):
        open_source(own)


def test_absent_images_tables_and_links_out(own, tmp_path):
    path = own / "files" / "p10" / "p10000764" / "s57375967" / f"{SECOND}.jpg"
    moved = path.rename(tmp_path / "outside.jpg")
    with pytest.raises(UserError, match=rf"1 of the images that it names are absent \(first: {SECOND}\)"):
        open_source(own)
    with pytest.warns(UserWarning, match="1 of the images that it names are absent"):
        assert open_source(own, skip_missing=True)["train"].ids == (FIRST,)
    path.symlink_to(moved)
    with pytest.raises(UserError, match=r"\.jpg: is a link out of"):
        open_source(own)
    with pytest.raises(UserError, match="lacks mimic-cxr-2.0.0-negbio.csv.gz or mimic-cxr-2.0.0-negbio.csv"):
        open_source(own, labeller=Labeller.NEGBIO)


def test_damaged_archives_are_named(tree, tmp_path):
    own = shutil.copytree(tree, tmp_path / "own")
    path = own / "mimic-cxr-2.0.0-split.csv.gz"
    whole = path.read_bytes()
    for damaged in (whole[:-9], b"no archive", gzip.compress(b"\xff\xfe\n")):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"split\.csv\.gz: (cannot be read|is not UTF-8)"):
            open_source(own)
