"""A field in tiles: where they lie, from where each is lit, and that their blend is the object."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import Board, Centres, Grid, Optics, simulate
from medgen_jax.fpm.alignment import Alignment, align, disagreement
from medgen_jax.fpm.field_of_view import Cover, blended, cover_of, middle_of, optics_of, solve_field, solve_tiles
from medgen_jax.ops.tiles import seam_score

#: 25 LEDs about 4 cells of a tile of 32 pixels apart, pupils of 9.6 cells.
OPTICS = Optics(0.5e-6, 0.15, 4, 4e-6, Board(Grid(5, 5, 6.3e-3), 0.1), upsampling=2)
FRAME = (48, 64)
QUICK = dict(passes=8, gains=False, pupil_step=0.0)


def smooth_object(side: int) -> np.ndarray:
    """Complex, without symmetry, band-limited to about the synthetic aperture."""
    rng = np.random.default_rng(1)
    low = np.exp(-((np.hypot(*np.meshgrid(*[np.fft.fftfreq(side)] * 2)) / 0.1) ** 2))
    texture = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) * low).real for _ in range(2)]
    amplitude, phase = (t / np.abs(t).max() for t in texture)
    return (0.75 + 0.25 * amplitude) * np.exp(1j * phase)


@pytest.fixture(scope="module")
def whole() -> tuple[np.ndarray, np.ndarray]:
    """Frames (25, 48, 64) of a field, and its object; the rest of the object lies outside of the frames."""
    obj = smooth_object(128)
    return np.asarray(simulate(OPTICS, obj))[:, :48], obj[:96]


@pytest.mark.parametrize("frame", [(64, 64), (48, 64), (101, 257), (33, 32)])
@pytest.mark.parametrize("overlap", [0, 7, 16])
def test_tiles_cover_a_field_and_end_with_it(frame: tuple[int, int], overlap: int) -> None:
    cover = Cover(*frame, 32, overlap)
    for starts, length in ((cover.tops, frame[0]), (cover.lefts, frame[1])):
        assert starts[0] == 0 and starts[-1] == length - 32
        assert all(0 < step <= 33 - overlap for step in np.diff(starts))
    fine = cover.finer(3)
    assert fine.corners == [(3 * top, 3 * left) for top, left in cover.corners]
    assert (fine.height, fine.tile, fine.overlap) == (3 * frame[0], 96, 3 * overlap)


def test_sizes_of_tiles_have_defaults_and_limits() -> None:
    assert cover_of((1024, 700)) == Cover(1024, 700, 256, 64)
    assert cover_of((45, 45)) == Cover(45, 45, 45, 11) and cover_of((45, 45)).corners == [(0, 0)]
    assert cover_of((48, 64), 32, 8).tile == 32
    with pytest.raises(UserError, match="tile = 49: must lie between 4 and the shorter side of a frame, 48 pixels"):
        cover_of((48, 64), 49)
    with pytest.raises(UserError, match="overlap = 17: must lie between 0 and half a tile, 16 pixels"):
        cover_of((48, 64), 32, 17)


def test_every_tile_has_its_own_angles() -> None:
    cover = cover_of(FRAME, 32, 16)
    shifted = dataclasses.replace(OPTICS, tile=(1e-3, 0.0))
    places = optics_of(shifted, cover)
    assert len(places) == len(cover.corners) == 6 and {p.factor for p in places} == {2}
    # Tiles left of and above the middle, pixels of 1 um; the field itself lies 1 mm to the right of the axis.
    np.testing.assert_allclose(places[0].tile, (1e-3 - 16e-6, -8e-6))
    np.testing.assert_allclose(places[-1].tile, (1e-3 + 16e-6, 8e-6))
    assert (places[0].sines[:, 0] > places[-1].sines[:, 0]).all()
    assert optics_of(shifted, cover_of((32, 32)))[0].tile == (1e-3, 0.0)
    assert middle_of(cover_of((64, 64), 32, 16)) == 4


def test_measured_centres_belong_to_one_tile() -> None:
    optics = dataclasses.replace(OPTICS, leds=Centres(((0.0, 0.0), (4.0, 0.0)), 32))
    assert len(optics_of(optics, cover_of((32, 32)))) == 1
    with pytest.raises(UserError, match="measured centres hold for one tile, the field has 6"):
        optics_of(optics, cover_of(FRAME, 32, 16))


def test_the_upsampling_is_enough_for_the_farthest_tile() -> None:
    near = dataclasses.replace(OPTICS, upsampling=None, leds=Board(Grid(5, 5, 1e-3), 0.008))
    alone = near.upsampling_required
    places = optics_of(near, cover_of((2048, 2048), 256))
    assert {p.upsampling for p in places} == {max(p.upsampling_required for p in places)} and places[0].factor > alone


def test_a_blend_of_true_tiles_is_the_object_whatever_they_leave_open() -> None:
    obj, fine = smooth_object(128)[:96], cover_of(FRAME, 32, 16).finer(2)
    tiles = [obj[top : top + 64, left : left + 64].astype(np.complex64) for top, left in fine.corners]
    none = Alignment(np.zeros(6), np.zeros(6), np.zeros((6, 2)))
    got, score = blended(tiles, fine, none)
    np.testing.assert_allclose(got, obj, atol=1e-5)
    assert score == pytest.approx(seam_score(np.stack([obj.real, obj.imag], -1), fine), rel=1e-3)
    turned = [tile * np.exp(0.1 * n + 1j * n) for n, tile in enumerate(tiles)]
    astray = blended(turned, fine, none)[0]
    assert np.linalg.norm(astray - np.vdot(obj, astray) / np.vdot(obj, obj) * obj) > 0.5 * np.linalg.norm(astray)
    back, after = blended(turned, fine, align(turned, fine.corners))
    assert after == pytest.approx(score, rel=0.05)  # real and imaginary part share steps otherwise once turned
    np.testing.assert_allclose(back / back[0, 0], obj / obj[0, 0], atol=1e-3)


def test_a_smooth_step_escapes_the_seam_score_and_not_the_disagreement() -> None:
    """Of tiles that are out of step by 0.3 rad the blend makes slopes, whose pixels differ less than the object's."""
    obj, fine = smooth_object(128)[:96], cover_of(FRAME, 32, 16).finer(2)
    tiles = [
        (obj[top : top + 64, left : left + 64] * np.exp(0.3j * (number % 2))).astype(np.complex64)
        for number, (top, left) in enumerate(fine.corners)
    ]
    none = Alignment(np.zeros(6), np.zeros(6), np.zeros((6, 2)))
    in_step = [tile * np.exp(-0.3j * (number % 2)) for number, tile in enumerate(tiles)]
    clean, bad = (blended(some, fine, none)[1] for some in (in_step, tiles))
    assert bad == pytest.approx(clean, rel=0.1)
    assert disagreement(tiles, fine.corners, none).worst == pytest.approx(2 * np.sin(0.15), rel=1e-3)


