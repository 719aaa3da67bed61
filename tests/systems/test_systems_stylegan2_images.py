"""StyleGAN2's generator at work: how often styles are mixed, truncation, images by number and class."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_systems

from medgen_jax.nn.stylegan2 import spread

NAME = "stylegan2"


@pytest.fixture(scope="module")
def maker():
    return small_systems.build(NAME).maker


@pytest.fixture(scope="module")
def variables():
    """Of a network whose average of w is not 0 and whose noise counts."""
    made = small_systems.build(NAME).inference_variables(small_systems.initial_state(NAME))
    w = jnp.linspace(-1, 1, 6)
    params = jax.tree.map(lambda x: x + 0.3 if x.ndim == 0 else x, made["params"])
    return {**made, "params": params, "averages": {"mapping": {"w": w}}}


@pytest.fixture(scope="module")
def sample():
    return jax.jit(small_systems.build(NAME).samplers["sample"])


def inputs(numbers, labels, truncation):
    return {
        "number": jnp.array(numbers), "label": jnp.array(labels), "truncation": jnp.full((len(numbers),), truncation)
    }  # fmt: skip


def test_styles_are_mixed_as_often_as_asked(maker):
    assert maker.mixing == 0.9 and maker.generator.styles == 4
    half, never = (dataclasses.replace(maker, mixing=mixing) for mixing in (0.5, 0.0))
    drawn = np.asarray(jax.vmap(half.crossover)(jax.random.split(jax.random.key(0), 2000)))
    assert np.bincount(drawn, minlength=5)[1:] / 2000 == pytest.approx([1 / 6] * 3 + [1 / 2], abs=0.03)
    assert np.all(np.asarray(jax.vmap(never.crossover)(jax.random.split(jax.random.key(0), 50))) == 4)


def test_truncated_to_nothing_all_are_the_mean_image(maker, variables, sample):
    images = sample(variables, inputs([0, 5, 9], [0, 1, 1], 0.0), jax.random.key(0))
    ws = spread(variables["averages"]["mapping"]["w"][None], maker.generator.styles)
    mean = maker.generator.apply(variables, ws, "const", method="synthesise")
    for image in images:
        np.testing.assert_allclose(image, jnp.clip(mean[0], -1, 1), atol=1e-5)


def test_an_image_is_known_by_its_number_class_and_truncation(variables, sample):
    key = jax.random.key(5)
    images = sample(variables, inputs([3, 8, 3, 3], [0, 0, 0, 1], 1.0), key)
    assert images.shape == (4, 8, 8, 1) and images.dtype == jnp.float32
    np.testing.assert_allclose(images[0], images[2], atol=1e-6)
    for other in (1, 3):
        assert float(jnp.abs(images[0] - images[other]).max()) > 1e-3
    half = sample(variables, inputs([3, 8, 3, 3], [0, 0, 0, 1], 0.5), key)
    assert float(jnp.abs(images - half).max()) > 1e-3
    z = jax.random.normal(jax.random.fold_in(key, 8), (1, 5))
    one = {"z": z, "label": jnp.array([0]), "truncation": jnp.ones(1)}
    latent = small_systems.build(NAME).samplers["latent"]
    np.testing.assert_allclose(latent(variables, one, jax.random.key(9))[0], images[1], atol=1e-5)
