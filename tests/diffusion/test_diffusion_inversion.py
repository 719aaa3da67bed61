"""Inversions on a mixture whose score is known, and against loops in float64 NumPy.

Pixels are independent draws of 0.3 N(-0.7, 0.08^2) + 0.5 N(0.1, 0.15^2) + 0.2 N(0.7, 0.1^2). Noised to a level, each
part is N(signal * mean, signal^2 * std^2 + noise^2), so the denoiser's epsilon is closed: ``-noise`` times the score.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.diffusion.guidance import classifier_free_denoise
from medgen_jax.diffusion.inversion import (
    INVERSIONS,
    RoundTrip,
    bdia_decode,
    bdia_encode,
    bdia_start,
    ddim_encode,
    edict_decode,
    edict_encode,
    fixed_point_encode,
    round_trip,
)
from medgen_jax.diffusion.samplers import Model, ddim_sample
from medgen_jax.diffusion.schedules import make_schedule, respace, uniform_timesteps

FULL = make_schedule("linear", 1000)
WEIGHTS, MEANS, STDS = (0.3, 0.5, 0.2), (-0.7, 0.1, 0.7), (0.08, 0.15, 0.1)
SMALL = respace(FULL, (9, 99, 299, 599))
GRIDS = [(250, 50), (500, 50), (500, 100), (500, 500), (1000, 50)]


def mixture(kind: str = "epsilon", xp: Any = jnp) -> Callable[..., Any]:
    """The exact denoiser; a condition, if any, is added to all means."""

    def denoise(x: Any, t: Any, condition: Any) -> Any:
        bar = xp.asarray(FULL.alphas_cumprod)[t].reshape(-1, 1, 1, 1)
        signal, noise = xp.sqrt(bar), xp.sqrt(xp.asarray(1 - FULL.alphas_cumprod)[t]).reshape(-1, 1, 1, 1)
        shift = 0.0 if condition is None else condition.reshape(-1, 1, 1, 1)
        variances = [bar * std**2 + noise**2 for std in STDS]
        gaps = [x - signal * (mean + shift) for mean in MEANS]
        logs = [
            np.log(weight) - 0.5 * xp.log(variance) - 0.5 * gap**2 / variance
            for weight, variance, gap in zip(WEIGHTS, variances, gaps, strict=True)
        ]
        top = functools.reduce(xp.maximum, logs)
        shares = [xp.exp(log - top) for log in logs]
        pull = sum(share * gap / variance for share, gap, variance in zip(shares, gaps, variances, strict=True))
        epsilon = noise * pull / sum(shares)
        return epsilon if kind == "epsilon" else (x - noise * epsilon) / signal

    return denoise


def images(count: int = 8, size: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    part = rng.choice(3, (count, size, size, 1), p=WEIGHTS)
    return (np.take(MEANS, part) + np.take(STDS, part) * rng.standard_normal(part.shape)).astype(np.float32)


def on(depth: int, steps: int) -> Model:
    return Model(mixture(), respace(FULL, uniform_timesteps(depth, steps)))


def trip(model: Model, name: str, x: np.ndarray, **options: Any) -> RoundTrip:
    encode, decode = INVERSIONS[name]
    shared = {key: value for key, value in options.items() if key in ("p", "gamma")}
    run = functools.partial(
        round_trip, functools.partial(encode, **options), functools.partial(decode, **shared), model
    )
    return jax.jit(run)(x)


def overall(result: RoundTrip) -> float:
    return float(np.sqrt(np.mean(np.square(result.rms))))


@pytest.mark.parametrize(("depth", "steps"), GRIDS)
def test_destination_beats_source_and_the_exact_pairs_are_exact(depth: int, steps: int) -> None:
    x, model = images(), on(depth, steps)
    source, destination = overall(trip(model, "source", x)), overall(trip(model, "destination", x))
    assert 1.4 * destination < source < 0.07
    assert overall(trip(model, "bdia", x)) < 1e-5
    # The signal of 0.006 at the end of 1,000 steps magnifies EDICT's rounding to 3e-3.
    if depth <= 500:
        assert overall(trip(model, "edict", x)) < 1e-5


def test_fixed_point_converges_on_a_fine_grid() -> None:
    result = trip(on(500, 100), "fixed_point", images())
    assert overall(result) < 1e-4
    assert result.encoded.residuals.shape == (100, 8)
    assert not np.any(result.encoded.stalled) and np.max(result.encoded.residuals) < 2e-6
    # Stops as soon as it may: three to four calls of the ten allowed, on average.
    assert np.mean(result.encoded.iterations) < 5


def test_fixed_point_is_stopped_by_its_monitor_on_a_coarse_grid_and_damping_mends_it() -> None:
    x, model = images(4, 64), on(500, 50)
    result = trip(model, "fixed_point", x)
    stalled = np.asarray(result.encoded.stalled)
    assert np.all(stalled.any(0)) and np.all(np.asarray(result.encoded.iterations)[stalled] < 10)
    assert np.all(np.asarray(result.encoded.residuals)[stalled] > 1e-6)
    # What it keeps is the best it saw: better than the explicit step, and than three iterations.
    assert (
        overall(result) < overall(trip(model, "fixed_point", x, iterations=3)) < overall(trip(model, "destination", x))
    )
    damped = trip(model, "fixed_point", x, damping=0.5, iterations=30)
    assert not np.any(damped.encoded.stalled) and overall(damped) < 1e-4


def test_fixed_point_does_not_depend_on_the_rest_of_the_batch() -> None:
    x, model = images(), on(500, 50)
    encode = jax.jit(functools.partial(fixed_point_encode, model))
    together, alone = encode(x), encode(x[:1])
    np.testing.assert_array_equal(together.iterations[:, :1], alone.iterations)
    np.testing.assert_allclose(together.x[:1], alone.x, atol=1e-6)


def test_round_trip_reports_its_error() -> None:
    x, model = images(2, 4), on(500, 50)
    result = trip(model, "source", x)
    gap = np.asarray(result.image) - x
    np.testing.assert_allclose(result.rms, np.sqrt((gap**2).mean((1, 2, 3))), rtol=1e-5)
    np.testing.assert_allclose(result.maximum, np.abs(gap).max((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(result.image, ddim_sample(model, result.encoded.x).x, atol=1e-5)


def bars_and_eps() -> tuple[np.ndarray, Callable[[np.ndarray, int], np.ndarray]]:
    """alpha_bar of the nodes of ``SMALL``, and epsilon as asked at a node, in float64."""
    denoise, labels = mixture(xp=np), np.append(0, SMALL.timesteps)
    return np.append(1.0, SMALL.alphas_cumprod), lambda x, node: denoise(x, np.full(len(x), labels[node]), None)


def ddim_numpy(x: np.ndarray, eps: np.ndarray, bar: float, to: float) -> np.ndarray:
    return np.sqrt(to) * (x - np.sqrt(1 - bar) * eps) / np.sqrt(bar) + np.sqrt(1 - to) * eps


@pytest.mark.parametrize("ask", ["source", "destination"])
@pytest.mark.parametrize("stop", [None, 3])
def test_explicit_encoders_are_the_float64_loop(ask: str, stop: int | None) -> None:
    x, (bars, eps), want = images(2, 3), bars_and_eps(), []
    state = x.astype(np.float64)
    for node in range(stop or 4):
        answer = eps(state, node + (ask == "destination"))
        # x + sqrt(to) [(1/sqrt(bar) - ...) ...] of the facts, with all its terms.
        bar, to = bars[node], bars[node + 1]
        state = state + np.sqrt(to) * (
            (np.sqrt(1 / bar) - np.sqrt(1 / to)) * state + (np.sqrt(1 / to - 1) - np.sqrt(1 / bar - 1)) * answer
        )
        want.append(state)
    got = ddim_encode(Model(mixture(), SMALL), x, ask=ask, stop=stop, trajectory=True)
    np.testing.assert_allclose(got.trajectory, want, atol=3e-6)
    np.testing.assert_array_equal(got.x, got.trajectory[-1])


def test_fixed_point_is_the_float64_loop() -> None:
    x, (bars, eps) = images(2, 3), bars_and_eps()
    state, want = x.astype(np.float64), []
    for node in range(2):
        bar, to = bars[node], bars[node + 1]
        guess = ddim_numpy(state, eps(state, node + 1), bar, to)
        for _ in range(2):
            guess = 0.5 * guess + 0.5 * ddim_numpy(state, eps(guess, node + 1), bar, to)
        miss = state - ddim_numpy(guess, eps(guess, node + 1), to, bar)
        want.append(np.sqrt((miss**2).mean((1, 2, 3))))
        state = guess
    got = fixed_point_encode(Model(mixture(), SMALL), x, iterations=3, damping=0.5, stop=2, trajectory=True)
    assert not np.any(got.stalled) and np.all(np.asarray(got.iterations) == 3)
    np.testing.assert_allclose(got.x, state, atol=3e-6)
    np.testing.assert_allclose(got.residuals, want, atol=1e-6)
    np.testing.assert_array_equal(got.x, got.trajectory[-1])


@pytest.mark.parametrize("p", [1.0, 0.93])
def test_edict_is_the_float64_loop(p: float) -> None:
    x, (bars, eps) = images(2, 3), bars_and_eps()
    pair = [x.astype(np.float64)] * 2
    for node in range(1, 5):
        lead, follow = pair
        a = np.sqrt(bars[node - 1] / bars[node])
        b = np.sqrt(1 - bars[node - 1]) - a * np.sqrt(1 - bars[node])
        follow = (follow - (1 - p) * lead) / p
        lead = (lead - (1 - p) * follow) / p
        follow = (follow - b * eps(lead, node)) / a
        lead = (lead - b * eps(follow, node)) / a
        pair = [follow, lead]
    got = edict_encode(Model(mixture(), SMALL), x, p=p, trajectory=True)
    np.testing.assert_allclose(got.x, pair, atol=3e-6)
    signal = SMALL.levels.signal[4].astype(np.float32)
    np.testing.assert_allclose(signal * got.trajectory[0][-1], got.x[0], atol=1e-6)


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_bdia_is_the_float64_loop(gamma: float) -> None:
    x, (bars, eps) = images(2, 3), bars_and_eps()
    cleaner = x.astype(np.float64)
    state = ddim_numpy(cleaner, eps(cleaner, 1), bars[0], bars[1])
    for node in range(1, 4):
        answer = eps(state, node)
        back, on = (ddim_numpy(state, answer, bars[node], bars[node + step]) for step in (-1, 1))
        cleaner, state = state, (cleaner - back) / gamma + on
    got = bdia_encode(Model(mixture(), SMALL), x, gamma=gamma)
    np.testing.assert_allclose(got.x, (state, cleaner), atol=5e-6)


@pytest.mark.parametrize(("name", "options"), [("edict", {"p": 0.93}), ("bdia", {"gamma": 0.8})])
def test_exact_pairs_stay_exact_off_one_on_a_short_walk(name: str, options: dict[str, float]) -> None:
    result = trip(Model(mixture(), SMALL), name, images(2, 4), **options)
    assert float(jnp.max(result.maximum)) < 2e-5


@pytest.mark.parametrize("name", ["edict", "bdia"])
def test_latents_of_the_exact_pairs_lie_near_the_ode(name: str) -> None:
    x = images()
    ode = jax.jit(functools.partial(fixed_point_encode, on(500, 500)))(x).x
    latent = trip(on(500, 100), name, x).encoded.x[0]
    assert float(jnp.sqrt(jnp.mean((latent - ode) ** 2))) < 0.03


def test_bdia_takes_a_clipping_model_and_edict_refuses_it() -> None:
    x = np.clip(images(2, 4), -1, 1)
    clipping = Model(mixture(), SMALL, clip=True)
    assert float(jnp.max(trip(clipping, "bdia", x).maximum)) < 1e-5
    with pytest.raises(ValueError, match="without clip"):
        edict_encode(clipping, x)
    with pytest.raises(ValueError, match="without clip"):
        edict_decode(clipping, (x, x))


@pytest.mark.parametrize("name", list(INVERSIONS))
def test_a_single_step_goes_and_comes_back(name: str) -> None:
    encode, decode = INVERSIONS[name]
    x, model = images(2, 4), Model(mixture(), SMALL)
    result = round_trip(functools.partial(encode, stop=1), functools.partial(decode, start=1), model, x)
    assert float(jnp.max(result.rms)) < (2e-6 if name in ("edict", "bdia") else 2e-2)


def test_decoding_without_an_encoder() -> None:
    """From one latent both exact samplers land near DDIM, of which they are variants."""
    model, latent = on(500, 100), np.random.default_rng(1).standard_normal((2, 4, 4, 1)).astype(np.float32)
    plain = ddim_sample(model, latent).x
    edict = edict_decode(model, (latent, latent)).x
    bdia = bdia_decode(model, bdia_start(model, latent)).x
    assert float(jnp.median(jnp.abs(edict - plain))) < 0.05 and float(jnp.median(jnp.abs(bdia - plain))) < 0.05


def test_edges_of_the_prediction_kinds_agree_above_the_clean_node() -> None:
    """EDICT asks at noisy nodes only, so a denoiser of x0 gives the walk of the same denoiser's epsilon."""
    x = images(2, 4)
    want = edict_encode(Model(mixture(), SMALL), x).x
    np.testing.assert_allclose(edict_encode(Model(mixture("x0"), SMALL, "x0"), x).x, want, atol=2e-4)


