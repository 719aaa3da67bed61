"""Vahadane's factors: exact amounts, a falling objective, known stains found again, and nothing that crashes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.stain import vahadane
from twins import stain_numpy

ONE = np.array([[0.60, 0.70, 0.38], [0.15, 0.95, 0.27]])
OTHER = np.array([[0.70, 0.60, 0.39], [0.25, 0.80, 0.54]])
ONE, OTHER = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (ONE, OTHER))
SIZE = 24

measure = jax.jit(vahadane.measure)
transform = jax.jit(vahadane.transform)


def mixture(stains, seed=0, count=SIZE * SIZE, strongest=1.5):
    """Densities (n, 3) and amounts (n, 2): a third of the pixels hold one stain, a third the other, the rest both."""
    rng = np.random.default_rng(seed)
    amounts = (
        rng.uniform(0.3, strongest, (count, 2)) * np.array([[1, 0], [0, 1], [0.5, 0.5]])[rng.integers(0, 3, count)]
    )
    return amounts @ stains, amounts


def tile(stains, **options):
    return np.exp(-mixture(stains, **options)[0]).reshape(SIZE, SIZE, 3).astype(np.float32)


def batch(*tiles):
    """Four tiles, white behind those given, so that everything compiles once."""
    return np.concatenate([np.stack(tiles), np.ones((4 - len(tiles), SIZE, SIZE, 3))]).astype(np.float32)


def angles(found, wanted):
    """Degrees between rows."""
    return np.degrees(np.arccos(np.clip(np.sum(np.asarray(found, np.float64) * wanted, -1), -1, 1)))


def objective(density, stains, amounts, penalty):
    """Of (n, 3), (2, 3) and (n, 2), in float64."""
    return 0.5 * np.sum((density - amounts @ stains) ** 2) + penalty * np.sum(amounts)


# -- the parts -------------------------------------------------------------------------------------


def test_amounts_of_perpendicular_stains_are_soft_thresholds():
    vectors = jnp.float32([[[1, 0, 0], [0, 1, 0]]])
    density = jnp.float32([[[0.5, 0.05, -1.0], [0.3, 0.4, 0.0], [9.0, 9.0, 9.0]]])  # (1, 3 channels, 3 pixels)
    found = vahadane.sparse_amounts(density, vectors, 0.1)
    np.testing.assert_allclose(found, [[[0.4, 0.0, 0.0], [0.2, 0.3, 0.0]]], atol=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 0.01, 0.3])
def test_amounts_satisfy_the_conditions_of_the_minimum(penalty):
    """The problem is convex: no slope where an amount is positive, an upward one where it is zero."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 2, 3))  # obtuse pairs among them
    vectors[:25] = np.abs(vectors[:25])
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    density = rng.normal(0.5, 0.7, (50, 3, 40))
    found = np.asarray(vahadane.sparse_amounts(jnp.float32(density), jnp.float32(vectors), penalty), np.float64)
    slope = np.einsum("bsc,bcn->bsn", vectors, np.einsum("bsc,bsn->bcn", vectors, found) - density) + penalty
    assert found.min() == 0
    assert 0.1 < np.mean(found > 0) < 0.9
    assert np.abs(slope[found > 0]).max() < 1e-4
    assert slope[found == 0].min() > -1e-4


def test_two_equal_stains_give_finite_amounts():
    vectors = jnp.tile(jnp.float32(ONE[:1]), (1, 2, 1))
    density = jnp.float32(mixture(ONE)[0].T[None])
    found, gradient = jax.jit(jax.value_and_grad(lambda w: jnp.sum(vahadane.sparse_amounts(density, w))))(vectors)
    assert np.isfinite(found) and np.isfinite(gradient).all()


def test_the_objective_never_rises():
    density, _ = mixture(OTHER)
    planar = jnp.float32(density.T[None])
    run = jax.jit(lambda rounds, start: vahadane.dictionary(planar, start, rounds=rounds))
    start = jnp.float32([[[0.9, 0.3, 0.3], [0.2, 0.3, 0.9]]])
    values = []
    for rounds in range(12):
        vectors = run(rounds, start)
        amounts = vahadane.sparse_amounts(planar, vectors, vahadane.PENALTY)
        values.append(objective(density, np.float64(vectors[0]), np.float64(amounts[0]).T, vahadane.PENALTY))
    assert values[0] > 1.1 * values[-1]
    assert np.all(np.diff(values) <= 1e-5 * values[-1])


