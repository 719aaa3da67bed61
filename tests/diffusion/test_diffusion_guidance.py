"""Both guidances against their formulas, and on Gaussians whose conditional is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medgen_jax.diffusion import guidance
from medgen_jax.diffusion.process import Prediction, network_target, predict
from medgen_jax.diffusion.schedules import level, make_schedule

BARS = make_schedule("linear", 1000).alphas_cumprod
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((4, 2, 2, 1)), jnp.float32)
T = jnp.array([10, 200, 500, 999])
CONDITION = {"finding": jnp.array([0, 1, 1, 0]), "view": jnp.array([1, 0, 1, 0])}
NULL = {"finding": 2, "view": 2}


def denoise(x: jax.Array, t: jax.Array, condition: dict[str, jax.Array]) -> jax.Array:
    """Every input leaves its own trace, none mixes images."""
    value = 1.0 * condition["finding"] + 10.0 * condition["view"] + 1e-3 * t
    return x * 0.5 + value.reshape(-1, 1, 1, 1)


def test_scales_count_from_the_conditional_prediction() -> None:
    c, u = jnp.array([3.0, 3.0, 3.0]), jnp.array([1.0, 1.0, 1.0])
    np.testing.assert_array_equal(guidance.classifier_free(c, u, jnp.array([0.0, -1.0, 3.0])), [3, 1, 9])
    theirs = 4.0  # the other convention: unconditional + theirs * (conditional - unconditional)
    np.testing.assert_array_equal(guidance.classifier_free(c, u, theirs - 1), u + theirs * (c - u))


def test_one_call_of_twice_the_batch() -> None:
    shapes = []

    def counted(x, t, condition):
        shapes.append((x.shape, t.shape, condition["view"].shape))
        return denoise(x, t, condition)

    scale = jnp.array([0.0, -1.0, 2.0, 0.5])
    got = guidance.classifier_free_denoise(counted, NULL, scale)(X, T, CONDITION)
    assert shapes == [((8, 2, 2, 1), (8,), (8,))]
    c, u = denoise(X, T, CONDITION), denoise(X, T, jax.tree.map(lambda _: jnp.full(4, 2), CONDITION))
    np.testing.assert_allclose(got, c + scale.reshape(4, 1, 1, 1) * (c - u), rtol=1e-6)
    assert np.all(c[0] != u[0])


def test_null_may_be_a_vector_per_image() -> None:
    def plain(x, t, condition):
        return x + condition.sum(-1).reshape(-1, 1, 1, 1)

    text = jnp.arange(12.0).reshape(4, 3)
    got = guidance.classifier_free_denoise(plain, jnp.array([1.0, 2.0, 3.0]), 1.0)(X, T, text)
    sums = np.asarray(text.sum(-1)).reshape(4, 1, 1, 1)
    np.testing.assert_allclose(got, X + sums + (sums - 6), atol=1e-5)


def test_learned_variance_stays_conditional() -> None:
    def double(x, t, condition):
        mean = denoise(x, t, condition)
        return jnp.concatenate([mean, -mean], -1).astype(jnp.bfloat16)

    got = guidance.classifier_free_denoise(double, NULL, 2.0)(X, T, CONDITION)
    c = double(X, T, CONDITION).astype(jnp.float32)
    assert got.shape == (4, 2, 2, 2) and got.dtype == jnp.float32
    np.testing.assert_array_equal(got[..., 1:], c[..., 1:])
    assert np.all(got[..., :1] != c[..., :1])


def test_guidance_is_the_same_for_every_prediction() -> None:
    x, eps_c, eps_u = (RNG.standard_normal((2, 2, 2, 1)) for _ in range(3))
    at = level(BARS[400])
    wanted = guidance.classifier_free(eps_c, eps_u, 1.5)
    for kind in ("x0", "v"):
        told = [network_target((x - at.noise * e) / at.signal, e, at, kind) for e in (eps_c, eps_u)]
        output = guidance.classifier_free(*told, 1.5)
        found = predict(jnp.asarray(x, jnp.float32), jnp.asarray(output), at, kind)
        np.testing.assert_allclose(found.epsilon, wanted, atol=1e-5)


def test_interval_closes_below_and_opens_above() -> None:
    got = guidance.within(3.0, jnp.array([99, 100, 799, 800]), 100, 800)
    np.testing.assert_array_equal(got, [0, 3, 3, 0])
    got = guidance.within(jnp.array([1.0, 2.0]), jnp.array([5, 6]), 6, 7)
    np.testing.assert_array_equal(got, [0, 2])
    limited = guidance.classifier_free_denoise(denoise, NULL, lambda t: guidance.within(2.0, t, 200, 501))
    always = guidance.classifier_free_denoise(denoise, NULL, 2.0)(X, T, CONDITION)
    got, plain = limited(X, T, CONDITION), denoise(X, T, CONDITION)
    np.testing.assert_allclose(got[1:3], always[1:3], rtol=1e-6)
    np.testing.assert_allclose(got[::3], plain[::3], rtol=1e-6)
    assert np.all(always[::3] != plain[::3])


def test_another_scale_label_or_interval_does_not_recompile() -> None:
    traced = []

    @jax.jit
    def run(x, t, condition, scale, start, stop):
        traced.append(1)
        gate = lambda t: guidance.within(scale, t, start, stop)  # noqa: E731
        return guidance.classifier_free_denoise(denoise, NULL, gate)(x, t, condition)

    run(X, T, CONDITION, 1.0, 0, 1000)
    run(X + 1, T, jax.tree.map(lambda c: 1 - c, CONDITION), 7.5, 100, 200)
    assert len(traced) == 1


def test_a_split_batch_is_guided_where_it_lies() -> None:
    mesh = jax.make_mesh((4,), ("batch",))
    rows = NamedSharding(mesh, PartitionSpec("batch"))
    guided = jax.jit(guidance.classifier_free_denoise(denoise, NULL, 1.0), in_shardings=rows, out_shardings=rows)
    text = guided.lower(X, T, CONDITION).compile().as_text()
    assert "fusion" in text
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute", "all-reduce"))


def linear_classifier(x: jax.Array, t: jax.Array) -> jax.Array:
    """Logits (0, w x + t / 1000): the gradient of log p(1 | x) is w (1 - p)."""
    score = 2.0 * x.sum((1, 2, 3)) + t / 1000
    return jnp.stack([jnp.zeros_like(score), score], -1)


def test_class_gradient_is_each_image_s_own() -> None:
    labels = jnp.array([1, 0, 1, 0])
    got = guidance.class_gradient(linear_classifier, X, T, labels)
    p = 1 / (1 + np.exp(-(2.0 * np.asarray(X, np.float64).sum((1, 2, 3)) + np.asarray(T) / 1000)))
    wanted = 2.0 * (np.asarray(labels) - p)
    np.testing.assert_allclose(got, np.broadcast_to(wanted.reshape(4, 1, 1, 1), X.shape), atol=1e-5)
    assert got.dtype == jnp.float32


def test_classifier_guidance_is_the_ddim_form() -> None:
    eps, gradient = (RNG.standard_normal((4, 2, 2, 1)) for _ in range(2))
    bar, scale = BARS[400], np.array([0.0, 1.0, 10.0, 100.0])
    at = level(bar)
    before = predict(X, jnp.asarray(eps, jnp.float32), at)
    after = guidance.classifier_guided(before, X, jnp.asarray(gradient, jnp.float32), at, jnp.asarray(scale))
    moved = eps - scale.reshape(4, 1, 1, 1) * np.sqrt(1 - bar) * gradient
    np.testing.assert_allclose(after.epsilon, moved, rtol=1e-5, atol=1e-5)
    wanted = (np.asarray(X, np.float64) - np.sqrt(1 - bar) * moved) / np.sqrt(bar)
    np.testing.assert_allclose(after.x0, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("t", [50, 400, 900])
def test_the_true_classifier_turns_the_unconditional_into_the_conditional(t: int) -> None:
    """Two Gaussians: their mixture's epsilon plus Bayes' classifier at scale 1 is one Gaussian's epsilon."""
    at, means, variance = level(BARS[t]), np.array([[-0.6, 0.5]]), 0.04
    spread = at.signal**2 * variance + at.noise**2

    def logits(x: jax.Array, t: jax.Array) -> jax.Array:
        return -0.5 * (x.reshape(-1, 1) - at.signal * means) ** 2 / spread

    x = jnp.linspace(-1.5, 1.5, 9).reshape(9, 1, 1, 1)
    steps, healthy = jnp.full(9, t), jnp.zeros(9, int)
    each = at.noise * (x.reshape(-1, 1) - at.signal * means) / spread
    mixture = jnp.sum(jax.nn.softmax(logits(x, steps)) * each, -1).reshape(x.shape)
    gradient = guidance.class_gradient(logits, x, steps, healthy)
    got = guidance.classifier_guided(predict(x, mixture, at), x, gradient, at, 1.0)
    np.testing.assert_allclose(got.epsilon.ravel(), each[:, 0], atol=1e-5)
    np.testing.assert_allclose(at.signal * got.x0 + at.noise * got.epsilon, x, atol=1e-5)
    assert isinstance(got, Prediction) and np.abs(mixture.ravel() - each[:, 0]).max() > 5e-3