def test_guided_round_trip_compiles_once() -> None:
    """Encoded as it is, decoded under guidance: scale and labels are arrays."""
    x, model, traces = images(2, 4), Model(mixture(), SMALL), []

    @jax.jit
    def counterfactual(x: jax.Array, before: jax.Array, after: jax.Array, scale: jax.Array) -> jax.Array:
        traces.append(1)
        guided = Model(classifier_free_denoise(mixture(), jnp.zeros(()), scale), SMALL)
        latent = fixed_point_encode(model, x, before).x
        return ddim_sample(guided, latent, after).x

    none, shift = jnp.zeros(2), jnp.array([0.3, 0.3])
    kept = counterfactual(x, none, none, jnp.float32(0.0))
    moved = counterfactual(x, none, shift, jnp.float32(1.0))
    assert len(traces) == 1
    assert float(jnp.mean(moved - kept)) > 0.2


def test_programming_errors_say_what_was_expected() -> None:
    model, x = Model(mixture(), SMALL), images(1, 2)
    with pytest.raises(ValueError, match="'source' or 'destination'"):
        ddim_encode(model, x, ask="both")
    with pytest.raises(ValueError, match="node 5: expected 1 to 4"):
        bdia_encode(model, x, stop=5)
    with pytest.raises(ValueError, match="iterations 0: expected at least 1"):
        fixed_point_encode(model, x, iterations=0)
