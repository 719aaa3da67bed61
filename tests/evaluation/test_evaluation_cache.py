"""Cached features and stored statistics: found again, and never believed when damaged."""

from __future__ import annotations

import os

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.evaluation import cache
from medgen_jax.metrics import frechet

CONDITIONS = {"network": "n", "weights": "w", "resize": "r", "scaling": "s", "quantisation": "q"}
FEATURES = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)


@pytest.fixture
def entry(tmp_path):
    """A stored entry, and what was said."""
    said = []
    cache.store(tmp_path, "name", FEATURES, said.append)
    assert not said
    return tmp_path, said


def test_the_key_depends_on_everything_and_on_no_order():
    key = cache.key("contents", CONDITIONS)
    assert key == cache.key("contents", dict(reversed(CONDITIONS.items())))
    others = {cache.key("contents", CONDITIONS | {name: "other"}) for name in CONDITIONS}
    assert len({key, cache.key("more", CONDITIONS), *others}) == 7


def test_the_code_path_is_part_of_the_key(monkeypatch):
    before = cache.key("contents", CONDITIONS)
    monkeypatch.setattr(cache, "CODE_PATH", cache.CODE_PATH + 1)
    assert cache.key("contents", CONDITIONS) != before


def test_an_entry_comes_back(entry):
    folder, said = entry
    found = cache.load(folder, "name", said.append)
    np.testing.assert_array_equal(found, FEATURES)
    assert found.dtype == np.float32 and cache.load(folder, "other", said.append) is None and not said


@pytest.mark.parametrize("damage", ["cut", "empty", "other numbers"])
def test_a_damaged_entry_is_said_and_not_used(entry, damage):
    folder, said = entry
    path = folder / "name.npz"
    if damage == "other numbers":
        np.savez(path, features=FEATURES + 1, sha256=np.load(path)["sha256"])
    else:
        path.write_bytes(path.read_bytes()[:-40] if damage == "cut" else b"")
    assert cache.load(folder, "name", said.append) is None
    assert said == ["cache: name.npz is damaged; its features are computed anew"]


def test_a_flipped_bit_never_changes_a_number(entry):
    folder, said = entry
    path = folder / "name.npz"
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        found = cache.load(folder, "name", said.append)
        refused += found is None
        assert found is None or np.array_equal(found, FEATURES)
    assert refused > len(whole) / 6


def test_a_cache_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    said = []
    cache.store(tmp_path / "file" / "below", "name", FEATURES, said.append)
    assert len(said) == 1 and "cannot be written" in said[0]


def test_the_entries_used_longest_ago_leave(tmp_path, monkeypatch):
    for i, name in enumerate("abc"):
        cache.store(tmp_path, name, FEATURES, print)
        os.utime(tmp_path / f"{name}.npz", (i, i))
    size = (tmp_path / "a.npz").stat().st_size
    monkeypatch.setattr(cache, "BUDGET", 3 * size)
    cache.load(tmp_path, "a", print)  # used now
    cache.store(tmp_path, "d", FEATURES, print)
    assert sorted(p.stem for p in tmp_path.glob("*")) == ["a", "c", "d"]


def test_the_folder_follows_the_environment(tmp_path):
    assert cache.directory({"MEDGEN_CACHE": str(tmp_path)}) == tmp_path / "features"
    assert cache.directory({}).parts[-3:] == (".cache", "medgen_jax", "features")


def test_statistics_travel_with_their_conditions(tmp_path):
    statistics = frechet.statistics(FEATURES)
    cache.save_statistics(tmp_path / "s.npz", statistics, {"n_real": 7})
    found, conditions = cache.load_statistics(tmp_path / "s.npz")
    assert conditions == {"n_real": 7}
    for have, wanted in zip(found, statistics, strict=True):
        np.testing.assert_array_equal(have, wanted)
    assert frechet.compute(found, statistics)["fid"] == pytest.approx(0, abs=1e-12)


def test_other_files_are_no_statistics(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz: no such file"):
        cache.load_statistics(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", mean=np.zeros(3))
    with pytest.raises(UserError, match=r"other\.npz: holds no reference statistics"):
        cache.load_statistics(tmp_path / "other.npz")
    np.savez(tmp_path / "objects.npz", about=np.array([{}], object))
    with pytest.raises(UserError, match="never loaded"):
        cache.load_statistics(tmp_path / "objects.npz")
    with pytest.raises(UserError, match="--save_statistics .*cannot be written"):
        cache.save_statistics(tmp_path / "other.npz" / "s.npz", frechet.statistics(FEATURES), {})
