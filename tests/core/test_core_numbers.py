"""Orders, trees, keys, precision, accumulation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core import precision, rng, trees
from medgen_jax.core.errors import UserError
from medgen_jax.core.grad import accumulate
from medgen_jax.core.streams import Field, Records, Stream, sequential, shuffled


def test_shuffled_visits_every_record_once_an_epoch_in_new_orders():
    records = Records(7, seed=3)
    orders = [[shuffled(7 * epoch + i, None, records) for i in range(7)] for epoch in range(3)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] != [shuffled(i, None, Records(7, seed=4)) for i in range(7)]
    assert [sequential(i, None, records) for i in (0, 6, 7, 15)] == [0, 6, 0, 1]


def test_empty_batches_have_the_streams_shapes():
    stream = Stream((("x", Field((4, 5, 1), "uint16")), ("label", Field((), "int32"))), 3)
    zeros = stream.zeros()
    assert zeros["x"].shape == (3, 4, 5, 1) and zeros["x"].dtype == np.uint16
    assert stream.zeros(2)["label"].shape == (2,)


def test_norm_count_and_average():
    tree = {"a": jnp.array([3.0]), "b": {"c": jnp.array([[4.0]])}}
    assert float(trees.global_norm(tree)) == 5.0 and trees.count(tree) == 2
    moved = trees.ema(tree, jax.tree.map(lambda x: x + 1, tree), 0.75)
    np.testing.assert_allclose(moved["a"], [3.25])


def test_finite_looks_at_float_leaves_only():
    fine = {"x": jnp.ones(2), "n": jnp.int32(2**31 - 1), "key": jax.random.key(0)}
    assert bool(trees.all_finite(fine)) and bool(trees.all_finite({"n": jnp.int32(1)}))
    for bad in (jnp.nan, jnp.inf):
        assert not bool(trees.all_finite(fine, {"y": jnp.array([0.0, bad])}))


def test_select_takes_keys_too():
    yes, no = {"k": jax.random.key(1), "x": jnp.ones(2)}, {"k": jax.random.key(2), "x": jnp.zeros(2)}
    taken = trees.select(jnp.array(False), yes, no)
    assert trees.digest(taken) == trees.digest(no) != trees.digest(yes)


def test_digest_sees_names_shapes_dtypes_and_values():
    base = {"x": jnp.zeros((2, 3))}
    others = [{"y": jnp.zeros((2, 3))}, {"x": jnp.zeros((3, 2))}, {"x": jnp.zeros((2, 3), jnp.int32)},
              {"x": jnp.zeros((2, 3)).at[1, 2].set(1e-30)}]  # fmt: skip
    digests = {trees.digest(tree) for tree in (base, *others)}
    assert len(digests) == 5


def test_a_named_key_depends_on_nothing_but_its_name():
    key = jax.random.key(0)
    alone, among = rng.named(key, "dropout"), rng.named(key, "mix", "dropout", "noise")
    assert trees.digest(alone["dropout"]) == trees.digest(among["dropout"]) != trees.digest(among["mix"])


def test_precision():
    assert precision.compute_dtype("auto") == jnp.float32  # on a CPU, where bfloat16 is emulated
    assert precision.compute_dtype("bfloat16") == jnp.bfloat16
    with pytest.raises(UserError, match="train.precision"):
        precision.compute_dtype("half")


@pytest.mark.parametrize(("dtype", "whole"), [(jnp.float32, True), (jnp.bfloat16, False)])
def test_float32_products_alone_ask_for_all_their_bits(dtype, whole):
    def product(x):
        with precision.whole_products(dtype):
            return x @ x

    assert ("HIGHEST" in str(jax.make_jaxpr(product)(jnp.ones((2, 2), dtype)))) is whole


@pytest.mark.parametrize("n", [1, 2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(n):
    x = jnp.arange(8.0).reshape(8, 1)
    params = {"w": jnp.array([0.5])}

    def loss(p, batch, key):
        residual = batch["x"] @ p["w"] - 3.0
        return jnp.mean(residual**2), {"error": jnp.mean(jnp.abs(residual))}

    (value, aux), grads = accumulate(loss, params, {"x": x}, jax.random.key(0), n)
    (whole, whole_aux), whole_grads = jax.value_and_grad(loss, has_aux=True)(params, {"x": x}, None)
    np.testing.assert_allclose(value, whole, rtol=1e-6)
    np.testing.assert_allclose(aux["error"], whole_aux["error"], rtol=1e-6)
    np.testing.assert_allclose(grads["w"], whole_grads["w"], rtol=1e-6)


def test_accumulation_draws_anew_for_every_slice():
    def loss(p, batch, key):
        return jnp.mean(p * jax.random.normal(key, ())), {}

    (value, _), _ = accumulate(loss, jnp.float32(1.0), jnp.zeros((4, 1)), jax.random.key(0), 2)
    drawn = [jax.random.normal(jax.random.fold_in(jax.random.key(0), i), ()) for i in range(2)]
    np.testing.assert_allclose(value, sum(drawn) / 2, rtol=1e-6)
