"""Folders to tables: layouts, memory, and one message for every bad folder."""

from __future__ import annotations

import pickle
import threading
import unicodedata

import dicom_files
import numpy as np
import pytest

from medgen_jax.core.config import DataConfig, Layout, Nan
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Field, Stream
from medgen_jax.data import sources
from medgen_jax.data import tables as tables_module
from medgen_jax.data.checks import check_tables
from medgen_jax.data.images import Range, View, quantise, write_image
from medgen_jax.data.sources import open_tables, splits
from medgen_jax.data.tables import ArrayTable, FileTable


def picture(value, size=(16, 16), channels=1, dtype=np.uint8):
    return np.full((*size, channels), value, dtype)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)
    return path


@pytest.fixture
def paired(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for i in range(count):
            write(tmp_path / split / "A" / f"n{i}.png", picture(i))
            write(tmp_path / split / "B" / f"n{i}.tif", picture(100 + i, channels=3))
    return tmp_path


@pytest.fixture
def unpaired(tmp_path):
    for split in ("train", "test"):
        for side, count in (("A", 2), ("B", 3)):
            for i in range(count):
                write(tmp_path / f"{split}{side}" / f"{side}{i}.png", picture(i))
    return tmp_path


def pairs_stream(size=16):
    a = Field((size, size, 1), setting="config.model.in_channels")
    return {"pairs": Stream((("a", a), ("b", Field((size, size, 3)))), 2)}


def test_paired_layout(paired):
    config = DataConfig(source=str(paired))
    assert splits(config) == ("train", "val")
    tables = open_tables(config, "train")
    assert {name: (table.names, len(table)) for name, table in tables.items()} == {
        "pairs": (("a", "b"), 3),
        "a": (("a",), 3),
        "b": (("b",), 3),
    }
    for i in range(3):
        record = tables["pairs"][i]
        assert (record["a"][0, 0, 0], record["b"][0, 0, 2]) == (i, 100 + i)
        assert list(tables["a"][i]) == ["a"]
    check_tables(tables, pairs_stream(), DataConfig(source=str(paired), crop_size=16))


def test_unpaired_layout(unpaired):
    config = DataConfig(source=str(unpaired))
    assert splits(config) == ("train", "test")
    tables = open_tables(config, "test")
    assert {name: len(table) for name, table in tables.items()} == {"a": 2, "b": 3}


def test_paired_folders_read_as_unpaired(paired):
    (paired / "train" / "B" / "n2.tif").unlink()
    config = DataConfig(source=str(paired), layout=Layout.UNPAIRED)
    assert {name: len(table) for name, table in open_tables(config, "train").items()} == {"a": 3, "b": 2}
    assert splits(config) == ("train", "val")


def test_packaged_data():
    config = DataConfig(source="isl")
    assert splits(config) == ("train", "val")
    assert len(open_tables(config, "val")["pairs"]) == 4


def test_names_match_over_unicode_forms_and_hidden_files_are_passed_over(tmp_path):
    write(tmp_path / "train/A" / (unicodedata.normalize("NFC", "größe 1") + ".png"), picture(1))
    write(tmp_path / "train/B" / (unicodedata.normalize("NFD", "größe 1") + ".png"), picture(2))
    (tmp_path / "train/A/._größe 1.png").write_bytes(b"resource fork")
    (tmp_path / "train/B/Thumbs.db").write_bytes(b"x")
    (tmp_path / "train/B/loop.png").symlink_to(tmp_path / "train/B/loop.png")
    assert len(open_tables(DataConfig(source=str(tmp_path)), "train")["pairs"]) == 1


# ---- errors --------------------------------------------------------------------------------------


def refused(config, split="train"):
    with pytest.raises(UserError) as caught:
        open_tables(config, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_source_and_no_such_directory(tmp_path):
    assert "config.data.source is empty" in refused(DataConfig())
    message = refused(DataConfig(source=str(tmp_path / "x")))
    assert str(tmp_path / "x") in message
    assert "isl" in message


def test_empty_folder_shows_the_expected_trees(tmp_path):
    message = refused(DataConfig(source=str(tmp_path)))
    assert "found nothing" in message
    assert "{train,val,test}/{A,B}" in message
    assert "trainA/" in message
    (tmp_path / "images").mkdir()
    assert "found images/" in refused(DataConfig(source=str(tmp_path), layout=Layout.PAIRED))


def test_missing_split_and_missing_side(paired):
    message = refused(DataConfig(source=str(paired)), "test")
    assert str(paired / "test") in message
    assert "train, val" in message
    (paired / "test" / "A").mkdir(parents=True)
    assert str(paired / "test" / "B") in refused(DataConfig(source=str(paired)), "test")


def test_side_without_images(paired):
    for path in (paired / "train" / "B").iterdir():
        path.unlink()
    message = refused(DataConfig(source=str(paired)))
    assert f"{paired / 'train' / 'B'}: holds no images" in message
    assert ".png" in message


def test_unmatched_names_give_both_counts_and_the_first_five(paired):
    for i in range(7):
        write(paired / "train" / "A" / f"x{i}.png", picture(0))
    message = refused(DataConfig(source=str(paired)))
    assert "10 files in A and 3 in B, 7 without a partner" in message
    assert all(f"A/x{i}.png" in message for i in range(5))
    assert "x5" not in message
    assert "layout=unpaired" in message


def test_two_files_of_one_name(paired):
    write(paired / "train" / "A" / "n0.tif", picture(0))
    assert "has the same name" in refused(DataConfig(source=str(paired)))


def test_one_bad_file_is_named_before_anything_is_decoded(paired, monkeypatch):
    monkeypatch.setattr(tables_module, "read_image", lambda *a, **k: pytest.fail("decoded"))
    bad = paired / "train" / "A" / "n1.png"
    bad.write_bytes(b"not an image")
    assert str(bad) in refused(DataConfig(source=str(paired)))


CASES = [
    ("bits", lambda f: write(f / "n1.png", picture(1, dtype=np.uint16)), "has 16 bits .*config.data.bits=16"),
    ("channels", lambda f: write(f / "n1.png", picture(1, channels=3)), "config.model.in_channels=3"),
    ("pair", lambda f: write(f / "n1.png", picture(1, (20, 16))), "is 16x16 pixels, but its partner .*n1.png is 20x16"),
]


@pytest.mark.parametrize(("kind", "change", "message"), CASES, ids=[c[0] for c in CASES])
def test_check_names_the_file_and_the_remedy(paired, monkeypatch, kind, change, message):
    monkeypatch.setattr(tables_module, "read_image", lambda *a, **k: pytest.fail("decoded"))
    change(paired / "train" / "A")
    config = DataConfig(source=str(paired), crop_size=16)
    with pytest.raises(UserError, match=rf"n1\.(png|tif): .*{message}"):
        check_tables(open_tables(config, "train"), pairs_stream(), config)


def test_channel_message_names_the_setting_of_the_field(paired):
    config = DataConfig(source=str(paired), crop_size=16)
    tables = open_tables(config, "train")
    for setting, words in (
        ("config.gen.channels", r"set config\.gen\.channels=3 or convert"),
        ("", "takes 1; convert"),
    ):
        streams = {"b": Stream((("b", Field((16, 16, 1), setting=setting)),), 1)}
        with pytest.raises(UserError, match=words):
            check_tables(tables, streams, config)


def test_a_field_of_another_depth_than_the_data_is_refused(paired):
    config = DataConfig(source=str(paired), crop_size=16)
    streams = {"b": Stream((("b", Field((16, 16, 3), "uint16")),), 1)}
    with pytest.raises(UserError, match=r"takes 'b' as uint16, config\.data\.bits = 8.*config\.data\.bits=16"):
        check_tables(open_tables(config, "train"), streams, config)


def test_small_images_ask_for_load_size(paired):
    config = DataConfig(source=str(paired), crop_size=17)
    tables = open_tables(config, "train")
    with pytest.raises(UserError, match=r"n0\.png: is 16x16 pixels, smaller than .*crop_size = 17.*load_size=17"):
        check_tables(tables, pairs_stream(), config)
    resized = DataConfig(source=str(paired), crop_size=17, load_size=20)
    tables = open_tables(resized, "train")
    check_tables(tables, pairs_stream(), resized)
    assert tables["pairs"][0]["b"].shape == (20, 20, 3)


def test_mixed_sizes_train_by_crops_but_need_load_size_to_be_evaluated(paired):
    for side, channels in (("A", 1), ("B", 3)):
        suffix = "png" if side == "A" else "tif"
        write(paired / "val" / side / f"n1.{suffix}", picture(1, (32, 24), channels))
    config = DataConfig(source=str(paired), crop_size=16)
    tables = open_tables(config, "val")
    check_tables(tables, pairs_stream(), config)
    with pytest.raises(UserError, match=r"n1\.png: is 32x24 pixels, others 16x16; .*load_size"):
        check_tables(tables, pairs_stream(), config, training=False)
    config.load_size = 16
    check_tables(open_tables(config, "val"), pairs_stream(), config, training=False)


def test_missing_table_column_and_label(unpaired):
    config = DataConfig(source=str(unpaired), crop_size=16)
    tables = open_tables(config, "train")
    with pytest.raises(UserError, match=r"needs pairs.*the data set has: a, b"):
        check_tables(tables, pairs_stream(), config)
    with pytest.raises(UserError, match="needs images 'c'"):
        check_tables(tables, {"a": Stream((("c", Field((16, 16, 1))),), 1)}, config)
    with pytest.raises(UserError, match="needs labels 'grade'"):
        check_tables(tables, {"a": Stream((("grade", Field((), "int32")),), 1)}, config)


# ---- tables --------------------------------------------------------------------------------------


def test_images_are_decoded_once_when_they_fit(paired, monkeypatch):
    read, decoded = tables_module.read_image, []
    monkeypatch.setattr(tables_module, "read_image", lambda path, **view: decoded.append(path) or read(path, **view))
    tables = open_tables(DataConfig(source=str(paired)), "train")
    for _ in range(3):
        tables["a"][1], tables["pairs"][1], tables["b"][1]
    assert sorted(p.name for p in decoded) == ["n1.png", "n1.tif"]
    monkeypatch.setattr("medgen_jax.data.sources.MEMORY_BYTES", 100)
    decoded.clear()
    table = open_tables(DataConfig(source=str(paired)), "train")["a"]
    table[1], table[1]
    assert len(decoded) == 2


def test_kept_images_cannot_be_written(paired):
    record = open_tables(DataConfig(source=str(paired)), "train")["a"][0]
    with pytest.raises(ValueError, match="read-only"):
        record["a"][0, 0, 0] = 1


def test_memory_counts_resized_images(paired):
    files = [paired / "train" / "A" / "n0.png"]
    assert FileTable({"a": files}).nbytes == 16 * 16
    assert FileTable({"a": files}, load_size=8).nbytes == 8 * 8


def test_pickled_table_carries_names_not_pixels(paired):
    table = open_tables(DataConfig(source=str(paired)), "train")["pairs"]
    empty = len(pickle.dumps(table))
    first = table[0]
    assert len(pickle.dumps(table)) == empty
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(table))[0]["b"], first["b"])


