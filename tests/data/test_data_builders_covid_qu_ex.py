"""COVID-QU-Ex: both parts, both nestings, masks beside images."""

from __future__ import annotations

import json
import shutil

import chest_trees
import numpy as np
import pytest

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.data.builders import prepare
from medgen_jax.data.builders.covid_qu_ex import CLASSES, Part, open_source
from medgen_jax.data.images import read_image, write_image
from medgen_jax.data.sources import open_tables

pytestmark = pytest.mark.filterwarnings("ignore:.*names no patients:UserWarning")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("covidqu")
    chest_trees.covid_qu_ex(root)
    return chest_trees.covid_qu_ex(root, "Infection", doubled=False, per_class=1)


def test_the_sets_own_splits_with_masks(tree):
    found = open_source(tree)
    assert {split: len(its) for split, its in found.items()} == {"train": 6, "val": 6, "test": 6}
    for its in found.values():
        assert its.labels["label"] == (0, 0, 1, 1, 2, 2)
        assert its.classes["label"] == CLASSES
        assert its.groups == ()
        for image, mask in zip(its.columns["image"], its.columns["lung_mask"], strict=True):
            assert (image.name, image.parent.name, mask.parent.name) == (mask.name, "images", "lung masks")
            assert image.parent.parent == mask.parent.parent
    assert list(open_source(tree, masks=False)["train"].columns) == ["image"]
    inner = tree / "Lung Segmentation Data" / "Lung Segmentation Data"
    assert open_source(inner)["val"].ids == open_source(tree / "Lung Segmentation Data")["val"].ids == found["val"].ids


def test_that_patients_are_unknown_is_said_and_kept_without_the_place(tree, tmp_path):
    with pytest.warns(UserWarning, match="names no patients; the set's own splits may share some"):
        open_source(tree)
    target = prepare("covid_qu_ex", tree, tmp_path / "out", options={"part": "infection"}, say=lambda line: None)
    source = json.loads((target / "manifest.json").read_text())["source"]
    assert source["notes"] == [f"{tree.name}: names no patients; the set's own splits may share some"]
    assert source["options"] == {"part": "infection"}


def test_infection_masks_come_with_their_part(tree, tmp_path):
    assert open_source(tree, part=Part.INFECTION)["test"].labels["label"] == (0, 1, 2)
    target = prepare("covid_qu_ex", tree, tmp_path, options={"part": Part.INFECTION}, say=lambda line: None)
    table = open_tables(DataConfig(source=str(target)), "train")["records"]
    for i in range(3):
        record = table[i]
        # Images of the tree have three channels.
        assert record["image"].shape == record["lung_mask"].shape == record["infection_mask"].shape == (8, 8, 1)
        assert record["lung_mask"].mean() == 127.5
        assert record["infection_mask"].mean() == (127.5 if record["label"] == 0 else 0)


def test_what_does_not_fit_is_refused(tree, tmp_path):
    own = shutil.copytree(tree, tmp_path / "own")
    folder = own / "Lung Segmentation Data" / "Lung Segmentation Data" / "Val" / "Non-COVID"
    (folder / "lung masks" / "non_COVID (3).png").unlink()
    with pytest.raises(UserError, match=r"2 images and 1 lung masks, 1 without a partner .*non_COVID \(3\) in images"):
        open_source(own)
    write_image(folder / "lung masks" / "non_COVID (3).png", np.zeros((6, 8, 1), np.uint8))
    with pytest.raises(UserError, match=r"non_COVID \(3\)\.png: is 6x8 pixels, its partner in image is 8x8"):
        prepare("covid_qu_ex", own, tmp_path / "out", say=lambda line: None)
    shutil.rmtree(folder / "lung masks")
    with pytest.raises(UserError, match="Non-COVID/lung masks: no such folder"):
        open_source(own)
    with pytest.raises(UserError, match="holds no Infection Segmentation Data/Train"):
        open_source(tmp_path, part=Part.INFECTION)


def test_the_miniature(shared):
    found = open_source(shared / "data" / "cxr" / "covidqu_mini")
    assert list(found) == ["train", "val", "test"]
    assert all(np.bincount(its.labels["label"]).tolist() == [8, 8, 8] for its in found.values())
    mask = read_image(found["test"].columns["lung_mask"][0])
    assert set(np.unique(mask)) == {0, 255}
    assert 0.1 < (mask > 0).mean() < 0.7
