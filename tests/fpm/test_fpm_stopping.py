"""What is added up and decided around the solvers: residuals, brightness, held-out LEDs, the end. By hand."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.fpm.gains import fitted_scales
from medgen_jax.fpm.residuals import misfit, residual, residual_best_gain
from medgen_jax.fpm.sequential import RULES
from medgen_jax.fpm.stopping import held_out, start_watch, verdict, watched


def test_residuals_are_their_formula() -> None:
    size, amplitude = jnp.array([[2.0, 1.0], [9.0, 0.0]]), jnp.array([[1.0, 2.0], [5.0, 1.0]])
    weight = jnp.array([[1.0, 1.0], [0.0, 1.0]])
    one = misfit(size, amplitude, weight, jnp.float32(2.0))
    assert one.error == 0 + 9 + 4 and one.energy == 4 * 6
    assert one.best_scale == pytest.approx(4 / 6)
    assert one.best_error == pytest.approx(5 - 16 / 6, rel=1e-5) and one.best_energy == pytest.approx(16 / 6, rel=1e-5)
    both = jax.tree.map(lambda a: jnp.stack([a, 3 * a]), one)
    assert residual(both, jnp.array([1.0, 0.0])) == pytest.approx(13 / 24)
    assert residual_best_gain(both, jnp.ones(2)) == pytest.approx((5 - 16 / 6) / (16 / 6), rel=1e-5)
    assert np.isnan(residual(both, jnp.zeros(2)))
    dark = misfit(size, 0 * amplitude, weight, jnp.float32(2.0))
    assert dark.best_scale == 2 and dark.best_energy == 0


def test_scales_keep_their_mean_and_their_bound() -> None:
    free = np.array([True] * 4 + [False])
    got = np.asarray(fitted_scales(jnp.array([1.0, 2.0, 4.0, 8.0, 50.0]), free, 10.0))
    np.testing.assert_allclose(got, [8**-0.5, 2**-0.5, 2**0.5, 8**0.5, 1], rtol=1e-5)
    bound = np.asarray(fitted_scales(jnp.array([1.0, 1.0, 1.0, 100.0, 0.0]), free, 2.0))
    assert np.log(bound).mean() == pytest.approx(0, abs=2e-3) and bound.max() <= 2.0001 and bound[4] == 1
    np.testing.assert_array_equal(fitted_scales(jnp.zeros(3), np.ones(3, bool), 2.0), 1)


def test_leds_held_out_are_of_both_kinds_and_belong_to_the_seed() -> None:
    bright = np.arange(40) < 10
    chosen = held_out(bright, 0.1, 0, keep=3)
    assert chosen[:10].sum() == 1 and chosen[10:].sum() == 3
    np.testing.assert_array_equal(chosen, held_out(bright, 0.1, 0, keep=3))
    others = [held_out(bright, 0.1, seed, keep=3) for seed in range(40)]
    assert any((o != chosen).any() for o in others) and not any(o[3] for o in others)
    assert not held_out(bright, 0.0, 0, keep=3).any()
    assert not held_out(np.array([True]), 0.5, 0, keep=0).any()


def test_a_watch_counts_passes_without_progress() -> None:
    watch, seen = start_watch(), []
    for value in (1.0, 0.5, 0.4999, 0.7, np.nan):
        watch, better = watched(watch, jnp.float32(value))
        seen.append((bool(better), int(watch.since)))
    assert seen == [(True, 0), (True, 0), (True, 1), (False, 2), (False, 3)]


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        ([0.5, 0.1, 0.2], r"diverged: the residual rose from 0.1 \(pass 2\) to 0.2 \(pass 3\); check order"),
        ([0.5, np.nan], "diverged: the residual is no number from pass 2 on; reduce step"),
        ([0.5, 0.1, 0.11], "settled: no progress after pass 2 of 3"),
        ([0.5, 0.3, 0.2, 0.1], "ended after all 4 passes, best at pass 4"),
    ],
)
def test_the_end_is_told_in_words(curve: list[float], words: str) -> None:
    assert re.match(words, verdict(np.array(curve), 4))


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("projection", [1 / 2j, 1.0, 0.0]),
        ("epry", [-2j / 4, 1 / 4, 0.0]),
        ("rpie", [-2j / 4, 1 / (0.75 + 1), 0.0]),
        ("quasi_newton", [-2j / (4 + 1), 0.5 / (1 + 1), 0.0]),
    ],
)
def test_rules_by_hand(rule: str, wanted: list[complex]) -> None:
    np.testing.assert_allclose(RULES[rule](jnp.array([2j, 1.0, 0.0]), 0.25), wanted, rtol=1e-5)
    np.testing.assert_array_equal(RULES[rule](jnp.zeros(3, jnp.complex64), 0.25), 0)