def test_reading_from_many_threads(paired):
    table = open_tables(DataConfig(source=str(paired)), "train")["pairs"]
    wrong = []

    def read():
        for i in range(60):
            record = table[i % 3]
            if (record["a"][0, 0, 0], record["b"][0, 0, 0]) != (i % 3, 100 + i % 3):
                wrong.append(i)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_array_table():
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    table = ArrayTable({"x": images}, {"grade": np.array([3, 1, 2, 0])})
    record = table[2]
    assert (record["x"][0, 0, 0], record["grade"], record["grade"].dtype) == (2, 2, np.int32)
    assert table.header(0, "x") == (2, 2, 1, 8)
    with pytest.raises(ValueError, match="different lengths"):
        ArrayTable({"x": images}, {"grade": np.zeros(3)})


# ---- greyscales ----------------------------------------------------------------------------------

PHASE = np.linspace(-3, 3, 256, dtype=np.float32).reshape(16, 16)


@pytest.fixture
def phase(tmp_path):
    """Float phase beside 16-bit colours."""
    for split in ("train", "val"):
        write(tmp_path / split / "A" / "n.tif", PHASE)
        write(tmp_path / split / "B" / "n.tif", picture(40_000, channels=3, dtype=np.uint16))
    return str(tmp_path)


def test_a_declared_range_makes_levels_of_values_and_leaves_colours(phase):
    with pytest.raises(
        UserError, match=r"n\.tif: has float32 samples.*set config\.data\.range_low and config\.data\.range_"
    ):
        open_tables(DataConfig(source=phase), "train")
    config = DataConfig(source=phase, bits=16, crop_size=16, range_low=-3.0, range_high=3.0)
    tables = open_tables(config, "train")
    assert tables["pairs"].header(0, "a") == (16, 16, 1, 16)
    for table in (tables["pairs"], pickle.loads(pickle.dumps(tables["pairs"]))):
        record = table[0]
        np.testing.assert_array_equal(record["a"][..., 0].ravel(), np.arange(256) * 257)
        assert (record["b"] == 40_000).all()
    fields = (("a", Field((16, 16, 1), "uint16")), ("b", Field((16, 16, 3), "uint16")))
    check_tables(tables, {"pairs": Stream(fields, 2)}, config)


