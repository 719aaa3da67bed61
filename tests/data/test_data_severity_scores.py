"""Severity scores: RALO's folder and plain CSV files, readers, patients, faults by line."""

from __future__ import annotations

import chest_trees
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.data.severity_scores import read_scores


def table(tmp_path, *rows, header="file,patient_id,opacity,opacity_1,opacity_2"):
    file = tmp_path / "scores.csv"
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


def test_ralo_is_the_mean_of_its_readers(tmp_path):
    folder = chest_trees.ralo(tmp_path)
    found = read_scores(folder, "Opacity")
    assert found.names == ("0", "1", "2", "3") and found.patients == ("P1", "P1", "P2", "P3")
    assert found.scores.tolist() == [7, 3, 0, 7.75] and found.limits == (0, 8)
    assert found.readers.tolist() == [[6, 2, 0, 7.5], [8, 4, 0, 8]]
    assert found.places["row_0002"] == found.places["2"] == 2
    assert np.isnan(read_scores(folder, "geographic").readers[1, 1])
    assert read_scores(folder / "ralo-dataset-metadata.csv", "geographic").scores.tolist() == [4.5, 1, 0, 8]
    with pytest.raises(UserError, match="--column extent: .* has geographic, geographic_1"):
        read_scores(folder, "extent")


def test_a_csv_file_is_read_by_file_names(tmp_path):
    found = read_scores(table(tmp_path, "a/x.1.png,P1,2,1,3", "b\\y.jpg,P2,,2,2", "1.2.840.7,P1,0.5,,1"), "opacity")
    assert found.names == ("x.1", "1.2.840.7") and found.patients == ("P1", "P1")
    assert found.scores.tolist() == [2, 0.5] and found.limits is None
    np.testing.assert_array_equal(found.readers, [[1, np.nan], [3, 1]])


def test_patients_and_readers_may_be_unknown(tmp_path):
    found = read_scores(table(tmp_path, "x.png;3", "y.png;4", header="Name;Opacity"), "opacity")
    assert (found.names, found.patients, found.readers) == (("x", "y"), (), None)
    found = read_scores(table(tmp_path, "x.png,,1,1,1"), "opacity")
    assert found.patients == ()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["x.png,P1,high,1,1"], "line 2: opacity: 'high' is no number"),
        (["x.png,P1,1,1,inf"], "line 2: opacity_2: 'inf' is no number"),
        (["x.png,P1,1,1,1", "b/x.jpg,P1,1,1,1"], "line 3: names an image of an earlier line"),
        (["x.png,P1,1,1,1", ",P1,1,1,1"], "line 3: file: empty"),
        (["x.png,,1,1,1", "y.png,P1,1,1,1"], "line 2: patient_id: empty"),
        (["x.png,P1,1"], "line 2: has 3 fields"),
        (["x.png,P1,,1,1"], "--column opacity: no image has a number there"),
    ],
)
def test_wrong_lines_are_told_by_number(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read_scores(table(tmp_path, *rows), "opacity")


def test_missing_columns_and_files_are_told(tmp_path):
    file = table(tmp_path, "x.png,P1,1,1,1")
    with pytest.raises(UserError, match="no such column; beside names and patients it has: opacity, opacity_1"):
        read_scores(file, "extent")
    with pytest.raises(UserError, match="lacks a column file"):
        read_scores(table(tmp_path, "x.png,1", header="scan,opacity"), "opacity")
    with pytest.raises(UserError, match=r"nowhere\.csv: no such file; give a CSV file, or the folder of RALO"):
        read_scores(tmp_path / "nowhere.csv", "opacity")


def test_neither_names_nor_patients_are_printed(tmp_path):
    found = read_scores(table(tmp_path, "jane-doe.png,P77,1,1,1"), "opacity")
    assert "jane" not in repr(found) and "P77" not in repr(found)


def test_the_miniatures(shared):
    cxr = shared / "data" / "cxr"
    opacity = read_scores(cxr / "severity" / "scores.csv", "opacity_mean")
    assert len(opacity) == 14 and opacity.names[:2] == ("0", "1") and len(set(opacity.patients)) == 12
    ralo = read_scores(cxr / "ralo_mini", "opacity")
    assert ralo.patients == opacity.patients
    np.testing.assert_allclose(ralo.scores, opacity.scores * 8 / 6, atol=0.01)
    np.testing.assert_array_equal(*ralo.readers)
