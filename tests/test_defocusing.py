"""Pairs from in-focus images: what is written, from every layout, the same again, and every refusal."""

from __future__ import annotations

import csv
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from medgen_jax import defocusing
from medgen_jax.core.config import DataConfig, Layout
from medgen_jax.core.errors import UserError
from medgen_jax.data import sources
from medgen_jax.data.images import read_image, write_image
from medgen_jax.defocusing import Settings, write_pairs
from medgen_jax.ops.defocus import Optics

OPTICS = Optics(0.325e-6, (0.55e-6,), 0.4)
SETTINGS = Settings(OPTICS, (1e-6, 4e-6), per_image=2, seed=7)
SIZE = (32, 40, 1)


def image(seed: int, dtype=np.uint16) -> np.ndarray:
    white = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(white // 4, white // 2, SIZE).astype(dtype)


def fill(folder: pathlib.Path, *names: str, dtype=np.uint16) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        write_image(folder / name, image(number, dtype))


def run(source: pathlib.Path, target: pathlib.Path, settings: Settings = SETTINGS, **data):
    return write_pairs(DataConfig(source=str(source), **data), target, settings)


def rows(target: pathlib.Path) -> list[dict[str, str]]:
    with (target / "defocus.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_images_without_splits_become_pairs_that_training_reads(tmp_path) -> None:
    fill(tmp_path / "in", "a.png", "b.tif")
    seen = []
    target = tmp_path / "out"
    written = write_pairs(
        DataConfig(source=str(tmp_path / "in")), target, SETTINGS, done=lambda *count: seen.append(count)
    )
    assert seen == [(1, 2), (2, 2)]
    assert written.pairs == {"train": 4}
    table = sources.open_tables(DataConfig(source=str(target)), "train")["pairs"]
    assert len(table) == 4
    for number, row in enumerate(rows(target)):
        assert row["split"] == "train" and row["name"] == f"{'aabb'[number]}_z{number % 2}.png"
        assert 1e-6 <= abs(float(row["z"])) <= 4e-6
        assert float(row["z"]) == pytest.approx(written.z[number], rel=1e-6)
        a, b = (read_image(target / "train" / side / row["name"], bits=16) for side in "AB")
        np.testing.assert_array_equal(b, image(number // 2))
        assert a.mean() == pytest.approx(b.mean(), rel=1e-3) and a.std() < 0.95 * b.std()
    stds = [read_image(target / "train/A" / row["name"]).std() for row in rows(target)]
    by_distance = sorted(zip([abs(z) for z in written.z[:2]], stds[:2], strict=True))
    assert by_distance[0][1] > by_distance[1][1]  # of one image, the farther is the flatter
    about = json.loads((target / "optics.json").read_text())
    assert about["pixel"] == 0.325e-6 and about["wavelength"] == [0.55e-6] and about["seed"] == 7
    assert (about["z_min"], about["z_max"], about["sampling"]) == (1e-6, 4e-6, [])


def test_a_seed_draws_the_same_again_and_another_does_not(tmp_path) -> None:
    fill(tmp_path / "in", "a.png")
    first, again = (run(tmp_path / "in", tmp_path / name) for name in ("one", "two"))
    other = run(tmp_path / "in", tmp_path / "three", Settings(OPTICS, (1e-6, 4e-6), per_image=2, seed=8))
    assert first.z == again.z and first.z != other.z
    for name in ("a_z0.png", "a_z1.png"):
        assert (tmp_path / "one/train/A" / name).read_bytes() == (tmp_path / "two/train/A" / name).read_bytes()


@pytest.mark.parametrize("kind", ["images", "classes", "paired", "unpaired", "panels", "csv"])
def test_every_layout_gives_its_images_in_focus(tmp_path, kind) -> None:
    root, layout, source = tmp_path / "in", Layout.AUTO, tmp_path / "in"
    wide = [np.concatenate([image(n + 10), image(n)], axis=1) for n in range(2)]
    names = {"train": "0", "val": "1"}
    for number, split in enumerate(names):
        file = f"{number}.png"
        if kind == "images":
            (root / split).mkdir(parents=True)
            write_image(root / split / file, image(number))
        elif kind == "classes":
            (root / split / "sick").mkdir(parents=True)
            write_image(root / split / "sick" / file, image(number))
            names[split] = f"sick_{number}"
        elif kind == "panels":
            (root / split).mkdir(parents=True)
            write_image(root / split / file, wide[number])
            layout = Layout.PANELS
        elif kind != "csv":
            for side, offset in (("A", 10), ("B", 0)):
                folder = root / split / side if kind == "paired" else root / f"{split.replace('val', 'test')}{side}"
                folder.mkdir(parents=True)
                write_image(folder / file, image(number + offset))
    if kind == "csv":
        fill(root, "0.png", "1.png")
        source = root / "list.csv"
        source.write_text("path,split\n0.png,train\n1.png,val\n")
    run(source, tmp_path / "out", Settings(OPTICS, (1e-6, 4e-6)), layout=layout)
    found = {row["split"]: row["name"] for row in rows(tmp_path / "out")}
    second = "test" if kind == "unpaired" else "val"
    assert set(found) == {"train", second}
    for number, split in enumerate(("train", second)):
        np.testing.assert_array_equal(read_image(tmp_path / "out" / split / "B" / found[split]), image(number))
    if kind != "csv":
        assert found == {"train": f"{names['train']}_z0.png", second: f"{names['val']}_z0.png"}


def test_noise_is_in_the_blurred_image_alone(tmp_path) -> None:
    fill(tmp_path / "in", "a.png")
    settings = Settings(OPTICS, (1e-6, 4e-6), full_well=50, read_noise=3)
    run(tmp_path / "in", tmp_path / "noisy", settings)
    run(tmp_path / "in", tmp_path / "still", Settings(OPTICS, (1e-6, 4e-6)))
    noisy, still = (read_image(tmp_path / name / "train/A/a_z0.png", bits=16) for name in ("noisy", "still"))
    spread = (noisy.astype(float) - still).std() * 50 / 65535  # electrons
    assert spread == pytest.approx(np.sqrt(50 * still.mean() / 65535 + 9), rel=0.1)
    np.testing.assert_array_equal(read_image(tmp_path / "noisy/train/B/a_z0.png"), image(0))


def test_coarse_pixels_are_said_once_per_wavelength() -> None:
    assert defocusing.warnings(OPTICS) == []
    said = defocusing.warnings(Optics(0.5e-6, (0.63e-6, 0.53e-6, 0.46e-6), 0.5))
    assert len(said) == 3 and "undersampled 1.59 times" in said[0] and "0.315 um or less" in said[0]


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path) -> None:
    fill(tmp_path / "in", "a.png")
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"a.png: images of 1 channel and 3 wavelengths"):
        run(tmp_path / "in", out, Settings(Optics(0.3e-6, (6e-7, 5e-7, 4e-7), 0.4), (0, 1e-6)))
    with pytest.raises(UserError, match=r"a.png: is 32x40 pixels, but a point at z = 2e-05 m is a disc of 54"):
        run(tmp_path / "in", out, Settings(OPTICS, (0, 20e-6)))
    fill(tmp_path / "classes/train/x", "y_z.png")
    fill(tmp_path / "classes/train/x_y", "z.png")
    with pytest.raises(UserError, match="two images of split train would be written as x_y_z"):
        run(tmp_path / "classes", out)
    with pytest.raises(UserError, match="no such directory"):
        run(tmp_path / "nowhere", out)
    assert not out.exists()
    fill(out, "mine.png")
    with pytest.raises(UserError, match="exists and is not empty"):
        run(tmp_path / "in", out)
    assert [path.name for path in out.iterdir()] == ["mine.png"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"z_range": (2e-6, 1e-6)}, "the smaller first"),
        ({"z_range": (0.0, 1e-3)}, "at most 16 are computed"),
        ({"per_image": 0}, "per_image = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"read_noise": 2.0}, "needs full_well"),
        ({"full_well": -1.0}, "full_well = -1.0"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Settings(OPTICS, **{"z_range": (0.0, 1e-6), **settings})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--na=0.4"], "--input is missing: In-focus images"),
        (["--na=0.4", "--wavelength=green"], "--wavelength green: must be metres"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(tmp_path, words, message) -> None:
    given = {} if "missing" in message else {"input": "isl", "wavelength": "550e-9"}
    given |= {"output": tmp_path / "out", "pixel": "0.3e-6", "z": "1e-6"}
    flags = [f"--{name}={value}" for name, value in given.items()]
    command = [sys.executable, "-m", "medgen_jax.defocus", *flags, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {message}"), done.stderr
    assert done.stderr.count("\n") == 1
