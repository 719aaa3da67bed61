"""``optics.yaml``: the packaged descriptions say what their data are, and every mistake is named with its file."""

from __future__ import annotations

import pathlib
import re

import h5py
import numpy as np
import pytest
import yaml

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import Board, Grid, Settings, Slab
from medgen_jax.reconstruction.description import find, optics_of, read_description
from medgen_jax.reconstruction.stacks import open_described, summary

PACKAGED = ("bloodsmear_blue", "bloodsmear_green", "bloodsmear_red", "glasgow_usaf", "hololab_usaf", "ptylab")
GOOD = {
    "optics": {
        "wavelength": "500e-9", "na": 0.15, "magnification": 4, "camera_pixel": "4e-6", "upsampling": 2,
        "leds": {"layout": "grid", "columns": 5, "rows": 5, "pitch": "6.3e-3", "height": 0.1},
    },
    "stack": {"values": "intensity"},
}  # fmt: skip


def written(folder: pathlib.Path, content: object) -> pathlib.Path:
    (folder / "optics.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return folder / "optics.yaml"


def changed(**sections: dict) -> dict:
    return {name: {**GOOD.get(name, {}), **sections.get(name, {})} for name in {*GOOD, *sections}}


def test_packaged_descriptions_are_found_by_name(root: pathlib.Path) -> None:
    assert sorted(p.stem for p in (root / "configs" / "fpm").glob("*.yaml")) == list(PACKAGED)
    for name in PACKAGED:
        assert find(name) == root / "configs" / "fpm" / f"{name}.yaml"
        assert read_description(name).path == find(f"{name}.yaml")
    with pytest.raises(UserError, match="nothing.yaml: no such file; packaged descriptions are: bloodsmear_blue, "):
        find("nothing.yaml")


@pytest.mark.parametrize(
    ("colour", "wavelength", "shift", "defocus"),
    [("red", 630e-9, 0.0, -55e-6), ("green", 532e-9, 0.35e-3, 10e-6), ("blue", 475e-9, 0.65e-3, -15e-6)],
)
def test_the_blood_smear_is_as_published(colour: str, wavelength: float, shift: float, defocus: float) -> None:
    description = read_description(f"bloodsmear_{colour}")
    optics = optics_of(description, "nothing is read from the stack")
    assert optics.leds == Board(Grid(15, 15, 4e-3, "spiral"), 90.88e-3, offset=(0.0, shift))
    assert (optics.wavelength, optics.defocus, optics.glass) == (wavelength, defocus, Slab(1e-3, 1.52))
    assert optics.pixel == pytest.approx(1.845e-6) and optics.factor == 4 and optics.synthetic_na > 0.48
    assert description.recording.values == "amplitude" and description.settings == Settings()


def test_the_readme_shows_a_whole_description(root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shown = re.search(r"```yaml\n(optics:.*?)```", (root / "README.md").read_text(), re.DOTALL)
    said, packaged = read_description(written(tmp_path, shown[1])), read_description("hololab_usaf")
    assert optics_of(said, "") == optics_of(packaged, "") and said.recording == packaged.recording


def test_descriptions_fit_their_data(shared: pathlib.Path) -> None:
    folder = shared / "data" / "fpm"
    for name, file in (
        ("bloodsmear_red", "bloodsmear_red.mat"),
        ("hololab_usaf", "hololab_usaf_ring93.h5"),
        ("glasgow_usaf", "glasgow_usaf32_441.hdf5"),
    ):
        if not (folder / file).is_file():
            pytest.skip(f"needs {file} in the shared data folder")
        opened = open_described(folder / file, read_description(name))
        assert opened.stack.frames == opened.optics.count and not [n for n in opened.notes if "order" in n]
        assert f"{opened.optics.count} frames of" in summary(opened)
        if name == "hololab_usaf":
            with h5py.File(folder / file) as content:
                places = opened.optics.leds.positions()[:, :2]
                np.testing.assert_allclose(places, content["led_xy_mm"][:] / 1e3, atol=1e-6)
        if name == "glasgow_usaf":
            with h5py.File(folder / file) as content:
                np.testing.assert_allclose(
                    opened.optics.centres(32), content["section0/positions"][:][:, ::-1] - [2.5, 3.25]
                )


def test_what_the_stack_knows_is_read_from_it(tmp_path: pathlib.Path) -> None:
    names = {"wavelength": 5e-7, "NA": 0.15, "magnification": 4.0, "dxd": 4e-6, "zled": 0.1}
    encoder = np.array([(0.0, 1e-3), (2e-3, 3e-3), (4e-3, 5e-3)])
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name, value in names.items():
            file[name] = value
        file["encoder"], file["ptychogram"] = encoder, np.ones((3, 8, 8))
    opened = open_described(tmp_path / "a.hdf5", read_description("ptylab"))
    assert opened.stack.label.endswith("#ptychogram")
    assert (opened.optics.na, opened.optics.pixel) == (0.15, pytest.approx(1e-6))
    np.testing.assert_allclose(opened.optics.leds.positions(), np.column_stack([encoder[:, ::-1], [0.1] * 3]))
    leds = {"layout": "points", "height": 0.1, "positions": {"field": "encoder", "factor": -2}}
    description = read_description(written(tmp_path, changed(optics={"leds": leds})))
    np.testing.assert_allclose(optics_of(description, tmp_path / "a.hdf5").leds.positions()[:, :2], -2 * encoder)
    wrong = read_description(written(tmp_path, changed(optics={"wavelength": {"field": "lambda"}})))
    with pytest.raises(UserError, match=r"optics.yaml: .*a.hdf5: there is no field 'lambda'; the file holds"):
        optics_of(wrong, tmp_path / "a.hdf5")


def test_leds_lit_together_are_listed(tmp_path: pathlib.Path) -> None:
    frames = [[12], [7, 17], [0, 4, 20, 24]]
    np.savez(tmp_path / "s.npz", low=np.stack([np.full((9, 8), value, np.uint8) for value in (100, 200, 4)]))
    described = changed(stack={"frames": frames, "background": [2, 1, 0.5]})
    opened = open_described(tmp_path / "s.npz", read_description(written(tmp_path, described)))
    assert opened.axial == 0 and opened.straight.tolist() == [1, 2, 0] and opened.notes == ()
    assert opened.lit == ((12,), (7, 17), (0, 4, 20, 24)) and opened.recording.background == (2, 1, 0.5)
    assert summary(opened).startswith("3 frames of 9 x 8 under up to 4 LEDs each, uint8 intensity")
    described["stack"]["frames"] = [[12], [7, 25], [0]]
    wrong = read_description(written(tmp_path, described))
    with pytest.raises(UserError, match=r"s.npz#low: frames\[1\]: there is no LED 25; optics.leds describe 0 to 24"):
        open_described(tmp_path / "s.npz", wrong)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", r"optics.yaml: is no YAML \("),
        ("- 1", "the file: expected fields with values, got list"),
        ({"optics": GOOD["optics"]}, "section 'stack' is missing; there are optics, stack, solve"),
        ({**GOOD, "solver": {}}, "field 'solver' is unknown; did you mean 'solve'?"),
        (changed(stack={"values": "counts"}), "stack.values = 'counts': expected intensity or amplitude"),
        ({**GOOD, "stack": {"field": "x"}}, "stack: field 'values' is missing"),
        (changed(stack={"axis": "middle"}), "stack.axis = 'middle': expected first or last"),
        (changed(stack={"background": -1}), "stack.background = -1: counts cannot be negative"),
        (changed(stack={"background": [1, -2]}), "stack.background = -2: counts cannot be negative"),
        (
            changed(stack={"background": "much"}),
            "'much': expected counts, a list of counts with one per frame, or auto",
        ),
        (changed(stack={"frames": [0, 1]}), r"stack.frames\[0\] = 0: expected a list"),
        (changed(stack={"saturation": 0}), "stack.saturation = 0: must be positive"),
        (changed(solve={"pases": 3}), "solve: field 'pases' is unknown; did you mean 'passes'?"),
        (changed(solve={"method": "magic"}), "method = 'magic': expected one of projection"),
        (changed(optics={"wavelength": 532}), "optics.wavelength = 532: lengths are in metres.* 532 nm is 5.32e-07"),
        (changed(optics={"wavelenght": 5e-7}), "optics: field 'wavelenght' is unknown; did you mean 'wavelength'?"),
        ({**GOOD, "optics": {"na": 0.1}}, "optics: field 'leds' is missing"),
    ],
)
def test_mistakes_are_named(tmp_path: pathlib.Path, content: object, message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        read_description(path)
    assert str(caught.value).startswith(str(path))


def test_a_stack_must_fit(tmp_path: pathlib.Path) -> None:
    description = read_description(written(tmp_path, GOOD))

    def opened(frames: np.ndarray) -> tuple[str, ...]:
        np.savez(tmp_path / "s.npz", low=frames)
        return open_described(tmp_path / "s.npz", description).notes

    bright = optics_of(description, "").bright_field
    frames = np.where(bright[:, None, None], 100, 2) * np.ones((25, 9, 8), np.uint8)
    assert opened(frames.astype(np.uint8)) == ()
    with pytest.raises(UserError, match=r"s.npz#low: there are 24 frames, but optics.leds describe 25 LEDs"):
        opened(frames[:24])
    with pytest.raises(UserError, match="all frames are dark"):
        opened(0 * frames)
    with pytest.raises(UserError, match="frames of 3 x 8 pixels are too small"):
        opened(frames[:, :3])
    listed = read_description(written(tmp_path, changed(stack={"background": [1.0, 2.0]})))
    with pytest.raises(UserError, match="stack.background lists 2 frames, but there are 25"):
        open_described(tmp_path / "s.npz", listed)
    notes = opened(np.roll(frames, 12, axis=0).astype(np.uint8))
    assert len(notes) == 1 and "check order and place of the LEDs with --preview" in notes[0]
    coarse = read_description(written(tmp_path, changed(optics={"camera_pixel": "40e-6"})))
    with pytest.raises(UserError, match="undersample the field"):
        open_described(tmp_path / "s.npz", coarse)
