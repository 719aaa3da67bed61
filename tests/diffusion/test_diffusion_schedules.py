"""Noise tables against their formulas, respacing against published lists, the grid of nodes."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.diffusion.schedules import (
    BETAS,
    Schedule,
    cosine_betas,
    level,
    linear_betas,
    make_schedule,
    respace,
    section_timesteps,
    sigmoid_betas,
    uniform_timesteps,
)


def test_linear_schedule_has_the_known_values() -> None:
    schedule = make_schedule("linear", 1000)
    assert schedule.alphas_cumprod.dtype == np.float64
    np.testing.assert_allclose(schedule.alphas_cumprod[[0, 249, 499, 999]], [0.9999, 0.524, 0.0786, 4.04e-5], rtol=2e-3)
    assert schedule.snr[499] == pytest.approx(0.085, rel=5e-3)
    betas = [1e-4 + k * (0.02 - 1e-4) / 999 for k in range(1000)]
    np.testing.assert_allclose(schedule.betas, betas, rtol=1e-11)
    np.testing.assert_allclose(schedule.alphas_cumprod, np.cumprod(1 - np.array(betas)), rtol=1e-12)
    np.testing.assert_allclose(linear_betas(250)[[0, -1]], [4e-4, 0.08], rtol=1e-12)


def test_cosine_betas_multiply_up_to_the_cosine() -> None:
    betas, steps = cosine_betas(100), 100
    f = [math.cos((k / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(steps + 1)]
    np.testing.assert_allclose(np.cumprod(1 - betas)[:-1], [v / f[0] for v in f[1:-1]], rtol=1e-10)
    assert betas[-1] == 0.999 and betas.max() == 0.999


def test_sigmoid_betas_multiply_up_to_the_sigmoid() -> None:
    def s(v: float) -> float:
        return 1 / (1 + math.exp(-v))

    wanted = [(s(3) - s(-3 + 6 * k / 50)) / (s(3) - s(-3)) for k in range(1, 50)]
    np.testing.assert_allclose(np.cumprod(1 - sigmoid_betas(50))[:-1], wanted, rtol=1e-10)
    assert np.cumprod(1 - sigmoid_betas(50))[24] == pytest.approx(0.5)
    sharp = np.cumprod(1 - sigmoid_betas(50, temperature=0.3))
    assert sharp[10] > wanted[10] and sharp[40] < wanted[40]


@pytest.mark.parametrize("name", sorted(BETAS))
def test_every_schedule_falls_from_clean_to_noise(name: str) -> None:
    schedule = make_schedule(name, 200)
    assert len(schedule) == 200
    assert np.all((schedule.betas > 0) & (schedule.betas < 1))
    assert schedule.alphas_cumprod[0] > 0.99 and schedule.alphas_cumprod[-1] < 1e-3


def test_posterior_tables_of_two_steps_by_hand() -> None:
    schedule = Schedule(np.array([0.9, 0.45]), np.arange(2))
    np.testing.assert_allclose(schedule.betas, [0.1, 0.5])
    np.testing.assert_allclose(schedule.posterior_variances, [0, 0.5 * 0.1 / 0.55])
    second = math.log(0.05 / 0.55)
    np.testing.assert_allclose(schedule.log_variances["small"], [second, second])
    np.testing.assert_allclose(schedule.log_variances["beta"], np.log([0.1, 0.5]))
    np.testing.assert_allclose(schedule.log_variances["large"], [second, math.log(0.5)])
    assert math.isfinite(Schedule(np.array([0.5]), np.arange(1)).log_variances["small"][0])


def test_section_strings_give_the_published_lists() -> None:
    assert section_timesteps(1000, "ddim25") == tuple(range(0, 1000, 40))
    assert section_timesteps(1000, "10,10") == (
        *(0, 55, 111, 166, 222, 277, 333, 388, 444, 499),
        *(500, 555, 611, 666, 722, 777, 833, 888, 944, 999),
    )
    spread = section_timesteps(1000, "250")
    assert len(spread) == 250 and sum(spread) == 124875
    assert spread[:6] == (0, 4, 8, 12, 16, 20) and spread[-4:] == (987, 991, 995, 999)
    sections = section_timesteps(1000, "10,20,30")
    assert len(sections) == 60 and sum(sections) == 36655
    assert sections[:11] == (0, 37, 74, 111, 148, 185, 222, 259, 296, 333, 334)  # 1000 = 334 + 333 + 333
    assert sections[29:31] == (666, 667) and sections[-1] == 999
    assert section_timesteps(7, "1,1") == (0, 4)
    assert section_timesteps(1000, "1000") == tuple(range(1000))


def test_halves_round_as_the_running_sum_does() -> None:
    # Strides of 2.5 are exact in binary: 2.5 -> 2, 7.5 -> 8, halves to the even neighbour.
    assert section_timesteps(11, "5") == (0, 2, 5, 8, 10)
    # Strides of 999 / 20 and 25 / 12 are not: ten of the one add up to just below 499.5, six of the other to
    # just above 12.5, where their products would be exact halves.
    assert section_timesteps(1000, "21")[9:12] == (450, 499, 549)
    assert section_timesteps(26, "13")[5:8] == (10, 13, 15)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ddim300", "no whole stride takes 300 of 1000 steps; use '300'"),
        ("1001", "1001 steps asked of a section of 1000"),
        ("400,600", "600 steps asked of a section of 500"),
        ("ten", "'ten': expected 'ddimN'"),
        ("10,", "expected 'ddimN'"),
        ("-3", "expected 'ddimN'"),
        ("0", "at least one step"),
    ],
)
def test_bad_section_strings_are_explained(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("'", ".")):
        section_timesteps(1000, spec)


def test_uniform_timesteps_end_at_the_depth() -> None:
    assert uniform_timesteps(500, 500) == tuple(range(500))
    assert uniform_timesteps(500, 5) == (99, 199, 299, 399, 499)
    assert uniform_timesteps(1000, 50) == tuple(np.round(np.arange(1000, 0, -20)).astype(int)[::-1] - 1)
    assert uniform_timesteps(10, 4) == (2, 4, 7, 9)  # 2.5, 5, 7.5 and 10 steps deep
    for depth in (7, 250, 333):
        for steps in (1, 3, depth - 1, depth):
            grid = uniform_timesteps(depth, steps)
            assert len(grid) == steps and grid[-1] == depth - 1 and np.all(np.diff(grid, prepend=-1) > 0)
            assert np.ptp(np.diff(grid, prepend=-1)) <= 1
    for steps in (0, 501):
        with pytest.raises(UserError, match="between 1 and 500"):
            uniform_timesteps(500, steps)


def test_respaced_betas_are_those_of_the_long_strides() -> None:
    full = make_schedule("linear", 1000)
    short = respace(full, section_timesteps(1000, "ddim50"))
    np.testing.assert_array_equal(short.timesteps, np.arange(0, 1000, 20))
    np.testing.assert_array_equal(short.alphas_cumprod, full.alphas_cumprod[::20])
    np.testing.assert_allclose(np.cumprod(1 - short.betas), short.alphas_cumprod, rtol=1e-12)
    np.testing.assert_allclose(short.betas[3], 1 - np.prod(1 - full.betas[41:61]), rtol=1e-12)
    twice = respace(short, short.timesteps[::5])
    np.testing.assert_array_equal(twice.alphas_cumprod, full.alphas_cumprod[::100])
    for wrong in ([0, 1], [0, 1000], [-20, 0]):
        with pytest.raises(UserError, match="not among the 50 steps"):
            respace(short, wrong)


def test_nodes_hold_the_clean_image_and_every_step() -> None:
    schedule = respace(make_schedule("linear", 1000), uniform_timesteps(500, 50))
    assert schedule.levels.signal.shape == schedule.labels.shape == (51,)
    assert schedule.levels.signal[0] == 1 and schedule.levels.noise[0] == 0
    np.testing.assert_allclose(schedule.levels.signal[1:] ** 2, schedule.alphas_cumprod, rtol=1e-14)
    np.testing.assert_allclose(schedule.levels.signal**2 + schedule.levels.noise**2, 1, rtol=1e-14)
    assert schedule.labels[0] == 0 and tuple(schedule.labels[1:]) == uniform_timesteps(500, 50)
    assert level(0.25).signal == 0.5 and level(0.75).noise == 0.5


def test_schedules_compare_by_content_and_are_static() -> None:
    one, same, other = make_schedule("linear", 100), make_schedule("linear", 100), make_schedule("cosine", 100)
    assert one == same and hash(one) == hash(same) and one != other and one != "linear"
    assert respace(one, range(0, 100, 10)) != one
    traced = []

    def last(schedule: Schedule, x: jax.Array) -> jax.Array:
        traced.append(1)
        return x * float(schedule.levels.signal[-1])

    compiled = jax.jit(last, static_argnums=0)
    assert compiled(one, 1.0) == compiled(same, 1.0) and len(traced) == 1
    compiled(other, 1.0)
    assert len(traced) == 2
    with pytest.raises(ValueError, match="read-only"):
        one.alphas_cumprod[0] = 1
    mine = np.array([0.9, 0.5])
    kept = Schedule(mine, [0, 1])
    mine[0] = 0.1
    assert kept.alphas_cumprod[0] == 0.9


@pytest.mark.parametrize(
    ("bars", "steps"),
    [([0.5, 0.9], [0, 1]), ([1.0, 0.5], [0, 1]), ([0.5, 0.0], [0, 1]), ([0.9, 0.5], [1, 0]), ([0.9], [0, 1]), ([], []),
     ([0.9], [-1])],
)  # fmt: skip
def test_impossible_schedules_are_refused(bars: list[float], steps: list[int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Schedule(bars, steps)


def test_impossible_names_and_lengths_are_explained() -> None:
    with pytest.raises(UserError, match="expected one of linear, cosine, sigmoid"):
        make_schedule("quadratic")
    with pytest.raises(UserError, match="at least 1"):
        make_schedule("linear", 0)
    with pytest.raises(UserError, match="betas leave"):
        make_schedule("linear", 10)