def reference(density, penalty, start, sweeps=400):
    """The same problem in float64 by another route: single entries in turn, each to its own minimum."""
    stains, amounts = start.copy(), np.zeros((len(density), 2))
    for _ in range(sweeps):
        for _ in range(5):
            for s in range(2):
                rest = density - np.outer(amounts[:, 1 - s], stains[1 - s])
                amounts[:, s] = np.maximum(rest @ stains[s] - penalty, 0)
        for s in range(2):
            rest = density - np.outer(amounts[:, 1 - s], stains[1 - s])
            if amounts[:, s].any():
                stains[s] = np.maximum(rest.T @ amounts[:, s], 0)
                stains[s] /= np.linalg.norm(stains[s])
    return stains[np.argsort(-stains[:, 0])], objective(density, stains, amounts, penalty)


def test_factors_equal_a_float64_reference_from_any_start():
    rng = np.random.default_rng(0)
    density, _ = mixture(ONE, count=300)
    density = np.maximum(density + rng.normal(0, 0.03, density.shape), 0)
    starts = np.abs(rng.normal(size=(3, 2, 3)))
    starts /= np.linalg.norm(starts, axis=-1, keepdims=True)
    found = [reference(density, vahadane.PENALTY, start) for start in starts]
    stains, least = min(found, key=lambda pair: pair[1])
    planar = jnp.float32(density.T[None])
    vectors = vahadane.dictionary(planar, jnp.float32(OTHER[None]))
    amounts = vahadane.sparse_amounts(planar, vectors, vahadane.PENALTY)
    ours = objective(density, np.float64(vectors[0]), np.float64(amounts[0]).T, vahadane.PENALTY)
    assert ours == pytest.approx(least, rel=1e-4)
    assert angles(vectors[0], stains).max() < 0.1


def test_samples_are_spread_over_the_pixels_that_count():
    counted = np.zeros((2, 1000), bool)
    counted[0, 200:700], counted[1, ::3] = True, True
    planar = np.broadcast_to(np.arange(1000, dtype=np.float32), (2, 3, 1000))
    found = np.asarray(vahadane._sampled(jnp.asarray(planar), jnp.asarray(counted), 100))
    assert found.shape == (2, 3, 100)
    for row in range(2):
        places = found[row, 0].astype(int)
        assert counted[row, places].all() and len(set(places)) > 95
        shares, _ = np.histogram(np.searchsorted(np.flatnonzero(counted[row]), places), 10, (0, counted[row].sum()))
        assert shares.min() >= 9 and shares.max() <= 11
    assert vahadane._sampled(jnp.asarray(planar), jnp.asarray(counted), 5000).shape == (2, 3, 1000)


# -- the method ------------------------------------------------------------------------------------


def test_known_stains_are_found_again():
    looks = measure(batch(tile(ONE), tile(OTHER), np.concatenate([tile(ONE)[:12], np.ones((12, SIZE, 3))])))
    assert looks.ok.tolist() == [True, True, True, False]
    assert angles(looks.vectors[0], ONE).max() < 1.5 and angles(looks.vectors[1], OTHER).max() < 1.5
    assert angles(looks.vectors[2], ONE).max() < 2  # glass does not count
    halves = batch(np.concatenate([tile(ONE)[:12], tile(OTHER)[12:]]))
    region = np.zeros((4, SIZE, SIZE), bool)
    region[:, :12] = True
    vectors = jax.jit(lambda x: vahadane.measure(x, region=jnp.asarray(region)))(halves).vectors[0]
    assert angles(vectors, ONE).max() < 2 < angles(measure(halves).vectors[0], ONE).max()
    strongest = [np.quantile(mixture(ONE)[1][:, s], 0.99) for s in range(2)]
    np.testing.assert_allclose(looks.ceiling[0], strongest, atol=0.06)


def test_an_image_takes_on_the_look_of_another():
    images = batch(tile(ONE), tile(OTHER, seed=1, strongest=0.9))
    looks = measure(images)
    target = jax.tree.map(lambda x: x[1], looks)
    result = transform(target, images)
    assert result.ok.tolist() == [True, True, False, False]
    again = measure(result.images)
    np.testing.assert_allclose(again.ceiling[0], target.ceiling, rtol=0.05)
    assert angles(again.vectors[0], np.asarray(target.vectors)).max() < 2
    np.testing.assert_allclose(result.images[1], images[1], atol=0.02)  # its own look: the penalty alone changes it
    # One look for all tiles of a slide: what is in the others no longer matters.
    pooled = transform(target, images, vahadane.pool(looks))
    assert pooled.ok.all() and np.abs(pooled.images[0] - result.images[0]).max() > 0.02
    np.testing.assert_allclose(pooled.images[2], 1.0, atol=1e-6)


