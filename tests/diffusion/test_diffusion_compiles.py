"""Other values compile nothing: scales, labels, conditions, images, noise and depths are arrays of the program.

Counted are the programs that JAX hands to the compiler. A number of images of its own is a program of its own, once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_systems

from medgen_jax.diffusion.guidance import classifier_free_denoise
from medgen_jax.diffusion.inversion import INVERSIONS
from medgen_jax.diffusion.samplers import Model, ddim_sample, ddpm_sample, dpm_solver_sample
from medgen_jax.diffusion.schedules import make_schedule, respace, uniform_timesteps
from medgen_jax.engine.runtime import CompileCounter
from medgen_jax.sampling import make_counterfactual

FULL = make_schedule("linear", 1000)
GRID = respace(FULL, uniform_timesteps(1000, 3))


def denoise(x: jax.Array, t: jax.Array, condition: jax.Array) -> jax.Array:
    return 0.5 * x + 0.1 * condition.reshape(-1, 1, 1, 1) + 1e-4 * t.reshape(-1, 1, 1, 1)


def classify(x: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], -1)


@pytest.fixture
def compiled() -> Iterator[Callable[[], int]]:
    """How many programs were compiled since it was last asked."""
    with CompileCounter() as counter:
        asked = [0]

        def since() -> int:
            asked.append(counter.count)
            return asked[-1] - asked[-2]

        yield since


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 4, 4, 1)).astype(np.float32)


SAMPLERS: dict[str, Callable[..., Any]] = {
    "ddim": lambda model, x, label, key, eta: ddim_sample(model, x, label, eta=eta, key=key),
    "ddpm": lambda model, x, label, key, eta: ddpm_sample(model, x, label, key=key),
    "dpm_solver": lambda model, x, label, key, eta: dpm_solver_sample(model, x, label),
}


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_samplers(name: str, compiled: Callable[[], int]) -> None:
    @jax.jit
    def run(x: jax.Array, label: jax.Array, scale: jax.Array, key: jax.Array, eta: jax.Array) -> jax.Array:
        model = Model(classifier_free_denoise(denoise, 2, scale), GRID, clip=True)
        return SAMPLERS[name](model, x, label, key, eta).x

    def call(count: int, seed: int, label: int, scale: float, eta: float) -> np.ndarray:
        labels, scales = np.full(count, label, np.int32), np.full(count, scale, np.float32)
        return np.asarray(run(images(count, seed), labels, scales, jax.random.key(seed), np.float32(eta)))

    first = call(3, 0, 0, 0.0, 0.0)
    assert compiled() > 0
    others = [call(3, 1, 0, 0.0, 0.0), call(3, 0, 1, 0.0, 0.0), call(3, 0, 0, 4.0, 1.0)]
    assert compiled() == 0 and run._cache_size() == 1
    assert all(np.abs(other - first).max() > 1e-3 for other in others)
    if name == "ddim":
        call(2, 0, 0, 0.0, 0.0)
        assert compiled() > 0 and run._cache_size() == 2
        call(2, 1, 1, 2.0, 0.5)
        call(3, 2, 1, 2.0, 0.5)
        assert compiled() == 0


@pytest.mark.parametrize("method", list(INVERSIONS))
def test_counterfactuals(method: str, compiled: Callable[[], int]) -> None:
    sampler = make_counterfactual(denoise, classify, schedule=FULL, method=method, steps=3, null=2)

    def call(count: int = 3, seed: int = 0, **changed: Any) -> np.ndarray:
        asked = {"source": 2, "target": 0, "scale": 0.0, "label": 0, "classifier_scale": 0.1, "depth": 300} | changed
        return np.asarray(sampler(images(count, seed), **asked).counterfactual)

    first = call()
    assert compiled() > 0
    for changed in (
        {"seed": 1},
        {"source": 1},
        {"target": 1},
        {"target": [0, 1, 0]},
        {"scale": 3},
        {"scale": np.array([0.5, 1.0, 2.0])},
        {"label": 1, "classifier_scale": 5.0},
        {"depth": 700},
        {"depth": [20, 300, 1000]},
        {"interval": (0, 200), "scale": 3.0},
    ):
        assert np.abs(call(**changed) - first).max() > 1e-5, changed
        assert compiled() == 0, changed
    assert sampler.jitted["counterfactual"]._cache_size() == 1


class Linear:
    """Stands in for the network, which would take seconds to compile."""

    learned_variance, null = False, {"label": 2}

    def apply(self, variables: Any, x: jax.Array, t: jax.Array, condition: Any, **_: Any) -> jax.Array:
        return denoise(x, t, condition["label"]) + variables["params"]


def test_the_sampler_of_the_system(compiled: Callable[[], int]) -> None:
    system = dataclasses.replace(small_systems.build("diffusion"), network=Linear())
    run = jax.jit(system.samplers["sample"])

    def call(seed: int, label: int, scale: float, weight: float) -> np.ndarray:
        inputs = {
            "number": np.arange(3, dtype=np.int32), "label": np.full(3, label, np.int32),
            "scale": np.full(3, scale, np.float32),
        }  # fmt: skip
        return np.asarray(run({"params": np.float32(weight)}, inputs, jax.random.key(seed)))

    first = call(0, 0, 0.0, 0.0)
    assert compiled() > 0
    for changed in ((1, 0, 0.0, 0.0), (0, 1, 0.0, 0.0), (0, 0, 3.0, 0.0), (0, 0, 0.0, 0.1)):
        assert np.abs(call(*changed) - first).max() > 1e-3
    assert compiled() == 0 and run._cache_size() == 1