def test_a_field_in_tiles_is_the_field(whole: tuple[np.ndarray, np.ndarray]) -> None:
    stack, obj = whole
    told, asked = [], []

    def read(rows: slice, columns: slice) -> np.ndarray:
        asked.append((rows, columns))
        return stack[:, rows, columns]

    field = solve_field(read, FRAME, OPTICS, tile=32, overlap=16, told=lambda *a: told.append(a), **QUICK)
    assert field.obj.shape == (96, 128) and field.obj.dtype == np.complex64 and np.isfinite(field.obj).all()
    devices = jax.local_device_count()  # each has one in a call on a CPU; the last call repeats some
    assert devices == 4 and told == [(4, 6), (6, 6)] and len(asked) == 2 * devices
    inner = np.s_[8:-8, 8:-8]
    found, truth = field.obj[inner].ravel(), obj[inner].ravel()
    factor = np.vdot(found, truth) / np.vdot(found, found)
    assert np.linalg.norm(factor * found - truth) < 0.12 * np.linalg.norm(truth)
    assert np.linalg.norm(np.abs(factor * found) - np.abs(truth)) < 0.08 * np.linalg.norm(truth)
    # Steps at the tiles' edges are those of the object there.
    fine = field.cover.finer(2)
    assert field.seam_score == pytest.approx(seam_score(np.stack([obj.real, obj.imag], -1), fine), rel=0.05)
    assert 0 < field.disagreement.mean <= field.disagreement.worst < 0.1
    assert field.solution.residual.shape == (6,) and len(field.solution.ended) == 6
    assert field.solution.obj.shape == (64, 64) and field.solution.pupil.shape[0] == 6


def test_chunks_of_any_size_give_the_same(whole: tuple[np.ndarray, np.ndarray]) -> None:
    cover, told = cover_of(FRAME, 32, 16), []
    places = optics_of(OPTICS, cover)
    runs = []
    for chunk in (1, 4):
        runs.append(
            solve_tiles(
                lambda rows, columns: whole[0][:, rows, columns], cover, places, chunk=chunk,
                told=lambda *a: told.append(a), **QUICK,
            )
        )  # fmt: skip
    # The last chunk of 4 repeats two tiles, which are dropped.
    assert told[-2:] == [(4, 6), (6, 6)] and len(runs[1].ended) == 6
    for one, four in zip(jax.tree.leaves(runs[0][:-1]), jax.tree.leaves(runs[1][:-1]), strict=True):
        assert one.shape == four.shape
        np.testing.assert_allclose(one, four, atol=1e-4)
