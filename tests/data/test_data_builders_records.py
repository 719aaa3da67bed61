"""What a prepared set keeps of a listing: labels, values, boxes, patients; and what identifies its content."""

from __future__ import annotations

import json
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from medgen_jax.core.config import DataConfig, Layout
from medgen_jax.core.errors import UserError
from medgen_jax.data import builders, record_index
from medgen_jax.data.builders import content_digest, prepare
from medgen_jax.data.builders.writer import pseudonym
from medgen_jax.data.images import read_image, write_image
from medgen_jax.data.listing import Listing, Panel
from medgen_jax.data.sources import open_tables, splits
from medgen_jax.data.tables import FileTable, luma


def quiet(_):
    pass


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(4):
        write_image(folder / f"{i}.png", np.full((8, 16, 1), i, np.uint8))
    return [folder / f"{i}.png" for i in range(4)]


def listing(files, groups=("Ann", "Bob", "Ann", "Cid"), **more):
    about = {
        "values": {"age": (40.0, np.nan, 2.5, 1e6)},
        "boxes": {"lesion": ((), ((2, 4, 6, 1),), ((0, 0, 16, 8), (1, 1, 1, 1)), ())},
    } | more
    return Listing(
        {"image": tuple(files)}, {"label": (0, 1, 1, 0), "grade": (3, 2, 1, 9)}, {"label": ("well", "ill / not well")},
        ("r0", "r1", "r2", "r3"), groups, **about,
    )  # fmt: skip


@pytest.fixture
def offer(monkeypatch):
    """Registers a listing function as the data set ``scans``."""

    def register(function, **module):
        monkeypatch.setitem(sys.modules, "scans_module", types.SimpleNamespace(open_source=function, **module))
        monkeypatch.setitem(builders.BUILDERS, "scans", "scans_module:open_source")

    return register


# ---- listings and tables -------------------------------------------------------------------------


def test_taking_records_takes_values_and_boxes(files):
    part = listing(files).take([2, 1])
    assert part.boxes == {"lesion": (((0, 0, 16, 8), (1, 1, 1, 1)), ((2, 4, 6, 1),))}
    np.testing.assert_array_equal(part.values["age"], [2.5, np.nan])
    assert Listing({"a": (Path("x"),)}, grey=("a",)).take([0]).grey == ("a",)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"values": {"age": (1.0,)}}, "different lengths"),
        ({"values": {"age": (1.0, 2.0, 3.0, np.inf)}}, "'age' hold infinity"),
        ({"boxes": {"lesion": ((), (), (), ((0, 0, 0, 1),))}}, r"\(0, 0, 0, 1\) is no x, y, width, height"),
        ({"boxes": {"lesion": ((), (), (), ((np.nan, 0, 1, 1),))}}, "is no x, y, width, height"),
        ({"values": {"grade": (1.0, 2.0, 3.0, 4.0)}}, "two columns of one name"),
    ],
)
def test_inconsistent_values_and_boxes_are_refused(files, more, message):
    with pytest.raises(ValueError, match=message):
        listing(files, **more)


def test_boxes_shrink_with_their_image(files):
    table = FileTable(listing(files), 4)  # 8x16 pixels
    np.testing.assert_array_equal(table.boxes["lesion"][1], [[0.5, 2, 1.5, 0.5]])
    assert (table.boxes["lesion"][0].shape, table.boxes["lesion"][0].dtype) == ((0, 4), np.float32)
    np.testing.assert_array_equal(FileTable(listing(files)).boxes["lesion"][1], [[2, 4, 6, 1]])
    record = pickle.loads(pickle.dumps(table))[2]
    assert (record["age"], record["age"].dtype, record["grade"]) == (2.5, np.float32, 1)
    panelled = Listing({"a": (files[0],)}, boxes={"lesion": (((0, 0, 8, 8),),)}, panels={"a": Panel(1, 2)})
    np.testing.assert_array_equal(FileTable(panelled, 4).boxes["lesion"][0], [[0, 0, 4, 4]])


