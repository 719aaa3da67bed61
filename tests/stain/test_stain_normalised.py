"""What all stain normalisers share: checks, pooling, the way out; and the rules that each of them keeps."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stain_material import OTHERS, mixture, without_look

from medgen_jax import stain
from medgen_jax.core.errors import UserError
from medgen_jax.stain import macenko, normalised, reinhard
from medgen_jax.stain.reinhard import Spread

METHODS = ("histogram", "macenko", "reinhard")


def spread(*ok: bool) -> Spread:
    """Looks whose means count up from 1 and whose spreads are NaN where not ok."""
    means = np.arange(1.0, len(ok) + 1)[:, None] * np.ones(3)
    return Spread(jnp.asarray(means), jnp.where(jnp.asarray(ok)[:, None], 2.0, jnp.nan), jnp.asarray(ok))


def test_pooling_leaves_out_what_is_not_ok() -> None:
    pooled = normalised.mean_look(spread(True, False, True))
    np.testing.assert_allclose(pooled.mean, 2.0)
    np.testing.assert_allclose(pooled.std, 2.0)
    assert pooled.ok.shape == ()
    assert bool(pooled.ok)
    none = normalised.mean_look(spread(False, False))
    np.testing.assert_array_equal(none.std, 0.0)
    assert not bool(none.ok)


def test_a_pooled_look_is_repeated_and_another_number_refused() -> None:
    repeated = normalised.per_image(normalised.mean_look(spread(True)), 3)
    np.testing.assert_array_equal(repeated.mean, np.ones((3, 3)))
    assert repeated.ok.shape == (3,)
    with pytest.raises(UserError, match="looks of 2 images for 3 images; pool them first"):
        normalised.per_image(spread(True, True), 3)


def test_sixteen_pixels_are_enough() -> None:
    mask = np.zeros((2, 8, 8), bool)
    mask[0].flat[:16] = True
    mask[1].flat[:15] = True
    np.testing.assert_array_equal(normalised.enough(jnp.asarray(mask)), [True, False])


def test_methods_are_loaded_by_name() -> None:
    assert stain.load("reinhard") is reinhard
    assert set(METHODS) < set(stain.METHODS)
    with pytest.raises(UserError, match="'reinhart' is unknown; known are: histogram, macenko, reinhard, vahadane"):
        stain.load("reinhart")


@functools.cache
def compiled(name: str) -> SimpleNamespace:
    """The functions of a method, compiled once for all tests, which therefore share their shapes."""
    method = stain.load(name)
    return SimpleNamespace(**{verb: jax.jit(getattr(method, verb)) for verb in ("measure", "pool", "fit", "transform")})


def mixed(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """A batch of ten: two images, and between them eight without a look."""
    return np.concatenate([first, *without_look().values(), last])


def targets() -> np.ndarray:
    return mixed(mixture(2, OTHERS, (1.2, 0.9)), mixture(3, OTHERS, (1.2, 0.9)))


@pytest.mark.parametrize("name", METHODS)
def test_images_without_a_look_come_back_and_disturb_nobody(name: str) -> None:
    method = compiled(name)
    batch = mixed(mixture(), mixture(1))
    got = method.transform(method.fit(targets()), batch)
    np.testing.assert_array_equal(got.ok, [True, *[False] * 8, True])
    np.testing.assert_array_equal(got.images[1:-1], batch[1:-1])
    assert np.abs(np.asarray(got.images[0]) - batch[0]).max() > 0.05
    assert 0 <= float(got.images[0].min()) <= float(got.images[0].max()) <= 1
    # The same, with sound images in the place of the others.
    sound = np.concatenate([mixture(seed) for seed in (0, *range(4, 12), 1)])
    again = method.transform(method.fit(targets()), sound)
    assert np.asarray(again.ok).all()
    np.testing.assert_allclose(again.images[:: len(sound) - 1], got.images[:: len(sound) - 1], atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_a_target_leaves_out_what_has_no_look(name: str) -> None:
    method = compiled(name)
    looks = method.measure(targets())
    mean = jax.tree.map(lambda field: np.asarray(field)[[0, -1]].mean(0), tuple(looks)[:-1])
    for got, wanted in zip(method.fit(targets()), mean, strict=False):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    blank = np.repeat(without_look()["white"], 10, axis=0)
    changed = method.transform(method.fit(blank), targets())
    assert not np.asarray(changed.ok).any()
    np.testing.assert_array_equal(changed.images, targets())


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_finite(name: str) -> None:
    """Those of an image without a look are those of the identity."""
    method = stain.load(name)
    batch, target = mixed(mixture(), mixture(1)), compiled(name).fit(targets())
    probe = np.random.default_rng(0).normal(size=batch.shape).astype(np.float32)
    slope = np.asarray(
        jax.jit(jax.grad(lambda images: jnp.sum(method.transform(target, images).images * probe)))(batch)
    )
    assert np.isfinite(slope).all()
    assert np.abs(slope[0]).max() > 0.1
    np.testing.assert_array_equal(slope[1:-1], probe[1:-1])


@pytest.mark.parametrize("name", METHODS)
def test_one_source_serves_all_tiles_of_a_slide(name: str) -> None:
    """The same colour comes out alike whatever tile it lies in, and a blank tile is normalised as well."""
    method = compiled(name)
    first, last = mixture(), mixture(1, gain=(0.8, 0.9))
    target, source = method.fit(targets()), method.pool(method.measure(mixed(first, last)))
    got = method.transform(target, mixed(first, last), source)
    np.testing.assert_array_equal(got.ok, np.isfinite(mixed(first, last)).all((1, 2, 3)))
    halves = [np.concatenate([a[:, :, :12], b[:, :, 12:]], axis=2) for a, b in ((last, first), (first, last))]
    again = np.asarray(method.transform(target, mixed(*halves), source).images)
    np.testing.assert_allclose(again[0, :, :12], got.images[-1, :, :12], atol=1e-6)
    np.testing.assert_allclose(again[0, :, 12:], got.images[0, :, 12:], atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_bad_input_is_named(name: str) -> None:
    method = stain.load(name)
    with pytest.raises(UserError, match=r"images are \(8, 8, 3\); they must be \(b, h, w, 3\)"):
        method.measure(jnp.zeros((8, 8, 3)))
    with pytest.raises(UserError, match="images are uint8; they must be floats in .0, 1.: divide by the white level"):
        method.measure(jnp.zeros((1, 8, 8, 3), jnp.uint8))
    wrong = {"options": macenko.Options(pixels="glass")} if method is macenko else {"pixels": "glass"}
    with pytest.raises(UserError, match="pixels='glass' is unknown"):
        method.measure(jnp.zeros((1, 8, 8, 3)), **wrong)
