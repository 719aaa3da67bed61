"""Images of any size through a sampler: exact where tiles cannot matter, in agreement where norms look at them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Field
from medgen_jax.ops.tiles import Grid, seam_score
from medgen_jax.sampling import LoadedSampler
from medgen_jax.translation import tiles


def sampler(function, pool=None, variables=None, size=32):
    """A sampler without a run; networks take multiples of 8."""

    def checked(variables, inputs, key):
        if inputs["image"].shape[1] % 8 or inputs["image"].shape[2] % 8:
            raise UserError("sides must be multiples of 8")
        return function(variables, inputs, key)

    inputs = {"image": Field((size, size, 1), "uint8")}
    return LoadedSampler("a2b", "toy", None, variables or {}, checked, jax.jit(checked), inputs, pool)


def identity(variables, inputs, key):
    return inputs["image"].astype(jnp.float32) / 127.5 - 1


def instance_norm(variables, inputs, key):
    x = inputs["image"].astype(jnp.float32)
    mean = variables.get("mean", x.mean((1, 2, 3), keepdims=True))
    return jnp.clip((x - mean) / 255, -1, 1)


def pool(variables, inputs, key):
    return {"mean": inputs["image"].astype(jnp.float32).mean(keepdims=True)}


def picture(height, width, dtype=np.uint8):
    """A bright gradient with texture: tiles differ in mean."""
    y, x = np.mgrid[:height, :width]
    values = 60 + 120 * x / width + 30 * np.sin(y / 3) + np.random.default_rng(0).normal(0, 4, (height, width))
    return (values / 255 * np.iinfo(dtype).max).astype(dtype)[..., None]


def test_small_images_that_fit_stay_whole_and_others_are_cut():
    net = sampler(identity)
    assert tiles.plan(net, (32, 32, 1), "uint8") is None
    assert tiles.plan(net, (64, 64, 1), "uint8") is None
    assert tiles.plan(net, (72, 64, 1), "uint8") == Grid(72, 64, 32, 8)
    assert tiles.plan(net, (30, 40, 1), "uint8") == Grid(30, 40, 32, 8)
    assert tiles.plan(net, (32, 32, 1), "uint8", tile=16, overlap=2) == Grid(32, 32, 16, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 20}, "tiles of 20 x 20 pixels: sides must be multiples of 8"),
        ({"tile": 16, "overlap": 16}, "--overlap = 16: must be at least 0 and below the side of a tile, 16"),
        ({"tile": -8}, "--tile = -8: must be positive"),
    ],
)
def test_impossible_tiles_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        tiles.plan(sampler(identity), (100, 100, 1), "uint8", **options)


def test_a_sampler_that_changes_the_size_cannot_be_tiled():
    smaller = sampler(lambda variables, inputs, key: identity(variables, inputs, key)[:, ::2, ::2])
    with pytest.raises(UserError, match=r"turns 32 x 32 pixels into \(16, 16\)"):
        tiles.plan(smaller, (100, 100, 1), "uint8")


@pytest.mark.parametrize("batch", [1, 4, 7])
def test_pointwise_samplers_do_not_notice_the_tiles(batch):
    image = picture(75, 110)
    net = sampler(identity)
    made = tiles.sample_image(net, image, tiles.plan(net, image.shape, "uint8"), batch=batch)
    np.testing.assert_allclose(made, image / 127.5 - 1, atol=1e-5)


def test_pooled_statistics_make_tiles_agree():
    image = picture(96, 160)
    alone, agreeing = sampler(instance_norm), sampler(instance_norm, pool)
    grid = Grid(96, 160, 32, 0)
    seen, mended = (tiles.sample_image(net, image, grid) for net in (alone, agreeing))
    assert seam_score(seen, grid) > 1.2 and abs(seam_score(mended, grid) - 1) < 0.05
    # The pooled mean is that of the image, so the result is the untiled one.
    whole = np.asarray(instance_norm({}, {"image": jnp.asarray(image[None])}, None))[0]
    np.testing.assert_allclose(mended, whole, atol=1e-2)


def test_skipped_tiles_become_background_and_are_never_read_for_translation():
    image, read = picture(32, 96), []
    grid = Grid(32, 96, 32, 0)

    def look(top, left):
        read.append(left)
        return grid.cut(image, top, left)

    rows = tiles.sample_rows(sampler(identity), look, grid, skip=lambda top, left: left == 32, background=0.5)
    made = np.concatenate(list(rows))
    np.testing.assert_allclose(made[:, 32:64], 0.5)
    np.testing.assert_allclose(made[:, :32], image[:, :32] / 127.5 - 1, atol=1e-5)
    assert read.count(0) == 2 and read.count(32) == 1  # once for the statistics, once to be translated; for its shape
