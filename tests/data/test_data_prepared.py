"""Preparing and reading ArrayRecord sets, ours and those of other programs."""

from __future__ import annotations

import json
import pickle
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds

from medgen_jax.core.config import DataConfig, Layout, Nan
from medgen_jax.core.errors import UserError
from medgen_jax.core.manifest import read
from medgen_jax.core.streams import Field, Stream
from medgen_jax.data import builders
from medgen_jax.data.builders import BUILDERS, builder, greyscale, prepare
from medgen_jax.data.checks import check_tables
from medgen_jax.data.images import Range, View, read_image, write_image
from medgen_jax.data.manifest import verify
from medgen_jax.data.pipeline import iterator
from medgen_jax.data.sources import declared, open_tables, splits
from medgen_jax.data.transforms import resize


def quiet(_):
    pass


def noise(seed, size, channels, dtype):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (*size, channels)).astype(dtype)


@pytest.fixture
def source(tmp_path):
    """Paired 16-bit folders; training images larger than validation images."""
    folder = tmp_path / "my scans"
    for split, count, size in (("train", 3, (20, 16)), ("val", 2, (16, 16))):
        for i in range(count):
            for side, channels in (("A", 1), ("B", 3)):
                path = folder / split / side / f"n{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, noise(i, size, channels, np.uint16))
    return folder


def by_id(table):
    return {table._record(i)["id"].decode(): table.images(i) for i in range(len(table))}


def test_paired_set_is_exact(source, tmp_path):
    target = prepare("paired_folder", source, tmp_path / "out", say=quiet)
    assert target.parent.name.startswith("my_scans-full-")
    config = DataConfig(source=str(target), bits=16, crop_size=16)
    assert splits(config) == ("train", "val")
    tables = open_tables(config, "train")
    assert {name: (table.names, len(table)) for name, table in tables.items()} == {
        "records": (("a", "b"), 3),
        "pairs": (("a", "b"), 3),
        "a": (("a",), 3),
        "b": (("b",), 3),
    }
    found = by_id(tables["pairs"])
    assert sorted(found) == ["train/n0", "train/n1", "train/n2"]
    for name, record in found.items():
        for column, side in (("a", "A"), ("b", "B")):
            np.testing.assert_array_equal(
                record[column], read_image(source / "train" / side / f"{name.split('/')[1]}.png")
            )
            assert record[column].dtype == np.uint16
    # Raw bytes; a plain tensor would become a list of 64-bit integers.
    assert (target / "features.json").read_text().count('"encoding": "bytes"') == 2
    # Sizes differ between the splits, so headers are read from the records.
    assert open_tables(config, "val")["pairs"].header(0, "b") == (16, 16, 3, 16)
    assert tables["pairs"].header(0, "b") == (20, 16, 3, 16)
    stream = Stream((("a", Field((16, 16, 1), "uint16")), ("b", Field((16, 16, 3), "uint16"))), 2)
    check_tables(tables, {"pairs": stream}, config)
    shallow = Stream((("a", Field((16, 16, 1))), ("b", Field((16, 16, 3)))), 2)
    with pytest.raises(UserError, match=r"record 0, a: has 16 bits"):
        check_tables(tables, {"pairs": shallow}, DataConfig(source=str(target), crop_size=16))


def test_size_resizes_once(source, tmp_path):
    target = prepare("paired_folder", source, tmp_path / "out", size=8, say=quiet)
    table = open_tables(DataConfig(source=str(target)), "train")["b"]
    expected = {resize(read_image(p), 8, 8).tobytes() for p in (source / "train" / "B").iterdir()}
    assert {table[i]["b"].tobytes() for i in range(3)} == expected
    assert table.header(2, "b") == (8, 8, 3, 16)


def test_unpaired_set(tmp_path):
    for side, count in (("A", 2), ("B", 3)):
        for i in range(count):
            path = tmp_path / "src" / f"train{side}" / f"{side}{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, noise(i, (8, 8), 3, np.uint8))
    target = prepare("unpaired_folder", tmp_path / "src", tmp_path / "out", say=quiet)
    config = DataConfig(source=str(target), layout=Layout.PREPARED)
    assert splits(config) == ("train",)
    tables = open_tables(config, "train")
    assert {name: (table.names, len(table)) for name, table in tables.items()} == {"a": (("a",), 2), "b": (("b",), 3)}
    images = {tables["b"][i]["b"].tobytes() for i in range(3)}
    assert images == {read_image(p).tobytes() for p in (tmp_path / "src" / "trainB").iterdir()}