def test_grey_columns_have_one_channel(tmp_path):
    colours = np.random.default_rng(0).integers(0, 65536, (5, 4, 3)).astype(np.uint16)
    write_image(tmp_path / "a.png", colours)
    write_image(tmp_path / "b.png", colours[..., :1].repeat(3, -1))
    write_image(tmp_path / "c.png", colours[..., :1])
    files = tuple(tmp_path / f"{name}.png" for name in "abc")
    table = FileTable(Listing({"image": files}, grey=("image",)))
    assert [table.header(i, "image") for i in range(3)] == [(5, 4, 1, 16)] * 3
    assert table.nbytes == 3 * 5 * 4 * 2
    for i in (1, 2):
        np.testing.assert_array_equal(table[i]["image"], colours[..., :1])
    expected = 0.299 * colours[..., 0] + 0.587 * colours[..., 1] + 0.114 * colours[..., 2]
    assert np.abs(table[0]["image"][..., 0] - expected).max() <= 0.5 + 1e-6
    assert luma(np.full((1, 1, 3), 255, np.uint8)).tolist() == [[[255]]]


# ---- prepared sets -------------------------------------------------------------------------------


def test_everything_comes_back_by_record(files, offer, tmp_path):
    offer(lambda source: {"train": listing(files), "test": listing(files, groups=())})
    target = prepare("scans", files[0].parent, tmp_path / "out", say=quiet)
    features = tfds.builder_from_directory(target).info.features
    assert features["label"].names == ["well", "ill / not well"]
    assert (features["age"].np_dtype, features["lesion"].shape) == (np.float32, (None, 4))
    table = open_tables(DataConfig(source=str(target)), "train")["records"]
    assert table.names == ("image",)
    ids = [table.record_id(i) for i in range(4)]
    assert sorted(ids) == ["train/r0", "train/r1", "train/r2", "train/r3"]
    copy = pickle.loads(pickle.dumps(table))
    for i, name in enumerate(ids):
        place = int(name[-1])
        original = FileTable(listing(files))
        for found in (table, copy):
            assert found[i].keys() == original[place].keys()
            for key, value in original[place].items():
                np.testing.assert_array_equal(found[i][key], value)
                assert found[i][key].dtype == value.dtype
            np.testing.assert_array_equal(found.values["age"][i], original.values["age"][place])
            np.testing.assert_array_equal(found.boxes["lesion"][i], original.boxes["lesion"][place])
    assert table.classes == {"label": ("well", "ill / not well")}
    # Only that r0 and r2 are of one patient can be known.
    group = dict(zip((name[-2:] for name in ids), table.groups, strict=True))
    assert group["r0"] == group["r2"]
    assert len(set(group.values())) == 3
    digest = json.loads((target / "manifest.json").read_text())["source"]["sha256"]
    assert group["r1"] == pseudonym(digest, "Bob") != pseudonym(digest + "x", "Bob")
    assert open_tables(DataConfig(source=str(target)), "test")["records"].groups == ("",) * 4
    assert not {b"Ann", b"Bob", b"Cid"} & set(b"".join(p.read_bytes() for p in target.iterdir()).split(b"\n"))


def whole(table, index):
    """A record as the shards hold it."""
    return tfds.builder_from_directory(table._directory).as_data_source(table._split)[index]


