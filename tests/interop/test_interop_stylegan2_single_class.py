"""A network of one class answers as one without classes does, and the other way round."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.interop.stylegan2_single_class import with_one_class, without_classes
from medgen_jax.interop.stylegan2_tables import Info
from medgen_jax.nn.stylegan2 import Discriminator, Mapping

PLAIN = Info(8, 1, 0, 4, 6, 2, 40, 8)
ONE = dataclasses.replace(PLAIN, classes=1, judge_layers=2)
WIDTHS = {"map_layers": PLAIN.map_layers, "channel_base": PLAIN.channel_base, "channel_max": PLAIN.channel_max}


def mapping(info):
    return Mapping(info.w_dim, info.classes, info.map_layers, averaged=False)


def judge(info):
    return Discriminator(info.size, info.channels, info.classes, minibatch_group=2, **WIDTHS)


def inputs(info, count=4):
    """Codes, images and labels."""
    rng = np.random.default_rng(1)
    z, x = rng.standard_normal((count, info.z_dim)), rng.standard_normal((count, info.size, info.size, info.channels))
    return z.astype(np.float32), x.astype(np.float32), np.zeros(count, np.int32) if info.classes else None


def networks_of(info):
    """Random weights of the size that they have in training; of a generator the mapping, which is what changes."""
    z, x, labels = inputs(info)
    rng = np.random.default_rng(0)

    def random(path, leaf):
        rate = 100.0 if "layer_" in jax.tree_util.keystr(path) else 1.0  # the rate of a mapping is 0.01
        return (rate * rng.standard_normal(leaf.shape)).astype(np.float32)

    def drawn(net, *arguments):
        shapes = jax.eval_shape(net.init, jax.random.key(0), *arguments)["params"]
        return jax.tree_util.tree_map_with_path(random, shapes)

    constants = {"constants": {"noise": np.ones(3, np.float32)}}
    g = {"params": {"mapping": drawn(mapping(info), z, labels), "synthesis": {"const": np.ones(2)}}, **constants}
    return {"g": g, "d": {"params": drawn(judge(info), x, labels)}}


def answers(info, networks):
    z, x, labels = inputs(info)
    w = jax.jit(mapping(info).apply)({"params": networks["g"]["params"]["mapping"]}, z, labels)
    return np.asarray(w), np.asarray(jax.jit(judge(info).apply)({"params": networks["d"]["params"]}, x, labels))


def assert_same_answers(one, other):
    for a, b in zip(one, other, strict=True):
        assert np.ptp(a) > 0.1
        np.testing.assert_allclose(a, b, atol=3e-6 * np.abs(a).max())


def test_a_class_is_put_in_and_taken_out():
    networks = networks_of(PLAIN)
    put_in, info = with_one_class(networks, PLAIN)
    assert info == ONE
    shapes = jax.tree.map(np.shape, networks_of(ONE))
    assert jax.tree.map(np.shape, put_in) == shapes
    assert_same_answers(answers(PLAIN, networks), answers(ONE, put_in))
    back, info = without_classes(put_in, info)
    assert info == PLAIN
    assert jax.tree.structure(back) == jax.tree.structure(networks)
    for (path, wanted), got in zip(jax.tree_util.tree_leaves_with_path(networks), jax.tree.leaves(back), strict=True):
        where = jax.tree_util.keystr(path)
        # To a unit in the last place; all but two layers bit by bit.
        changed = "['layer_0']['kernel']" in where or "['out']" in where
        np.testing.assert_allclose(got, wanted, rtol=1.2e-7 if changed else 0, err_msg=where)


def test_a_class_that_was_trained_is_taken_out():
    networks = networks_of(ONE)
    taken_out, info = without_classes(networks, ONE)
    assert info == PLAIN and "embed" not in taken_out["g"]["params"]["mapping"]
    assert "mapping" not in taken_out["d"]["params"]
    assert_same_answers(answers(ONE, networks), answers(PLAIN, taken_out))
    assert taken_out["g"]["constants"] == networks["g"]["constants"]
    first = networks["g"]["params"]["mapping"]["layer_0"]["bias"]
    assert np.abs(taken_out["g"]["params"]["mapping"]["layer_0"]["bias"] - first).max() > 1  # the class did count


def test_nothing_else_is_touched():
    networks = networks_of(PLAIN)
    put_in, _ = with_one_class({"g_ema": networks["g"]}, PLAIN)
    assert list(put_in) == ["g_ema"]
    before, after = networks["g"]["params"], put_in["g_ema"]["params"]
    assert after["synthesis"] is before["synthesis"] and after["mapping"]["layer_1"] is before["mapping"]["layer_1"]
    assert "embed" not in before["mapping"]
    assert jnp.shape(after["mapping"]["layer_0"]["kernel"]) == (10, 6)