def test_folders_above_a_prepared_set_are_accepted_while_there_is_one(source, tmp_path):
    out = tmp_path / "out"
    prepare("paired_folder", source, out, say=quiet)
    for place in (out, out / "paired_folder"):
        assert len(open_tables(DataConfig(source=str(place)), "train")["pairs"]) == 3
    prepare("paired_folder", source, out, size=8, say=quiet)
    with pytest.raises(UserError, match="holds 2 prepared data sets; set config.data.source to one of"):
        open_tables(DataConfig(source=str(out)), "train")


def test_prepared_records_feed_the_pipeline_from_threads(source, tmp_path):
    target = prepare("paired_folder", source, tmp_path / "out", say=quiet)
    config = DataConfig(source=str(target), bits=16, crop_size=16, threads=4)
    stream = Stream((("a", Field((16, 16, 1), "uint16")), ("b", Field((16, 16, 3), "uint16"))), 2)
    batches = iterator("pairs", stream, open_tables(config, "train")["pairs"], config, seed=0)
    batch = [next(batches) for _ in range(4)][-1]
    batches.close()
    assert batch["b"].shape == (2, 16, 16, 3)
    assert batch["b"].max() > 255


def test_tables_are_thread_safe_and_travel(source, tmp_path):
    target = prepare("paired_folder", source, tmp_path / "out", say=quiet)
    table = open_tables(DataConfig(source=str(target)), "train")["pairs"]
    expected = [table[i]["b"] for i in range(3)]
    copy, wrong = pickle.loads(pickle.dumps(table)), []

    def read():
        for i in range(60):
            if not np.array_equal(copy[i % 3]["b"], expected[i % 3]):
                wrong.append(i)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ---- versions and damage -------------------------------------------------------------------------


def test_the_same_content_is_verified_not_written_again(source, tmp_path):
    said = []
    first = prepare("paired_folder", source, tmp_path / "out", say=quiet)
    times = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert prepare("paired_folder", source, tmp_path / "out", say=said.append) == first
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == times
    assert "already prepared" in said[0]


def test_other_content_of_the_same_source_is_refused(source, tmp_path):
    old = prepare("paired_folder", source, tmp_path / "out", say=quiet)
    write_image(source / "train" / "A" / "n0.png", noise(99, (20, 16), 1, np.uint16))
    with pytest.raises(UserError, match="was prepared from other content of my scans; delete it"):
        prepare("paired_folder", source, tmp_path / "out", say=quiet)
    assert prepare("paired_folder", source, tmp_path / "elsewhere", say=quiet).parent.name != old.parent.name