def test_the_index_says_what_the_records_say_in_their_order(tmp_path, offer):
    """Sizes differ, so they are in the index too; 23 records are read back in more than one part."""
    folder, rng = tmp_path / "scans", np.random.default_rng(0)
    folder.mkdir()
    files = [folder / f"{i}.png" for i in range(23)]
    for i, file in enumerate(files):
        write_image(file, np.full((5 + i % 3, 4 + i, 1), i, np.uint8))
    about = {
        "values": {"age": tuple(np.where(np.arange(23) % 5, rng.uniform(0, 90, 23), np.nan))},
        "boxes": {"lesion": tuple(((0.0, 1.0, 2.0, 3.0),) * (i % 3) for i in range(23)), "none": ((),) * 23},
    }
    found = Listing(
        {"image": tuple(files)}, {"grade": tuple(range(23))}, {}, tuple(f"r\u00e4{i}" for i in range(23)),
        tuple(f"P{i % 7}" for i in range(23)), **about,
    )  # fmt: skip
    offer(lambda source: {"train": found})
    target = prepare("scans", folder, tmp_path / "out", say=quiet)
    files_of_set = json.loads((target / "manifest.json").read_text())["files"]
    assert "index-train.npz" in files_of_set
    indexed = open_tables(DataConfig(source=str(target)), "train")["records"]
    indexed._record = indexed._records = None  # no record is read
    known = {
        "grade": indexed.labels["grade"].tolist(),
        "age": indexed.values["age"].tolist(),
        "groups": list(indexed.groups),
        "ids": [indexed.record_id(i) for i in range(23)],
        "lesion": [boxes.tolist() for boxes in indexed.boxes["lesion"]],
        "none": [boxes.shape for boxes in indexed.boxes["none"]],
        "header": [indexed.header(i, "image") for i in range(23)],
    }
    assert known["grade"] != sorted(known["grade"])  # TFDS hashes keys
    for i in range(23):
        record, place = whole(indexed, i), known["grade"][i]
        assert record["grade"] == place == record["image"][0, 0, 0]
        np.testing.assert_equal(known["age"][i], float(record["age"]))
        assert known["groups"][i] == record["group"].decode()
        assert known["ids"][i] == record["id"].decode() == f"train/r\u00e4{place}"
        assert known["lesion"][i] == record["lesion"].tolist() == [[0, 1, 2, 3]] * (place % 3)
        assert known["none"][i] == (0, 4)
        assert known["header"][i] == (*record["image"].shape, 8)
    # Sets prepared before have no index, sets of other programs no seal: one pass gives the same.
    (target / "manifest.json").unlink()
    passed = open_tables(DataConfig(source=str(target)), "train")["records"]
    assert passed._index is None
    assert passed.labels["grade"].tolist() == known["grade"]
    np.testing.assert_array_equal(passed.values["age"], known["age"])
    assert list(passed.groups) == known["groups"]
    assert [passed.record_id(i) for i in (0, 22)] == [known["ids"][i] for i in (0, 22)]
    assert [boxes.tolist() for boxes in passed.boxes["lesion"]] == known["lesion"]
    assert [passed.header(i, "image") for i in range(23)] == known["header"]


def test_a_damaged_index_is_one_message(files, offer, tmp_path):
    offer(lambda source: {"train": listing(files)})
    target = prepare("scans", files[0].parent, tmp_path / "out", say=quiet)
    path = target / "index-train.npz"
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))  # of the right size, which is what every start compares
    with pytest.raises(UserError, match=r"index-train\.npz: cannot be read \(\w+\); prepare the data set again"):
        dict(open_tables(DataConfig(source=str(target)), "train")["records"].labels)
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"index-train\.npz: is of another number of records than 5"):
        record_index.read(target, "train", 5)
    record_index.write(target, "train", {"label": [object()] * 4}, ())
    with pytest.raises(UserError, match=r"cannot be read \(ValueError\)"):
        record_index.read(target, "train", 4)
    path.unlink()
    with pytest.raises(UserError, match=r"index-train\.npz: missing"):
        open_tables(DataConfig(source=str(target)), "train")


def test_columns_of_other_names_than_id_and_group(files, offer, tmp_path):
    offer(lambda source: {"train": Listing({"image": tuple(files)}, {"group": (1, 2, 3, 4)})})
    with pytest.raises(ValueError, match="columns may not be called group"):
        prepare("scans", files[0].parent, tmp_path / "out", say=quiet)


def test_options_are_part_of_the_name(files, offer, tmp_path):
    def open_source(source: Path, *, first: int = 0, ages: bool = True) -> dict[str, Listing]:
        found = listing(files) if ages else listing(files, values={})
        return {"train": found.take(range(first, 4))}

    offer(open_source)
    said = []
    places = [
        prepare("scans", files[0].parent, tmp_path / "out", size, options, said.append).parent.name[:-12]
        for size, options in ((None, {}), (4, {}), (None, {"first": "1"}), (4, {"first": "1", "ages": "false"}))
    ]
    assert places == ["scans-full-", "scans-4-", "scans-full-first_1-", "scans-4-ages_false-first_1-"]
    assert said[-1].endswith(": train 3 records")
    prepare("scans", files[0].parent, tmp_path / "out", None, {"first": "1"}, said.append)
    assert "already prepared" in said[-1]
    with pytest.raises(UserError, match=r"--set last: scans has the options first \(0\), ages \(true\)"):
        prepare("scans", files[0].parent, tmp_path / "out", None, {"last": "1"})
    prefix = builders._options_slug({"table": Path("/secret/place/a.csv"), "words": ("x" * 100,)})
    assert (len(prefix), prefix[-1]) == (17, "-")
    assert builders._options_slug({"table": Path("/secret/place/a.csv")}) == "table_a_csv-"


