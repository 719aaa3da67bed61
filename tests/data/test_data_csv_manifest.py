"""CSV manifests: what the columns mean, and every wrong line by its number, before anything is decoded."""

from __future__ import annotations

import csv
import os
import re
import shutil
import warnings

import numpy as np
import pytest

from medgen_jax.core.config import DataConfig, Layout
from medgen_jax.core.errors import UserError
from medgen_jax.data import tables as tables_module
from medgen_jax.data.csv_manifest import describe, read_manifest
from medgen_jax.data.images import write_image
from medgen_jax.data.sources import list_tables, open_tables, splits

PEOPLE = ("Ann", "Bob", "Cyd", "Dan")


@pytest.fixture
def folder(tmp_path):
    """Eight images, n0.png to n7.png, whose value is their number."""
    (tmp_path / "scans").mkdir()
    for i in range(8):
        write_image(tmp_path / "scans" / f"n{i}.png", np.full((8, 8, 1), i, np.uint8))
    return tmp_path


def manifest(folder, *lines, encoding="utf-8", newline="\n"):
    file = folder / "set.csv"
    file.write_bytes((newline.join(lines) + newline).encode(encoding))
    return file


def refused(file, **settings):
    with pytest.raises(UserError) as caught:
        read_manifest(file, **settings)
    message = str(caught.value)
    assert message.startswith(str(file)) and "\n" not in message
    assert not any(name in message for name in PEOPLE)
    return message.removeprefix(f"{file}: ")


def values(table, column):
    return [int(table[i][column][0, 0, 0]) for i in range(len(table))]


# ---- what it gives -------------------------------------------------------------------------------


def test_single_images_with_labels_views_patients_and_splits(folder):
    file = manifest(
        folder,
        "label,path,patient_id,view,split,age",
        "sick,scans/n3.png,Ann,AP,train,40",
        "normal,scans/n0.png,Bob,PA,train,50",
        "sick,scans/n1.png,Ann,,train,40",
        "normal,scans/n2.png,Cyd,AP,val,60",
    )
    config = DataConfig(source=str(file))
    assert splits(config) == ("train", "val")
    (table,) = open_tables(config, "train").values()
    assert (table.names, values(table, "image")) == (("image",), [3, 0, 1])
    assert table.classes == {"label": ("normal", "sick"), "view": ("AP", "PA", "unknown")}
    assert {name: list(column) for name, column in table.labels.items()} == {"label": [1, 0, 1], "view": [0, 1, 2]}
    assert [table.record_id(i) for i in range(3)] == ["line_0000002", "line_0000003", "line_0000004"]
    assert table.groups == ("Ann", "Bob", "Ann")
    assert list(list_tables(config, "val")) == ["records"]
    assert describe(read_manifest(file)) == [
        "train, records: 3 records of 2 patients or slides",
        "train, records, label: normal 1, sick 2",
        "train, records, view: AP 1, PA 1, unknown 1",
        "val, records: 1 records of 1 patients or slides",
        "val, records, label: normal 1, sick 0",
        "val, records, view: AP 1, PA 0, unknown 0",
        "columns passed over: age",
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize(("encoding", "newline"), [("utf-8", "\n"), ("utf-8-sig", "\r\n")])
def test_dialects(folder, delimiter, encoding, newline):
    write_image(folder / "scans" / "größe; 1, 2.png", np.full((8, 8, 1), 9, np.uint8))
    lines = ["Path,Label,Split", '"scans/größe; 1, 2.png",a,Train', "", "scans/n1.png, b ,validation", ",,"]
    text = [re.sub(r',(?=(?:[^"]*"[^"]*")*[^"]*$)', lambda _: delimiter, line) for line in lines]
    config = DataConfig(source=str(manifest(folder, *text, encoding=encoding, newline=newline)))
    with pytest.raises(UserError, match=r"line 4: label: 'b' is not among"):
        open_tables(config, "train")
    text[3] = text[3].replace(" b ", " a ")
    config.source = str(manifest(folder, *text, encoding=encoding, newline=newline))
    assert values(open_tables(config, "train")["records"], "image") == [9]
    assert values(open_tables(config, "val")["records"], "image") == [1]


def test_pairs(folder):
    lines = ["path_b,path_a,split,label", *(f"scans/n{i + 4}.png,scans/n{i}.png,train,{i}" for i in range(3))]
    config = DataConfig(source=str(manifest(folder, *lines)))
    tables = open_tables(config, "train")
    assert sorted(tables) == ["a", "b", "pairs"]
    assert (values(tables["pairs"], "a"), values(tables["pairs"], "b")) == ([0, 1, 2], [4, 5, 6])
    assert list(tables["b"].labels["label"]) == [0, 1, 2]
    config.layout = Layout.UNPAIRED
    assert {name: len(table) for name, table in open_tables(config, "train").items()} == {"a": 3, "b": 3}


def test_unpaired_sides(folder):
    sides = ["scans/n0.png,,train", ",scans/n1.png,train", "scans/n2.png,,train", ",scans/n3.png,val"]
    config = DataConfig(source=str(manifest(folder, "path_a,path_b,split", *sides)))
    tables = open_tables(config, "train")
    assert {name: values(table, name) for name, table in tables.items()} == {"a": [0, 2], "b": [1]}
    assert list(open_tables(config, "val")) == ["b"]


def test_a_hole_among_pairs_is_a_fault_unless_sides_are_wanted(folder):
    file = manifest(folder, "path_a,path_b,split", "scans/n0.png,scans/n1.png,train", "scans/n2.png,,train")
    message = refused(file)
    assert message.startswith("1 line is wrong: line 3: path_b: empty. Other lines hold pairs")
    assert "config.data.layout=unpaired" in message
    tables = read_manifest(file, unpaired=True).splits["train"]
    assert {name: len(listing) for name, listing in tables.items()} == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("words", "labels", "classes"),
    [
        (("0", "3", "1"), [0, 3, 1], None),
        (("1.0", "2.0", "1"), [1, 2, 1], None),
        (("0", "1+", "0"), [0, 1, 0], ("0", "1+")),
        (("b", "a", "b"), [1, 0, 1], ("a", "b")),
    ],
)
def test_labels_are_integers_or_names(folder, words, labels, classes):
    lines = [f"scans/n{i}.png,{word},train" for i, word in enumerate(words)]
    listing = read_manifest(manifest(folder, "path,label,split", *lines)).splits["train"]["records"]
    assert list(listing.labels["label"]) == labels
    assert listing.classes.get("label") == classes


