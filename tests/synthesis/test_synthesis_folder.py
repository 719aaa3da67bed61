"""The folder: gone on with, never mixed, cleared of nothing but its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.synthesis import folder, png

SETTINGS = {"run": "mine", "seed": 0, "checkpoint": "a" * 64, "values": {"truncation": 0.7}, "folders": []}
FILES = ["0.png", "1.png"]


def image(path, text=None):
    folder.write(path, png.encode(np.zeros((2, 2, 1), np.uint8), text or png.marks("1")))


@pytest.fixture
def begun(tmp_path):
    """A folder that holds image 0 of two."""
    place = tmp_path / "out"
    assert folder.prepare(place, SETTINGS, FILES, False) == set()
    image(place / "0.png")
    folder.describe(place, SETTINGS)
    return place


def test_what_is_there_stays(begun):
    (begun / "1.png").touch()  # nothing in it: not an image
    (begun / "notes.png").touch()
    assert folder.prepare(begun, SETTINGS, FILES, False) == {"0.png"}
    renamed = {**SETTINGS, "run": "moved", "version": "2"}
    assert folder.prepare(begun, renamed, FILES, False) == {"0.png"}
    about = json.loads((begun / "samples.json").read_text())
    assert about["images"] == 1 and about["settings"] == SETTINGS and "not a patient" in about["notice"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "holds images made with seed = 0, not 1; choose another folder, or add --overwrite"),
        ({"checkpoint": "b" * 64}, r"checkpoint = aaaaaaaaaaaa\.\.\., not bbbbbbbbbbbb\.\.\.;"),
        ({"values": {}}, r"values = {\"truncation\": 0.7}, not nothing;"),
        ({"folders": ["dim"]}, r"folders = nothing, not \[\"dim\"\];"),
    ],
)
def test_images_of_other_settings_are_not_mixed(begun, change, message):
    with pytest.raises(UserError, match=message):
        folder.prepare(begun, {**SETTINGS, **change}, FILES, False)


def test_overwriting_removes_images_of_this_program_only(begun):
    image(begun / "pictures/sheet.png")
    image(begun / "other/0.png")  # a folder that the call before did not make
    Image.new("L", (2, 2)).save(begun / "theirs.png")
    assert folder.prepare(begun, {**SETTINGS, "seed": 1}, FILES, True) == set()
    left = sorted(str(path.relative_to(begun)) for path in begun.rglob("*.png"))
    assert left == ["other/0.png", "theirs.png"]


def test_folders_of_classes_are_made_and_cleared(tmp_path):
    settings = {**SETTINGS, "folders": ["dim", "lit"]}
    files = ["dim/0.png", "lit/1.png"]
    folder.prepare(tmp_path, settings, files, False)
    image(tmp_path / "lit/1.png")
    folder.describe(tmp_path, settings)
    assert folder.prepare(tmp_path, settings, files, False) == {"lit/1.png"}
    assert folder.prepare(tmp_path, SETTINGS, FILES, True) == set()
    assert not (tmp_path / "lit/1.png").exists()


def test_files_that_nobody_describes_and_damaged_descriptions_are_refused(begun, tmp_path):
    image(tmp_path / "new/0.png")
    with pytest.raises(UserError, match=r"holds 0\.png, but no samples\.json that says what it shows"):
        folder.prepare(tmp_path / "new", SETTINGS, FILES, False)
    assert folder.prepare(tmp_path / "new", SETTINGS, FILES, True) == set()
    for text in ("{", "{}", '{"format": 9, "settings": {}}', '{"format": 1, "settings": 3}', "[]"):
        (begun / "samples.json").write_text(text)
        with pytest.raises(UserError, match=r"samples\.json: is damaged"):
            folder.prepare(begun, SETTINGS, FILES, False)
    assert folder.prepare(begun, SETTINGS, FILES, True) == set() and not (begun / "0.png").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: cannot be made"):
        folder.prepare(tmp_path / "file", SETTINGS, FILES, False)


def test_a_name_out_of_the_folder_is_not_followed(begun, tmp_path):
    image(tmp_path / "elsewhere/0.png")
    folder.describe(begun, SETTINGS)
    text = (begun / "samples.json").read_text().replace('"folders": []', '"folders": ["../elsewhere"]')
    (begun / "samples.json").write_text(text)
    folder.prepare(begun, SETTINGS, FILES, True)
    assert (tmp_path / "elsewhere/0.png").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        folder.write(tmp_path / "file/0.png", b"")
