"""CSV files of public sets: headers as they come, cells, and the images they name."""

from __future__ import annotations

import gzip
import math

import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.data.builders import metadata
from medgen_jax.data.builders.metadata import (
    box,
    choice,
    existing,
    find_file,
    number,
    plausible_ages,
    present,
    read_metadata,
    read_names,
    years,
)
from medgen_jax.data.csv_rows import Faults, Row


def written(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def cells(file, needed, **more):
    faults = Faults(file)
    rows = read_metadata(file, {name: (name,) for name in needed}, faults, **more)
    faults.refuse()
    return [(row.line, *row.cells.values()) for row in rows]


def test_columns_are_found_by_any_spelling(tmp_path):
    file = written(tmp_path / "a.csv", '\ufeffName ,"AGE",x\r\nA, 3 ,1\r\n\r\n"B\nb",4,2\r\n')
    assert cells(file, ["name", "age"]) == [(2, "A", "3"), (4, "B\nb", "4")]
    rows = read_metadata(file, {"years": ("Years", "Age")}, Faults(file), {"sex": ("sex",)})
    assert [dict(row.cells) for row in rows] == [{"years": "3", "sex": ""}, {"years": "4", "sex": ""}]
    with pytest.raises(UserError, match=r"a\.csv: line 1 lacks the column Sex or Gender; it has: name, age, x"):
        read_metadata(file, {"sex": ("Sex", "Gender")}, Faults(file))


def test_headers_may_come_late_repeat_names_or_end_in_commas(tmp_path):
    file = written(tmp_path / "a.csv", "## a, b\n,one,,two\nid,v,v,,\n\n7,1,2,,\n8,3,4\n")
    assert cells(file, ["id", "v", "v.1"], skip=2) == [(5, "7", "1", "2"), (6, "8", "3", "4")]
    commented = written(tmp_path / "b.csv", "# 1\n## 2, 3\nid\n#9\n")
    assert cells(commented, ["id"]) == [(4, "#9")]


def test_gzipped_files_are_read_and_bounded(tmp_path, monkeypatch):
    file = written(tmp_path / "a.csv.gz", gzip.compress(b"id\n1\n"))
    assert cells(file, ["id"]) == [(2, "1")]
    monkeypatch.setattr(metadata, "_MAX_CHARACTERS", 4)
    with pytest.raises(UserError, match=r"a\.csv\.gz: unpacks to more than 4 characters"):
        cells(file, ["id"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 lacks the column id; it has: nothing"),
        ("id,x\n", "holds no records; replace it by the original file"),
        ("id,x\n1,2\n3\n4,5,6\n", "2 lines are wrong: line 3: has 1 fields, the header 2; line 4: has 3 fields"),
        ("id,x\n3\n", "1 line is wrong: line 2: has 1 fields"),
        ('id,x\n1,"2\n', 'line 2: unexpected end of data; check its quotation marks'),
        (b"id,x\n1,2\n\xff\xfe,3\n", "is not UTF-8 after line"),
    ],
)  # fmt: skip
def test_what_is_no_such_table_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=f"a.csv: {message}"):
        cells(written(tmp_path / "a.csv", text), ["id"])
    with pytest.raises(UserError, match=r"no\.csv: cannot be read \(No such file or directory\)"):
        cells(tmp_path / "no.csv", ["id"])


def test_cells_become_numbers_choices_and_boxes(tmp_path):
    faults = Faults(tmp_path / "a.csv")
    row = Row(4, {"a": "2.5", "b": "", "c": "nan", "d": "x", "e": "9", "f": "Red"})
    assert number(row, "a", faults, 0, 3) == 2.5
    assert math.isnan(number(row, "b", faults))
    assert choice(row, "f", ("blue", "red"), faults) == 1
    assert box(row, ("b", "b", "b", "b"), faults) is None
    assert box(row, ("a", "a", "e", "e"), faults) == (2.5, 2.5, 9, 9)
    faults.refuse()
    assert math.isnan(number(row, "c", faults))
    assert math.isnan(number(row, "e", faults, 0, 8))
    assert choice(row, "d", ("blue", "red"), faults) == 0
    assert box(row, ("a", "a", "e", "d"), faults) is None
    with pytest.raises(UserError) as told:
        faults.refuse()
    for message in ("'nan' is no number;", "e: '9' is no number from 0 to 8", "'x' is not one of blue, red"):
        assert message in str(told.value)


def test_lists_of_names_and_files_of_several_names(tmp_path):
    assert read_names(written(tmp_path / "l.txt", "a.png\r\n\r\n b.png")) == {"a.png", "b.png"}
    assert find_file(tmp_path, "m.txt", "l.txt").name == "l.txt"
    with pytest.raises(UserError, match=r"lacks m\.txt or n\.txt, which comes with the data set"):
        find_file(tmp_path, "m.txt", "n.txt")


def test_images_that_are_there(tmp_path):
    inside = written(tmp_path / "a.png", "")
    assert existing({"a": inside, "b": tmp_path / "b.png"}, tmp_path) == {"a": inside}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "c.png").symlink_to(inside)
    with pytest.raises(UserError, match=r"c\.png: is a link out of .*/in"):
        existing({"c": tmp_path / "in" / "c.png"}, tmp_path / "in")
    assert present(["a"], str, {"a": inside}, inside, False) == ["a"]
    with pytest.warns(UserWarning, match=r"2 of the images that it names are absent \(first: b\) and left out"):
        assert present(["c", "a", "b", "b"], str, {"a": inside}, inside, True) == ["a"]
    with pytest.raises(UserError, match="1 of the images that it names are absent"):
        present(["b"], str, {"a": inside}, inside, True)


def test_ages_are_years():
    assert [years(text) for text in ("43", "043Y", "6m", " 0 ")] == [43, 43, 0.5, 0]
    assert years("010W") == pytest.approx(70 / 365.25)
    assert all(math.isnan(years(text)) for text in ("", "old", "1234", "-3", "4.5", "3X"))
    with pytest.warns(UserWarning, match=r"the set: 2 ages above 120 years are taken for unknown"):
        ages = plausible_ages([120, 121, 414, math.nan, 0], "the set")
    assert [math.isnan(age) for age in ages] == [False, True, True, True, False]