def test_columns_without_any_value_are_no_columns(folder):
    file = manifest(folder, "path,label,view,patient_id,slide_id,split", "scans/n0.png,,,,S1,train")
    listing = read_manifest(file).splits["train"]["records"]
    assert (dict(listing.labels), listing.groups) == ({}, ("S1",))


def test_pages_of_a_stack_are_images_of_their_own(folder):
    from PIL import Image

    pages = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (30, 40)]
    pages[0].save(folder / "stack.tif", save_all=True, append_images=pages[1:])
    file = manifest(folder, "path,split", "stack.tif#1,train", "stack.tif#0,train")
    assert values(open_tables(DataConfig(source=str(file)), "train")["records"], "image") == [40, 30]
    assert "line 3: path: the same image as on line 2" in refused(
        manifest(folder, "path,split", "stack.tif#1,train", "stack.tif#1,train")
    )


def test_paths_start_from_the_file_or_from_csv_root(folder, tmp_path_factory):
    file = manifest(tmp_path_factory.mktemp("elsewhere"), "path,split", "n5.png,train")
    message = refused(file)
    assert f"line 2: path: no such file. Paths start from {file.parent} (config.data.csv_root)" in message
    config = DataConfig(source=str(file), csv_root=str(folder / "scans"))
    assert values(open_tables(config, "train")["records"], "image") == [5]
    config.csv_root = str(folder / "nowhere")
    with pytest.raises(UserError, match=r"config\.data\.csv_root = .*nowhere.*no such directory"):
        open_tables(config, "train")


def test_a_changed_file_is_read_again(folder):
    first = read_manifest(manifest(folder, "path,split", "scans/n0.png,train"))
    assert read_manifest(folder / "set.csv") is first
    second = read_manifest(manifest(folder, "path,split", "scans/n0.png,train", "scans/n1.png,val"))
    assert list(second.splits) == ["train", "val"]


# ---- wrong lines ---------------------------------------------------------------------------------


