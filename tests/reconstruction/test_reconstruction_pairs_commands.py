"""From LED stacks to pairs: what is written is what was simulated, and training reads it without a step between."""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib
import shutil

import jax
import led_fields
import numpy as np
import pytest
import small_runs
from PIL import Image

from medgen_jax import training
from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.data.images import read_image
from medgen_jax.data.sources import open_tables
from medgen_jax.reconstruction.commands import Given
from medgen_jax.reconstruction.pairs import commands as pairs
from medgen_jax.reconstruction.pairs.shifts import moved

SIZE = 32


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Two fields of one colour, not solved yet."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "stacks").mkdir()
    for number in range(2):
        led_fields.save_stack(folder / "stacks" / f"f{number}.npz", led_fields.specimen(number))
    optics = led_fields.save_optics(folder / "optics.yaml", passes=6)
    return Given(str(folder / "stacks"), str(optics), str(folder / "out"))


@pytest.fixture(scope="module")
def made(given: Given) -> tuple[pairs.Made, list[str]]:
    """Their pairs, for all tests, and what was said."""
    said: list[str] = []
    return pairs.make_pairs(given, SIZE, say=said.append), said


def listed(folder: pathlib.Path) -> list[dict[str, str]]:
    with (folder / "pairs.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_levels_are_the_phase_and_amplitude_that_were_simulated(made: tuple[pairs.Made, list[str]]) -> None:
    folder = made[0].folder
    about, rows = json.loads((folder / "pairs.json").read_text()), listed(folder)
    assert len(rows) == 18 and made[0].counts == {"train": 9, "val": 9} and made[0].left_out == 0
    assert about["pixel_m"] == 0.5e-6 and about["bits"] == 8 and about["split_by"] == "group"
    offsets = set()
    for row in rows:
        place = [slice(start, start + SIZE) for start in (int(row["row"]), int(row["column"]))]
        truth = led_fields.specimen(int(row["field"][1:]))[tuple(place)]
        a, b = (
            read_image(folder / "amplitude" / row["split"] / side / f"{row['name']}.png", 8)[..., 0] for side in "AB"
        )
        scales = about["phase"], about["amplitude"]["grey"]
        phase, amplitude = (scale["low"] + scale["step"] * image for scale, image in zip(scales, (a, b), strict=True))
        np.testing.assert_allclose(amplitude, np.abs(truth) * led_fields.COUNTS**0.5, rtol=0.03, atol=1)
        off = phase - np.angle(truth)
        # What is left is the tilt of the specimen itself, which nobody can tell from the microscope's.
        design = np.stack([np.ones(off.size), *(axis.ravel() for axis in np.mgrid[:SIZE, :SIZE])], axis=1)
        rest = off.ravel() - design @ np.linalg.lstsq(design, off.ravel(), rcond=None)[0]
        assert np.abs(rest).max() < 0.1 < np.ptp(np.angle(truth))
        offsets.add((row["split"], row["field"]))
        assert float(row["valid"]) == 1 and float(row["clipped"]) < 0.02
    assert len(offsets) == 2  # no field is in two splits
    (val,) = (entry for entry in about["fields"] if entry["split"] == "val")
    assert len(val["optics_sha256"]["grey"]) == 64 and val["stacks"] == {"grey": f"{val['name']}.npz"}
    assert val["scores"]["grey"]["residual_heldout"] < 0.05


def test_the_folder_is_what_training_reads(made: tuple[pairs.Made, list[str]]) -> None:
    tables = open_tables(DataConfig(source=str(made[0].folder / "amplitude"), crop_size=SIZE), "val")
    assert len(tables["pairs"]) == 9 and tables["pairs"].images(0)["a"].shape == (SIZE, SIZE, 1)
    text = "\n".join(pairs.summary(made[0], 8))
    assert text.startswith("pairs: 9 in ") and "--config configs/pair_fpm.py" in text
    assert text.endswith(f"--config.data.source={made[0].folder / 'amplitude'}") and "data.bits" not in text
    assert "--config.data.bits=16" in pairs.summary(made[0], 16)[1]


def test_fields_that_are_there_are_not_solved_again(given: Given, made: tuple[pairs.Made, list[str]]) -> None:
    folder, said = made[0].folder, list[str]()
    before = (folder / "fields/f0/registered.h5").stat().st_mtime_ns
    with pytest.raises(UserError, match="holds pairs already; choose another folder, or give --overwrite"):
        pairs.make_pairs(given, SIZE)
    shutil.copytree(folder, folder.with_name("again"))
    (folder.with_name("again") / "fields/f1/registered.h5").write_bytes(b"cut short")
    again = dataclasses.replace(given, output=str(folder.with_name("again")), overwrite=True)
    done = pairs.make_pairs(again, SIZE, say=said.append)
    assert said[:2] == ["1 of 2 fields are there already", "field 1 of 1: f1"] and done.counts == made[0].counts
    assert (folder / "fields/f0/registered.h5").stat().st_mtime_ns == before
    for path in folder.glob("amplitude/*/*/*.png"):
        assert path.read_bytes() == (folder.with_name("again") / path.relative_to(folder)).read_bytes()
    wide = pairs.make_pairs(again, 68, bits=16)
    assert wide.counts == {"train": 1, "val": 1}
    (tile,) = (wide.folder / "amplitude/train/A").iterdir()
    assert read_image(tile, 16).shape == (68, 68, 1)


def test_a_stack_that_cannot_be_solved_is_named_and_the_others_are_kept(given: Given, tmp_path: pathlib.Path) -> None:
    stacks = shutil.copytree(given.stack, tmp_path / "stacks")
    np.savez(stacks / "f1.npz", low=np.zeros((25, 48, 48), np.uint16))
    broken = dataclasses.replace(given, stack=str(stacks), output=str(tmp_path / "out"))
    with pytest.raises(UserError, match="f1.npz#low: all frames are dark"):
        pairs.make_pairs(broken, SIZE)
    assert not (tmp_path / "out/pairs.json").exists() and (tmp_path / "out/pairs.part").exists()


def test_what_does_not_fit_is_said_before_anything_is_solved(given: Given, tmp_path: pathlib.Path) -> None:
    given = dataclasses.replace(given, output=str(tmp_path / "out"))
    with pytest.raises(
        UserError, match=r"field f0: a tile of 80 pixels needs 80 x 80, .* 68 x 68; set --pair_size 64 "
    ):
        pairs.make_pairs(given, 80)
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(pathlib.Path(given.stack) / "f0.npz", one)
    with pytest.raises(
        UserError, match="since it is the only field, .* set --pair_size 16 or less or give more fields"
    ):
        pairs.make_pairs(dataclasses.replace(given, stack=str(one)), SIZE)
    with pytest.raises(UserError, match="--bits 12: expected 8 or 16"):
        pairs.make_pairs(given, SIZE, bits=12)
    with pytest.raises(UserError, match="--pair_size 8: must be at least 16"):
        pairs.make_pairs(given, 8)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(UserError, match="is not empty; choose another folder"):
        pairs.make_pairs(given, SIZE)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"stack": "a.h5"}, "leave --stack out"),
        ({"demo": True}, "leave --demo out"),
        ({"preview": True}, "leave --preview out"),
        ({"output": None}, "--output is missing"),
    ],
)
def test_a_command_line_asks_for_one_thing(typed: dict, message: str) -> None:
    whole = {"output": "o", "stack": None, "demo": False, "preview": False} | typed
    with pytest.raises(UserError, match=message):
        pairs.check_given(whole.pop("output"), **whole)


