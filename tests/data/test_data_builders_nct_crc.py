"""NCT-CRC-HE-100K and CRC-VAL-HE-7K on generated trees with the official names."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.data.builders import describe_options, prepare
from medgen_jax.data.builders.nct_crc import CLASSES, Colours, open_source
from medgen_jax.data.images import read_image, write_image
from medgen_jax.data.sources import open_tables

pytestmark = pytest.mark.filterwarnings("ignore:.*says nothing of slides:UserWarning")


def write_set(folder, per_class=6, size=224, classes=tuple(CLASSES)):
    """Tiles named like those of the set, each class in its own colour."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            tile = np.full((size, size, 3), (25 * label, i, len(folder.name)), np.uint8)
            write_image(folder / name / f"{name}-{i:06d}.tif", tile)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("zenodo")
    write_set(root / "NCT-CRC-HE-100K", size=4)
    write_set(root / "CRC-VAL-HE-7K" / "CRC-VAL-HE-7K", per_class=2, size=4)
    return root


def test_train_and_val_are_of_one_set_and_test_of_the_other(source):
    found = open_source(source, val_share=0.3)
    assert {split: len(listing) for split, listing in found.items() if split == "test"} == {"test": 18}
    tiles = [set(found[split].columns["image"]) for split in ("train", "val")]
    assert not tiles[0] & tiles[1]
    assert tiles[0] | tiles[1] == set((source / "NCT-CRC-HE-100K").rglob("*.tif"))
    for listing in found.values():
        assert listing.classes["label"] == tuple(CLASSES)
        assert listing.groups == ()
        for file, label, name in zip(listing.columns["image"], listing.labels["label"], listing.ids, strict=True):
            assert (file.parent.name, f"{file.parent.name}/{file.stem}") == (tuple(CLASSES)[label], name)
    # Which tiles are val depends on their names and the seed alone.
    assert open_source(source, val_share=0.3)["val"].ids == found["val"].ids
    assert open_source(source, val_share=0.3, split_seed=1)["val"].ids != found["val"].ids
    assert set(open_source(source, val_share=0.0)) == {"train", "test"}


def test_that_val_is_not_by_patient_is_said(source):
    with pytest.warns(UserWarning, match="says nothing of slides or patients, so val is drawn tile by tile"):
        open_source(source)


def test_one_folder_alone_is_a_source(source):
    assert set(open_source(source / "NCT-CRC-HE-100K")) == {"train", "val"}
    assert set(open_source(source / "CRC-VAL-HE-7K" / "CRC-VAL-HE-7K")) == {"test"}


def test_of_two_training_folders_one_is_chosen(tmp_path):
    for name in ("NCT-CRC-HE-100K", "NCT-CRC-HE-100K-NONORM"):
        write_set(tmp_path / name, per_class=3, size=2)
    with pytest.raises(UserError, match="holds NCT-CRC-HE-100K and NCT-CRC-HE-100K-NONORM; choose with --set colours="):
        open_source(tmp_path)
    for colours, name in ((Colours.NORMALISED, "NCT-CRC-HE-100K"), (Colours.SCANNED, "NCT-CRC-HE-100K-NONORM")):
        files = open_source(tmp_path, colours=colours)["train"].columns["image"]
        assert {file.parent.parent.name for file in files} == {name}


def test_bad_sources_are_refused(source, tmp_path):
    with pytest.raises(UserError, match=r"holds no NCT-CRC-HE-100K or NCT-CRC-HE-100K-NONORM; expected \{NCT-CRC"):
        open_source(tmp_path)
    with pytest.raises(UserError, match="holds no NCT-CRC-HE-100K-NONORM"):
        open_source(source, colours=Colours.SCANNED)
    write_set(tmp_path / "part", per_class=1, size=2, classes=("ADI", "BACK", "TUM"))
    with pytest.raises(UserError, match="part: lacks the class folders DEB, LYM, MUC, MUS, NORM, STR of the nine"):
        open_source(tmp_path / "part")
    for name in set(CLASSES) - {"ADI", "BACK", "TUM"}:
        (tmp_path / "part" / name).mkdir()
    with pytest.raises(UserError, match="DEB: holds no images"):
        open_source(tmp_path / "part")
    outside = tmp_path / "elsewhere.tif"
    write_image(outside, np.zeros((2, 2, 3), np.uint8))
    (tmp_path / "part" / "DEB" / "DEB-X.tif").symlink_to(outside)
    with pytest.raises(UserError, match=r"DEB-X\.tif: is a link out of"):
        open_source(tmp_path / "part")


def test_prepared_tiles_keep_pixels_and_classes(tmp_path):
    write_set(tmp_path / "NCT-CRC-HE-100K-NONORM", per_class=3)
    said = []
    target = prepare("nct_crc", tmp_path, tmp_path / "out", options={"val_share": "0.3"}, say=said.append)
    assert said[0].startswith("note: ")
    assert "val is drawn tile by tile" in said[0]
    table = open_tables(DataConfig(source=str(target)), "train")["records"]
    assert table.classes["label"] == tuple(CLASSES)
    for i in range(len(table)):
        record = table[i]
        name = tuple(CLASSES)[record["label"]]
        files = (tmp_path / "NCT-CRC-HE-100K-NONORM" / name).glob("*.tif")
        assert any(np.array_equal(record["image"], read_image(file)) for file in files)
    assert describe_options("nct_crc")[1].split()[1] == "colours=auto"
    assert "one of auto, normalised, scanned:" in describe_options("nct_crc")[1]
