"""The protocol of simulated stacks: what its error is blind to, what its truth is, and that a call goes on."""

from __future__ import annotations

import collections
import json
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import fpm_simulation
from benchmarks.fpm_simulation import Case, cases, centred, error, known_pupil, microscope, run, seen, specimen

#: Neighbouring LEDs are 2.6 cells apart, pupils have a radius of 5.9.
SIZE, LEDS = 20, 5
OPTICS = microscope(LEDS)


def texture(seed: int, side: int = 8 * SIZE) -> np.ndarray:
    """Values from 0 to 1, (side, side), without detail finer than ten pixels."""
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(side, side)))
    values = np.fft.ifft2(noise * (np.hypot(*np.meshgrid(*[np.fft.fftfreq(side)] * 2)) < 0.1)).real
    return (values - values.min()) / np.ptp(values)


def test_a_factor_and_a_ramp_are_no_error() -> None:
    truth = (1 + texture(0)) * np.exp(4j * texture(1))
    rows, columns = np.mgrid[: len(truth), : len(truth)]
    tilted = 0.3j * truth * np.exp(1j * (0.02 * rows - 0.05 * columns))
    assert error(tilted, truth) < 1e-6
    # Its own conjugate is another object, and half of the amplitude in one half of the field is a quarter of the light.
    assert error(truth.conj(), truth) > 0.3
    flat = np.ones((64, 64), complex)
    half = np.where(np.arange(64) < 32, 1, 0.5) * flat
    # |f (1, 1/2) - (1, 1)| is least at f = 6 / 5: (1/5, -2/5).
    assert error(half, flat) == pytest.approx(np.sqrt((0.2**2 + 0.4**2) / 2), rel=1e-6)


def test_the_truth_is_what_the_pupils_see() -> None:
    thing = specimen(texture(2), texture(3), OPTICS, SIZE)
    assert thing.fine.shape == (8 * SIZE, 8 * SIZE) and thing.truth.shape == (4 * SIZE, 4 * SIZE)
    assert np.angle(thing.fine).min() == pytest.approx(-1.5, abs=1e-3) and np.abs(thing.fine).max() <= 1
    spectrum = np.fft.fftshift(np.fft.fft2(thing.truth))
    union = seen(OPTICS, SIZE)
    assert np.abs(spectrum[~union]).max() < 1e-4 * np.abs(spectrum).max() and 0.02 < union.mean() < 0.9
    # An object that the pupils see as a whole is its own truth, pixel over every other pixel.
    flat = specimen(np.full((8 * SIZE, 8 * SIZE), 0.25), texture(3) * 0, OPTICS, SIZE)
    np.testing.assert_allclose(flat.truth, flat.fine[::2, ::2], atol=1e-5)


def test_centres_are_moved_and_rounded() -> None:
    told, moved, rounded = (centred(OPTICS, SIZE, *change) for change in ((), (0.5,), (0.0, True)))
    np.testing.assert_allclose(told.sines, OPTICS.sines, atol=1e-12)
    np.testing.assert_allclose(moved.centres(SIZE) - told.centres(SIZE), [[0.5, 0]] * LEDS**2, atol=1e-9)
    np.testing.assert_allclose(rounded.centres(SIZE), np.rint(told.centres(SIZE)), atol=1e-9)


def test_the_protocol_has_every_solver_in_every_curve() -> None:
    found = list(cases(40, 225, (12, 40)))
    assert len({json.dumps(fpm_simulation.key(case, {})) for case in found}) == len(found)
    names = collections.Counter((case.group, case.value) for case in found)
    assert names["known", None] == 3 and names["joint", None] == 7
    for group, value in (("noise", 1e-4), ("noise", 1e-1), ("shift", 0.5), ("defocus", 80e-6), ("aberration", 2.0)):
        assert names[group, value] == len(fpm_simulation.METHODS)
    assert names["convergence", 12] == names["convergence", 40] > 10


def test_a_known_pupil_gives_the_object_and_rounded_centres_do_not() -> None:
    images = texture(4), texture(5)
    settings = known_pupil(60)
    exact = run(Case("known", "exact centres", settings), SIZE, *images, leds=LEDS)
    rounded = run(Case("known", "rounded centres", settings, solved_with="rounded"), SIZE, *images, leds=LEDS)
    assert exact["nrmse"] < 0.02 < rounded["nrmse"] and exact["passes"] == 60
    noisy = run(Case("noise", "epry", settings, 0.1, noise=0.1), SIZE, *images, leds=LEDS)
    assert noisy["nrmse"] > 3 * exact["nrmse"]


def test_a_call_goes_on_where_it_stopped(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seed in (("a", 6), ("p", 7)):
        Image.fromarray(np.rint(255 * texture(seed, 40)).astype(np.uint8)).save(tmp_path / f"{name}.png")
    words = ["fpm_simulation", f"--size={SIZE}", f"--leds={LEDS}", "--passes=3", "--groups", "known", "--out"]
    words += [str(tmp_path / "lines.jsonl"), "--amplitude", str(tmp_path / "a.png"), "--phase", str(tmp_path / "p.png")]
    monkeypatch.setattr(sys, "argv", words)
    fpm_simulation.main()
    first = (tmp_path / "lines.jsonl").read_text().splitlines()
    assert len(first) == 3 and "| known | on the grid |" in capsys.readouterr().out
    (tmp_path / "lines.jsonl").write_text("\n".join(first[:2]) + "\n")
    monkeypatch.setattr(sys, "argv", [*words, "--table", str(tmp_path / "table.md")])
    fpm_simulation.main()
    again = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert [line["nrmse"] for line in again] == [json.loads(line)["nrmse"] for line in first]
    assert capsys.readouterr().out.count("known on the grid") == 1
    table = (tmp_path / "table.md").read_text()
    assert table.startswith("| group | run | error | bar |") and "0.001, " in table
    monkeypatch.setattr(sys, "argv", [*words, "--amplitude", "nothing.png"])
    with pytest.raises(SystemExit):
        fpm_simulation.main()
    assert "nothing.png: no such image" in capsys.readouterr().err


def test_curves_stand_beside_each_other() -> None:
    lines = [
        {"group": "noise", "name": name, "value": value, "nrmse": nrmse}
        for name, value, nrmse in (("epry", 1e-2, 0.5), ("epry", 1e-4, 0.25), ("admm", 1e-2, None))
    ]
    assert list(fpm_simulation.table(lines))[3:] == [
        "| noise | 0.0001 | 0.01 |", "|---|---|---|", "| epry | 0.25 | 0.5 |", "| admm |  | diverged |",
    ]  # fmt: skip