def test_colours_that_do_not_go_together_are_refused(tmp_path: pathlib.Path) -> None:
    plan = led_fields.save_plan(tmp_path, {})
    frames = np.ones((25, 48, 48), np.uint16)
    for colour in led_fields.COLOURS:
        np.savez(tmp_path / f"a_{colour}.npz", low=frames)
    stacks = "{red: a_red.npz, green: a_green.npz, blue: a_blue.npz}"
    given = Given(str(plan), "", str(tmp_path / "out"))

    def refused(message: str, **colours: str) -> None:
        named = ", ".join(f"{name}: {colours.get(name, name)}.yaml" for name in led_fields.COLOURS)
        plan.write_text(f"colours: {{{named}}}\nfields: [{{stacks: {stacks}}}, {{name: b, stacks: {stacks}}}]\n")
        with pytest.raises(UserError, match=message):
            pairs.make_pairs(given, SIZE)

    refused("colours: red 600 nm, green 450 nm, blue 500 nm: list them from red to blue", green="blue", blue="green")
    coarse = (tmp_path / "blue.yaml").read_text().replace("camera_pixel: 4.0e-06", "camera_pixel: 5.0e-06")
    (tmp_path / "coarse.yaml").write_text(coarse)
    refused("camera pixels of 1, 1.25 um on the sample: pairs need one", blue="coarse")
    np.savez(tmp_path / "a_blue.npz", low=frames[:, :40])
    refused(r"field a_red: its colours have frames of \[\(40, 48\), \(48, 48\)\] pixels")


@pytest.mark.slow
@pytest.mark.ci_slow
def test_simulated_stacks_of_a_slide_train_in_colour(shared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """H&E as amplitude, a smooth texture as phase, the red and the blue stack shifted: stacks -> pairs -> two steps."""
    crops = sorted((shared / "data/histology/unpaired/cmu1").glob("CMU-1_*.jpg"))[:2]
    if len(crops) < 2:
        pytest.skip("needs histology/unpaired/cmu1 of the shared data folder")
    fields, side = {}, led_fields.SIZE * led_fields.FACTOR
    for number, crop in enumerate(crops):
        stain = np.asarray(Image.open(crop).resize((side, side), Image.Resampling.BOX)) / 255
        wave = np.exp(1j * 1.5 * led_fields.smooth(number))
        slide = [(0.1 + 0.9 * stain[..., c]) * wave for c in range(3)]
        fields[crop.stem] = [moved(slide[0], 1.4, -0.8), slide[1], moved(slide[2], -0.5, 2.3)]
    said: list[str] = []
    given = Given(str(led_fields.save_plan(tmp_path, fields)), "", str(tmp_path / "out"))
    done = pairs.make_pairs(given, SIZE, say=said.append)
    assert done.colours == 3 and done.counts["train"] == done.counts["val"] >= 4
    for entry in json.loads((done.folder / "pairs.json").read_text())["fields"]:
        red, blue = (entry["shifts"][name] for name in ("red", "blue"))
        found = (red["rows"], red["columns"], blue["rows"], blue["columns"])
        np.testing.assert_allclose(found, (-1.4, 0.8, 0.5, -2.3), atol=0.2)
        assert red["after"] > red["before"] and blue["after"] > blue["before"]
    assert sum("taken back; edges correlate" in text for text in said) == 4
    config = small_runs.config(done.folder / "rgb", steps=2, log_every=1)
    assert config.data.crop_size == SIZE
    one = jax.devices()[:1]
    result = training.train(config, tmp_path / "run", devices=one, console=small_runs.silent())
    assert result.step == 2 and np.isfinite(result.numbers["psnr"])
