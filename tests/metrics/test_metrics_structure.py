"""MS-SSIM and HaarPSI over a data set: means, padding, shards, bad input."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import structure
from medgen_jax.metrics.haarpsi import haar_psi
from medgen_jax.metrics.ssim import multiscale_structural_similarity

accumulate = jax.jit(functools.partial(structure.accumulate, scales=1))
RNG = np.random.default_rng(0)
TARGET = RNG.integers(0, 65536, (8, 20, 18, 1), dtype=np.uint16)
PREDICTED = (0.7 * TARGET + 0.3 * RNG.integers(0, 65536, TARGET.shape)).astype(np.uint16)
ONES = np.ones(2, np.float32)


def scaled(image: np.ndarray) -> np.ndarray:
    return (image / 32767.5 - 1).astype(np.float32)


def test_means_of_the_single_images_with_16_bits_as_with_floats() -> None:
    x, y, mask = PREDICTED[:2], TARGET[:2], np.float32([1, 0])
    got = structure.compute(accumulate(structure.init(), x, y, mask))
    a, b = scaled(x), scaled(y)
    ms_ssim = jax.jit(functools.partial(multiscale_structural_similarity, scales=1))(a, b)[0]
    assert got == pytest.approx({"ms_ssim": float(ms_ssim), "haarpsi": float(jax.jit(haar_psi)(a, b)[0])}, rel=1e-5)
    a[1] = np.nan
    assert structure.compute(accumulate(structure.init(), a, b, mask)) == pytest.approx(got, rel=1e-5)
    assert np.isnan(structure.compute(accumulate(structure.init(), a, b, ONES))["haarpsi"])


def test_shards_merge_to_the_stream() -> None:
    batches = [(PREDICTED[i : i + 2], TARGET[i : i + 2], ONES) for i in (0, 2, 4, 6)]
    stream = structure.init()
    for batch in batches:
        stream = accumulate(stream, *batch)
    shards = [accumulate(structure.init(), *batch) for batch in batches]
    merged = functools.reduce(structure.merge, reversed(shards))
    assert structure.compute(merged) == pytest.approx(structure.compute(stream), rel=1e-12)


def test_bad_input_is_named() -> None:
    acc, image = structure.init(), jnp.zeros((1, 200, 180, 1))
    with pytest.raises(UserError, match="no image pair was added"):
        structure.compute(acc)
    with pytest.raises(UserError, match=r"\(1, 200, 180, 1\).*\(1, 200, 180, 3\)"):
        structure.accumulate(acc, image, jnp.zeros((1, 200, 180, 3)), ONES[:1])
    with pytest.raises(UserError, match="dtype int32"):
        structure.accumulate(acc, image.astype(int), image.astype(int), ONES[:1])
    with pytest.raises(UserError, match="at most 1 fit"):
        structure.accumulate(acc, image[:, :20], image[:, :20], ONES[:1])
