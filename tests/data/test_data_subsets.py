"""The classes a run is about: chosen, ordered and labelled anew, in every layout; and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from medgen_jax.core.config import DataConfig, TrainConfig, validate_shared
from medgen_jax.core.errors import UserError
from medgen_jax.data import builders, sources, subsets
from medgen_jax.data.tables import ArrayTable

LEVELS = {"adipose": (10, 11, 12), "back": (99,), "tumour": (200, 201)}


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val"):
        for name, levels in LEVELS.items():
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for level in levels if split == "train" else levels[:1]:
                Image.fromarray(np.full((8, 8), level, np.uint8)).save(
                    tmp_path / "set" / split / name / f"{split}{level}.png"
                )
    return tmp_path / "set"


def levels_by_label(table):
    assert len(table.labels["label"]) == len(table)
    found = {}
    for i in range(len(table)):
        found.setdefault(int(table[i]["label"]), []).append(int(table.images(i)["image"].mean()))
    return found


def assert_chosen(source):
    table = sources.open_tables(DataConfig(source=str(source), classes=("tumour", "adipose")), "train")["records"]
    assert {label: sorted(levels) for label, levels in levels_by_label(table).items()} == {
        0: [200, 201],
        1: [10, 11, 12],
    }
    assert subsets.class_names(table) == ("tumour", "adipose")
    again = pickle.loads(pickle.dumps(table.select("image")))
    assert levels_by_label(again) == levels_by_label(table)
    header = table.header(0, "image")
    assert (header.height, header.width) == (8, 8)


def test_of_class_folders(folder):
    assert_chosen(folder)


def test_of_a_prepared_set(folder, tmp_path):
    assert_chosen(builders.prepare("folder", folder, tmp_path / "prepared", say=lambda line: None))


def test_of_a_csv_file(folder):
    rows = [f"train/{name}/train{level}.png,{name},train" for name, levels in LEVELS.items() for level in levels]
    (folder / "all.csv").write_text("path,label,split\n" + "\n".join(rows))
    assert_chosen(folder / "all.csv")


def test_a_split_may_lack_a_class(folder):
    for file in (folder / "val" / "tumour").iterdir():
        file.unlink()
    (folder / "val" / "tumour").rmdir()
    table = sources.open_tables(DataConfig(source=str(folder), classes=("tumour", "back")), "val")["records"]
    assert levels_by_label(table) == {1: [99]}


def test_names_and_files_stay_with_their_records(folder):
    table = sources.open_tables(DataConfig(source=str(folder), classes=("tumour",)), "train")["records"]
    assert table.record_id(1) == "tumour/train201" and table.origin(0, "image").endswith("train200.png")


def test_all_classes_leave_the_table_as_it_is():
    table = ArrayTable({"image": np.zeros((2, 4, 4, 1), np.uint8)}, {"label": [0, 1]}, classes={"label": ("x", "y")})
    assert subsets.of_classes(table, ("x", "y")) is table


def test_numbers_without_names_are_their_own_names():
    table = ArrayTable({"image": np.zeros((3, 4, 4, 1), np.uint8)}, {"label": [0, 2, 1]})
    assert subsets.class_names(table) == ("0", "1", "2")
    assert subsets.of_classes(table, ("2", "0")).labels["label"].tolist() == [1, 0]
    assert subsets.of_classes(table, ("0", "1", "2", "3")).labels["label"].tolist() == [0, 2, 1]


def test_views_are_numbered_as_the_run_names_them():
    table = ArrayTable(
        {"image": np.zeros((5, 4, 4, 1), np.uint8)},
        {"label": [0, 1, 0, 1, 0], "view": [0, 1, 2, 1, -1]},
        classes={"label": ("x", "y"), "view": ("AP", "PA", "unknown")},
    )
    seen = subsets.of_views(table, ("PA", "AP"))
    assert seen.labels["view"].tolist() == [1, 0, -1, 0, -1] and seen.classes["view"] == ("PA", "AP")
    assert seen.labels["label"].tolist() == [0, 1, 0, 1, 0] and len(seen) == 5
    assert subsets.of_classes(seen, ("y",)).labels["view"].tolist() == [0, 0]


def test_values_and_boxes_follow():
    table = ArrayTable({"image": np.zeros((3, 4, 4, 1), np.uint8)}, {"label": [0, 1, 0]}, classes={"label": ("x", "y")})
    table.values = {"score": np.float32([0.5, 1.5, 2.5])}
    table.boxes = {"box": [np.ones((1, 4)), np.zeros((0, 4)), np.full((2, 4), 2.0)]}
    chosen = subsets.of_classes(table, ("x",))
    assert chosen.values["score"].tolist() == [0.5, 2.5] and [len(b) for b in chosen.boxes["box"]] == [1, 2]
    assert chosen[1]["score"] == np.float32(2.5)


def test_refusals(folder):
    with pytest.raises(UserError, match=r"no class 'tumor'; there are adipose, back, tumour"):
        sources.open_tables(DataConfig(source=str(folder), classes=("tumor",)), "train")
    with pytest.raises(UserError, match="needs single images with a class"):
        subsets.of_classes(ArrayTable({"image": np.zeros((2, 4, 4, 1), np.uint8)}), ("x",))
    unseen = ArrayTable({"image": np.zeros((2, 4, 4, 1), np.uint8)}, {"view": [0, 0]}, classes={"view": ("AP", "PA")})
    with pytest.raises(UserError, match=r"config\.data\.views: no view 'LL'; there are AP, PA"):
        subsets.of_views(unseen, ("AP", "LL"))
    with pytest.raises(UserError, match=r"config\.data\.views = PA: needs single images with a view"):
        sources.open_tables(DataConfig(source=str(folder), views=("PA",)), "train")
    with pytest.raises(UserError, match=r"config\.data\.views = .*names a view twice"):
        validate_shared(DataConfig(source="x", views=("x", "x")), TrainConfig(steps=1))
    with pytest.raises(UserError, match=r"config\.data\.classes = .*names a class twice"):
        validate_shared(DataConfig(source="x", classes=("x", "x")), TrainConfig(steps=1))
