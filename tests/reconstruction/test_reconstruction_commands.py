"""The command from stack to files: what it writes, what it says, and that a picture is there to be looked at."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys

import h5py
import numpy as np
import pytest
import scipy.io
import small_runs
import tifffile
import yaml
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import Optics, simulate
from medgen_jax.reconstruction import commands
from medgen_jax.reconstruction.results import images_of, write_levels
from medgen_jax.viz.reconstructions import Circles, panel

SIZE = 32
MICROSCOPE = {
    "wavelength": 0.5e-6, "na": 0.15, "magnification": 4, "camera_pixel": 4e-6, "upsampling": 2,
    "leds": {"layout": "grid", "columns": 5, "rows": 5, "pitch": 6.3e-3, "height": 0.1},
}  # fmt: skip


def specimen(side: int) -> np.ndarray:
    """Dark discs of different phase, nowhere symmetric."""
    y, x = np.mgrid[:side, :side] / side
    first, second = (
        1 / (1 + np.exp((np.hypot(x - a, y - b) - r) * 60)) for a, b, r in ((0.3, 0.35, 0.15), (0.7, 0.6, 0.1))
    )
    return (1 - 0.5 * first) * np.exp(1j * (1.2 * second + 0.4 * first))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> commands.Given:
    """A stack as MATLAB saves it, counts of 16 bits, and its description."""
    folder = tmp_path_factory.mktemp("stack")
    frames = np.asarray(simulate(Optics.from_mapping(MICROSCOPE), specimen(2 * SIZE)))
    scipy.io.savemat(folder / "stack.mat", {"low": np.moveaxis(np.rint(frames * 2e4).astype(np.uint16), 0, -1)})
    text = yaml.safe_dump({"optics": MICROSCOPE, "stack": {"values": "intensity"}, "solve": {"passes": 6}})
    (folder / "optics.yaml").write_text(text)
    return commands.Given(str(folder / "stack.mat"), str(folder / "optics.yaml"), str(folder / "out"))


@pytest.fixture(scope="module")
def made(given: commands.Given) -> tuple[commands.Done, list[str]]:
    """One reconstruction for all tests."""
    said: list[str] = []
    return commands.reconstruct(given, said.append), said


def test_scores_are_complete(made: tuple[commands.Done, list[str]]) -> None:
    done, said = made
    scores = json.loads((done.folder / "scores.json").read_text())
    assert scores == done.scores
    assert {"residual", "residual_best_gain", "residual_heldout", "passes", "seconds", "seam_score"} <= set(scores)
    assert scores["tile_disagreement"] == scores["tile_disagreement_worst"] == 0
    assert "tiles differ" not in commands.outcome(scores)
    assert "tiles differ by 3.0% where they overlap, 5.0% at worst" in commands.outcome(
        {**scores, "tiles": 2, "tile_disagreement": 0.03, "tile_disagreement_worst": 0.05}
    )
    assert scores["passes"] == 6 and scores["seam_score"] == 1 and scores["tiles"] == 1 and scores["leds_heldout"] == 3
    assert 0 < scores["residual_best_gain"] <= scores["residual"] * 1.01 < 0.02
    assert 0 < scores["residual_heldout"] < 0.2 and scores["heldout_from_second_solution"]
    assert any("solved again without 10% of them" in text for text in said)
    assert said[0].startswith("25 frames of 32 x 32, uint16 intensity: NA 0.15 becomes 0.3")
    assert done.notes == ("it ended after all 6 passes, best at pass 6",)


def test_the_object_and_its_images_are_the_specimen(made: tuple[commands.Done, list[str]]) -> None:
    folder, truth = made[0].folder, specimen(2 * SIZE)
    with h5py.File(folder / "reconstruction.h5") as file:
        obj = file["object"][:]
        assert file["object"].attrs["pixel"] == pytest.approx(0.5e-6)
        assert Optics.from_mapping(json.loads(file["object"].attrs["optics"])).na == 0.15
        assert file["gains"].shape == (1, 25) and file["pupil"].dtype == np.complex64
        assert file["corners"][:].tolist() == [[0, 0]] and file["corners"].attrs["tile"] == SIZE
    assert obj.shape == (64, 64) and obj.dtype == np.complex64
    factor = np.vdot(obj, truth) / np.vdot(obj, obj)
    assert np.linalg.norm(factor * obj - truth) < 0.15 * np.linalg.norm(truth)
    for name, values in (("amplitude", np.abs(obj)), ("phase", np.angle(obj))):
        with tifffile.TiffFile(folder / f"{name}.tif") as tiff:
            said, levels = json.loads(tiff.pages[0].description), tiff.asarray()
        assert levels.dtype == np.uint16 and said["quantity"] == name and said["pixel_m"] == pytest.approx(0.5e-6)
        stored = said["low"] + levels * said["step"]
        off = stored - values
        off = off if name == "amplitude" else np.angle(np.exp(1j * (off - off[0, 0])))
        assert np.abs(off).max() < 1.01 * said["step"] + 1e-6


def test_the_panel_is_a_picture(made: tuple[commands.Done, list[str]]) -> None:
    picture = np.asarray(Image.open(made[0].folder / "panel.png"))
    assert picture.shape == (960, 1500, 3) and picture.std() > 20


def test_results_are_not_replaced_unasked(given: commands.Given, made: tuple[commands.Done, list[str]]) -> None:
    with pytest.raises(UserError, match="holds results already; choose another folder, or give --overwrite"):
        commands.reconstruct(given)


def test_leds_held_out_of_the_solution_itself_need_no_second(given: commands.Given, tmp_path: pathlib.Path) -> None:
    said: list[str] = []
    done = commands.reconstruct(dataclasses.replace(given, output=str(tmp_path), held_out=0.1), said.append)
    assert not done.scores["heldout_from_second_solution"] and done.scores["residual_heldout"] > 0
    assert not any("solved again" in text for text in said)


def test_a_preview_solves_nothing(given: commands.Given, tmp_path: pathlib.Path) -> None:
    path = commands.preview(dataclasses.replace(given, output=str(tmp_path)))
    assert path.name == "preview.png" and np.asarray(Image.open(path)).std() > 20
    assert [p.name for p in tmp_path.iterdir()] == ["preview.png"]


def test_leds_lit_together_and_stray_light_that_is_estimated(tmp_path: pathlib.Path) -> None:
    """Frames of the corners, of the dark field, in pairs; 300 counts of stray light in all of them."""
    frames = ((0, 24), (4, 20), *((led,) for led in range(25) if led not in (0, 4, 20, 24)))
    light = np.asarray(simulate(Optics.from_mapping(MICROSCOPE), specimen(2 * SIZE), frames=frames))
    np.savez(tmp_path / "stack.npz", low=np.rint(light * 2e4 + 300).astype(np.uint16))
    stack = {"values": "intensity", "frames": [list(leds) for leds in frames], "background": "auto"}
    described = {"optics": MICROSCOPE, "stack": stack, "solve": {"passes": 6, "held_out": 0.1}}
    (tmp_path / "optics.yaml").write_text(yaml.safe_dump(described))
    given = commands.Given(str(tmp_path / "stack.npz"), str(tmp_path / "optics.yaml"), str(tmp_path / "out"))
    said: list[str] = []
    done = commands.reconstruct(given, said.append)
    assert said[0].startswith("23 frames of 32 x 32 under up to 2 LEDs each")
    assert any(text.startswith("note: background: ") and "2 of 2 dark frames" in text for text in said)
    found = json.loads((done.folder / "scores.json").read_text())
    assert found["leds"] == 25 and found["frames"] == 23 and found["residual_best_gain"] < 0.02
    assert found["background"]["kept"] and found["background"]["highest"] == pytest.approx(300, abs=20)
    assert commands.preview(given).name == "preview.png"
    typed = dataclasses.replace(given, background="250")
    assert commands.as_typed(typed, commands.read_description(given.optics)).recording.background == 250
    for wrong, message in (("many", "--background = 'many': expected counts"), ("-1", "--background = -1: counts")):
        with pytest.raises(UserError, match=message):
            commands.reconstruct(dataclasses.replace(given, background=wrong, overwrite=True))
    with pytest.raises(UserError, match="--calibrate: needs frames of one LED each"):
        commands.reconstruct(dataclasses.replace(given, calibrate=("position",), overwrite=True))


def test_divergence_is_told_with_its_tile(given: commands.Given) -> None:
    opened, settings = commands._opened(given, lambda text: None)
    field = commands.solve_field(opened.stack.read, (SIZE, SIZE), opened.optics, settings)
    cover = commands.cover_of((48, 32), 32, 16)
    bad = field.solution._replace(ended=("settled: fine", "diverged: reduce step"))
    assert commands._endings(bad, cover) == ("tile at row 16, column 0: diverged: reduce step",)
    fine = field.solution._replace(ended=("settled: fine",) * 2)
    assert commands._endings(fine, cover) == ("none of 2 tiles diverged",)


def test_levels_of_constant_and_signed_values(tmp_path: pathlib.Path) -> None:
    for values in (np.full((4, 5), 0.7), np.linspace(-3, 2, 20).reshape(4, 5)):
        write_levels(tmp_path / "a.tif", values, "phase", "rad", 1e-7)
        with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
            said, levels = json.loads(tiff.pages[0].description), tiff.asarray()
        np.testing.assert_allclose(said["low"] + levels * said["step"], values, atol=said["step"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif"]


def test_phase_has_median_0_and_no_jumps() -> None:
    ramp = np.broadcast_to(0.5 * np.arange(40.0), (30, 40))
    images = images_of(2 * np.exp(1j * ramp))
    np.testing.assert_allclose(images.phase, ramp - np.median(ramp), atol=1e-5)
    np.testing.assert_allclose(images.amplitude, 2, rtol=1e-6)


def test_a_panel_of_blank_and_odd_images() -> None:
    circles = Circles(np.zeros((1, 2)), 3.0, np.ones(1, bool))
    blank = np.zeros((2000, 1501), np.float32)
    got = panel(blank, blank, blank, np.zeros((5, 5)), np.zeros((9, 9)), circles, {"a": np.full(3, np.nan)}, (1.0, 0.5))
    assert got.dtype == np.uint8 and got.shape[-1] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((None, "a", "b"), "the stack is missing: python -m medgen_jax.reconstruct STACK --optics FILE --output DIR"),
        (("s.h5", None, "b"), "--optics is missing: a description of the microscope"),
        (("s.h5", "a", None), "--output is missing: a folder"),
    ],
)
def test_what_is_missing_is_named(words: tuple[str | None, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        commands.check_given(*words)


def test_the_stack_stands_first_on_the_command_line(tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "medgen_jax.reconstruct", "s.h5", "--optics=hololab_usaf", "--output=o"]
    environment = small_runs.child_environment()
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == "error: s.h5: no such file or folder"
    assert not list(tmp_path.iterdir())
