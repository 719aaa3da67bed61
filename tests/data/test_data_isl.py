"""The packaged demo data: complete, small, and exactly the pixels of their source tiles."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from medgen_jax.core.config import DataConfig
from medgen_jax.data.images import read_header, read_image
from medgen_jax.data.sources import PACKAGED, open_tables

ISL = PACKAGED["isl"]
STAINS = ("dapi", "map2", "nfh")


def test_sizes_and_content():
    train, val = (open_tables(DataConfig(source="isl"), split)["pairs"] for split in ("train", "val"))
    assert (train.header(0, "a"), train.header(0, "b")) == ((1024, 384, 1, 8), (1024, 384, 3, 8))
    assert {val.header(i, "b") for i in range(len(val))} == {(256, 256, 3, 8)}
    assert len(train) == 1
    assert len(val) == 4
    assert all(val[i]["b"].std() > 1 and val[i]["a"].std() > 1 for i in range(4))


def test_it_stays_small_and_carries_its_notice():
    assert sum(path.stat().st_size for path in ISL.rglob("*") if path.is_file()) < 2_000_000
    text = (ISL / "README.md").read_text()
    assert "Apache" in text
    assert "5db882b" in text


@pytest.fixture(scope="module")
def tiles(shared):
    folder = shared / "data" / "histology" / "paired" / "isl"
    with (folder / "tiles.csv").open() as stream:
        return folder, list(csv.DictReader(stream))


def _stack(folder, name):
    phase = read_image(folder / "phase" / name)
    return phase, np.concatenate([read_image(folder / stain / name) for stain in STAINS], axis=-1)


def test_pixels_are_those_of_the_tiles(tiles):
    folder, rows = tiles
    mosaics = [read_image(next((ISL / "train" / side).iterdir())) for side in "AB"]
    covered = np.zeros((1024, 384), bool)
    for row in rows:
        y, x = int(row["y"]), int(row["x"])
        if row["split"] == "train":
            window = slice(y, y + 256), slice(x, x + 256)
            covered[window] = True
            for ours, theirs in zip(mosaics, _stack(folder, row["file"]), strict=True):
                np.testing.assert_array_equal(ours[window], theirs)
        elif row["split"] == "val" and y % 256 == 0:
            for side, theirs in zip("AB", _stack(folder, row["file"]), strict=True):
                np.testing.assert_array_equal(read_image(ISL / "val" / side / row["file"]), theirs)
    assert covered.all()


def test_no_buffer_tile_is_shipped(tiles):
    _, rows = tiles
    allowed = {row["file"] for row in rows if row["split"] == "val" and int(row["y"]) % 256 == 0}
    for side in "AB":
        assert {path.name for path in (ISL / "val" / side).iterdir()} == allowed
        assert len(list((ISL / "train" / side).iterdir())) == 1
        assert read_header(next((ISL / "train" / side).iterdir())).width == 384
