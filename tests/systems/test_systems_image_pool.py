"""The history of generated images: fills first, then swaps half of the time, image by image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import collectives
from medgen_jax.engine import mesh as meshes
from medgen_jax.systems import image_pool

KEY = jax.random.key(4)
query = jax.jit(image_pool.query)


def numbered(*values):
    """Images (b, 1, 1, 1) that carry their number."""
    return jnp.asarray(values, jnp.float32).reshape(-1, 1, 1, 1)


def test_while_it_fills_every_image_comes_back_and_is_stored():
    pool = image_pool.empty(4, (1, 1, 1))
    shown, pool = query(pool, numbered(1, 2, 3), jax.random.key(0))
    np.testing.assert_array_equal(shown.ravel(), [1, 2, 3])
    np.testing.assert_array_equal(pool["images"].ravel(), [1, 2, 3, 0])
    assert int(pool["filled"]) == 3


def test_a_full_pool_gives_an_old_image_for_every_one_it_keeps():
    pool = {"images": numbered(*range(50)), "filled": jnp.int32(50)}
    shown, after = query(pool, numbered(*range(100, 300)), jax.random.key(1))
    shown, stored = np.asarray(shown).ravel(), np.asarray(after["images"]).ravel()
    new = np.arange(100, 300)
    swapped = shown != new
    assert 0.4 < swapped.mean() < 0.6  # 200 fair coins
    # Nothing is lost and nothing doubled: what went in and was there is what came out and is there.
    assert sorted([*range(50), *new]) == sorted([*shown, *stored])
    # A swapped image may be handed out later in the same batch: images are queried one after the other.
    assert (shown[swapped] >= 100).any() and (shown[swapped] < 50).any()


def test_places_are_drawn_evenly():
    pool = {"images": numbered(*range(4)), "filled": jnp.int32(4)}
    keys = jax.random.split(jax.random.key(2), 2000)
    shown, _ = jax.jit(jax.vmap(image_pool.query, in_axes=(None, None, 0)))(pool, numbered(9), keys)
    counts = np.bincount(np.asarray(shown).ravel().astype(int), minlength=10)
    assert 900 < counts[9] < 1100
    assert (np.abs(counts[:4] - 250) < 60).all()


def test_one_key_is_one_history():
    pool = {"images": numbered(1, 2), "filled": jnp.int32(2)}
    first, again = (query(pool, numbered(5, 6, 7), jax.random.key(3)) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1]["images"], again[1]["images"])


def test_without_a_pool_images_pass_through():
    pool = image_pool.empty(0, (1, 1, 1))
    shown, after = image_pool.query(pool, numbered(1, 2), jax.random.key(0))
    np.testing.assert_array_equal(shown.ravel(), [1, 2])
    assert pool == after == {}  # no array without elements, which checkpoints cannot hold


def test_on_several_devices_it_is_the_same_exchange_and_tells_each_image_once():
    mesh = meshes.make_mesh(jax.devices()[:4])
    pool, images = {"images": numbered(*range(6)), "filled": jnp.int32(6)}, numbered(*range(10, 26))
    shown, after = query(pool, images, KEY)
    everywhere, cut = meshes.replicated(mesh), meshes.over_data(mesh)
    placed = tuple(map(jax.device_put, (pool, images, KEY), (everywhere, cut, everywhere)))
    with jax.set_mesh(mesh):
        run = jax.jit(image_pool.query).lower(*placed).compile()
    found = run(*placed)
    np.testing.assert_array_equal(found[0], shown)
    np.testing.assert_array_equal(found[1]["images"], after["images"])
    assert {shard.data.shape for shard in found[0].addressable_shards} == {(4, 1, 1, 1)}
    (told,) = collectives.of_program(run.as_text())
    assert (told.kind, told.elements) == ("all-gather", 16)
