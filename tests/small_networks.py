"""Small fixed networks in place of the pretrained ones, and folders of images for them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from medgen_jax.pretrained import Pretrained

WIDTH = 12


def features(variables, images, resize):
    """(b, 299, 299, 3) in 0..255 -> (b, WIDTH): mean colours of a coarse grid, mixed by random weights."""
    size = images.shape[1] // 13
    cells = images[:, : 13 * size, : 13 * size].reshape(len(images), 13, size, 13, size, 3).mean((2, 4)) / 255
    return jax.nn.relu(cells.reshape(len(images), -1) @ variables["kernel"])


def distance(variables, x, y):
    """(b,) weighted mean squared difference of images in [-1, 1]."""
    return variables["scale"] * jnp.mean(jnp.square(x - y), axis=(1, 2, 3))


_KERNEL = np.random.default_rng(0).normal(size=(13 * 13 * 3, WIDTH)).astype(np.float32)
NETWORKS = {
    "inception": Pretrained(features, {"kernel": _KERNEL}, "a" * 64, "small"),
    "lpips": Pretrained(distance, {"scale": np.float32(0.5)}, "b" * 64, "small-distance"),
}


def networks(name):
    """What evaluations take as their source of networks."""
    return NETWORKS[name]


def never(name):
    """A source of networks that must not be asked."""
    raise AssertionError(f"{name} was asked for")


def pictures(count, seed=0, size=(24, 24), channels=1, shift=0, bits=8):
    """Smooth random images (h, w) or (h, w, 3), uint8 or uint16."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 160, (count, -(-size[0] // 4), -(-size[1] // 4), channels)) + shift
    fine = coarse.repeat(4, 1).repeat(4, 2)[:, : size[0], : size[1]]
    fine = fine.astype(np.uint8) if bits == 8 else (fine * 257).astype(np.uint16)
    return fine[..., 0] if channels == 1 else fine


def write(folder, images, suffix=".png", prefix="p"):
    """One file per image, ``p000.png`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{prefix}{i:03d}{suffix}")
    return folder
