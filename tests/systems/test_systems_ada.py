"""Adaptive augmentation: flips, turns, shifts, warps and colours in closed form; how often; p by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.systems import ada


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize(("pipe", "channels"), [("b", 1), ("bg", 3), ("bgc", 1), ("bgc", 3)])
def test_nothing_happens_at_0(pipe, channels):
    images = noise(3, 8, 8, channels)
    made = jax.jit(lambda x: ada.augment(jax.random.key(0), 0.0, x, pipe))(images)
    np.testing.assert_allclose(made, images, atol=1e-6)
    if channels == 1 or "c" not in pipe:
        np.testing.assert_array_equal(made, images)


def test_flips_turns_and_shifts_are_exact():
    """Each image is flipped, then turned counter-clockwise, then shifted; at the edge it is mirrored."""
    images = noise(8, 9, 9, 2)
    flip, turns = jnp.arange(8) >= 4, jnp.arange(8) % 4
    shift = jnp.array([(0, 0), (2, -3), (-1, 0), (0, 4)] * 2)
    made = jax.jit(ada.blit)(images, flip, turns, shift)
    for i, image in enumerate(images):
        turned = np.rot90(image[:, ::-1] if flip[i] else image, int(turns[i]))
        (down, right), around = np.asarray(shift[i]), np.pad(turned, ((4, 4), (4, 4), (0, 0)), mode="reflect")
        wanted = around[4 - down : 13 - down, 4 - right : 13 - right]
        np.testing.assert_array_equal(made[i], wanted, err_msg=str(i))


def test_a_mirrored_place_lies_inside():
    """0 1 2 3 2 1 0 1 ..., in both directions, and half-way places likewise."""
    np.testing.assert_array_equal(ada._mirrored(jnp.arange(-7, 9), 4), [1, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2])
    np.testing.assert_allclose(ada._mirrored(jnp.array([-0.5, 3.25, 6.5]), 4), [0.5, 2.75, 0.5])


def test_a_warp_by_nothing_loses_no_detail_and_one_by_pixels_shifts():
    images = noise(2, 24, 24, 1)
    inverse, offset = jnp.broadcast_to(jnp.eye(2), (2, 2, 2)), jnp.array([(0.0, 0.0), (2.0, -3.0)])
    made = jax.jit(ada.warp)(images, inverse, offset)
    np.testing.assert_allclose(made[0, 5:-5, 5:-5], images[0, 5:-5, 5:-5], atol=1e-4)
    np.testing.assert_allclose(made[1, 9:-5, 5:-9], images[1, 7:-7, 8:-6], atol=1e-4)


def test_a_warped_ramp_is_the_ramp_of_warped_places():
    """Rotation, scale, stretch and a shift by fractions about the middle: exact on ramps, away from the edges."""
    side, middle, slopes = 32, 15.5, np.array([0.02, -0.05])
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1) - middle
    images = (0.1 + grid @ slopes).astype(np.float32)[None, :, :, None]
    inverse = np.asarray(ada.rotation(jnp.array([0.7])))[0] @ np.diag([0.8, 1.1])
    offset = np.array([1.37, -0.58])
    made = jax.jit(ada.warp)(images, jnp.array(inverse[None], jnp.float32), jnp.array(offset[None], jnp.float32))
    wanted = 0.1 + ((grid - offset) @ inverse.T) @ slopes
    np.testing.assert_allclose(made[0, 11:-11, 11:-11, 0], wanted[11:-11, 11:-11], atol=1e-4)


def test_colours_turn_around_the_grey_axis():
    """By a third of a circle red becomes green; greys know contrast, sign and brightness alone."""
    one, third = jnp.ones(1), jnp.full(1, 2 * np.pi / 3)
    np.testing.assert_allclose(
        ada.colour_matrix(3, one, one, third, one)[0], [[0, 0, 1], [1, 0, 0], [0, 1, 0]], atol=1e-6
    )
    np.testing.assert_allclose(ada.colour_matrix(3, one, one, third, 0 * one)[0], np.full((3, 3), 1 / 3), atol=1e-6)
    negative = np.eye(3) - 2 / 3
    np.testing.assert_allclose(ada.colour_matrix(3, one, -one, 0 * one, one)[0], negative, atol=1e-6)
    assert ada.colour_matrix(1, 2 * one, -one, third, 5 * one).tolist() == [[[-2.0]]]
    for channels in (1, 3):
        grey = noise(1, 2, 2, 1).repeat(channels, -1)
        colour = ada.colour_matrix(channels, 2 * one, -one, third, 5 * one)
        np.testing.assert_allclose(ada.recolour(grey, jnp.full(1, 0.25), colour), -2 * (grey + 0.25), atol=1e-5)


def test_how_often_and_how_far():
    count, side = 20_000, 64
    drawn = jax.jit(lambda p: ada.draw(jax.random.key(1), p, (count, side, side, 1), "bgc"))(0.4)
    assert np.mean(drawn.flip) == pytest.approx(0.2, abs=0.01)
    assert np.bincount(drawn.turns) / count == pytest.approx([0.7, 0.1, 0.1, 0.1], abs=0.01)
    assert np.abs(drawn.shift).max() == side // 8 and np.mean(np.any(drawn.shift != 0, 1)) == pytest.approx(
        0.4, abs=0.01
    )
    moved = np.any(np.asarray(drawn.offset) != 0, 1)
    assert moved.mean() == pytest.approx(0.4, abs=0.01)
    assert np.std(np.asarray(drawn.offset)[moved]) == pytest.approx(side / 8, rel=0.02)
    # Scale, and a rotation before or after the stretch, which share one chance: 1 - 0.6 * 0.6 * 0.6 for all.
    changed = np.any(np.asarray(drawn.inverse) != np.eye(2), (1, 2))
    assert changed.mean() == pytest.approx(1 - 0.6**3, abs=0.01)
    areas = np.log2(np.linalg.det(drawn.inverse))
    assert np.std(areas[np.abs(areas) > 1e-3]) == pytest.approx(2 * ada.SCALE, rel=0.03)
    assert np.mean(np.asarray(drawn.brightness) != 0) == pytest.approx(0.4, abs=0.01)
    assert np.mean(np.asarray(drawn.colour) < 0) == pytest.approx(0.2, abs=0.01)
    fewer = ada.draw(jax.random.key(1), 1.0, (50, side, side, 1), "b")
    assert not np.any(fewer.offset) and not np.any(fewer.brightness) and np.all(fewer.colour == 1)
    np.testing.assert_array_equal(fewer.inverse, np.broadcast_to(np.eye(2), (50, 2, 2)))


def test_images_are_changed_each_by_itself_and_gradients_pass():
    images = noise(4, 8, 8, 1)

    def total(x):
        made = ada.augment(jax.random.key(3), 1.0, x, "bgc")
        return jnp.sum(made[:3] ** 2), made

    slopes, made = jax.jit(jax.grad(total, has_aux=True))(images)
    assert np.isfinite(slopes).all() and np.isfinite(made).all()
    assert np.abs(slopes[:3]).max((1, 2, 3)).min() > 1e-3 and not np.any(slopes[3])
    assert np.abs(made - images).max((1, 2, 3)).min() > 0.05


def test_p_follows_the_sign_of_the_logits_by_hand():
    policy = ada.Policy("b", 0.0, 0.6, 4, 4000.0)
    memory, seen = ada.initial(policy), []
    # Means over four steps: 0.7, 0.9, 0.5, 0.5, 0.1.
    for step, sign in enumerate([0.5, 0.7, 0.9, 0.7] + [0.9] * 4 + [0.5] * 8 + [0.1] * 4):
        memory = ada.steer(policy, memory, jnp.float32(sign), step, 100)
        seen.append(float(memory["p"]))
    assert seen == pytest.approx([0] * 3 + [0.1] * 4 + [0.2] * 4 + [0.1] * 4 + [0.0] * 5, abs=1e-6)
    assert float(memory["signs"]) == float(memory["steps"]) == 0
    memory = ada.steer(policy, memory | {"p": jnp.float32(0.95)}, jnp.float32(1), 3, 100)
    assert float(memory["p"]) == 1.0
    fixed = policy._replace(target=None, p=0.3)
    assert float(ada.steer(fixed, ada.initial(fixed), jnp.float32(1), 3, 100)["p"]) == pytest.approx(0.3)
