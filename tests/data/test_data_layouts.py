"""The folder layouts beyond A and B, what is told when none fits, and fences around them."""

from __future__ import annotations

import os
import unicodedata

import numpy as np
import pytest

from medgen_jax.core.config import DataConfig, Layout, TrainConfig, validate_shared
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Field, Stream
from medgen_jax.data import layouts
from medgen_jax.data.checks import check_tables, table_for
from medgen_jax.data.images import write_image
from medgen_jax.data.sources import list_tables, locate, open_tables, splits
from medgen_jax.data.splits import SPLITS


def write(path, value=0, size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((*size, 1), value, np.uint8))
    return path


def config(path, **settings):
    return DataConfig(source=str(path), **settings)


def refused(settings, split="train"):
    with pytest.raises(UserError) as caught:
        open_tables(settings, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def found_layout(path):
    return locate(config(path))[1]


@pytest.fixture
def classes(tmp_path):
    """Two classes in train, of which val has one; names repeat in the classes."""
    for split, name, count in (("train", "PNEUMONIA", 2), ("train", "NORMAL", 3), ("val", "PNEUMONIA", 1)):
        for i in range(count):
            write(tmp_path / split / name / f"{i}.png", i + (100 if name == "PNEUMONIA" else 0))
    return tmp_path


@pytest.fixture
def strips(tmp_path):
    """Pictures twice as wide as high: 10 on the left, 200 on the right."""
    for split in ("train", "val"):
        for i in range(2):
            image = np.full((16, 32, 1), 10 + i, np.uint8)
            image[:, 16:] = 200 + i
            (tmp_path / split).mkdir(exist_ok=True)
            write_image(tmp_path / split / f"s{i}.png", image)
    return tmp_path


# ---- class folders -------------------------------------------------------------------------------


def test_class_folders(classes):
    assert found_layout(classes) is Layout.CLASSES
    assert splits(config(classes)) == ("train", "val")
    (table,) = open_tables(config(classes), "train").values()
    assert table.classes == {"label": ("NORMAL", "PNEUMONIA")}
    records = [(table.record_id(i), int(table[i]["image"][0, 0, 0]), int(table[i]["label"])) for i in range(5)]
    assert records == [
        ("NORMAL/0", 0, 0),
        ("NORMAL/1", 1, 0),
        ("NORMAL/2", 2, 0),
        ("PNEUMONIA/0", 100, 1),
        ("PNEUMONIA/1", 101, 1),
    ]


def test_a_split_may_lack_a_class_and_labels_stay_those_of_train(classes):
    table = open_tables(config(classes), "val")["records"]
    assert (list(table.labels["label"]), table.classes["label"]) == ([1], ("NORMAL", "PNEUMONIA"))


def test_a_class_that_training_does_not_know(classes):
    write(classes / "val" / "COVID" / "0.png")
    message = refused(config(classes), "val")
    assert f"{classes / 'val' / 'COVID'}: is a class that training does not know; it has NORMAL, PNEUMONIA" in message
    open_tables(config(classes), "train")


def test_without_a_training_split_all_splits_name_the_classes(tmp_path):
    write(tmp_path / "val" / "x" / "0.png")
    write(tmp_path / "test" / "y" / "0.png")
    for split, label in (("val", 0), ("test", 1)):
        table = open_tables(config(tmp_path), split)["records"]
        assert (list(table.labels["label"]), table.classes["label"]) == ([label], ("x", "y"))


def test_class_names_match_over_unicode_forms(tmp_path):
    write(tmp_path / "train" / unicodedata.normalize("NFC", "größe") / "0.png")
    write(tmp_path / "val" / unicodedata.normalize("NFD", "größe") / "0.png")
    assert len(open_tables(config(tmp_path), "val")["records"]) == 1


def test_images_beside_class_folders_and_empty_classes_are_refused(classes):
    stray = write(classes / "train" / "lost.png")
    assert f"{stray}: lies beside the class folders" in refused(config(classes))
    stray.unlink()
    (classes / "train" / "EMPTY").mkdir()
    assert f"{classes / 'train' / 'EMPTY'}: holds no images" in refused(config(classes))


def test_what_operating_systems_leave_behind_is_no_class(classes):
    (classes / "train" / "__MACOSX").mkdir()
    write(classes / "train" / ".thumbnails" / "0.png")
    (classes / "train" / "notes.txt").write_text("x")
    assert open_tables(config(classes), "train")["records"].classes["label"] == ("NORMAL", "PNEUMONIA")


# ---- one picture per record ----------------------------------------------------------------------


def test_side_by_side_pictures(strips):
    assert found_layout(strips) is Layout.PANELS
    tables = open_tables(config(strips, crop_size=16), "train")
    assert {name: (table.names, len(table)) for name, table in tables.items()} == {
        "pairs": (("a", "b"), 2),
        "a": (("a",), 2),
        "b": (("b",), 2),
    }
    record = tables["pairs"][1]
    assert {name: (image.shape, set(image.ravel())) for name, image in record.items()} == {
        "a": ((16, 16, 1), {11}),
        "b": ((16, 16, 1), {201}),
    }
    stream = Stream((("a", Field((16, 16, 1))), ("b", Field((16, 16, 1)))), 2)
    check_tables(tables, {"pairs": stream}, config(strips, crop_size=16))
    with pytest.raises(UserError, match=r"is 16x16 pixels, smaller than config\.data\.crop_size = 17"):
        check_tables(tables, {"pairs": stream}, config(strips, crop_size=17))


def test_which_panels_are_a_and_b(tmp_path):
    image = np.repeat(np.arange(6, dtype=np.uint8), 5)[None, :, None].repeat(4, axis=0)  # six panels of 4x5
    (tmp_path / "train").mkdir()
    write_image(tmp_path / "train" / "x.png", image)
    settings = config(tmp_path, layout=Layout.PANELS, panels=6, panel_a=4, panel_b=1)
    record = open_tables(settings, "train")["pairs"][0]
    assert {name: (image.shape, set(image.ravel())) for name, image in record.items()} == {
        "a": ((4, 5, 1), {4}),
        "b": ((4, 5, 1), {1}),
    }
    settings.panels = 7
    assert "is 30 pixels wide, which 7 panels do not share evenly" in refused(settings)


def test_whole_pictures(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / split / "x.png", 5, (16, 20))
    assert found_layout(tmp_path) is Layout.IMAGES
    tables = open_tables(config(tmp_path), "test")
    assert {name: (table.names, len(table), table.labels) for name, table in tables.items()} == {
        "records": (("image",), 1, {})
    }
    assert tables["records"][0]["image"].shape == (16, 20, 1)


def test_the_first_picture_decides_and_the_layout_may_be_said(strips):
    assert found_layout(strips) is Layout.PANELS
    assert list(open_tables(config(strips, layout=Layout.IMAGES), "train")) == ["records"]
    write(strips / "train" / "a.png", size=(16, 31))
    assert found_layout(strips) is Layout.IMAGES
    assert "a.png: is 31 pixels wide" in refused(config(strips, layout=Layout.PANELS))


def test_whole_pictures_that_are_not_there_say_how_to_lay_them_out(strips):
    with pytest.raises(UserError, match=r"needs single images: .*layout=images.*has: a, b, pairs"):
        table_for(open_tables(config(strips, layout=Layout.PANELS), "val"), "records")


def test_pairs_that_are_not_there_say_how_to_lay_them_out(classes):
    with pytest.raises(UserError, match=r"needs pairs: .*layout=panels.*path_a.*pairs_source.*has: records"):
        table_for(open_tables(config(classes), "train"), "pairs")


@pytest.mark.parametrize(("a", "b", "count"), [(0, 0, 2), (-1, 1, 2), (0, 2, 2), (0, 1, 1)])
def test_panels_that_are_none(a, b, count):
    data = DataConfig(panels=count, panel_a=a, panel_b=b)
    with pytest.raises(UserError, match=r"config\.data\.panel"):
        validate_shared(data, TrainConfig(steps=1))


# ---- spellings -----------------------------------------------------------------------------------


def test_splits_are_known_in_other_spellings(tmp_path):
    for folder in ("Train", "validation", "TEST"):
        for side in "AB":
            write(tmp_path / "paired" / folder / side / "1.png")
            write(tmp_path / "unpaired" / f"{folder}{side}" / "1.png")
        write(tmp_path / "classes" / folder / "x" / "1.png")
        write(tmp_path / "images" / folder / "1.png")
    for kind in ("paired", "unpaired", "classes", "images"):
        assert found_layout(tmp_path / kind).value == kind
        assert splits(config(tmp_path / kind)) == SPLITS
        assert all(
            len(table) == 1 for split in SPLITS for table in open_tables(config(tmp_path / kind), split).values()
        )


def test_two_folders_for_one_split(tmp_path):
    write(tmp_path / "val" / "A" / "1.png")
    write(tmp_path / "validation" / "A" / "2.png")
    assert "val and validation all mean the split val; keep one of them" in refused(config(tmp_path))


# ---- no layout -----------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "A", "NORMAL"])
def test_images_without_splits_get_told_what_to_do(tmp_path, inside):
    write(tmp_path / inside / "1.png")
    message = refused(config(tmp_path))
    assert f"{tmp_path}: found " in message
    assert "not split: move them below folders train, val and test" in message
    assert "path and patient_id" in message
    assert "{train,val,test}/CLASS/name.png" in message


def test_a_layout_that_was_asked_for_and_is_not_there(classes):
    message = refused(config(classes, layout=Layout.PAIRED))
    assert "found train/, val/; expected {train,val,test}/{A,B}/name.png" in message
    message = refused(config(classes, layout=Layout.IMAGES))
    assert f"{classes / 'train'}: holds no images" in message
    message = refused(config(classes, layout=Layout.CLASSES), "test")
    assert f"{classes / 'test'}: no such folder (splits that are there: train, val)" in message


def test_two_domains_are_not_called_unsplit_images_when_pairs_were_asked_for(tmp_path):
    for folder in ("trainA", "trainB"):
        write(tmp_path / folder / "0.png")
    message = refused(config(tmp_path, layout=Layout.PAIRED))
    assert message == f"{tmp_path}: is laid out as unpaired, not as paired; expected {layouts.TREES[Layout.PAIRED]}"


# ---- fences --------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path_factory):
    return write(tmp_path_factory.mktemp("outside") / "secret" / "1.png").parent


def trees(root):
    """One image in each kind of tree, and the folder that it is in."""
    return [root / tree for tree in ("p/train/A", "u/trainA", "c/train/x", "i/train")]


def test_links_to_files_outside_are_refused_in_every_layout(tmp_path, outside):
    for folder in trees(tmp_path):
        write(folder / "0.png")
        (folder / "1.png").symlink_to(outside / "1.png")
        root = tmp_path / folder.relative_to(tmp_path).parts[0]
        if folder.name in ("A", "trainA"):
            write(folder.parent / folder.name.replace("A", "B") / "0.png")
            write(folder.parent / folder.name.replace("A", "B") / "1.png")
        assert f"{folder / '1.png'}: is a link out of {root}" in refused(config(root))


def test_links_to_folders_outside_are_refused_in_every_layout(tmp_path, outside):
    for folder in trees(tmp_path):
        folder.parent.mkdir(parents=True)
        folder.symlink_to(outside)
        root = tmp_path / folder.relative_to(tmp_path).parts[0]
        if folder.name in ("A", "trainA"):
            write(folder.parent / folder.name.replace("A", "B") / "1.png")
        assert "is a link out of" in refused(config(root))


def test_links_inside_the_directory_and_a_linked_directory_are_fine(tmp_path, outside):
    write(tmp_path / "real" / "store" / "1.png", 7)
    for side in "AB":
        (tmp_path / "real" / "train" / side).mkdir(parents=True)
        (tmp_path / "real" / "train" / side / "1.png").symlink_to(tmp_path / "real" / "store" / "1.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert open_tables(config(tmp_path / "link"), "train")["pairs"][0]["b"][0, 0, 0] == 7


def test_listing_looks_at_no_file(tmp_path, monkeypatch):
    """The names say enough; a large folder is listed without a stat per file."""
    for i in range(30):
        write(tmp_path / "train" / "x" / f"{i}.png")
    seen = []
    for name in ("stat", "lstat"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, *a, _o=original, **k: seen.append(str(path)) or _o(path, *a, **k))
    assert len(list_tables(config(tmp_path), "train")["records"]) == 30
    assert not [path for path in seen if path.endswith(".png")]


def test_dicom_files_without_a_suffix_are_found(tmp_path):
    write(tmp_path / "train" / "1.2.840.1.dcm").rename(tmp_path / "train" / "1.2.840.1")
    write(tmp_path / "train" / "1.2.840.2.dcm").rename(tmp_path / "train" / "1.2.840.2")
    (tmp_path / "train" / "README").write_text("x" * 200)
    table = open_tables(config(tmp_path), "train")["records"]
    assert [table.record_id(i) for i in range(len(table))] == ["1.2.840.1", "1.2.840.2"]


# ---- a second source of pairs --------------------------------------------------------------------


@pytest.fixture
def domains(tmp_path):
    for i in range(4):
        write(tmp_path / "domains" / "trainA" / f"a{i}.png", i)
        write(tmp_path / "domains" / "trainB" / f"b{i}.png", 50 + i)
        write(tmp_path / "domains" / "valA" / f"a{i}.png", i)
        write(tmp_path / "domains" / "valB" / f"b{i}.png", 50 + i)
    return tmp_path / "domains"


def test_registered_pairs_join_unpaired_domains(domains, tmp_path):
    for side, value in (("A", 100), ("B", 200)):
        write(tmp_path / "pairs" / "train" / side / "0.png", value)
    settings = config(domains, pairs_source=str(tmp_path / "pairs"))
    tables = open_tables(settings, "train")
    assert {name: (table.names, len(table)) for name, table in tables.items()} == {
        "a": (("a",), 4),
        "b": (("b",), 4),
        "pairs": (("a", "b"), 1),
    }
    assert (tables["pairs"][0]["a"][0, 0, 0], tables["a"][2]["a"][0, 0, 0]) == (100, 2)
    assert sorted(open_tables(settings, "val")) == ["a", "b"], "where there are no pairs, the domains remain"


def test_flat_pictures_given_as_pairs_are_panels(domains, tmp_path):
    write(tmp_path / "pairs" / "train" / "0.png", size=(16, 20))
    tables = open_tables(config(domains, pairs_source=str(tmp_path / "pairs")), "train")
    assert tables["pairs"].header(0, "b") == (16, 10, 1, 8)


def test_pairs_that_cannot_join(domains, tmp_path, classes):
    write(tmp_path / "paired" / "train" / "A" / "0.png")
    write(tmp_path / "paired" / "train" / "B" / "0.png")
    message = refused(config(tmp_path / "paired", pairs_source=str(domains)))
    assert "holds pairs itself" in message and "layout=unpaired" in message
    assert "has a, b, but no pairs" in refused(config(domains, pairs_source=str(domains)))
    assert "no such directory" in refused(config(domains, pairs_source=str(tmp_path / "nowhere")))


def test_list_split_is_what_tables_are_made_of(domains):
    listed = layouts.list_split(domains, "train", Layout.UNPAIRED)
    assert [file.name for file in listed["b"]] == ["b0.png", "b1.png", "b2.png", "b3.png"]
