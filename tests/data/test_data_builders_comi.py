"""COMI on generated trees with the public names, and on real pairs where they are at hand."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.data.builders import prepare
from medgen_jax.data.builders.comi import open_source
from medgen_jax.data.images import read_image, write_image
from medgen_jax.data.sources import open_tables

pytestmark = pytest.mark.filterwarnings("ignore:.*nothing says which fields:UserWarning")


def write_folder(folder, names, level=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        write_image(folder / f"{name}.png", np.full((4, 4, 3), level + i, np.uint8))


@pytest.fixture
def leishmania(tmp_path):
    root = tmp_path / "Leishmania"
    for split, numbers in (("train", range(12)), ("test", range(12, 15))):
        for side in ("blurred", "clear"):
            write_folder(root / f"Leishmania_{side}_{split}", [f"slide{n % 4}_{n}" for n in numbers])
    return root


def files(listing, column):
    return [file.relative_to(file.parents[1]).as_posix() for file in listing.columns[column]]


def test_the_sets_own_split_is_kept_and_val_dealt_out_of_train(leishmania):
    with pytest.warns(UserWarning, match="nothing says which fields are of one slide"):
        found = open_source(leishmania, val_share=0.3)
    assert files(found["test"], "a") == [f"Leishmania_blurred_test/slide{n % 4}_{n}.png" for n in (12, 13, 14)]
    assert files(found["test"], "b") == [f"Leishmania_clear_test/slide{n % 4}_{n}.png" for n in (12, 13, 14)]
    rest = [name for split in ("train", "val") for name in found[split].ids]
    assert sorted(rest) == sorted(f"slide{n % 4}_{n}" for n in range(12))
    assert len(found["val"]) > 0
    assert found["train"].groups == ()


def test_planes_of_one_structure_are_paired_by_what_follows_the_plane(tmp_path):
    for plane in (4, 7, 10):
        write_folder(tmp_path / "nucleus" / f"Z{plane:03d}", [f"Z{plane}_{n}" for n in range(12)])
    found = open_source(tmp_path / "nucleus", a="Z004", b="Z007", val_share=0.2, test_share=0.2)
    assert list(found) == ["train", "val", "test"]
    assert sorted(name for listing in found.values() for name in listing.ids) == sorted(map(str, range(12)))
    for listing in found.values():
        for name, a, b in zip(listing.ids, files(listing, "a"), files(listing, "b"), strict=True):
            assert (a, b) == (f"Z004/Z4_{name}.png", f"Z007/Z7_{name}.png")


def test_a_group_found_in_the_names_stays_together_and_is_not_repeated(tmp_path):
    for side in ("out", "in"):
        write_folder(tmp_path / "s" / side, [f"slide{slide:02d}-{n}" for slide in range(10) for n in range(3)])
    found = open_source(tmp_path / "s", a="out", b="in", group=r"slide(\d+)", val_share=0.3, test_share=0.3)
    slides = [set(listing.groups) for listing in found.values()]
    assert sum(map(len, slides)) == len(set().union(*slides)) == 10
    for listing in found.values():
        assert len(listing) == 3 * len(set(listing.groups))
        assert all("slide" not in name for name in listing.ids)
        assert all(
            f"slide{group}" in file.name for group, file in zip(listing.groups, listing.columns["a"], strict=True)
        )


def test_a_group_in_two_of_the_sets_own_splits_is_refused(leishmania, tmp_path):
    with pytest.raises(UserError, match=r"in more than one split: 3 in train and test \(9 \+ 3 records\)"):
        prepare("comi", leishmania, tmp_path / "out", options={"group": "slide.", "val_share": "0"}, say=print)


def test_bad_sources_are_refused(leishmania):
    with pytest.raises(UserError, match=r"blurred: no such folder \(there are: Leishmania_blurred_test, Leish"):
        open_source(leishmania, a="blurred")
    with pytest.raises(UserError, match=r"--set group=\(: is no regular expression"):
        open_source(leishmania, group="(")
    with pytest.raises(UserError, match="--set group=slide[01] finds nothing in 6 of 12 names".replace("[", r"\[")):
        open_source(leishmania, group="slide[01]")
    (leishmania / "Leishmania_clear_train" / "slide3_3.png").unlink()
    (leishmania / "Leishmania_blurred_train" / "slide2_10.png").unlink()
    told = r"11 images in Leishmania_blurred_train and 11 in Leishmania_clear_train, 2 without a partner"
    with pytest.raises(UserError, match=rf"{told} of the same name \(first: slide2_10\.png\)"):
        open_source(leishmania)
    write_folder(leishmania / "mixed", ["Z4_1", "Z5_1"])
    with pytest.raises(UserError, match=r"Z5_1\.png: Z4_1\.png is the same field"):
        open_source(leishmania, a="mixed", b="mixed")
    with pytest.raises(UserError, match="is a link out of"):
        open_source(leishmania / "mixed", a="../Leishmania_clear_train", b="../Leishmania_blurred_train")


def test_real_pairs_are_prepared_whole(shared, tmp_path):
    real = shared / "data" / "focus" / "pairs"
    if not real.is_dir():
        pytest.skip("needs the pairs in focus/pairs")
    source = tmp_path / "focus"
    for side in ("out", "in"):
        (source / side).mkdir(parents=True)
        for file in sorted((real / side).glob("dfnn_mito_*.png"))[:20]:
            write_image(source / side / file.name, read_image(file))
    options = {"a": "out", "b": "in", "group": "y[0-9]+", "val_share": "0.5", "test_share": "0", "split_seed": "1"}
    target = prepare("comi", source, tmp_path / "out", options=options, say=lambda _: None)
    tables = [open_tables(DataConfig(source=str(target)), split)["pairs"] for split in ("train", "val")]
    assert sum(map(len, tables)) == 20
    # Several planes have one partner in focus, so that only the pair as a whole tells the field.
    names = [file.name for file in (source / "in").iterdir()]
    written = {tuple(read_image(source / side / name).tobytes() for side in ("out", "in")) for name in names}
    assert {tuple(table[i][side].tobytes() for side in "ab") for table in tables for i in range(len(table))} == written
