"""Both LPIPS protocols on distances that are known by hand; no network."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import lpips

ALL = np.ones(4, np.float32)


def offset(x: jax.Array, y: jax.Array) -> jax.Array:
    """The difference of the means, a distance that can be chosen."""
    return jnp.abs(jnp.mean(x - y, axis=(1, 2, 3)))


def embed(x: jax.Array) -> dict[str, jax.Array]:
    """Two layers of different sizes."""
    return {"fine": x[:, ::2], "coarse": jnp.mean(x, axis=(1, 2)) * 3}


def squared(x: jax.Array, y: jax.Array) -> np.ndarray:
    pairs = zip(jax.tree.leaves(embed(x)), jax.tree.leaves(embed(y)), strict=True)
    return sum(np.sum(np.square(np.float64(a) - np.float64(b)).reshape(len(x), -1), 1) for a, b in pairs)


accumulate = jax.jit(lambda acc, x, y, mask: lpips.accumulate(acc, offset, x, y, mask))
diversity = jax.jit(lambda outputs: lpips.diversity(embed, outputs))


def flat(values: list[float]) -> np.ndarray:
    """One constant image of 4 x 4 pixels for each value."""
    return np.broadcast_to(np.float32(values)[:, None, None, None], (len(values), 4, 4, 1))


def added(acc: jax.Array, values: list[float], mask: list[float] | None = None) -> jax.Array:
    """A batch of four records, padded, at these distances."""
    mask = [1.0] * len(values) if mask is None else mask
    padding = 4 - len(values)
    images = flat([*values, *[7.0] * padding])
    return accumulate(acc, images, np.zeros_like(images), np.float32([*mask, *[0.0] * padding]))


def similarity(values: list[float], mask: list[float] | None = None) -> jax.Array:
    return added(lpips.init(), values, mask)


def test_mean_standard_error_and_count_by_hand() -> None:
    """1, 2, 3, 6: mean 3, variance 14 / 3."""
    got = lpips.compute(similarity([1.0, 2.0, 3.0, 6.0]))
    assert got == pytest.approx({"lpips": 3.0, "lpips_images": 4, "lpips_standard_error": math.sqrt(14 / 3 / 4)})


def test_one_image_has_no_standard_error() -> None:
    assert lpips.compute(similarity([0.25])) == {"lpips": 0.25, "lpips_images": 1}


def test_equal_distances_have_no_spread() -> None:
    acc = lpips.init()
    for _ in range(20):
        acc = lpips.merge(acc, similarity([0.1, 0.1, 0.1]))
    got = lpips.compute(acc)
    assert got["lpips"] == pytest.approx(0.1, rel=1e-6)
    assert got["lpips_standard_error"] < 1e-8


def test_padding_never_counts_and_nan_is_not_hidden() -> None:
    masked = similarity([1.0, np.nan, 3.0, np.inf], [1, 0, 1, 0])
    assert lpips.compute(masked) == lpips.compute(similarity([1.0, 3.0]))
    assert lpips.compute(lpips.merge(masked, similarity([5.0, 5.0], [0, 0]))) == lpips.compute(masked)
    assert math.isnan(lpips.compute(similarity([1.0, np.nan]))["lpips"])


def test_batches_and_shards_merge_in_any_order() -> None:
    values = np.random.default_rng(0).gamma(2, 0.1, 30)
    parts = [similarity(list(part)) for part in np.split(values, [1, 5, 7, 10, 14, 18, 22, 26])]
    chained = lpips.init()
    for part in np.split(values, [3, 4, 8, 12, 16, 20, 24, 28]):
        chained = added(chained, list(part))
    forth, back = lpips.init(), lpips.init()
    for part in parts:
        forth, back = lpips.merge(forth, part), lpips.merge(part, back)
    wanted = {"lpips": values.mean(), "lpips_images": 30, "lpips_standard_error": values.std(ddof=1) / math.sqrt(30)}
    for acc in (forth, back, chained, lpips.merge(lpips.init(), forth)):
        assert lpips.compute(acc) == pytest.approx(wanted, rel=1e-5)
        assert lpips.compute(acc) == pytest.approx(lpips.compute(chained), rel=1e-12)


@pytest.mark.parametrize("k", [2, 3, 10])
def test_diversity_is_the_mean_over_all_pairs(k: int) -> None:
    """45 pairs for 10 outputs."""
    outputs = np.random.default_rng(k).normal(size=(k, 3, 6, 4, 3)).astype(np.float32)
    pairs = [squared(a, b) for a, b in itertools.combinations(outputs, 2)]
    assert len(pairs) == k * (k - 1) // 2
    got = diversity(outputs)
    assert got.shape == (3,) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.mean(pairs, axis=0), rtol=1e-5)


def test_diversity_of_equal_outputs_is_zero() -> None:
    image = np.random.default_rng(1).uniform(-1, 1, (2, 4, 4, 3)).astype(np.float32)
    outputs = np.stack([image] * 5)
    got = np.asarray(diversity(outputs))
    assert (got >= 0).all() and (got < 1e-12).all()
    outputs[3, 1] += 0.5
    got = np.asarray(diversity(outputs))
    assert 0 <= got[0] < 1e-12 and got[1] > 0.1


def test_diversity_survives_a_large_common_part() -> None:
    """Spread 1e-3 around 1: squares of the points themselves would lose it in float32."""
    noise = np.random.default_rng(2).normal(0, 1e-3, (4, 1, 8, 8, 3))
    outputs = (1 + noise).astype(np.float32)
    pairs = [squared(a, b) for a, b in itertools.combinations(outputs, 2)]
    np.testing.assert_allclose(diversity(outputs), np.mean(pairs, axis=0), rtol=1e-3)


def test_triple_over_sources() -> None:
    outputs = np.random.default_rng(3).normal(size=(3, 4, 4, 4, 1)).astype(np.float32)
    outputs[:, 3] = np.nan
    accumulate = jax.jit(lambda acc, o, m: lpips.accumulate_diversity(acc, embed, o, m))
    acc = accumulate(lpips.init(), outputs, np.array([1.0, 1, 1, 0]))
    values = np.mean([squared(a, b)[:3] for a, b in itertools.combinations(outputs, 2)], axis=0)
    wanted = {
        "lpips_diversity": values.mean(),
        "lpips_diversity_sources": 3,
        "lpips_diversity_standard_error": values.std(ddof=1) / math.sqrt(3),
    }
    assert lpips.compute_diversity(acc) == pytest.approx(wanted, rel=1e-5)


def test_sharded_batches_give_the_same_numbers() -> None:
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    outputs = np.random.default_rng(4).normal(size=(3, 4, 4, 4, 1)).astype(np.float32)
    over_data = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
    run = jax.jit(lambda o: lpips.accumulate_diversity(lpips.init(), embed, o, ALL))
    got, wanted = (lpips.compute_diversity(run(o)) for o in (jax.device_put(outputs, over_data), outputs))
    assert got == pytest.approx(wanted, rel=1e-5)


def test_the_two_protocols_share_no_name() -> None:
    acc = similarity([1.0, 2.0])
    assert not set(lpips.compute(acc)) & set(lpips.compute_diversity(acc))


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match="^lpips: nothing was added"):
        lpips.compute(lpips.init())
    with pytest.raises(UserError, match="^lpips_diversity: nothing was added"):
        lpips.compute_diversity(lpips.init())
    for shape in ((1, 4, 8, 8, 3), (10, 8, 8, 3)):
        with pytest.raises(UserError, match=r"expected \(k, b, h, w, c\), and k at least 2"):
            lpips.diversity(embed, np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"distances \(4,\) for a mask \(3,\)"):
        lpips.accumulate(lpips.init(), offset, flat([0.0] * 4), flat([0.0] * 4), np.ones(3))