@pytest.fixture
def fenced(folder, tmp_path_factory):
    """The folder with links that lead out of it, and one that does not."""
    outside = tmp_path_factory.mktemp("outside")
    write_image(outside / "secret.png", np.zeros((8, 8, 1), np.uint8))
    (folder / "out.png").symlink_to(outside / "secret.png")
    (folder / "outdir").symlink_to(outside)
    (folder / "in.png").symlink_to(folder / "scans" / "n1.png")
    (folder / "hang.png").symlink_to(folder / "nothing.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "dir.png").mkdir()
    (folder / "notes.txt").write_text("x")
    return folder, outside


LINES = [
    ("scans/missing.png", "path: no such file"),
    ("scans\\n1.png", r"path: no such file (write / instead of \)"),
    ("../set.csv", "path: '..' is not allowed"),
    ("scans/../scans/n0.png", "path: '..' is not allowed"),
    ("{outside}/secret.png", "path: leads out of the data folder"),
    ("{outside}/nothing.png", "path: leads out of the data folder"),
    ("/etc/passwd", "path: leads out of the data folder"),
    ("out.png", "path: leads out of the data folder"),
    ("outdir/secret.png", "path: leads out of the data folder"),
    ("hang.png", "path: no such file"),
    ("loop.png", "path: "),
    ("dir.png", "path: is not a file"),
    (".", "path: is not a file"),
    ("notes.txt", "path: is no type of image that is read"),
    ("scans/n0.png/x", "path: no such file"),
    ("x" * 5000, "path: no such file"),
    ("", "path: empty"),
    ("in.png", "path: the same image as on line 2"),
    ("./scans//n1.png", "path: the same image as on line 2"),
    ("{folder}/scans/n1.png", "path: the same image as on line 2"),
]


@pytest.mark.parametrize(("cell", "reason"), LINES, ids=[cell[:20] or "empty" for cell, _ in LINES])
def test_a_wrong_path_is_told_by_line_and_not_repeated(fenced, cell, reason):
    folder, outside = fenced
    cell = cell.format(outside=outside, folder=folder)
    message = refused(manifest(folder, "path,split,x", "scans/n1.png,train,", f"{cell},train,1"))
    assert message.startswith(f"1 line is wrong: line 3: {reason}")
    assert "secret" not in message and "missing" not in message


def test_absolute_paths_and_links_inside_the_folder_are_fine(fenced):
    folder, _ = fenced
    file = manifest(folder, "path,split", f"{folder}/scans/n0.png,train", "in.png,train")
    assert values(open_tables(DataConfig(source=str(file)), "train")["records"], "image") == [0, 1]


ROWS = [
    ("path,split", "scans/n0.png,fold1", "split: 'fold1' is not one of train, val, test"),
    ("path,split", "scans/n0.png,", "split: '' is not one of train, val, test"),
    ("path,split", "scans/n0.png", "has 1 fields, the first line 2"),
    ("path,split", "scans/n0.png,train,x", "has 3 fields, the first line 2"),
    ("path,split,label", "scans/n0.png,val,c", "label: 'c' is not among the classes of train"),
    ("path,split,label", "scans/n0.png,train,", "label: empty. Give every record a label, or none"),
    ("path,split,patient_id", "scans/n0.png,train,", "patient_id: empty. Give each record whose patient_id"),
    ("path,split,slide_id", "scans/n0.png,train,", "slide_id: empty"),
]


@pytest.mark.parametrize(("header", "row", "reason"), ROWS, ids=[row[2] for row in ROWS])
def test_a_wrong_cell_is_told_by_line(folder, header, row, reason):
    good = ",".join(["scans/n7.png", "train", "a"][: header.count(",") + 1])
    message = refused(manifest(folder, header, good, "", row))
    assert message.startswith(f"1 line is wrong: line 4: {reason}")


@pytest.mark.parametrize("word", ["-1", "1.5", "1e3", "99999999999"])
def test_numbers_that_are_no_class(folder, word):
    message = refused(manifest(folder, "path,split,label", "scans/n0.png,train,1", f"scans/n1.png,train,{word}"))
    assert message == f"1 line is wrong: line 3: label: {word} is neither text nor an integer from 0"


def test_at_most_ten_faults_are_told_then_their_number(folder):
    lines = [f"scans/n{i}.png,{'train' if i < 2 else 'no'}" for i in range(15)]  # from n8 on: no such file either
    message = refused(manifest(folder, "path,split", *lines))
    assert message.startswith("13 lines are wrong: line 4: split: ")
    assert len(re.findall(r"line \d+: ", message)) == 10
    assert "; and 10 more. Paths start from" in message


def test_lines_are_counted_as_an_editor_counts_them(folder):
    lines = ["path,note,split", '"scans/n0.png","two', 'lines",train', "", "gone.png,x,train"]
    assert refused(manifest(folder, *lines)).startswith("1 line is wrong: line 5: path: no such file")


def test_all_lines_are_checked_before_anything_is_opened(folder, monkeypatch):
    for name in ("read_image", "read_header"):
        monkeypatch.setattr(tables_module, name, lambda *a: pytest.fail("opened"))
    file = manifest(folder, "path,split", *(f"scans/n{i}.png,train" for i in range(8)), "gone.png,test")
    with pytest.raises(UserError, match=r"line 10: path: no such file"):
        open_tables(DataConfig(source=str(file)), "train")


def test_one_look_at_each_file(folder, monkeypatch):
    looked = []
    for name in ("stat", "lstat"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, *a, _o=original, **k: looked.append(str(path)) or _o(path, *a, **k))
    read_manifest(manifest(folder, "path,split", *(f"scans/n{i}.png,train" for i in range(8))))
    assert sorted(os.path.basename(path) for path in looked if path.endswith(".png")) == [f"n{i}.png" for i in range(8)]


# ---- wrong files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "needs either the column path or path_a and path_b|holds no records"),
        (b"path,split\n", "holds no records"),
        (b"file,split\nscans/n0.png,train\n", "needs either the column path .* has: file, split"),
        (b"path_a,split\nscans/n0.png,train\n", "needs either the column path or path_a and path_b"),
        (b"path,path_a,path_b\na,b,c\n", "needs either the column path or path_a and path_b"),
        (b"path,split,path\na,train,b\n", "line 1 names the column 'path' twice"),
        ("path,split\nscans/größe.png,train\n".encode("latin-1"), "line 2 is not UTF-8; save the file as UTF-8"),
        ("path,split\nscans/n0.png,train\n".encode("utf-16"), "line 1 is not UTF-8"),
        (b"path,split\nscans/n0.png\0,train\n", "holds zero bytes"),
        (b'path,split\nscans/n1.png,train\n"scans/n0.png,train\n', "line 3: .*quotation marks"),
        (b'path,split\n"scans/n0.png"x,train\n', "line 2: .*quotation marks"),
        (b"path,split\n" + b"x" * 200_000 + b",train\n", "line 2: field larger"),
    ],
)
def test_a_file_that_is_no_manifest(folder, text, message):
    (folder / "set.csv").write_bytes(text)
    assert re.match(message, refused(folder / "set.csv"))


