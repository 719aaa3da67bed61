"""The stack inside the package: small, as recorded, complete, and solved by its own description."""

from __future__ import annotations

import pathlib

import h5py
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.reconstruction import demo
from medgen_jax.reconstruction.commands import Given, reconstruct
from medgen_jax.reconstruction.description import optics_of, read_description

FILES = pathlib.Path(demo.STACK).parent


def test_it_is_small_and_credited(root: pathlib.Path) -> None:
    assert sum(path.stat().st_size for path in FILES.iterdir()) < 1.5e6
    notice = (root / "NOTICE").read_text()
    assert "medgen_jax/data/hololab" in notice and "Copyright (c) 2025 Hololab" in notice
    assert "MIT" in (FILES / "README.md").read_text()


def test_its_description_is_that_of_the_whole_frames_but_for_the_place() -> None:
    ours, whole = read_description(demo.OPTICS), read_description("hololab_usaf")
    assert {k: v for k, v in ours.optics.items() if k != "tile"} == dict(whole.optics)
    assert ours.recording == whole.recording and ours.settings == whole.settings
    with h5py.File(demo.STACK) as file:
        data = file["images"]
        assert data.shape == (93, 240, 240) and data.dtype == np.uint8
        rows, columns = data.attrs["rows"], data.attrs["columns"]
    optics = optics_of(ours, demo.STACK)
    middle = [(sum(ends) - 1) / 2 for ends in (columns, rows)]
    assert optics.tile == pytest.approx([(place - 511.5) * optics.pixel for place in middle])


def test_it_is_what_was_recorded(shared: pathlib.Path) -> None:
    source = shared / "data/fpm/hololab_usaf_ring93.h5"
    if not source.is_file():
        pytest.skip("needs fpm/hololab_usaf_ring93.h5 of the shared data folder")
    with h5py.File(demo.STACK) as file, h5py.File(source) as whole:
        rows, columns = (slice(*file["images"].attrs[name]) for name in ("rows", "columns"))
        np.testing.assert_array_equal(file["images"][:], whole["images"][:, rows, columns])


def test_other_stacks_are_refused_beside_it() -> None:
    assert demo.chosen(None, None) == (str(demo.STACK), str(demo.OPTICS))
    with pytest.raises(UserError, match="--demo takes its own stack and description; leave --stack a.h5 out"):
        demo.chosen("a.h5", None)
    with pytest.raises(UserError, match="leave --optics o.yaml out"):
        demo.chosen(None, "o.yaml")


@pytest.mark.slow
@pytest.mark.ci_slow
def test_it_is_solved(tmp_path: pathlib.Path) -> None:
    done = reconstruct(Given(*demo.chosen(None, None), str(tmp_path)))
    assert done.scores["residual_best_gain"] < 0.027 and done.scores["residual_heldout"] < 0.037
    assert {"panel.png", "amplitude.tif", "phase.tif", "scores.json"} <= {path.name for path in tmp_path.iterdir()}
