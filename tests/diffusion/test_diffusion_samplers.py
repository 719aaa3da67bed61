"""Samplers against loops in float64 NumPy and against Gaussian data, whose every marginal is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.diffusion.guidance import classifier_free_denoise, classifier_guided
from medgen_jax.diffusion.process import KINDS
from medgen_jax.diffusion.samplers import Model, Walk, ddim_sample, ddpm_sample, dpm_solver_sample
from medgen_jax.diffusion.schedules import make_schedule, respace, uniform_timesteps

FULL = make_schedule("linear", 1000)
MEAN, STD = 0.3, 0.2
SMALL = respace(FULL, (9, 99, 299, 599))


def gaussian(kind: str = "epsilon", values: float | None = None, xp: Any = jnp) -> Callable[..., Any]:
    """The exact denoiser of pixels drawn from N(MEAN, STD**2); a condition, if any, is added to the mean."""

    def denoise(x: Any, t: Any, condition: Any) -> Any:
        bar = xp.asarray(FULL.alphas_cumprod)[t].reshape(-1, 1, 1, 1)
        signal, noise = xp.sqrt(bar), xp.sqrt(xp.asarray(1 - FULL.alphas_cumprod)[t]).reshape(-1, 1, 1, 1)
        mean = MEAN if condition is None else MEAN + condition.reshape(-1, 1, 1, 1)
        variance = bar * STD**2 + noise**2
        x0 = mean + signal * STD**2 / variance * (x - signal * mean)
        epsilon = noise * (x - signal * mean) / variance
        out = {"epsilon": epsilon, "x0": x0, "v": signal * epsilon - noise * x0}[kind]
        return out if values is None else xp.concatenate([out, xp.full_like(out, values)], axis=-1)

    return denoise


def noise(shape: tuple[int, ...] = (2, 2, 3, 1), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def step_noise(key: jax.Array, node: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(jax.random.normal(jax.random.fold_in(key, node), shape), np.float64)


def walk_numpy(x: np.ndarray, advance: Callable[..., np.ndarray], start: int = 4) -> list[np.ndarray]:
    """States of an explicit float64 loop; ``advance(x, eps, x0, bar, before, node)`` with published alpha_bars."""
    denoise, bars, states = gaussian(xp=np), np.append(1.0, SMALL.alphas_cumprod), []
    x = x.astype(np.float64)
    for node in range(start, 0, -1):
        eps = denoise(x, np.full(len(x), SMALL.timesteps[node - 1]), None)
        x0 = (x - np.sqrt(1 - bars[node]) * eps) / np.sqrt(bars[node])
        x = advance(x, eps, x0, bars[node], bars[node - 1], node)
        states.append(x)
    return states


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("start", [None, 3])
def test_ddim_is_the_float64_loop(eta: float, start: int | None) -> None:
    x, key = noise(), jax.random.key(3)

    def advance(x: Any, eps: Any, x0: Any, bar: float, before: float, node: int) -> Any:
        sigma = eta * np.sqrt((1 - before) / (1 - bar) * (1 - bar / before))
        z = step_noise(key, node, x.shape)
        return np.sqrt(before) * x0 + np.sqrt(1 - before - sigma**2) * eps + sigma * z

    want = walk_numpy(x, advance, start or 4)
    got = ddim_sample(Model(gaussian(), SMALL), x, eta=eta, key=key if eta else None, start=start, trajectory=True)
    np.testing.assert_allclose(got.trajectory, want, atol=2e-6)
    np.testing.assert_array_equal(got.x, got.trajectory[-1])
    assert got.x.dtype == jnp.float32


@pytest.mark.parametrize("choice", ["small", "large", "learned"])
def test_ddpm_is_the_float64_loop(choice: str) -> None:
    x, key = noise(), jax.random.key(5)

    def advance(x: Any, eps: Any, x0: Any, bar: float, before: float, node: int) -> Any:
        beta = 1 - bar / before
        mean = (np.sqrt(before) * beta * x0 + np.sqrt(bar / before) * (1 - before) * x) / (1 - bar)
        small = beta * (1 - before) / (1 - bar)
        if node == 1:
            return mean
        # Values of 0.5 stand three quarters of the way from the smaller log variance to the larger.
        variance = {"small": small, "large": beta, "learned": small**0.25 * beta**0.75}[choice]
        return mean + np.sqrt(variance) * step_noise(key, node, x.shape)

    model = Model(gaussian(values=0.5 if choice == "learned" else None), SMALL)
    options = {} if choice == "learned" else {"variance": choice}
    got = ddpm_sample(model, x, key=key, trajectory=True, **options)
    np.testing.assert_allclose(got.trajectory, walk_numpy(x, advance), atol=2e-6)


def test_dpm_solver_is_the_float64_loop() -> None:
    x, lambdas, before_x0 = noise(), {}, {}
    for node, bar in enumerate(SMALL.alphas_cumprod, start=1):
        lambdas[node] = 0.5 * np.log(bar / (1 - bar))

    def advance(x: Any, eps: Any, x0: Any, bar: float, before: float, node: int) -> Any:
        before_x0[node] = x0
        if node == 1:
            return x0
        h = lambdas[node - 1] - lambdas[node]
        d = x0
        if node < 4:
            r = (lambdas[node] - lambdas[node + 1]) / h
            d = (1 + 1 / (2 * r)) * x0 - before_x0[node + 1] / (2 * r)
        return np.sqrt((1 - before) / (1 - bar)) * x - np.sqrt(before) * np.expm1(-h) * d

    got = dpm_solver_sample(Model(gaussian(), SMALL), x, trajectory=True)
    np.testing.assert_allclose(got.trajectory, walk_numpy(x, advance), atol=2e-6)


@pytest.mark.parametrize("start", [1, 2])
def test_dpm_solver_of_one_and_two_steps(start: int) -> None:
    got = dpm_solver_sample(Model(gaussian(), SMALL), noise(), start=start)
    assert got.x.shape == (2, 2, 3, 1) and np.all(np.isfinite(got.x)) and got.trajectory is None


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_kinds_walk_alike(kind: str) -> None:
    want = ddim_sample(Model(gaussian(), SMALL), noise()).x
    np.testing.assert_allclose(ddim_sample(Model(gaussian(kind), SMALL, kind), noise()).x, want, atol=2e-5)


def test_clip_bounds_the_result_and_the_way() -> None:
    wide = Model(gaussian(), SMALL, clip=True)
    far = ddim_sample(wide, 30 * noise())
    assert float(jnp.max(jnp.abs(far.x))) == 1
    assert float(jnp.max(jnp.abs(ddim_sample(Model(gaussian(), SMALL), 30 * noise()).x))) > 1


def test_ddim_recovers_mean_and_deviation_of_gaussian_data() -> None:
    """Up to the sampling error of 4,096 pixels and the discretisation of 200 steps."""
    model = Model(gaussian(), respace(FULL, uniform_timesteps(1000, 200)))
    got = jax.jit(lambda x: ddim_sample(model, x).x)(noise((64, 8, 8, 1)))
    assert abs(float(jnp.mean(got)) - MEAN) < 0.01 and abs(float(jnp.std(got)) - STD) < 0.01
    again = jax.jit(lambda x: ddim_sample(model, x).x)(noise((64, 8, 8, 1)))
    np.testing.assert_array_equal(got, again)


def moments(eta: float) -> tuple[float, float]:
    """Mean and variance that a walk over ``SMALL`` gives N(0, 1), each step being affine: alpha_bars, float64."""
    mean, variance, bars = 0.0, 1.0, np.append(1.0, SMALL.alphas_cumprod)
    for node in range(4, 0, -1):
        bar, before = bars[node], bars[node - 1]
        total = bar * STD**2 + 1 - bar
        sigma2 = eta**2 * (1 - before) / (1 - bar) * (1 - bar / before)
        direction = np.sqrt(1 - before - sigma2)
        slope = np.sqrt(before) * np.sqrt(bar) * STD**2 / total + direction * np.sqrt(1 - bar) / total
        # At x = sqrt(bar) * MEAN the prediction is x0 = MEAN, epsilon = 0.
        mean = np.sqrt(before) * MEAN + slope * (mean - np.sqrt(bar) * MEAN)
        variance = slope**2 * variance + sigma2
    return mean, variance


def test_ddpm_and_ddim_of_eta_one_share_their_closed_form() -> None:
    x = noise((512, 8, 8, 1), seed=1)
    model = Model(gaussian(), SMALL)
    run = jax.jit(lambda eta, key: ddim_sample(model, x, eta=eta, key=key).x)
    samples = {
        "ddpm": jax.jit(lambda key: ddpm_sample(model, x, key=key).x)(jax.random.key(0)),
        "eta 1": run(1.0, jax.random.key(1)),
    }
    mean, variance = moments(1.0)
    for name, got in samples.items():
        # 32,768 independent pixels: the standard errors are below 0.6 % of the deviation and 0.8 % of the variance.
        assert abs(float(jnp.mean(got)) - mean) < 0.004, name
        assert abs(float(jnp.var(got)) / variance - 1) < 0.035, name
    deterministic = run(0.0, jax.random.key(1))
    assert abs(float(jnp.var(deterministic)) / moments(0.0)[1] - 1) < 0.035
    assert abs(moments(0.0)[1] / variance - 1) > 0.2
    np.testing.assert_array_equal(deterministic, run(0.0, jax.random.key(2)))
    # The same noise in both: one formula, not only one distribution.
    same = jax.jit(lambda key: ddpm_sample(model, x, key=key).x)(jax.random.key(1))
    np.testing.assert_allclose(same, samples["eta 1"], atol=1e-5)


def test_dpm_solver_is_of_higher_order_than_ddim() -> None:
    """Against the probability flow of Gaussian data, whose solution is known, on nodes even in half-log-SNR."""
    x = noise((4, 4, 4, 1))
    signal, spread = np.sqrt(FULL.alphas_cumprod[599]), np.sqrt(1 - FULL.alphas_cumprod[599] * (1 - STD**2))
    exact = MEAN + STD * (x - signal * MEAN) / spread
    half_log_snr = 0.5 * np.log(FULL.snr)

    def error(sampler: Callable[..., Walk], steps: int) -> float:
        wanted = np.linspace(half_log_snr[0], half_log_snr[599], steps)
        grid = respace(FULL, np.unique([np.argmin(np.abs(half_log_snr - value)) for value in wanted]))
        return float(jnp.sqrt(jnp.mean((sampler(Model(gaussian(), grid), x).x - exact) ** 2)))

    coarse, fine = error(dpm_solver_sample, 10), error(dpm_solver_sample, 20)
    assert coarse < error(ddim_sample, 10) / 3
    assert fine < coarse / 2.5
    # Twice the steps halve the error of a first-order walk.
    assert error(ddim_sample, 20) > error(ddim_sample, 10) / 2.5


def test_classifier_free_guidance_enters_as_a_denoiser_and_never_recompiles() -> None:
    x, traces = noise(), []

    @jax.jit
    def run(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
        traces.append(1)
        model = Model(classifier_free_denoise(gaussian(), jnp.zeros(()), scale), SMALL)
        return ddim_sample(model, x, shift).x

    shift = jnp.array([0.1, 0.2])
    plain = ddim_sample(Model(gaussian(), SMALL), x, shift).x
    np.testing.assert_allclose(run(x, shift, jnp.float32(0.0)), plain, atol=1e-6)
    null = ddim_sample(Model(gaussian(), SMALL), x, jnp.zeros(2)).x
    np.testing.assert_allclose(run(x, 2 * shift, jnp.float32(-1.0)), null, atol=1e-6)
    # This denoiser is affine in the shift, so a scale of 2 is a shift of 3.
    threefold = ddim_sample(Model(gaussian(), SMALL), x, 3 * shift).x
    np.testing.assert_allclose(run(x, shift, jnp.float32(2.0)), threefold, atol=2e-6)
    assert len(traces) == 1


def test_guide_moves_the_prediction_with_the_level_of_the_node() -> None:
    """The gradient of a known log p turns the denoiser of one Gaussian into that of another."""
    x, shift = noise(), 0.25

    def guide(prediction: Any, x: jax.Array, t: jax.Array, level: Any) -> Any:
        variance = level.signal**2 * STD**2 + level.noise**2
        return classifier_guided(prediction, x, jnp.full_like(x, level.signal * shift / variance), level, 1.0)

    want = ddim_sample(Model(gaussian(), SMALL), x, jnp.full(2, shift)).x
    np.testing.assert_allclose(ddim_sample(Model(gaussian(), SMALL, guide=guide), x).x, want, atol=2e-6)


def test_programming_errors_say_what_was_expected() -> None:
    model, x = Model(gaussian(), SMALL), noise()
    with pytest.raises(ValueError, match="node 5: expected 1 to 4"):
        ddim_sample(model, x, start=5)
    with pytest.raises(ValueError, match="node 0: expected 1 to 4"):
        dpm_solver_sample(model, x, start=0)
    with pytest.raises(ValueError, match="expected noise"):
        ddim_sample(model, x, eta=0.5)
    with pytest.raises(ValueError, match="'small' or 'large'"):
        ddpm_sample(model, x, key=jax.random.key(0), variance="medium")