def test_other_annotations_are_other_content(files, offer, tmp_path):
    offer(lambda source: {"train": listing(files)})
    prepare("scans", files[0].parent, tmp_path / "out", say=quiet)
    offer(lambda source: {"train": listing(files, values={"age": (40.0, 41.0, 2.5, 1e6)})})
    with pytest.raises(UserError, match="was prepared from other content of scans"):
        prepare("scans", files[0].parent, tmp_path / "out", say=quiet)


def test_the_digest_knows_files_parts_and_all_that_is_said_of_them(files, tmp_path):
    whole = listing(files)
    first = content_digest({"train": whole})
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in files:
        (moved / file.name).write_bytes(file.read_bytes())
    assert content_digest({"train": listing([moved / file.name for file in files])}) == first
    others = [
        {"train": listing([files[1], files[0], *files[2:]])},
        {"train": listing(files, boxes={})},
        {"train": listing(files, groups=("Ann", "Bob", "Ann", "Dan"))},
        {"test": whole},
        {"train": listing(files, grey=("image",))},
        {"train": whole, "test": whole},
    ]
    digests = [content_digest(other) for other in others]
    (moved / "3.png").write_bytes(files[2].read_bytes())
    digests.append(content_digest({"train": listing([moved / file.name for file in files])}))
    assert len({first, *digests}) == 8


def test_parts_of_files_are_sources(offer, tmp_path):
    stack = np.random.default_rng(0).integers(0, 256, (3, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "stack.npz", one=stack[0], two=stack[1], three=stack[2])
    parts = tuple(tmp_path / f"stack.npz#{name}" for name in ("one", "two"))
    offer(lambda source: {"train": Listing({"image": parts}, ids=("p1", "p2"))})
    target = prepare("scans", tmp_path, tmp_path / "out", say=quiet)
    table = open_tables(DataConfig(source=str(target)), "train")["records"]
    found = {table.record_id(i)[-2:]: table[i]["image"][..., 0] for i in range(2)}
    np.testing.assert_array_equal(found["p1"], stack[0])
    np.testing.assert_array_equal(found["p2"], stack[1])
    other = Listing({"image": (parts[0], tmp_path / "stack.npz#three")}, ids=("p1", "p2"))
    assert content_digest({"train": other}) != content_digest({"train": Listing({"image": parts}, ids=("p1", "p2"))})


def test_patients_on_both_sides_are_refused_unless_the_option_asks(files, offer, tmp_path):
    def open_source(source: Path, *, official: bool = False) -> dict[str, Listing]:
        return {"train": listing(files).take([0, 1]), "test": listing(files).take([2, 3])}

    offer(open_source)
    with pytest.raises(UserError, match=r"more than one split: 1 in train and test \(1 \+ 1 records\)\. A network"):
        prepare("scans", files[0].parent, tmp_path / "out", options={"official": True}, say=quiet)
    offer(open_source, LEAKING={"official": True})
    with pytest.raises(UserError, match="more than one split"):
        prepare("scans", files[0].parent, tmp_path / "out", say=quiet)
    said = []
    prepare("scans", files[0].parent, tmp_path / "out", options={"official": True}, say=said.append)
    assert said[0].startswith("note: official=true has patients or slides in more than one split: 1 in train and test")


def test_bad_records_are_refused_before_anything_is_written(files, offer, tmp_path):
    offer(lambda source: {"train": listing(files), "val": listing(files).take([])})
    with pytest.raises(UserError, match="the split val has no records; see --dataset scans --help_options"):
        prepare("scans", files[0].parent, tmp_path / "out", say=quiet)
    offer(lambda source: {"train": listing(files, boxes={"lesion": ((), (), (), ((12.5, 0, 5, 2),))})})
    named = r"3\.png: the box \(x 12\.5, y 0, 5 wide, 2 high\) reaches out of its image of 16x"
    for size in (None, 32):  # in the numbers of the table, whatever is stored
        with pytest.raises(UserError, match=named):
            prepare("scans", files[0].parent, tmp_path / "out", size=size, say=quiet)
    assert not (tmp_path / "out").exists()


# ---- folders and CSV files -----------------------------------------------------------------------


def test_class_folders_are_prepared_with_their_labels(tmp_path):
    for split in ("train", "Validation"):
        for label, name in enumerate(("ill", "well")):
            for i in range(2):
                path = tmp_path / "set" / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, np.full((8, 8, 1), 10 * label + i, np.uint8))
    target = prepare("folder", tmp_path / "set", tmp_path / "out", say=quiet)
    config = DataConfig(source=str(target))
    assert splits(config) == ("train", "val")
    table = open_tables(config, "train")["records"]
    assert table.classes == {"label": ("ill", "well")}
    for i in range(4):
        assert table[i]["label"] == table[i]["image"][0, 0, 0] // 10
    with pytest.raises(UserError, match=r"--set layout=csv: a folder is asked for"):
        prepare("folder", tmp_path / "set", tmp_path / "out", options={"layout": "csv"}, say=quiet)


