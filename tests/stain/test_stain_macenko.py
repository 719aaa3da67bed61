"""Macenko: mixtures in closed form, NumPy and PyTorch twins, what two packages return, several targets."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stain_material import OTHERS, STAINS, amounts, assert_as_package, mixture, real, without_look

from medgen_jax.core.errors import UserError
from medgen_jax.stain import macenko
from medgen_jax.stain.concentrations import luminous_region
from twins import stain_numpy

TORCHSTAIN, TIATOOLBOX = macenko.TORCHSTAIN, macenko.TIATOOLBOX
measure = jax.jit(macenko.measure, static_argnames="options")
fit = jax.jit(macenko.fit, static_argnames=("mode", "options"))
transform = jax.jit(macenko.transform, static_argnames="options")


def test_look_of_a_mixture_is_its_stains() -> None:
    look = measure(mixture())
    np.testing.assert_allclose(look.vectors[0], STAINS, atol=2e-4)
    np.testing.assert_allclose(look.ceiling[0], np.percentile(amounts().reshape(-1, 2), 99, axis=0), rtol=1e-3)
    np.testing.assert_array_equal(look.ok, [True])


def test_a_mixture_gets_the_stains_of_another() -> None:
    """The same amounts of other stains, haematoxylin 1.3 times and eosin 0.8 times as strong."""
    target = mixture(stains=OTHERS, gain=(1.3, 0.8))
    got = transform(fit(target), mixture())
    np.testing.assert_array_equal(got.ok, [True])
    np.testing.assert_allclose(got.images, target, atol=1e-3)


def test_glass_does_not_count_unless_it_is_asked_to() -> None:
    beside = np.concatenate([mixture(), np.ones((1, 24, 48, 3), np.float32)], axis=2)
    np.testing.assert_allclose(measure(beside).ceiling, measure(mixture()).ceiling, rtol=1e-5)
    assert (measure(beside, options=macenko.Options(pixels="all")).ceiling < 0.995 * measure(beside).ceiling).all()
    region = np.zeros(beside.shape[:3], bool)
    region[:, :, :12] = True
    inside = np.where(region[..., None], beside, np.float32(1))
    np.testing.assert_allclose(measure(beside, region=region).ceiling, measure(inside).ceiling, rtol=1e-5)


def test_as_the_numpy_form(shared) -> None:
    target, image = real(shared, "a"), real(shared, "cmu1")
    vectors, ceiling, _ = stain_numpy.unmixed(target[0])
    look = fit(target, options=TORCHSTAIN)
    np.testing.assert_allclose(look.vectors.T, vectors, atol=1e-4)
    np.testing.assert_allclose(look.ceiling, ceiling, rtol=3e-4)
    wanted = stain_numpy.macenko(image[0], (vectors, ceiling))
    np.testing.assert_allclose(transform(look, image, options=TORCHSTAIN).images[0], wanted, atol=1e-3)


@pytest.mark.parametrize("tile", ["lung", "kidney", "cmu1"])
def test_as_torchstain(shared, tile: str) -> None:
    got = transform(fit(real(shared, "a"), options=TORCHSTAIN), real(shared, tile), options=TORCHSTAIN)
    assert_as_package(got.images, tile, "torchstain_macenko", most=0.1)
    assert_as_package(got.images, tile, "torchstain_macenko_torch", most=0.2)


@pytest.mark.parametrize("tile", ["lung", "kidney", "cmu1"])
def test_as_tiatoolbox(shared, tile: str) -> None:
    target, image = real(shared, "a"), real(shared, tile)
    look = fit(target, region=luminous_region(target), options=TIATOOLBOX)
    got = transform(look, image, region=luminous_region(image), options=TIATOOLBOX)
    assert_as_package(got.images, tile, "tiatoolbox_macenko", most=0.3)


@pytest.mark.parametrize("mode", macenko.MODES)
def test_several_targets_as_torchstain(shared, mode: str) -> None:
    look = fit(np.concatenate([real(shared, "a"), real(shared, "b")]), mode=mode, options=TORCHSTAIN)
    got = transform(look, real(shared, "cmu1"), options=TORCHSTAIN)
    assert_as_package(got.images, "cmu1", f"torchstain_{mode}", most=0.2)


def test_several_targets_one_of_them_blank() -> None:
    sound = np.concatenate([mixture(), mixture(1, gain=(1.5, 1.5))])
    targets = np.concatenate([sound, without_look()["white"]])
    looks = measure(targets)
    np.testing.assert_allclose(fit(targets).ceiling, looks.ceiling[:2].mean(0), rtol=1e-5)
    both = np.concatenate([mixture(), mixture(1, gain=(1.5, 1.5))], axis=1)
    together = fit(targets, mode="concat")
    np.testing.assert_allclose(together.ceiling, measure(both).ceiling[0], rtol=1e-5)
    assert not bool(fit(np.ones_like(targets), mode="concat").ok)


@pytest.mark.parity
def test_as_the_pytorch_form() -> None:
    torch = pytest.importorskip("torch")
    from twins import stain

    target, image = mixture(3, OTHERS), mixture(4)
    as_torch = [torch.from_numpy(255 * x[0]).movedim(-1, 0) for x in (target, image)]
    wanted = stain.macenko(as_torch[1], stain.unmixed(as_torch[0], white=240, alpha=0.01, beta=0.15)[0])
    got = transform(fit(target, options=TORCHSTAIN), image, options=TORCHSTAIN)
    # Nearest ranks there, interpolated ones here.
    np.testing.assert_allclose(got.images[0], np.moveaxis(wanted.numpy(), 0, -1) / 255, atol=5e-3)


def test_gradient_is_the_quotient_of_differences() -> None:
    rng = np.random.default_rng(4)
    image = (mixture() * (1 + 0.02 * rng.normal(size=(1, 24, 24, 3)))).astype(np.float32)
    target = fit(mixture(2, OTHERS))
    probe = rng.normal(size=image.shape).astype(np.float32)
    value = jax.jit(jax.value_and_grad(lambda x: jnp.sum(macenko.transform(target, x).images * probe)))
    direction = image * np.float32([0.3, -0.2, 0.1])
    slope, step = float((value(image)[1] * direction).sum()), 3e-3
    ahead, behind = (float(value(image + sign * step * direction)[0]) for sign in (1, -1))
    assert slope == pytest.approx((ahead - behind) / (2 * step), rel=2e-2)


def test_bad_words_and_regions_are_named() -> None:
    with pytest.raises(UserError, match="mode='mean' is unknown; known are: avg-post, concat"):
        fit(mixture(), mode="mean")
    with pytest.raises(UserError, match=r"regions are \(1, 24, 23\), the images \(1, 24, 24, 3\)"):
        macenko.measure(mixture(), region=jnp.ones((1, 24, 23), bool))