def test_nan_becomes_the_low_end_on_request(phase, tmp_path):
    values = PHASE.copy()
    values[0, :2] = np.nan, np.inf
    write(tmp_path / "train" / "A" / "n.tif", values)
    config = DataConfig(source=phase, range_low=-3.0, range_high=3.0)
    with pytest.raises(UserError, match=r"n\.tif: 2 of 256 samples are NaN or infinite"):
        open_tables(config, "train")["a"][0]
    config.nan = Nan.LOW
    image = open_tables(config, "train")["a"][0]["a"][..., 0]
    np.testing.assert_array_equal(image.ravel()[:3], [0, 0, 2 * 257])


@pytest.mark.parametrize(
    ("fields", "ends"),
    [
        ({}, (-160, 239)),  # the file's own window, both ends counted
        ({"window": "full"}, (-1024, 3071)),
        ({"window": "-600,1500"}, (-1350, 149)),
        ({"range_low": -1000.0, "range_high": 1000.0}, (-1000, 1000)),
        ({"range_low": 1000.0, "range_high": -1000.0}, (1000, -1000)),
    ],
)
def test_greyscales_of_computed_tomography(tmp_path, fields, ends):
    stored = np.linspace(0, 4095, 256).round().reshape(16, 16).astype(np.uint16)
    window = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400, "RescaleType": "HU"}
    (tmp_path / "train").mkdir()
    dicom_files.write(tmp_path / "train" / "1.2.840", stored, stored=12, **window)
    config = DataConfig(source=str(tmp_path), layout=Layout.IMAGES, bits=16, **fields)
    levels = open_tables(config, "train")["records"][0]["image"]
    np.testing.assert_array_equal(levels[..., 0], quantise(stored.astype(np.float64) - 1024, *ends))


def test_panels_share_one_decoding_through_the_view(tmp_path):
    write(tmp_path / "train" / "n.tif", np.concatenate([PHASE, -PHASE], 1))
    config = DataConfig(source=str(tmp_path), layout=Layout.PANELS, range_low=-3.0, range_high=3.0)
    record = open_tables(config, "train")["pairs"][0]
    np.testing.assert_array_equal(record["a"], 65535 - record["b"])


@pytest.mark.parametrize("width", [1, 2])
def test_layouts_of_values_are_found_without_their_range(tmp_path, width):
    write(tmp_path / "train" / "n.tif", np.concatenate([PHASE] * width, 1))
    tables = open_tables(DataConfig(source=str(tmp_path), range_low=-3.0, range_high=3.0), "train")
    assert ("pairs" in tables) is (width == 2)


def test_the_view_of_a_configuration():
    assert sources.view(DataConfig()) == View()
    declared = DataConfig(range_low=-1.0, range_high=2.0, nan=Nan.LOW)
    assert sources.view(declared) == View(range=Range(-1, 2), nan="low")
    assert sources.view(DataConfig(window="40,400")) == View(window=(40, 400))
