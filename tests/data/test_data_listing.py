"""Listings as tables: labels, class names, patients and panels through select, keep and pickle."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.data import tables as tables_module
from medgen_jax.data.images import write_image
from medgen_jax.data.listing import Listing, Panel
from medgen_jax.data.sources import open_tables
from medgen_jax.data.tables import ArrayTable, FileTable

PEOPLE = ("Alice", "Bob", "Alice")


@pytest.fixture
def listing(tmp_path):
    files = []
    for i in range(3):
        write_image(tmp_path / f"n{i}.png", np.full((8, 8, 1), 10 * i, np.uint8))
        files.append(tmp_path / f"n{i}.png")
    return Listing(
        {"image": tuple(files)},
        {"label": (1, 0, 1), "grade": (7, 8, 9)},
        {"label": ("normal", "sick")},
        ("r0", "r1", "r2"),
        PEOPLE,
    )


# ---- listings ------------------------------------------------------------------------------------


def test_taking_records_takes_everything_about_them(listing):
    part = listing.take([2, 0])
    assert [file.name for file in part.columns["image"]] == ["n2.png", "n0.png"]
    assert (part.labels, part.classes) == ({"label": (1, 1), "grade": (9, 7)}, {"label": ("normal", "sick")})
    assert (part.ids, part.groups, len(part)) == (("r2", "r0"), ("Alice", "Alice"), 2)
    panels = Listing({"a": (Path("x.png"),)}, panels={"a": Panel(1, 2)})
    assert panels.take([0]).panels == {"a": Panel(1, 2)}
    assert panels.take([0]).groups == ()


def test_records_are_called_by_their_file_names_unless_told_otherwise():
    assert Listing({"a": (Path("x/1.png"), Path("x/2.tif")), "b": (Path("1.png"), Path("y/2.png"))}).ids == ("1", "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"a": (Path("1"), Path("2")), "b": (Path("1"),)},), "different lengths"),
        (({"a": (Path("1"),)}, {"label": ()}), "different lengths"),
        (({"a": (Path("1"),)}, {}, {}, (), ("p", "q")), "different lengths"),
        (({"a": (Path("x/1"), Path("y/1"))},), "1 ids repeat"),
        (({"a": (Path("1"), Path("2"))}, {"label": (0, 2)}, {"label": ("n", "s")}), r"0\.\.2, of 2 classes"),
        (({"a": (Path("1"), Path("2"))}, {"label": (-1, 0)}, {"label": ("n", "s")}), r"-1\.\.0, of 2 classes"),
    ],
)
def test_inconsistent_listings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Listing(*arguments)


def test_patients_are_in_no_text(listing):
    assert "Alice" not in repr(listing) + str(listing)


# ---- tables --------------------------------------------------------------------------------------


def test_a_table_keeps_labels_names_ids_and_patients(listing):
    table = FileTable(listing)
    record = table[2]
    assert (record["image"][0, 0, 0], record["label"], record["grade"]) == (20, 1, 9)
    assert record["label"].dtype == table.labels["label"].dtype == np.int32
    assert table.classes == {"label": ("normal", "sick")}
    assert [table.record_id(i) for i in range(len(table))] == ["r0", "r1", "r2"]
    assert table.groups == PEOPLE


def test_selecting_keeping_and_pickling_leave_labels_alone(listing):
    table = FileTable(listing)
    table.keep()
    first = table[0]["image"]
    chosen = table.select("image")
    assert chosen[0]["image"] is first
    copy = pickle.loads(pickle.dumps(chosen))
    for other in (chosen, copy):
        assert other.classes == {"label": ("normal", "sick")}
        assert (other[1]["label"], other[1]["grade"], other.record_id(1)) == (0, 8, "r1")
    assert (chosen.groups, copy.groups) == (PEOPLE, ())
    assert b"Alice" not in pickle.dumps(table)


def test_arrays_carry_class_names(listing):
    table = ArrayTable({"image": np.zeros((2, 4, 4, 1), np.uint8)}, {"label": [0, 1]}, classes={"label": ("n", "s")})
    assert table.select("image").classes == {"label": ("n", "s")}
    assert ArrayTable({"image": np.zeros((2, 4, 4, 1), np.uint8)}).classes == {}


def test_class_labels_of_prepared_sets_have_their_names(tmp_path):
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint8, encoding="bytes"),
            "label": tfds.features.ClassLabel(names=["normal", "sick"]),
            "grade": tfds.features.Scalar(np.int32),
        }
    )

    class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, name in enumerate(["sick", "normal", "sick"]):
                yield i, {"image": np.full((4, 4, 1), i, np.uint8), "label": name, "grade": 5}

    builder = Small(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    table = open_tables(DataConfig(source=str(builder.data_dir)), "train")["records"]
    assert table.classes == {"label": ("normal", "sick")}
    by_value = {int(table[i]["image"][0, 0, 0]): table[i]["label"] for i in range(3)}
    assert {value: table.classes["label"][label] for value, label in by_value.items()} == {
        0: "sick",
        1: "normal",
        2: "sick",
    }
    for other in (table.select("image"), pickle.loads(pickle.dumps(table))):
        assert other.classes == table.classes
        np.testing.assert_array_equal(other.labels["label"], table.labels["label"])


# ---- panels --------------------------------------------------------------------------------------


@pytest.fixture
def strip(tmp_path):
    """Three panels of 6x4 pixels side by side: 0, 100, 200, each rising by one from left to right."""
    row = np.concatenate([start + np.arange(4) for start in (0, 100, 200)]).astype(np.uint8)
    write_image(tmp_path / "s.png", np.broadcast_to(row[None, :, None], (6, 12, 1)))
    return (tmp_path / "s.png",)


def test_panels_are_cut_from_one_decoding(strip, monkeypatch):
    read, decoded = tables_module.read_image, []
    monkeypatch.setattr(tables_module, "read_image", lambda path, **view: decoded.append(path) or read(path, **view))
    table = FileTable(Listing({"a": strip, "b": strip}, panels={"a": Panel(2, 3), "b": Panel(0, 3)}))
    assert table.header(0, "a") == (6, 4, 1, 8)
    assert table.nbytes == 2 * 6 * 4
    record = table[0]
    assert len(decoded) == 1
    np.testing.assert_array_equal(record["a"][3, :, 0], [200, 201, 202, 203])
    np.testing.assert_array_equal(record["b"][3, :, 0], [0, 1, 2, 3])
    table.keep()
    kept = table.select("b")
    assert kept[0]["b"].base is None, "keeping one panel must not hold the whole picture"
    assert kept[0]["b"] is kept[0]["b"]


def test_panels_are_resized_one_by_one(strip):
    table = FileTable(Listing({"b": strip}, panels={"b": Panel(1, 3)}), load_size=8)
    image = table[0]["b"]
    assert image.shape == (8, 8, 1)
    assert image.min() >= 99 and image.max() <= 104, "no neighbour bleeds in"


def test_a_width_that_the_panels_do_not_share_names_the_file_and_the_settings(strip):
    with pytest.raises(UserError, match=r"s\.png: is 12 pixels wide, which 5 panels do not .*config\.data\.panels"):
        FileTable(Listing({"a": strip}, panels={"a": Panel(0, 5)}))