def beside_glass():
    """A tile of which a quarter is white, and one to be recoloured."""
    target = tile(OTHER, seed=1)
    target[: SIZE // 4] = 1
    return target, tile(ONE, seed=2)


def test_as_the_numpy_form():
    target, image = beside_glass()
    looks = measure(batch(target, image))
    for number, one in enumerate((target, image)):
        vectors, ceiling, _ = stain_numpy.vahadane_look(one)
        np.testing.assert_allclose(looks.vectors[number], vectors, atol=1e-4)
        np.testing.assert_allclose(looks.ceiling[number], ceiling, rtol=3e-4)
    wanted = stain_numpy.vahadane(image, stain_numpy.vahadane_look(target)[:2])
    got = transform(jax.tree.map(lambda x: x[0], looks), batch(target, image))
    np.testing.assert_allclose(got.images[1], wanted, atol=1e-3)


@pytest.mark.parity
def test_as_the_pytorch_form():
    torch = pytest.importorskip("torch")
    from twins import stain

    target, image = beside_glass()
    as_torch = [torch.from_numpy(255 * x).movedim(-1, 0) for x in (target, image)]
    wanted = stain.vahadane(as_torch[1], stain.vahadane_look(as_torch[0])[0])
    got = transform(jax.tree.map(lambda x: x[0], measure(batch(target))), batch(target, image))
    # Nearest ranks there, interpolated ones here.
    np.testing.assert_allclose(got.images[1], np.moveaxis(wanted.numpy(), 0, -1) / 255, atol=5e-3)


def test_what_shows_no_two_stains_comes_back_unchanged():
    good, broken = tile(ONE), tile(OTHER)
    broken[3, 4, 1] = np.nan
    few, black = np.ones((2, SIZE, SIZE, 3), np.float32)
    few[:2, :2] = tile(ONE)[:2, :2]
    black[:] = 0
    flat = np.full_like(good, 0.4) * np.float32([1.4, 0.8, 1.2])
    single = np.exp(-np.random.default_rng(0).uniform(0.3, 1.5, (SIZE, SIZE, 1)) * ONE[1])  # eosin alone
    target = jax.tree.map(lambda x: x[0], measure(batch(tile(OTHER))))
    alone = transform(target, batch(good))
    for images in (batch(good, broken, black, flat), batch(good, few, single, np.full_like(good, 0.5))):
        result = transform(target, images)
        assert result.ok.tolist() == [True, False, False, False]
        np.testing.assert_array_equal(result.images[1:], images[1:])
        np.testing.assert_allclose(result.images[0], alone.images[0], atol=1e-6)
    nearly_flat = flat + np.random.default_rng(0).normal(0, 0.005, flat.shape)
    assert not vahadane.pool(measure(batch(black, flat, nearly_flat))).ok
    nothing = transform(vahadane.pool(measure(batch(black))), batch(good))
    assert not nothing.ok.any()
    np.testing.assert_array_equal(nothing.images, batch(good))


def test_gradients_are_finite():
    flat = np.full((SIZE, SIZE, 3), 0.4) * np.array([1.4, 0.8, 1.2])
    images = batch(tile(ONE), flat, np.zeros_like(flat))
    target = jax.tree.map(lambda x: x[0], measure(batch(tile(OTHER))))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(vahadane.transform(target, x).images ** 2)))(images)
    assert np.isfinite(gradient).all() and np.abs(gradient[0]).max() > 0
    np.testing.assert_allclose(gradient[1], 2 * images[1], rtol=1e-5)  # of the identity


def test_unfit_arrays_are_refused():
    for images in (jnp.ones((8, 8, 3)), jnp.ones((1, 8, 8, 3), jnp.uint8)):
        with pytest.raises(UserError, match="images are"):
            jax.eval_shape(vahadane.measure, images)
    with pytest.raises(UserError, match=r"regions are \(1, 4, 8\)"):
        jax.eval_shape(lambda x, r: vahadane.measure(x, region=r), jnp.ones((1, 8, 8, 3)), jnp.ones((1, 4, 8)))
    images = jnp.asarray(batch(tile(ONE)))
    with pytest.raises(UserError, match="looks of 4 images for 2 images"):
        jax.eval_shape(vahadane.transform, measure(images), images[:2])


def test_real_tiles_come_closer_in_colour(shared):
    """Eight slides of eight laboratories, cut to a corner."""
    folder = shared / "data/histology/unpaired/monuseg"
    slides = sorted({path.name.split("_")[0] for path in folder.glob("*.jpg")})[::4]
    images = [np.asarray(Image.open(folder / f"{slide}_y0_x0.jpg"))[:96, :96] for slide in slides]
    images = np.stack(images).astype(np.float32) / 255
    before = measure(images)
    assert before.ok.all()
    result = transform(jax.tree.map(lambda x: x[0], before), images)
    after = measure(result.images)
    assert result.ok.all() and after.ok.all()
    wanted = np.asarray(before.vectors[0])
    assert angles(after.vectors, wanted).mean() < 0.4 * angles(before.vectors, wanted).mean()
    np.testing.assert_allclose(after.ceiling, np.broadcast_to(before.ceiling[0], after.ceiling.shape), rtol=0.15)