def test_a_source_that_is_no_csv_file(folder):
    with pytest.raises(UserError, match=r"n0\.png': is neither a directory nor a \.csv or \.tsv file"):
        open_tables(DataConfig(source=str(folder / "scans" / "n0.png")), "train")
    file = manifest(folder, "path,split", "scans/n0.png,train")
    with pytest.raises(UserError, match=r"config\.data\.layout = 'classes': .*set\.csv is a CSV file"):
        open_tables(DataConfig(source=str(file), layout=Layout.CLASSES), "train")
    with pytest.raises(UserError, match="is a directory; name the CSV file inside"):
        open_tables(DataConfig(source=str(folder), layout=Layout.CSV), "train")
    with pytest.raises(UserError, match=r"set\.csv: has no split 'val'; it has train"):
        open_tables(DataConfig(source=str(file)), "val")


def test_it_cannot_be_read(folder):
    with pytest.raises(UserError, match="gone.csv: cannot be read"):
        read_manifest(folder / "gone.csv")


# ---- patients ------------------------------------------------------------------------------------


def test_a_patient_in_two_splits_is_refused_by_numbers(folder):
    lines = [
        f"scans/n{i}.png,{PEOPLE[i % 3]},{split}" for i, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"])
    ]
    message = refused(manifest(folder, "path,patient_id,split", *lines))
    assert "2 in train and val (2 + 2 records)" in message
    assert "1 in train and test (2 + 1 records)" in message
    assert "remove the column split" in message


def many(folder, patients, per_patient, header, line):
    """A manifest of hard-linked images, ``line(image, patient)`` each."""
    source, lines = folder / "scans" / "n0.png", []
    for patient in range(patients):
        for image in range(per_patient):
            path = folder / f"{patient}_{image}.png"
            os.link(source, path)
            lines.append(line(path.name, patient))
    return manifest(folder, header, *lines)


def test_records_of_nobody_are_faults_not_one_shared_patient(folder):
    lines = ["scans/n0.png,Ann,train", "scans/n1.png,,train", "scans/n2.png,,val"]
    message = refused(manifest(folder, "path,patient_id,split", *lines))
    assert message.startswith("2 lines are wrong: line 3: patient_id: empty; line 4: patient_id: empty. Give each")


