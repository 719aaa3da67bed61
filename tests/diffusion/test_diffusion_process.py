"""The process against float64 NumPy formulas in alpha_bar, and against Gaussian data with a known score."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.diffusion import process
from medgen_jax.diffusion.process import KINDS, Prediction
from medgen_jax.diffusion.schedules import Schedule, level, make_schedule, respace, uniform_timesteps

SCHEDULE = make_schedule("linear", 1000)
BARS = SCHEDULE.alphas_cumprod
SHAPE = (3, 2, 2, 1)


def draws(count: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> list[np.ndarray]:
    """Standard normal arrays whose float32 and float64 values agree."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32).astype(np.float64) for _ in range(count)]


def f32(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def output_of(kind: str, x0: np.ndarray, eps: np.ndarray, bar: float) -> np.ndarray:
    return {"epsilon": eps, "x0": x0, "v": math.sqrt(bar) * eps - math.sqrt(1 - bar) * x0}[kind]


def test_take_gathers_one_level_per_image() -> None:
    index = jnp.array([0, 1, 500])
    rows = process.take(SCHEDULE.levels, index, 4)
    assert rows.signal.shape == (3, 1, 1, 1) and rows.signal.dtype == jnp.float32
    np.testing.assert_allclose(rows.signal.ravel() ** 2, [1, BARS[0], BARS[499]], rtol=1e-6)
    np.testing.assert_allclose(rows.noise.ravel(), [0, 0.01, math.sqrt(1 - BARS[499])], rtol=1e-6)
    assert process.take(SCHEDULE.levels, jnp.array(3), 4).noise.shape == ()


def test_marginal_is_the_chain_of_single_steps() -> None:
    x0, eps = draws(2)
    got = process.q_sample(f32(x0), f32(eps), process.take(SCHEDULE.levels, jnp.array([1, 250, 1000]), 4))
    bars = BARS[[0, 249, 999]].reshape(3, 1, 1, 1)
    np.testing.assert_allclose(got, np.sqrt(bars) * x0 + np.sqrt(1 - bars) * eps, atol=1e-6)
    # x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) z: mean factor and variance of 250 such steps.
    mean, variance = 1.0, 0.0
    for beta in np.linspace(1e-4, 0.02, 1000)[:250]:
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
    node = SCHEDULE.levels.signal[250], SCHEDULE.levels.noise[250]
    np.testing.assert_allclose(node, (mean, math.sqrt(variance)), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bar", [BARS[0], BARS[249], BARS[999]])
def test_predictions_and_targets_are_mutually_inverse(kind: str, bar: float) -> None:
    x0, eps = draws(2)
    at = level(bar)
    x = process.q_sample(x0, eps, at)
    output = process.network_target(x0, eps, at, kind)
    np.testing.assert_allclose(output, output_of(kind, x0, eps, bar), rtol=1e-12)
    found = process.predict(f32(x), f32(output), at, kind)
    # Dividing by a small root amplifies the rounding of x itself.
    scale = {"epsilon": 1 / at.signal, "x0": 1 / at.noise, "v": 1.0}[kind]
    np.testing.assert_allclose(found.x0, x0, atol=2e-6 * scale)
    np.testing.assert_allclose(found.epsilon, eps, atol=2e-6 * scale)
    np.testing.assert_allclose(process.network_target(*found, at, kind), output, atol=4e-6 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_clipping_moves_the_noise_along_or_not(kind: str) -> None:
    x0, eps = draws(2)
    x0 *= 2
    assert np.abs(x0).max() > 1 > np.abs(x0).min()
    bar = BARS[299]
    x = math.sqrt(bar) * x0 + math.sqrt(1 - bar) * eps
    args = f32(x), f32(output_of(kind, x0, eps, bar)), level(bar), kind
    moved, kept = process.predict(*args, clip=True), process.predict(*args, clip=True, rederive=False)
    clipped = np.clip(x0, -1, 1)
    for found in (moved, kept):
        np.testing.assert_allclose(found.x0, clipped, atol=1e-5)
    np.testing.assert_allclose(moved.epsilon, (x - math.sqrt(bar) * clipped) / math.sqrt(1 - bar), atol=1e-5)
    np.testing.assert_allclose(kept.epsilon, eps, atol=1e-5)
    inside = np.abs(x0) < 0.99
    np.testing.assert_array_equal(moved.epsilon[inside], process.predict(*args).epsilon[inside])


def test_clean_node_is_read_without_nan() -> None:
    x, output = draws(2)
    x = np.clip(x, -0.9, 0.9)
    clean = level(1.0)
    for clip in (False, True):
        found = process.predict(f32(x), f32(output), clean, "epsilon", clip=clip)
        np.testing.assert_array_equal(found.x0, f32(x))
        np.testing.assert_array_equal(found.epsilon, f32(output))
    np.testing.assert_array_equal(process.predict(f32(x), f32(output), clean, "v").x0, f32(x))
    np.testing.assert_array_equal(process.predict(f32(x), f32(x), clean, "x0").epsilon, np.zeros(SHAPE))
    with pytest.raises(ValueError, match="expected one of epsilon, x0, v"):
        process.predict(f32(x), f32(x), clean, "score")
    with pytest.raises(ValueError, match="expected one of epsilon, x0, v"):
        process.network_target(f32(x), f32(x), clean, "score")
    low = process.predict(f32(x), f32(output).astype(jnp.bfloat16), level(0.5))
    assert low.x0.dtype == low.epsilon.dtype == jnp.float32


@pytest.mark.parametrize("stride", [1, 37])
def test_posterior_is_bayes_rule(stride: int) -> None:
    """q(x_s | x_t, x0) is the product of q(x_s | x0) and q(x_t | x_s), both linear Gaussians."""
    x0, x = draws(2, (3, 1, 1, 1))
    sources = np.array([stride, 400, 1000])
    source, target = (process.take(SCHEDULE.levels, jnp.asarray(k), 4) for k in (sources, sources - stride))
    mean, variance = process.posterior(f32(x), f32(x0), source, target)
    nodes = np.append(1.0, BARS)
    bar_t, bar_s = nodes[sources].reshape(3, 1, 1, 1)[1:], nodes[sources - stride].reshape(3, 1, 1, 1)[1:]
    prior, gain, noise = 1 - bar_s, np.sqrt(bar_t / bar_s), 1 - bar_t / bar_s
    precision = 1 / prior + gain**2 / noise
    np.testing.assert_allclose(variance[1:], 1 / precision, rtol=2e-5)
    wanted = (np.sqrt(bar_s) * x0[1:] / prior + gain * x[1:] / noise) / precision
    np.testing.assert_allclose(mean[1:], wanted, atol=2e-6)
    np.testing.assert_allclose(mean[0], x0[0], atol=1e-6)  # onto the clean node: x0, without doubt
    assert variance[0] == 0


def test_posterior_variance_equals_the_table_and_keeps_float64() -> None:
    nodes = SCHEDULE.levels
    source, target = jax.tree.map(lambda v: v[1:], nodes), jax.tree.map(lambda v: v[:-1], nodes)
    exact = process.posterior(np.zeros(1000), np.zeros(1000), source, target).variance
    assert exact.dtype == np.float64
    np.testing.assert_allclose(exact, SCHEDULE.posterior_variances, rtol=1e-11)
    low = process.posterior(*(jnp.zeros(1000),) * 2, *jax.tree.map(f32, (source, target))).variance
    np.testing.assert_allclose(low, SCHEDULE.posterior_variances, rtol=5e-5)  # deviations within 2e-6


def test_ddpm_step_draws_from_the_variance_it_is_given() -> None:
    mean, z = draws(2)
    low, high = SCHEDULE.log_variances["small"][400], SCHEDULE.log_variances["beta"][400]
    values = jnp.array([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)
    logs = process.learned_log_variance(values, low, high)
    np.testing.assert_allclose(logs.ravel(), [low, (low + high) / 2, high], rtol=1e-6)
    got = process.ddpm_step(f32(mean), logs, level(BARS[399]), f32(z))
    std = np.exp([low / 2, (low + high) / 4, high / 2]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(got, mean + std * z, atol=1e-6)
    np.testing.assert_array_equal(process.ddpm_step(f32(mean), logs, level(1.0), f32(z)), f32(mean))


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("pair", [(999, 949), (500, 499), (30, 0), (0, None)])
def test_ddim_step_is_equation_12(eta: float, pair: tuple[int, int | None]) -> None:
    x, eps, z = draws(3)
    bar_t, bar_s = BARS[pair[0]], 1.0 if pair[1] is None else BARS[pair[1]]
    sigma = eta * math.sqrt((1 - bar_s) / (1 - bar_t)) * math.sqrt(1 - bar_t / bar_s)
    x0 = (x - math.sqrt(1 - bar_t) * eps) / math.sqrt(bar_t)
    wanted = math.sqrt(bar_s) * x0 + math.sqrt(1 - bar_s - sigma**2) * eps + sigma * z
    source, target = level(bar_t), level(bar_s)
    prediction = process.predict(f32(x), f32(eps), source)
    got = process.ddim_step(prediction, source, target, eta, f32(z))
    np.testing.assert_allclose(got, wanted, atol=1e-6 / math.sqrt(bar_t), rtol=1e-6)
    if eta == 0:
        np.testing.assert_allclose(process.ddim_step(prediction, source, target), got, rtol=1e-6)
    else:
        with pytest.raises(ValueError, match="expected noise"):
            process.ddim_step(prediction, source, target, eta)


def test_ddim_at_eta_one_has_the_moments_of_the_posterior() -> None:
    x, x0 = draws(2)
    source, target = level(BARS[600]), level(BARS[570])
    epsilon = (x - source.signal * x0) / source.noise
    wanted = process.posterior(x, x0, source, target)
    zero = np.zeros(SHAPE)
    mean = process.ddim_step(Prediction(x0, epsilon), source, target, 1.0, zero)
    np.testing.assert_allclose(mean, wanted.mean, rtol=1e-12, atol=1e-12)
    spread = process.ddim_step(Prediction(zero, zero), source, target, 1.0, np.ones(SHAPE))
    np.testing.assert_allclose(spread**2, wanted.variance, rtol=1e-12)


def seed_equation_5(x: np.ndarray, eps: np.ndarray, bar_t: float, bar_s: float) -> np.ndarray:
    """As printed: a bare alpha in front, its bracket closed at the very end, sigma without a draw."""
    alpha_s = float(1 - SCHEDULE.betas[np.argmin(np.abs(BARS - bar_s))])
    sigma = math.sqrt((1 - bar_s) / (1 - bar_t)) * math.sqrt(1 - bar_t / bar_s)
    x0 = (x - math.sqrt(1 - bar_t) * eps) / math.sqrt(bar_t)
    return math.sqrt(alpha_s) * (x0 + math.sqrt(1 - bar_s - sigma**2) * eps + sigma)


def seed_equation_6(x: np.ndarray, eps: np.ndarray, bar_s: float, bar_t: float) -> np.ndarray:
    """As printed, alpha read as alpha_bar: the -1 outside the root, the second root missing."""
    bracket = (math.sqrt(1 / bar_s) - math.sqrt(1 / bar_t)) * x + (math.sqrt(1 / bar_t) - 1) * eps
    return x + math.sqrt(bar_t) * bracket


def test_the_right_steps_carry_a_known_pair_and_the_misprinted_ones_do_not() -> None:
    """If the network knows x0 and epsilon, every deterministic step must land on their mixture."""
    x0, eps = draws(2)
    bar_t, bar_s = BARS[400], BARS[390]
    noisy, cleaner = (math.sqrt(bar) * x0 + math.sqrt(1 - bar) * eps for bar in (bar_t, bar_s))
    source, target = level(bar_t), level(bar_s)
    down = process.ddim_step(process.predict(f32(noisy), f32(eps), source), source, target)
    up = process.inverse_ddim_step(process.predict(f32(cleaner), f32(eps), target), source)
    printed_up = cleaner + math.sqrt(bar_t) * (
        (math.sqrt(1 / bar_s) - math.sqrt(1 / bar_t)) * cleaner
        + (math.sqrt(1 / bar_t - 1) - math.sqrt(1 / bar_s - 1)) * eps
    )
    np.testing.assert_allclose(down, cleaner, atol=2e-6)
    np.testing.assert_allclose(up, noisy, atol=2e-6)
    np.testing.assert_allclose(up, printed_up, atol=2e-6)
    assert np.abs(seed_equation_5(noisy, eps, bar_t, bar_s) - cleaner).max() > 0.1
    assert np.abs(seed_equation_6(cleaner, eps, bar_s, bar_t) - noisy).max() > 0.1


def gaussian_epsilon(x: jax.Array, at, mean: float, std: float) -> jax.Array:
    """E[epsilon | x] for data N(mean, std^2): the noise times minus the score."""
    return at.noise * (x - at.signal * mean) / (at.signal**2 * std**2 + at.noise**2)


def round_trip(steps: int, mean: float = 0.3, std: float = 0.5, depth: int = 500) -> tuple[float, float]:
    """Largest errors of the latent against the exact flow, and of the image after coming back."""
    short = respace(SCHEDULE, uniform_timesteps(depth, steps))
    nodes = process.take(short.levels, jnp.arange(steps + 1), 1)
    image = x = jnp.linspace(-1.0, 1.0, 7)
    pairs = jax.tree.map(lambda v: (v[:-1], v[1:]), nodes, is_leaf=lambda v: isinstance(v, jax.Array))
    low, high = type(nodes)(*(p[0] for p in pairs)), type(nodes)(*(p[1] for p in pairs))

    def encode(x, levels):
        here, there = levels
        prediction = process.predict(x, gaussian_epsilon(x, here, mean, std), here)
        return process.inverse_ddim_step(prediction, there), None

    def decode(x, levels):
        there, here = levels
        prediction = process.predict(x, gaussian_epsilon(x, here, mean, std), here)
        return process.ddim_step(prediction, here, there), None

    latent, _ = jax.lax.scan(encode, x, (low, high))
    back, _ = jax.lax.scan(decode, latent, (low, high), reverse=True)
    # The flow of a Gaussian keeps the standard score.
    bar = short.alphas_cumprod[-1]
    exact = math.sqrt(bar) * mean + math.sqrt(bar * std**2 + 1 - bar) * (np.asarray(image) - mean) / std
    return float(np.abs(latent - exact).max()), float(np.abs(back - image).max())


def test_gaussian_data_follow_the_exact_flow_to_first_order() -> None:
    (latent, back), (latent_fine, back_fine) = round_trip(125), round_trip(500)
    assert latent < 0.2 and back < 0.2
    assert latent / latent_fine == pytest.approx(4, rel=0.25)
    assert back / back_fine == pytest.approx(4, rel=0.25)


def test_a_point_of_data_is_reached_in_one_step() -> None:
    """With no spread the noise is known exactly, so that any stride is exact, both ways."""
    source, target = level(BARS[899]), level(BARS[99])
    image, eps = draws(1)[0] * 0 + 0.3, draws(2)[1]
    x = source.signal * image + source.noise * eps
    found = process.predict(f32(x), gaussian_epsilon(f32(x), source, 0.3, 0.0), source)
    there = process.ddim_step(found, source, target)
    np.testing.assert_allclose(there, target.signal * 0.3 + target.noise * eps, atol=5e-6)


def test_every_prediction_of_the_posterior_mean_leads_to_the_same_step() -> None:
    x, eps = draws(2)
    source, target = level(BARS[600]), level(BARS[500])
    x0 = (x - source.noise * eps) / source.signal
    steps = [
        process.ddim_step(
            process.predict(f32(x), f32(output_of(kind, x0, eps, BARS[600])), source, kind), source, target
        )
        for kind in KINDS
    ]
    np.testing.assert_allclose(steps[1], steps[0], atol=1e-5)
    np.testing.assert_allclose(steps[2], steps[0], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_mse_is_per_image(kind: str) -> None:
    x0, eps, output = draws(3)
    at = process.take(SCHEDULE.levels, jnp.array([1, 300, 1000]), 4)
    got = process.mse_loss(f32(output).astype(jnp.bfloat16), f32(x0), f32(eps), at, kind)
    rounded = np.asarray(f32(output).astype(jnp.bfloat16).astype(jnp.float32), np.float64)
    wanted = [np.mean((rounded[i] - output_of(kind, x0[i], eps[i], BARS[t])) ** 2) for i, t in enumerate((0, 299, 999))]
    assert got.shape == (3,) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_min_snr_weighs_the_same_error_of_x0_whatever_is_predicted() -> None:
    at = process.take(SCHEDULE.levels, jnp.array([1, 200, 600]), 1)
    snr = SCHEDULE.snr[[0, 199, 599]]
    assert snr[0] > 5 > snr[2]
    np.testing.assert_allclose(process.min_snr_weight(at, 5.0), np.minimum(snr, 5) / snr, rtol=1e-5)
    np.testing.assert_allclose(process.min_snr_weight(at, 5.0, "x0"), np.minimum(snr, 5), rtol=1e-5)
    np.testing.assert_allclose(process.min_snr_weight(at, 5.0, "v"), np.minimum(snr, 5) / (snr + 1), rtol=1e-5)
    x0, eps, wrong = draws(3, (3, 1))
    nodes = process.take(SCHEDULE.levels, jnp.array([1, 200, 600]), 2)
    x = process.q_sample(x0, eps, nodes)
    losses = []
    for kind in KINDS:  # one wrong image, told in three ways
        noise = (x - nodes.signal * wrong) / nodes.noise
        output = process.network_target(f32(wrong), noise, nodes, kind)
        weight = process.min_snr_weight(process.take(SCHEDULE.levels, jnp.array([1, 200, 600]), 1), 5.0, kind)
        losses.append(weight * process.mse_loss(output, f32(x0), f32(eps), nodes, kind))
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-3)
    np.testing.assert_allclose(losses[2], losses[1], rtol=2e-3)
    with pytest.raises(ValueError, match="expected one of"):
        process.min_snr_weight(at, 5.0, "score")


def test_kl_of_two_normals_by_quadrature() -> None:
    m1, l1, m2, l2 = 0.3, -1.0, -0.2, 0.4
    grid = np.linspace(-12, 12, 200001)

    def log_density(m: float, l: float) -> np.ndarray:  # noqa: E741
        return -0.5 * ((grid - m) ** 2 / math.exp(l) + l + math.log(2 * math.pi))

    p, q = log_density(m1, l1), log_density(m2, l2)
    wanted = np.sum(np.exp(p) * (p - q)) * (grid[1] - grid[0])
    assert process.normal_kl(*map(jnp.float32, (m1, l1, m2, l2))) == pytest.approx(wanted, rel=1e-5)
    assert process.normal_kl(*map(jnp.float32, (m1, l1, m1, l1))) == 0


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, -2.0), (0.7, -6.0), (-1.0, -9.0)])
def test_pixel_likelihood_sums_to_one_and_matches_erf(mean: float, log_variance: float) -> None:
    greys = np.arange(256) / 127.5 - 1
    nll = process.discretized_nll(f32(greys), jnp.full(256, mean), jnp.float32(log_variance))
    std = math.exp(log_variance / 2)

    def cdf(v: float) -> float:
        return 0.5 * (1 + math.erf((v - mean) / std / math.sqrt(2)))

    edges = [0.0, *(cdf(g + 1 / 255) for g in greys[:-1]), 1.0]
    assert float(jnp.sum(jnp.exp(-nll))) == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(np.exp(-np.asarray(nll)), np.diff(edges), atol=4e-4)
    assert float(process.discretized_nll(jnp.array(1.0), jnp.array(-1.0), jnp.array(-12.0))) == pytest.approx(
        -math.log(1e-12), rel=1e-5
    )


def bound_by_hand(output: np.ndarray, x0: np.ndarray, eps: np.ndarray, t: int) -> float:
    """Bits per dimension of one image in float64, straight from alpha_bar."""
    bar, before, beta = BARS[t], (BARS[t - 1] if t else 1.0), SCHEDULE.betas[t]
    x = math.sqrt(bar) * x0 + math.sqrt(1 - bar) * eps
    guess = (x - math.sqrt(1 - bar) * output[..., :1]) / math.sqrt(bar)

    def mean(clean: np.ndarray) -> np.ndarray:
        return (
            math.sqrt(before) * beta * clean + (1 - before) * math.sqrt(1 - beta) * x
        ) / (1 - bar)  # fmt: skip

    tilde = SCHEDULE.betas[max(t, 1)] * (1 - BARS[max(t, 1) - 1]) / (1 - BARS[max(t, 1)])
    share = (output[..., 1:] + 1) / 2
    log_variance = share * math.log(beta) + (1 - share) * math.log(tilde)
    if t:
        ratio = tilde / np.exp(log_variance)
        nats = 0.5 * (ratio - 1 - np.log(ratio) + (mean(x0) - mean(guess)) ** 2 / np.exp(log_variance))
    else:

        def cdf(v: np.ndarray) -> np.ndarray:
            return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))

        std = np.exp(log_variance / 2)
        nats = -np.log(cdf((x0 - guess + 1 / 255) / std) - cdf((x0 - guess - 1 / 255) / std))
    return float(np.mean(nats) / math.log(2))


