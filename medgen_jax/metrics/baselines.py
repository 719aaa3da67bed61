"""What predictors that have learned nothing score: the rows every result is compared with.

A network whose numbers do not exceed these has learned the average picture, or less.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import jax
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import paired

REPLICATED, BLACK, SCALAR, CHANNEL, PIXEL = (
    "replicated input",
    "all black",
    "scalar mean",
    "channel mean",
    "per-pixel mean",
)

_accumulate_rows = jax.jit(jax.vmap(paired.accumulate, in_axes=(0, 0, None, None)))


def constant_baselines(
    train_targets: Iterable[np.ndarray], test_pairs: Iterable[tuple[np.ndarray, np.ndarray]]
) -> dict[str, dict[str, float]]:
    """Measure the constant predictors on a paired test set, reading every image once.

    Rows, each with the numbers of `paired.compute`:

    * ``replicated input``: the mean over the input's channels, in every target channel;
    * ``all black``: -1 everywhere;
    * ``scalar mean``: one number, the mean of all values of all training targets;
    * ``channel mean``: one colour, the mean of each channel of all training targets;
    * ``per-pixel mean``: one image of the test images' size (h, w): the mean of all tiles of that
      size which a non-overlapping grid, begun at the upper left corner, cuts from the training
      targets; remainders are left out. The row is absent when no training target is that large.

    Args:
      train_targets: HWC or HW arrays of any size, one number of channels.
      test_pairs: ``(input, target)``, HWC or HW, all of one height and width.

    Values are uint8 or uint16 over the full range of their type, or float in [-1, 1].

    Raises:
      UserError: on an empty set, and naming the place of the first image whose size, channels or
        type do not fit.
    """
    pairs = (_pair(i, a, b) for i, (a, b) in enumerate(test_pairs))
    first = next(pairs, None)
    if first is None:
        raise UserError("baselines: there are no test pairs; the split that is evaluated is empty")
    constants = _means(train_targets, first[1].shape)
    rows = [REPLICATED, *constants]
    sums = np.stack([paired.init()] * len(rows))
    for i, (source, target) in enumerate(itertools.chain([first], pairs)):
        if target.shape != first[1].shape:
            raise UserError(
                f"baselines: test target {i} is {target.shape}, the first one {first[1].shape}; cut them to one size"
            )
        replicated = np.broadcast_to(source.mean(-1, keepdims=True), target.shape)
        predicted = np.stack([replicated, *constants.values()]).astype(np.float32)
        sums = _accumulate_rows(sums, predicted[:, None], target[None], np.ones(1, np.float32))
    return {row: paired.compute(acc) for row, acc in zip(rows, np.asarray(sums), strict=True)}


def _means(targets: Iterable[np.ndarray], shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """The constant predictions (h, w, c), summed in float64."""
    height, width, channels = shape
    colour, values = np.zeros(channels), 0
    picture, tiles = np.zeros(shape), 0
    for i, image in enumerate(targets):
        image = _scaled(image, f"training target {i}")
        if image.shape[2] != channels:
            raise UserError(
                f"baselines: training target {i} has {image.shape[2]} channels, the test targets {channels}"
            )
        colour += image.sum((0, 1), np.float64)
        values += image.shape[0] * image.shape[1]
        down, across = image.shape[0] // height, image.shape[1] // width
        grid = image[: down * height, : across * width].reshape(down, height, across, width, channels)
        picture += grid.sum((0, 2), np.float64)
        tiles += down * across
    if not values:
        raise UserError("baselines: there are no training targets; the training split is empty")
    colour /= values
    constants = {
        BLACK: np.full(shape, -1.0),
        SCALAR: np.full(shape, colour.mean()),
        CHANNEL: np.broadcast_to(colour, shape),
    }
    return constants | ({PIXEL: picture / tiles} if tiles else {})


def _pair(index: int, source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    source, target = _scaled(source, f"test input {index}"), _scaled(target, f"test target {index}")
    if source.shape[:2] != target.shape[:2]:
        raise UserError(
            f"baselines: test pair {index} has an input of {source.shape[:2]} and a target of {target.shape[:2]} pixels"
        )
    return source, target


def _scaled(image: np.ndarray, name: str) -> np.ndarray:
    """An image as float32 HWC in [-1, 1]."""
    image = np.asarray(image)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or image.size == 0:
        raise UserError(f"baselines: {name} has shape {image.shape}; images are (h, w) or (h, w, c)")
    if image.dtype in (np.uint8, np.uint16):
        return (image / (np.iinfo(image.dtype).max / 2) - 1).astype(np.float32)
    if not np.issubdtype(image.dtype, np.floating):
        raise UserError(f"baselines: {name} holds {image.dtype}; images are uint8, uint16, or float in [-1, 1]")
    return image.astype(np.float32)