def test_without_a_split_column_patients_are_dealt(folder):
    file = many(folder, 60, 3, "path,patient_id,label", lambda name, patient: f"{name},P{patient},{patient % 2}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_manifest(file, shares=(0.6, 0.2, 0.2), seed=1).splits
    groups = {split: tables["records"].groups for split, tables in found.items()}
    assert list(groups) == ["train", "val", "test"]
    assert sum(map(len, groups.values())) == 180
    assert sum(len(set(names)) for names in groups.values()) == 60, "nobody is in two splits"
    assert 25 <= len(set(groups["train"])) <= 47
    other = DataConfig(source=str(file), shares=(0.6, 0.2, 0.2), split_seed=2)
    assert set(list_tables(other, "val")["records"].groups) != set(groups["val"])


def test_without_patients_records_are_dealt_and_that_is_said(folder):
    file = many(folder, 40, 1, "path", lambda name, patient: name)
    with pytest.warns(UserWarning, match=r"set\.csv: has neither a column split nor patient_id: single records"):
        found = read_manifest(file).splits
    assert sum(len(tables["records"]) for tables in found.values()) == 40
    assert all(tables["records"].groups == () for tables in found.values())


def test_too_few_patients_to_deal(folder):
    message = refused(manifest(folder, "path,patient_id", "scans/n0.png,Ann", "scans/n1.png,Bob"))
    assert "none of the 2 patients or slides; write a column split" in message


def test_a_class_that_was_dealt_away_from_training(folder):
    file = many(folder, 30, 1, "path,patient_id,label", lambda name, patient: f"{name},P{patient},c{patient}")
    message = refused(file)
    assert "is not among the classes of train" in message
    assert "try another config.data.split_seed than 0" in message


def test_a_patient_in_one_source_and_the_pairs_beside_it(folder):
    domains = manifest(folder, "path_a,path_b,patient_id,split", "scans/n0.png,,Ann,train", ",scans/n1.png,Bob,train")
    for patient, split, fine in (("Ann", "train", True), ("Cyd", "val", True), ("Ann", "val", False)):
        pairs = folder / f"{patient}_{split}.csv"
        pairs.write_text(f"path_a,path_b,patient_id,split\nscans/n2.png,scans/n3.png,{patient},{split}\n")
        config = DataConfig(source=str(domains), pairs_source=str(pairs))
        if fine:
            assert ("pairs" in open_tables(config, "train")) == (split == "train")
        else:
            with pytest.raises(UserError, match=r"1 in train and val \(1 \+ 1 records\)") as caught:
                open_tables(config, "train")
            assert "Ann in" not in str(caught.value)


# ---- real images ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kermany(shared):
    """The rows of the paediatric chest X-rays, and their folder."""
    folder = shared / "data" / "cxr"
    with (folder / "index.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["licence_class"] == "permissive"]
    return folder, [row for row in rows if row["patient_id"].startswith("kermany")]


def test_real_chest_x_rays(kermany, tmp_path):
    folder, rows = kermany
    chosen = [row for split in ("train", "val", "test") for row in rows if row["split"] == split][::20]
    for row in chosen:
        (tmp_path / row["file"]).parent.mkdir(exist_ok=True)
        shutil.copy(folder / row["file"], tmp_path / row["file"])
    lines = [f"{row['file']};{row['label']};{row['patient_id']};{row['split']};{row['view']}" for row in chosen]
    config = DataConfig(source=str(manifest(tmp_path, "path;label;patient_id;split;view", *lines)))
    for split in ("train", "val", "test"):
        table = open_tables(config, split)["records"]
        here = [row for row in chosen if row["split"] == split]
        assert table.classes["label"] == ("normal", "pneumonia")
        assert [table.classes["label"][i] for i in table.labels["label"]] == [row["label"] for row in here]
        assert table.header(0, "image") == (256, 256, 1, 8)
        assert table[len(here) - 1]["image"].std() > 1


def test_real_patients_are_dealt(kermany, tmp_path):
    folder, rows = kermany
    header = "path,label,patient_id"
    file = manifest(tmp_path, header, *(f"{row['file']},{row['label']},{row['patient_id']}" for row in rows))
    found = read_manifest(file, folder)
    groups = {split: tables["records"].groups for split, tables in found.splits.items()}
    assert sum(map(len, groups.values())) == len(rows) > 600
    people = {row["patient_id"] for row in rows}
    assert sum(len(set(names)) for names in groups.values()) == len(people) < len(rows)
    assert abs(len(set(groups["train"])) / len(people) - 0.8) < 0.08
    # The same rows by image instead of by patient: what that would have leaked is seen and refused.
    mixed = [f"{row['file']},{row['label']},{row['patient_id']}" for row in rows]
    leaking = [f"{line},{'val' if i % 5 == 0 else 'train'}" for i, line in enumerate(mixed)]
    with pytest.raises(UserError, match=r"\d+ in train and val \(\d+ \+ \d+ records\)") as caught:
        read_manifest(manifest(tmp_path, f"{header},split", *leaking), folder)
    assert not any(name in str(caught.value) for name in people)