def test_panels_are_prepared_as_pairs(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (8, 24, 3)).astype(np.uint8)
    (tmp_path / "set" / "train").mkdir(parents=True)
    write_image(tmp_path / "set" / "train" / "0.png", image)
    options = {"layout": "panels", "panels": "3", "panel_a": "2", "panel_b": "0"}
    target = prepare("folder", tmp_path / "set", tmp_path / "out", options=options, say=quiet)
    pair = open_tables(DataConfig(source=str(target)), "train")["pairs"][0]
    np.testing.assert_array_equal(pair["a"], image[:, 16:])
    np.testing.assert_array_equal(pair["b"], image[:, :8])


def test_a_csv_file_is_prepared_with_patients_and_views(tmp_path):
    rows = ["path,label,patient_id,split,view"]
    for i in range(6):
        write_image(tmp_path / f"{i}.png", np.full((8, 8, 1), i, np.uint8))
        rows.append(
            f"{i}.png,{'ill' if i % 2 else 'well'},P{i // 2},{'train' if i < 4 else 'test'},{'AP' if i else ''}"
        )
    file = tmp_path / "mine.csv"
    file.write_text("\n".join(rows))
    target = prepare("csv", file, tmp_path / "out", say=quiet)
    assert target.parent.name.startswith("mine_csv-full-")
    table = open_tables(DataConfig(source=str(target)), "train")["records"]
    assert table.classes == {"label": ("ill", "well"), "view": ("AP", "unknown")}
    for i in range(4):
        assert table[i]["label"] == 1 - table[i]["image"][0, 0, 0] % 2
    assert len(set(table.groups)) == 2
    file.write_text("\n".join(rows).replace("P2,test", "P1,test"))
    with pytest.raises(UserError, match="more than one split"):
        prepare("csv", file, tmp_path / "out", say=quiet)
    whole = "\n".join(rows)
    for word in (",split", ",train", ",test"):
        whole = whole.replace(word, "")
    file.write_text(whole)
    failed = []
    for seed in range(20):
        try:
            prepare(
                "csv", file, tmp_path / f"out{seed}", options={"split_seed": seed, "shares": (0.4, 0.3, 0.3)}, say=quiet
            )
        except UserError as error:
            failed.append(str(error))
    assert failed and all("of the 3 patients or slides; --set split_seed=" in message for message in failed)
    with pytest.raises(UserError, match="is a folder; name the CSV file, or take --dataset folder"):
        prepare("csv", tmp_path, tmp_path / "out", say=quiet)
    with pytest.raises(UserError, match="is no directory"):
        prepare("folder", file, tmp_path / "out", say=quiet)


def test_sides_of_a_csv_file_become_two_splits(tmp_path):
    rows = ["path_a,path_b,split,slide_id"]
    for i in range(3):
        write_image(tmp_path / f"a{i}.png", np.full((8, 8, 1), i, np.uint8))
        write_image(tmp_path / f"b{i}.png", np.full((4, 4, 3), 10 + i, np.uint8))
        rows.append(f"a{i}.png,{f'b{i}.png' if i else ''},train,S{i}")
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    target = prepare("csv", tmp_path / "mine.csv", tmp_path / "out", options={"unpaired": "yes"}, say=quiet)
    tables = open_tables(DataConfig(source=str(target), layout=Layout.PREPARED), "train")
    assert {name: len(table) for name, table in tables.items()} == {"a": 3, "b": 2}
    assert {int(tables["b"][i]["b"][0, 0, 0]) for i in range(2)} == {11, 12}
    assert set(tables["b"].groups) < set(tables["a"].groups)
    # The domains differ in size and channels; each is read as it was.
    assert [tables[side].header(0, side) for side in "ab"] == [(8, 8, 1, 8), (4, 4, 3, 8)]
    assert read_image(tmp_path / "b1.png").shape == tables["b"][0]["b"].shape
