"""BBBC006 on generated trees with the official names, and on real planes where they are at hand."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.data.builders import prepare
from medgen_jax.data.builders.bbbc006 import open_source
from medgen_jax.data.images import read_image, write_image
from medgen_jax.data.sources import open_tables

DEALT = {"val_share": 0.3, "test_share": 0.3}
WELLS = tuple(f"{row}{column:02d}" for row in "abc" for column in (1, 9, 24))


def plane_folder(root, plane):
    folder = root / f"BBBC006_v1_images_z_{plane:02d}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_field(root, plane, well, site=1, channel=1, image=None):
    """One image with a name of its own in every plane; its level tells all of it."""
    level = 4000 * channel + 100 * plane + 10 * WELLS.index(well) + site if well in WELLS else 0
    image = np.full((6, 8), level, np.uint16) if image is None else image
    name = f"mcf-z-stacks-03212011_{well}_s{site}_w{channel}{uuid.uuid4()}.tif"
    write_image(plane_folder(root, plane) / name, image)


@pytest.fixture
def source(tmp_path):
    for plane in (14, 16, 20):
        for well in WELLS:
            for site, channel in ((1, 1), (2, 1), (1, 2)):
                write_field(tmp_path / "v1", plane, well, site, channel)
    return tmp_path / "v1"


def level(file):
    return int(read_image(file)[0, 0, 0])


def test_pairs_are_matched_by_well_site_and_channel(source):
    found = open_source(source, **DEALT)
    assert list(found) == ["train", "val", "test"]
    assert sum(map(len, found.values())) == 2 * 2 * len(WELLS)  # two planes out of focus, two sites
    for listing in found.values():
        offsets = listing.values["z_offset_um"]
        for a, b, offset, name, well in zip(
            *listing.columns.values(), offsets, listing.ids, listing.groups, strict=True
        ):
            assert offset in (-4.0, 8.0)
            assert level(a) - level(b) == 100 * offset / 2
            plane, site = 16 + int(offset / 2), level(a) % 10
            assert name == f"{well}_s{site}_w1_z{plane:02d}"
            assert level(a) == 4000 + 100 * plane + 10 * WELLS.index(well) + site
    wells = [set(listing.groups) for listing in found.values()]
    assert set().union(*wells) == set(WELLS)
    assert sum(map(len, wells)) == len(WELLS)


def test_options_choose_channel_and_planes(source):
    found = open_source(source, channel=2, in_focus=14, planes=(20,), val_share=0.4, test_share=0.0)
    assert set(found) == {"train", "val"}
    for listing in found.values():
        assert set(listing.values["z_offset_um"]) == {12.0}
        assert {level(file) // 100 for file in listing.columns["a"]} == {100}
        assert {level(file) // 100 for file in listing.columns["b"]} == {94}


def test_a_plane_may_lie_in_a_folder_of_its_own_name(source):
    plain = {split: listing.ids for split, listing in open_source(source, **DEALT).items()}
    outer = plane_folder(source, 20)
    inner = outer / outer.name
    files = list(outer.iterdir())
    inner.mkdir()
    for file in files:
        file.rename(inner / file.name)
    assert {split: listing.ids for split, listing in open_source(source, **DEALT).items()} == plain


def test_missing_images_are_counted_and_named(source):
    for plane, well in ((16, "a01"), (20, "b09")):
        next(plane_folder(source, plane).glob(f"*_{well}_s1_w1*")).unlink()
    told = r"2 images of 18 fields are missing \(first: z_16 a01 s1, z_20 b09 s1\)"
    with pytest.raises(UserError, match=rf"{told}; unpack these planes again, or go without them with --set skip_mis"):
        open_source(source)
    with pytest.warns(UserWarning, match=rf"{told} and left out; fields without an image in focus: 1$"):
        found = open_source(source, skip_missing=True, **DEALT)
    ids = {name for listing in found.values() for name in listing.ids}
    assert len(ids) == 36 - 2 - 1
    assert not {"a01_s1_w1_z14", "a01_s1_w1_z20", "b09_s1_w1_z20"} & ids


def test_bad_sources_are_refused(source, tmp_path):
    with pytest.raises(UserError, match=r"holds no folders of planes; expected BBBC006_v1_images_z_<00\.\.33>/"):
        open_source(tmp_path)
    with pytest.raises(UserError, match="holds no plane 03, 33, only 14, 16, 20; unpack it"):
        open_source(source, planes=(3, 33, 14))
    with pytest.raises(UserError, match="nothing is out of focus if only plane 16 is taken"):
        open_source(source, planes=(16,))
    with pytest.raises(UserError, match=r"--set channel=3: must be 1 \(Hoechst"):
        open_source(source, channel=3)
    write_field(source, 14, "a01")
    with pytest.raises(UserError, match="shows the same field; keep one of the two"):
        open_source(source)
    write_image(plane_folder(source, 20) / "a01_s1_w1.tif", np.zeros((2, 2), np.uint16))
    with pytest.raises(UserError, match=r"a01_s1_w1\.tif: is not named as BBBC006 names its images"):
        open_source(source, planes=(20,))


def test_real_planes_keep_their_sixteen_bits(shared, tmp_path):
    real = shared / "data" / "focus" / "bbbc006_unpaired"
    sharp, blurred = sorted((real / "in").glob("*.png")), sorted((real / "out").glob("*.png"))[:6]
    if len(sharp) != 6 or len(blurred) != 6:
        pytest.skip("needs the planes in focus/bbbc006_unpaired")
    # They are of different wells: this shows format and geometry, not one field twice.
    for well, b, a in zip(WELLS, sharp, blurred, strict=False):
        write_field(tmp_path / "v1", 10, well, image=read_image(b))
        write_field(tmp_path / "v1", 0, well, image=read_image(a))
    options = {"in_focus": "10", "val_share": "0.4", "test_share": "0"}
    target = prepare("bbbc006", tmp_path / "v1", tmp_path / "out", options=options, say=lambda _: None)
    config = DataConfig(source=str(target), bits=16)
    tables = [open_tables(config, split)["pairs"] for split in ("train", "val")]
    assert sum(map(len, tables)) == 6
    for table in tables:
        assert table.values["z_offset_um"].tolist() == [-20.0] * len(table)
        for i in range(len(table)):
            record = table[i]
            assert record["a"].shape == (520, 696, 1)
            assert any(np.array_equal(record["b"], read_image(file)) for file in sharp)
            assert any(np.array_equal(record["a"], read_image(file)) for file in blurred)