def test_manifest_tells_the_source_and_finds_damage(source, tmp_path):
    target = prepare("paired_folder", source, tmp_path / "out", say=quiet)
    manifest = read(target)
    assert manifest["source"]["folder"] == "my scans"
    assert len(manifest["source"]["sha256"]) == 64
    assert set(manifest["files"]) == {path.name for path in target.iterdir()} - {"manifest.json"}
    assert str(tmp_path) not in json.dumps(manifest)
    shard = next(path for path in target.iterdir() if "train.array_record" in path.name)
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)
    verify(target)  # sizes alone cannot tell
    with pytest.raises(UserError, match=rf"{shard.name}: differs from what was written"):
        verify(target, full=True)
    with pytest.raises(UserError, match="differs"):
        prepare("paired_folder", source, tmp_path / "out", say=quiet)
    shard.write_bytes(raw[:-1])
    with pytest.raises(UserError, match="differs"):
        open_tables(DataConfig(source=str(target)), "train")
    shard.unlink()
    with pytest.raises(UserError, match="missing"):
        open_tables(DataConfig(source=str(target)), "train")
    (target / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json: unreadable"):
        open_tables(DataConfig(source=str(target)), "train")


def test_nothing_is_left_of_a_failed_preparation(source, tmp_path):
    path = source / "val" / "B" / "n1.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"val/B/n1\.png: cannot be read as an image"):
        prepare("paired_folder", source, tmp_path / "out", say=quiet)
    assert list((tmp_path / "out").iterdir()) == []


def test_disk_errors_give_one_message(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file: cannot be written"):
        prepare("paired_folder", source, tmp_path / "file", say=quiet)
    monkeypatch.setattr(builders.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(UserError, match=r"needs [\d,]+ bytes, 100 are free"):
        prepare("paired_folder", source, tmp_path / "out", say=quiet)


def test_other_options_stand_beside_each_other_however_they_are_spelt(source, tmp_path):
    out = tmp_path / "out"
    places = [
        prepare("paired_folder", source, out, say=quiet, view=View(range=Range(low, 100)))
        for low in (-1000.0, 1000.0, -1000.0001)
    ]
    assert [place.parent.name[:-12] for place in places] == [
        "my_scans-full-range_minus1000_to_100-",
        "my_scans-full-range_1000_to_100-",
        "my_scans-full-range_minus1000_to_100-",
    ]
    # A folder whose name reads alike is no other content of the first.
    alike = source.rename(source.with_name("my_scans"))
    write_image(alike / "train" / "A" / "n0.png", noise(99, (20, 16), 1, np.uint16))
    assert prepare("paired_folder", alike, out, say=quiet, view=View(range=Range(-1000, 100))) not in places
    write_image(alike / "train" / "A" / "n0.png", noise(98, (20, 16), 1, np.uint16))
    with pytest.raises(UserError, match="was prepared from other content of my_scans; delete it"):
        prepare("paired_folder", alike, out, say=quiet, view=View(range=Range(-1000, 100)))


# ---- what the levels stand for -------------------------------------------------------------------


@pytest.fixture
def values(tmp_path):
    """Single images of physical values in floating point, 16 by 16."""
    folder = tmp_path / "ct"
    (folder / "train").mkdir(parents=True)
    for i in range(2):
        write_image(folder / "train" / f"{i}.tif", np.linspace(-1200, 400, 256, dtype=np.float32).reshape(16, 16))
    return folder


def test_a_declared_range_makes_levels_and_stays_with_the_set(values, tmp_path):
    view = greyscale.from_flags(-1000.0, 300.0, "low", "file")
    target = prepare("folder", values, tmp_path / "out", say=quiet, view=view)
    assert read(target)["source"]["declared"] == {"range_low": -1000.0, "range_high": 300.0, "nan": "low"}
    assert target.parent.name.startswith("ct-full-range_minus1000_to_300-nan_low-")
    levels = open_tables(DataConfig(source=str(target)), "train")["records"][0]["image"]
    np.testing.assert_array_equal(levels, read_image(values / "train" / "0.tif", view=view))
    assert (levels.dtype, levels.min(), levels.max()) == (np.uint16, 0, 65535)


def test_what_was_not_declared_changes_neither_name_nor_digest(source, tmp_path):
    plain = prepare("paired_folder", source, tmp_path / "out", say=quiet)
    view = greyscale.from_flags(None, None, "refuse", "file")
    assert prepare("paired_folder", source, tmp_path / "out", say=quiet, view=view) == plain
    assert read(plain)["source"]["declared"] == {}
    ranged = prepare("paired_folder", source, tmp_path / "out", say=quiet, view=View(range=Range(0, 4095)))
    assert ranged.parent.name.startswith("my_scans-full-range_0_to_4095-")
    assert read(ranged)["source"]["sha256"] != read(plain)["source"]["sha256"]
    windowed = prepare("paired_folder", source, tmp_path / "out", say=quiet, view=View(window=(-600, 1500)))
    assert windowed.parent.name.startswith("my_scans-full-window_minus600_1500-")
    assert read(windowed)["source"]["declared"] == {"window": "-600.0,1500.0"}


def test_a_run_takes_over_what_its_set_declares(values, source, tmp_path):
    view = View(range=Range(-1000, 300), nan="low")
    target = str(prepare("folder", values, tmp_path / "out", say=quiet, view=view))
    config = DataConfig(source=target, bits=16)
    found = declared(config)
    assert (found.range_low, found.range_high, found.nan, found.window) == (-1000.0, 300.0, Nan.LOW, "file")
    assert (config.range_low, found.bits) == (None, 16)
    assert declared(found) == found == declared(DataConfig(source=target, bits=16, range_low=-1000, range_high=300))
    for fields, message in (
        ({"range_low": 0.0, "range_high": 300.0}, r"range_low = 0\.0: \S+ was prepared with -1000\.0; leave the field"),
        (
            {"window": "full"},
            "window = full: .* was prepared without it; .* or prepare the data set again with --window",
        ),
    ):
        wrong = DataConfig(source=target, **fields)
        for refuse in (declared, lambda c: open_tables(c, "train")):
            with pytest.raises(UserError, match=message):
                refuse(wrong)
    windowed = prepare("folder", values, tmp_path / "out", say=quiet, view=View(range=Range(0, 1)))
    assert declared(DataConfig(source=str(windowed))).nan is Nan.REFUSE
    with pytest.raises(UserError, match="nan = low: .* was prepared without it"):
        declared(DataConfig(source=str(windowed), nan=Nan.LOW, range_low=0.0, range_high=1.0))
    # Of the second source too: one range holds for all that a run reads.
    pairs = prepare("paired_folder", source, tmp_path / "out", say=quiet, view=View(range=Range(0, 4095)))
    both = DataConfig(source=str(source), layout=Layout.UNPAIRED, pairs_source=str(pairs))
    assert (declared(both).range_low, declared(both).range_high) == (0.0, 4095.0)
    assert open_tables(both, "train")["a"].images(0)["a"].max() == 65535


def test_equal_windows_may_be_spelt_in_two_ways(source, tmp_path):
    target = str(prepare("paired_folder", source, tmp_path / "out", say=quiet, view=View(window=(-600, 1500))))
    assert declared(DataConfig(source=target, window="-600, 1500")).window == "-600.0,1500.0"
    with pytest.raises(UserError, match=r"window = -600,1501: \S+ was prepared with -600\.0,1500\.0; leave"):
        declared(DataConfig(source=target, window="-600,1501"))


def test_sets_that_do_not_say_what_they_stand_for(source, foreign, tmp_path):
    ours = str(prepare("paired_folder", source, tmp_path / "out", say=quiet))
    assert declared(DataConfig(source=ours)) == DataConfig(source=ours)
    with pytest.raises(
        UserError,
        match=r"range_low = 0\.0: \S+ was prepared without it; .* with --range_low=0\.0 --range_high=4095\.0$",
    ):
        declared(DataConfig(source=ours, range_low=0.0, range_high=4095.0))
    known_otherwise = DataConfig(source=str(foreign), range_low=0.0, range_high=4095.0)
    assert declared(known_otherwise) is known_otherwise
    assert declared(DataConfig(source="isl", range_low=0.0, range_high=9.0)).range_high == 9.0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((-1000.0, None, "refuse", "file"), r"^--range_high = None: give both ends .* \(--range_low = -1000\.0\)$"),
        ((1.0, 1.0, "refuse", "file"), r"^--range_high = 1\.0: must not be --range_low$"),
        ((None, None, "low", "file"), r"^--nan = 'low': is for a declared range: set --range_low and --range_high$"),
        ((0.0, 1.0, "refuse", "full"), r"^--window = 'full': does not go with --range_low and --range_high, which say"),
        ((None, None, "refuse", "40"), r"^--window = '40': must be file, full, or CENTRE,WIDTH"),
    ],
)
def test_impossible_greyscales_name_the_flag(flags, message):
    with pytest.raises(UserError, match=message):
        greyscale.from_flags(*flags)


def test_errors_of_readers_name_flags(values, tmp_path):
    with pytest.raises(
        UserError, match=r"0\.tif: has float32 samples, .*: set --range_low and --range_high to the values"
    ):
        prepare("folder", values, tmp_path / "out", say=quiet)
    write_image(values / "train" / "1.tif", np.full((16, 16), np.nan, np.float32))
    with pytest.raises(UserError, match=r"1\.tif: 256 of 256 samples are NaN .* with --nan=low$"):
        prepare("folder", values, tmp_path / "out", say=quiet, view=View(range=Range(0, 1)))
    options, message = {"layout": "panels", "panels": "3"}, r"0\.tif: .* 3 panels do not share evenly; --set panels to"
    with pytest.raises(UserError, match=message):
        prepare("folder", values, tmp_path / "out", None, options, quiet, View(range=Range(0, 1)))


# ---- bad input -----------------------------------------------------------------------------------


def test_bad_sources_are_refused(source, tmp_path):
    with pytest.raises(UserError, match="unknown; the data sets are .*kermany.*, paired_folder, .*unpaired_folder"):
        prepare("camelyon", source, tmp_path / "out")
    with pytest.raises(UserError, match="no such directory"):
        prepare("paired_folder", tmp_path / "no", tmp_path / "out")
    with pytest.raises(UserError, match=r"expected \{train,val,test\}/\{A,B\}"):
        prepare("paired_folder", tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match="--size 0"):
        prepare("paired_folder", source, tmp_path / "out", size=0)
    write_image(source / "val" / "A" / "n1.png", noise(0, (12, 16), 1, np.uint16))
    with pytest.raises(UserError, match=r"n1\.png: is 16x16 pixels, its partner in a is 12x16"):
        prepare("paired_folder", source, tmp_path / "out")
    write_image(source / "val" / "A" / "n1.png", noise(0, (16, 16), 1, np.uint8))
    with pytest.raises(UserError, match=r"n1\.png: has 1 channel\(s\) of 8 bits, others 1 of 16"):
        prepare("paired_folder", source, tmp_path / "out")
    assert not (tmp_path / "out" / "paired_folder").exists()


def test_every_registered_builder_can_be_loaded():
    for name in BUILDERS:
        assert callable(builder(name))


# ---- sets of other programs ----------------------------------------------------------------------


class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A set as another program would write it: no manifest, features under names of its own."""

    VERSION = tfds.core.Version("2.3.0")
    name = "foreign"

    def _info(self):
        features = {
            "scan": tfds.features.Tensor(shape=(6, 6, 1), dtype=np.uint8),
            "flat": tfds.features.Tensor(shape=(6, 5), dtype=np.uint16),
            "spectrum": tfds.features.Tensor(shape=(7,), dtype=np.float32),
            "grade": tfds.features.ClassLabel(num_classes=4),
            "note": tfds.features.Text(),
            "id": np.int64,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(5), "validation": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            yield (
                str(i),
                {
                    "scan": np.full((6, 6, 1), i, np.uint8),
                    "flat": np.full((6, 5), 1000 + i, np.uint16),
                    "spectrum": np.zeros(7, np.float32),
                    "grade": i % 4,
                    "note": "x",
                    "id": 100 + i,
                },
            )


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    builder = Foreign(data_dir=tmp_path_factory.mktemp("foreign"), file_format="array_record")
    builder.download_and_prepare()
    return builder.data_dir


def test_sets_of_other_programs_are_read(foreign):
    config = DataConfig(source=str(foreign), crop_size=6)
    assert splits(config) == ("train", "val")
    tables = open_tables(config, "train")
    assert list(tables) == ["records"]
    table = tables["records"]
    assert table.names == ("flat", "scan")
    assert [table.record_id(i) for i in range(5)] == [str(n) for n in table.labels["id"]]
    assert sorted(table.labels["id"]) == list(range(100, 105))
    assert sorted(table.labels["grade"]) == [0, 0, 1, 2, 3]
    for i in range(5):
        record = table[i]
        value = int(record["scan"][0, 0, 0])
        assert (record["flat"].shape, int(record["flat"][0, 0, 0])) == ((6, 5, 1), 1000 + value)
        assert record["grade"] == value % 4
    stream = Stream((("scan", Field((6, 6, 1))), ("grade", Field((), "int32"))), 5)
    check_tables(tables, {"records": stream}, config)
    batches = iterator("records", stream, table, config, seed=0)
    batch = next(batches)
    batches.close()
    np.testing.assert_array_equal(batch["grade"], batch["scan"][:, 0, 0, 0] % 4)
    assert len(open_tables(config, "val")["records"]) == 2


def test_labels_are_read_only_when_asked_for(foreign, monkeypatch):
    config, read = DataConfig(source=str(foreign), crop_size=6, threads=0), []
    table = open_tables(config, "train")["records"]
    whole = type(table)._record

    def spy(self, index):
        # Threads of an iterator that was closed before may still be reading ahead.
        if threading.current_thread() is threading.main_thread():
            read.append(index)
        return whole(self, index)

    monkeypatch.setattr(type(table), "_record", spy)
    batches = iterator("records", Stream((("scan", Field((6, 6, 1))),), 1), table, config, seed=0)
    next(batches)
    batches.close()
    assert len(read) == 1
    labels = pickle.loads(pickle.dumps(table)).labels
    assert dict(labels)["grade"].tolist() == [table[i]["grade"] for i in range(5)]
    assert list(labels) == ["grade", "id"]
    with pytest.raises(KeyError):
        labels["note"]


def test_unreadable_sets_are_refused(foreign, tmp_path):
    with pytest.raises(UserError, match="has no split 'test'; it has train, val"):
        open_tables(DataConfig(source=str(foreign)), "test")
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="not a readable TFDS data set"):
        open_tables(DataConfig(source=str(tmp_path)), "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no prepared data set"):
        open_tables(DataConfig(source=str(tmp_path / "empty"), layout=Layout.PREPARED), "train")