def hybrid_case() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A network nearly right: x0 on grey levels, noise, output with variance channels, steps."""
    eps, error, values = draws(3, (4, 2, 2, 1))
    x0 = np.random.default_rng(5).integers(40, 200, (4, 2, 2, 1)) / 127.5 - 1
    return x0, eps, np.concatenate([eps + 0.1 * error, np.tanh(values)], -1), np.array([0, 1, 300, 999])


def test_hybrid_terms_match_float64() -> None:
    x0, eps, output, t = hybrid_case()
    got = process.hybrid_terms(SCHEDULE, f32(output), f32(x0), f32(eps), jnp.asarray(t))
    np.testing.assert_allclose(got.mse, np.mean((output[..., :1] - eps) ** 2, (1, 2, 3)), rtol=1e-4)
    wanted = [bound_by_hand(output[i], x0[i], eps[i], int(k)) for i, k in enumerate(t)]
    np.testing.assert_allclose(got.bound, wanted, rtol=2e-4)


def test_bound_is_zero_for_the_true_posterior_and_positive_else() -> None:
    x0, eps, _, t = hybrid_case()
    x = process.q_sample(f32(x0), f32(eps), process.take(SCHEDULE.levels, jnp.asarray(t) + 1, 4))
    right = np.concatenate([eps, -np.ones_like(eps)], -1)
    bound = process.bound_loss(SCHEDULE, f32(right), x, f32(x0), jnp.asarray(t))
    np.testing.assert_allclose(bound[1:], 0, atol=5e-7)
    assert bound[0] > 1  # grey levels under a normal: never free
    wide = np.concatenate([eps, np.ones_like(eps)], -1)
    assert np.all(process.bound_loss(SCHEDULE, f32(wide), x, f32(x0), jnp.asarray(t))[1:3] > 3e-6)


def test_bound_teaches_the_variance_alone() -> None:
    x0, eps, output, t = hybrid_case()
    gradient = jax.grad(
        lambda out: jnp.sum(process.hybrid_terms(SCHEDULE, out, f32(x0), f32(eps), jnp.asarray(t)).bound)
    )(f32(output))
    np.testing.assert_array_equal(gradient[..., :1], np.zeros_like(eps))
    assert np.all(gradient[:3, ..., 1:] != 0) and np.all(np.isfinite(gradient))


def test_networks_without_variance_are_told_apart() -> None:
    x0, eps, output, t = hybrid_case()
    mean, values = process.split_output(f32(output), 1)
    np.testing.assert_array_equal(mean, f32(output[..., :1]))
    np.testing.assert_array_equal(values, f32(output[..., 1:]))
    assert process.split_output(f32(eps), 1)[1] is None
    with pytest.raises(ValueError, match="3 channels: expected 1 or 2"):
        process.split_output(jnp.zeros((1, 1, 1, 3)), 1)
    with pytest.raises(ValueError, match="variance channels"):
        process.hybrid_terms(SCHEDULE, f32(eps), f32(x0), f32(eps), jnp.asarray(t))
    with pytest.raises(ValueError, match="variance channels"):
        process.bound_loss(SCHEDULE, f32(eps), f32(x0), f32(x0), jnp.asarray(t))


def test_a_respaced_schedule_bounds_its_own_strides() -> None:
    short = Schedule(BARS[[99, 499]], [99, 499])
    x0, eps, _, _ = hybrid_case()
    t = jnp.ones(4, int)
    x = process.q_sample(f32(x0), f32(eps), process.take(short.levels, t + 1, 4))
    off = np.concatenate([eps + 0.2, -np.ones_like(eps)], -1)
    beta = 1 - BARS[499] / BARS[99]
    tilde = beta * (1 - BARS[99]) / (1 - BARS[499])
    shift = math.sqrt(BARS[99]) * beta / (1 - BARS[499]) * 0.2 * math.sqrt(1 / BARS[499] - 1)
    got = process.bound_loss(short, f32(off), x, f32(x0), t)
    np.testing.assert_allclose(got, shift**2 / tilde / 2 / math.log(2), rtol=1e-4)
