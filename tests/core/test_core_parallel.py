"""Arrays drawn in a step lie where they are said to; values stay, and no mesh, no change."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from medgen_jax.core.parallel import AXIS, on_every_device, over_batch

KEY = jax.random.key(0)


def mesh(devices=4, axis=AXIS, kind=AxisType.Auto):
    return jax.make_mesh((devices,), (axis,), axis_types=(kind,), devices=jax.devices()[:devices])


def draw(key):
    return over_batch({"codes": jax.random.normal(key, (8, 3)), "steps": jax.random.randint(key, (8,), 0, 9)})


def constraints(function, shape):
    """How many arrays the function says something about."""
    found = str(jax.make_jaxpr(function)(jnp.zeros(shape)))
    return found.count("sharding_constraint[")


def test_drawn_arrays_are_cut_and_keep_their_values():
    with jax.set_mesh(mesh()):
        cut = jax.jit(draw)(KEY)
    for name, value in draw(KEY).items():
        assert {shard.data.shape for shard in cut[name].addressable_shards} == {(2, *value.shape[1:])}
        np.testing.assert_array_equal(cut[name], value)


def test_an_array_for_every_device_is_whole_on_each():
    with jax.set_mesh(mesh()):
        whole = jax.jit(lambda key: on_every_device(draw(key)))(KEY)
    for name, value in draw(KEY).items():
        assert whole[name].sharding.is_fully_replicated
        np.testing.assert_array_equal(whole[name], value)


@pytest.mark.parametrize("function", [over_batch, on_every_device])
def test_nothing_is_said_where_there_is_nothing_to_share(function):
    x = jnp.ones((8, 2))
    assert function(x) is x
    for devices, axis, kind in ((1, AXIS, AxisType.Auto), (4, "model", AxisType.Auto), (4, AXIS, AxisType.Explicit)):
        with jax.set_mesh(mesh(devices, axis, kind)):
            assert constraints(function, (8, 2)) == 0
    with jax.set_mesh(mesh()):
        assert constraints(function, (8, 2)) == 1


def test_what_cannot_be_shared_equally_stays():
    with jax.set_mesh(mesh()):
        assert constraints(over_batch, (6, 2)) == 0 and constraints(over_batch, (12, 2)) == 1


def test_inside_of_a_function_that_is_mapped_by_hand_nothing_is_said():
    def part(x):
        return over_batch(x) + 1

    x = jnp.arange(16.0).reshape(16, 1)
    run = jax.shard_map(part, mesh=mesh(), in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec(AXIS))
    np.testing.assert_array_equal(jax.jit(run)(x), x + 1)


def test_devices_divide_the_work_of_what_is_drawn():
    """Eight codes through two layers: without a word, the whole of it on each of four devices."""

    def loss(weights, codes):
        return jnp.sum(jnp.square(jnp.dot(jnp.tanh(jnp.dot(codes(KEY), weights)), weights)))

    def operations(codes):
        with jax.set_mesh(mesh()):
            compiled = jax.jit(jax.grad(loss), static_argnums=1).lower(jnp.ones((64, 64)), codes).compile()
        return compiled.cost_analysis()["flops"]

    def codes(key):
        return jax.random.normal(key, (64, 64))

    assert operations(lambda key: over_batch(codes(key))) < 0.3 * operations(codes)


def test_gradients_pass():
    def loss(x):
        return jnp.sum(jnp.square(over_batch(x)) * jnp.arange(8.0)[:, None])

    with jax.set_mesh(mesh()):
        gradient = jax.jit(jax.grad(loss))(jnp.ones((8, 2)))
    np.testing.assert_array_equal(gradient, jnp.broadcast_to(2 * jnp.arange(8.0)[:, None], (8, 2)))
