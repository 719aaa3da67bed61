"""``reconstruct --calibrate``: what is found is used, written down, and read back."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import yaml

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import Optics, simulate
from medgen_jax.reconstruction import calibrating, commands
from medgen_jax.reconstruction.description import read_description
from medgen_jax.reconstruction.stacks import evenly_lit, open_described

SIZE = 32
MICROSCOPE = {
    "wavelength": 0.5e-6, "na": 0.12, "magnification": 4, "camera_pixel": 4e-6, "upsampling": 2,
    "leds": {"layout": "grid", "columns": 5, "rows": 5, "pitch": 4e-3, "height": 0.1},
}  # fmt: skip
WHOLE = np.hypot(*Optics.from_mapping(MICROSCOPE).sines.T) <= 0.9 * MICROSCOPE["na"]


def specimen(side: int) -> np.ndarray:
    """Texture of amplitude and phase, without symmetry."""
    rng = np.random.default_rng(0)
    smooth = np.exp(-((np.hypot(*np.meshgrid(*[np.fft.fftfreq(side)] * 2)) / 0.3) ** 2))
    amplitude, phase = (np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) * smooth).real for _ in range(2))
    return (0.7 + 0.3 * amplitude / np.abs(amplitude).max()) * np.exp(1j * phase / np.abs(phase).max())


def gains() -> np.ndarray:
    found = np.exp(np.random.default_rng(1).normal(0, 0.3, 25))
    return np.where(WHOLE, found / np.exp(np.log(found[WHOLE]).mean()), 1.0)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> commands.Given:
    """Counts out of focus, of uneven LEDs and on stray light; the description knows the stray light alone."""
    folder = tmp_path_factory.mktemp("stack")
    truth = Optics.from_mapping({**MICROSCOPE, "defocus": 30e-6})
    light = np.asarray(simulate(truth, specimen(2 * SIZE))) * gains()[:, None, None]
    np.save(folder / "stack.npy", np.rint(light * 2e4 + 200).astype(np.uint16))
    stack = {"values": "intensity", "background": 200.0, "saturation": 60000.0}
    (folder / "optics.yaml").write_text(yaml.safe_dump({"optics": MICROSCOPE, "stack": stack, "solve": {"passes": 4}}))
    return commands.Given(str(folder / "stack.npy"), str(folder / "optics.yaml"), str(folder / "out"))


@pytest.fixture(scope="module")
def made(given: commands.Given) -> tuple[commands.Done, list[str]]:
    said: list[str] = []
    asked = dataclasses.replace(given, calibrate=calibrating.steps_of("brightness, defocus"))
    return commands.reconstruct(asked, said.append), said


def test_what_was_found_is_in_the_scores(made: tuple[commands.Done, list[str]]) -> None:
    done, said = made
    scores = json.loads((done.folder / "scores.json").read_text())
    found = scores["calibration"]
    assert scores == done.scores and list(found) == ["side", "defocus", "brightness"] and found["side"] == SIZE
    assert found["brightness"]["kept"] and found["defocus"]["kept"]
    assert found["defocus"]["found"] == pytest.approx(30e-6, abs=1e-6) and found["defocus"]["nominal"] == 0
    np.testing.assert_allclose(np.array(found["brightness"]["gains"])[WHOLE], gains()[WHOLE], rtol=0.02)
    assert any(text.startswith("calibration on 32 x 32 pixels in the middle: brightness, defocus") for text in said)
    assert found["defocus"]["said"] in said
    assert scores["residual"] < 0.01


def test_the_calibrated_description_gives_the_same_solution(
    given: commands.Given, made: tuple[commands.Done, list[str]], tmp_path: pathlib.Path
) -> None:
    path = made[0].folder / calibrating.CALIBRATED
    description = read_description(path)
    assert description.settings.passes == 4 and description.recording.saturation == 60000
    np.testing.assert_allclose(np.array(description.recording.gains)[WHOLE], gains()[WHOLE], rtol=0.02)
    again = commands.reconstruct(dataclasses.replace(given, optics=str(path), output=str(tmp_path)))
    assert "calibration" not in again.scores
    for name in ("residual", "residual_best_gain", "residual_heldout"):
        assert again.scores[name] == pytest.approx(made[0].scores[name], rel=1e-4)


def test_without_calibration_it_is_worse(
    given: commands.Given, made: tuple[commands.Done, list[str]], tmp_path: pathlib.Path
) -> None:
    plain = commands.reconstruct(dataclasses.replace(given, output=str(tmp_path)))
    assert plain.scores["residual_heldout"] > 1.2 * made[0].scores["residual_heldout"]
    assert not (tmp_path / calibrating.CALIBRATED).exists()


def test_evenly_lit_frames_are_those_of_equal_leds(given: commands.Given) -> None:
    opened = open_described(given.stack, read_description(given.optics))
    assert evenly_lit(opened, ()) is opened
    even = evenly_lit(opened, gains())
    raw = opened.stack.read().astype(np.float64)
    np.testing.assert_allclose(even.stack.read(), np.maximum(raw - 200, 0) / gains()[:, None, None], rtol=1e-5)
    assert even.stored == opened.recording and even.recording.background == 0 and even.stack.dtype == np.float32
    assert even.recording.saturation == pytest.approx(59800 / gains().min())
    # What was divided once may be divided again, as when a calibrated description is calibrated.
    twice = evenly_lit(even, np.full(25, 2.0))
    np.testing.assert_allclose(twice.stack.read(), even.stack.read() / 2, rtol=1e-6)


def test_results_are_not_replaced_by_a_calibration(given: commands.Given, made: tuple[commands.Done, list]) -> None:
    with pytest.raises(UserError, match="holds results already"):
        commands.reconstruct(dataclasses.replace(given, calibrate=("position",)))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("postion", "calibrate: 'postion' is unknown; known are order, defocus, position, brightness, leds"),
        (" , ", "--calibrate is empty: name steps, such as --calibrate position,defocus"),
    ],
)
def test_steps_that_are_none_are_named(typed: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        calibrating.steps_of(typed)
    assert calibrating.steps_of(None) == () and calibrating.steps_of("leds,order") == ("leds", "order")


@pytest.mark.parametrize(
    ("values", "message"),
    [([1.0] * 24, "stack.gains lists 24 LEDs, but optics.leds describe 25"), ([0.0] * 25, r"stack.gains\[0\] = 0")],
)
def test_gains_that_fit_no_leds_are_named(
    given: commands.Given, tmp_path: pathlib.Path, values: list[float], message: str
) -> None:
    content = yaml.safe_load(pathlib.Path(given.optics).read_text())
    content["stack"]["gains"] = values
    (tmp_path / "optics.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message):
        open_described(given.stack, read_description(tmp_path / "optics.yaml"))


def test_a_calibration_stands_alone() -> None:
    calibrating.check_alone("order", pairs=False, preview=False)
    calibrating.check_alone(None, pairs=True, preview=True)
    for pairs, name in ((True, "--pairs"), (False, "--preview")):
        with pytest.raises(UserError, match=f"then give its optics_calibrated.yaml to {name}"):
            calibrating.check_alone("order", pairs=pairs, preview=not pairs)
