"""Stacks of LED frames: every container gives the same numbers, and what is wrong is said in one sentence."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import h5py
import numpy as np
import pytest
import scipy.io
import tifffile
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.data import led_stacks
from medgen_jax.data.led_stacks import natural_key, open_stack, read_numbers, survey

#: 12 frames of odd sides; every value tells its place.
FRAMES = np.arange(12 * 7 * 9, dtype=np.uint16).reshape(12, 7, 9)


def mat(path: pathlib.Path) -> pathlib.Path:
    scipy.io.savemat(path / "a.mat", {"low": np.moveaxis(FRAMES, 0, -1), "z": 3.0})
    return path / "a.mat"


def mat_73(path: pathlib.Path) -> pathlib.Path:
    """As MATLAB lays it out: a text block in front, axes reversed."""
    with h5py.File(path / "b.mat", "w", userblock_size=512) as file:
        file.create_dataset("low", data=np.moveaxis(FRAMES, 0, -1).T, chunks=(1, 9, 7), compression="gzip")
    with (path / "b.mat").open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file")
    return path / "b.mat"


def hdf5(path: pathlib.Path) -> pathlib.Path:
    with h5py.File(path / "c.h5", "w") as file:
        file["set/low"], file["sines"] = FRAMES, np.zeros((12, 2))
    return path / "c.h5"


def npz(path: pathlib.Path) -> pathlib.Path:
    np.savez_compressed(path / "d.npz", low=FRAMES, z=np.zeros(3))
    return path / "d.npz"


def npy(path: pathlib.Path) -> pathlib.Path:
    np.save(path / "e.npy", FRAMES)
    return path / "e.npy"


def pages(path: pathlib.Path) -> pathlib.Path:
    tifffile.imwrite(path / "f.tif", FRAMES, photometric="minisblack")
    return path / "f.tif"


def folder(path: pathlib.Path) -> pathlib.Path:
    """Of TIFF files whose alphabetical order is not that of the frames, with something else beside them."""
    (path / "g").mkdir()
    for number, frame in enumerate(FRAMES, 1):
        tifffile.imwrite(path / "g" / f"225.000_{number}.TIF", frame)
    (path / "g" / "notes.txt").write_text("x")
    return path / "g"


@pytest.mark.parametrize("write", [mat, mat_73, hdf5, npz, npy, pages, folder])
def test_every_container_gives_the_same_frames(
    tmp_path: pathlib.Path, write: Callable[[pathlib.Path], pathlib.Path]
) -> None:
    stack = open_stack(write(tmp_path), count=12)
    assert (stack.frames, stack.height, stack.width, stack.dtype) == (12, 7, 9, np.uint16)
    assert stack.nbytes == FRAMES.nbytes
    np.testing.assert_array_equal(stack.read(), FRAMES)
    part = stack.read(slice(2, 5), slice(4, 9))
    np.testing.assert_array_equal(part, FRAMES[:, 2:5, 4:9])
    assert part.dtype == np.uint16
    np.testing.assert_array_equal(stack.frame(3), FRAMES[3])
    np.testing.assert_array_equal(stack.held().read(slice(1, 2)), FRAMES[:, 1:2])


def test_a_part_of_an_hdf5_stack_is_read_alone(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, shapes = h5py.Dataset.__getitem__, []

    def watched(data: h5py.Dataset, index: object, *more: object) -> np.ndarray:
        got = read(data, index, *more)
        shapes.append(np.shape(got))
        return got

    stack = open_stack(hdf5(tmp_path))
    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    stack.read(slice(2, 5), slice(4, 9))
    assert shapes == [(12, 3, 5)]


def test_bands_cover_every_row_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(led_stacks, "_BAND_BYTES", 3 * 12 * 9 * 2)
    bands = list(open_stack(npy(tmp_path)).bands())
    assert [band.shape[1] for band in bands] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(bands, axis=1), FRAMES)


@pytest.mark.parametrize(
    ("dtype", "kept"), [(np.uint8, np.uint8), (">u2", np.uint16), (np.int32, np.float32), (np.float64, np.float32)]
)
def test_small_counts_stay_counts(tmp_path: pathlib.Path, dtype: object, kept: type) -> None:
    np.save(tmp_path / "a.npy", (FRAMES % 200).astype(dtype))
    stack = open_stack(tmp_path / "a.npy")
    assert stack.dtype == kept and stack.read().dtype == kept and stack.dtype.isnative
    np.testing.assert_array_equal(stack.read(), FRAMES % 200)


def test_the_axis_of_frames_is_declared_or_counted_or_of_the_format(tmp_path: pathlib.Path) -> None:
    path = npy(tmp_path)
    assert open_stack(path).frames == 12
    assert open_stack(path, count=9).frames == 9  # the last axis has as many entries as there are LEDs
    assert open_stack(path, axis="last").read().shape == (9, 12, 7)
    assert open_stack(path, axis="first", count=9).frames == 12
    with pytest.raises(UserError, match="axis = 'middle': expected first or last"):
        open_stack(path, axis="middle")
    scipy.io.savemat(tmp_path / "x.mat", {"low": FRAMES})
    assert open_stack(tmp_path / "x.mat").frames == 9
    assert open_stack(tmp_path / "x.mat", count=12).frames == 12


def test_a_stack_is_chosen_by_name_or_as_the_only_one(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"], file["dark"], file["na"], file["note"] = FRAMES, FRAMES[:2], 0.1, "text"
        file["encoder"] = np.arange(24.0).reshape(12, 2)
    with pytest.raises(UserError, match=r"several stacks, name one in stack.field: raw \(12x7x9 uint16\), dark"):
        open_stack(path)
    assert open_stack(path, "dark").frames == 2 and open_stack(path, "/raw").frames == 12
    with pytest.raises(UserError, match=r"no field 'rau'; the file holds raw \(12x7x9 uint16\), .*na \(scalar"):
        open_stack(path, "rau")
    with pytest.raises(UserError, match=r"encoder \(12x2 float64\) has 2 axes; a stack has three"):
        open_stack(path, "encoder")
    with h5py.File(path, "a") as file:
        file["ptychogram"] = FRAMES[:5]
    assert open_stack(path).frames == 5
    assert read_numbers(path, "na") == 0.1 and read_numbers(path, "encoder").shape == (12, 2)
    with pytest.raises(UserError, match="field 'note' holds no real numbers"):
        read_numbers(path, "note")
    with pytest.raises(UserError, match="has no fields"):
        read_numbers(tmp_path, "na")


def test_what_is_no_stack_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"nothing.h5: no such file or folder"):
        open_stack(tmp_path / "nothing.h5")
    with pytest.raises(UserError, match=r"holds no .tif, .tiff, .png files"):
        open_stack(tmp_path)
    (tmp_path / "a.h5").write_bytes(b"no hdf5 at all")
    with pytest.raises(UserError, match=r"a.h5: cannot be read as a stack \(.*\); save it again"):
        open_stack(tmp_path / "a.h5")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"a.txt: no stack; expected a folder of images, or one of .mat"):
        open_stack(tmp_path / "a.txt")
    np.save(tmp_path / "b.npy", FRAMES[0])
    with pytest.raises(UserError, match=r"holds no array of three axes; it holds the array \(7x9 uint16\)"):
        open_stack(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", FRAMES[:0])
    with pytest.raises(UserError, match=r"c.npy: there are no frames"):
        open_stack(tmp_path / "c.npy", axis="first")
    np.save(tmp_path / "d.npy", FRAMES * 1j)
    with pytest.raises(UserError, match="frames must be real numbers"):
        open_stack(tmp_path / "d.npy")
    tifffile.imwrite(tmp_path / "one.tif", FRAMES[0])
    with pytest.raises(UserError, match="is one image; a stack is a TIFF of many pages, or a folder"):
        open_stack(tmp_path / "one.tif")
    with pytest.raises(UserError, match="images have no field 'low'"):
        open_stack(tmp_path / "one.tif", "low")


def test_frames_of_a_folder_must_be_alike_and_grey(tmp_path: pathlib.Path) -> None:
    for name, shape in (("1", (7, 9)), ("2", (7, 8))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=r"2.png: has 7x8 .*, the first frame, 1.png, has 7x9"):
        open_stack(tmp_path)
    Image.fromarray(np.zeros((7, 9, 3), np.uint8)).save(tmp_path / "2.png")
    with pytest.raises(UserError, match=r"2.png: has 3 channels; frames have one"):
        open_stack(tmp_path)


def test_names_are_sorted_by_the_numbers_in_them() -> None:
    names = ["b2", "a10", "a9", "A1", "a10_2", "a10_11"]
    assert sorted(names, key=natural_key) == ["A1", "a9", "a10", "a10_2", "a10_11", "b2"]


def stack_of(tmp_path: pathlib.Path, frames: np.ndarray) -> led_stacks.LedStack:
    np.save(tmp_path / "s.npy", frames)
    return open_stack(tmp_path / "s.npy", axis="first")


def test_a_survey_is_means_and_shares(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(led_stacks, "_BAND_BYTES", 100)
    frames = np.full((3, 6, 6), 10, np.uint8)
    frames[1] = 100
    frames[1, 0, :3] = 255
    seen = survey(stack_of(tmp_path, frames))
    np.testing.assert_allclose(seen.means, frames.mean(axis=(1, 2)))
    np.testing.assert_allclose(seen.saturated, [0, 3 / 36, 0])
    assert seen.notes == (
        "8.3% of the pixels of frame 1 (counted from 0) are saturated: set stack.saturation to 255 to leave them out",
    )
    assert survey(stack_of(tmp_path, frames), 255).notes[0].endswith("saturated: they do not count")
    frames[1, 0] = 100
    assert survey(stack_of(tmp_path, frames)).notes == ()


def test_frames_that_show_nothing_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"s.npy: all frames are dark; check the file and its scale"):
        survey(stack_of(tmp_path, np.zeros((2, 5, 5), np.uint8)))
    full = np.full((2, 5, 5), 100, np.uint16)
    full[1] = 65535
    with pytest.raises(UserError, match=r"100% of the pixels of the brightest frame, 1 .*, are saturated .*65535"):
        survey(stack_of(tmp_path, full))
    with pytest.raises(UserError, match=r"at or above 60\)"):
        survey(stack_of(tmp_path, full[:1]), 60)
    bad = np.ones((3, 5, 5))
    for value in (np.nan, -1):
        bad[2, 1, 1] = value
        with pytest.raises(UserError, match="frame 2 .* holds values that are negative or not finite"):
            survey(stack_of(tmp_path, bad))
