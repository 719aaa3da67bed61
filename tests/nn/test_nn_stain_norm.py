"""LStainNorm: closed forms of its parts, identity, blank tiles, any size and number of spaces."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.nn import stain_norm
from medgen_jax.nn.stain_norm import Attention, Fusion, LStainNorm, pool_to_grid, spread_from_grid
from medgen_jax.ops import colour
from medgen_jax.ops.colour_statistics import pooled, statistics

FOUR = ("lab", "hsv", "rgb", "hed")
VARIANTS = ("paper", "published")


def tissue(seed: int, height: int, width: int, batch: int = 1) -> jax.Array:
    """Pink and purple noise, away from black."""
    rng = np.random.default_rng(seed)
    base = np.array([0.75, 0.45, 0.65]) + 0.12 * rng.standard_normal((batch, height, width, 1))
    return jnp.asarray((base + 0.04 * rng.standard_normal((batch, height, width, 3))).clip(0.1, 0.95), jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(net: LStainNorm, variables: Any, images: jax.Array, method: str = "__call__") -> Any:
    return net.apply(variables, images, method=method)


@functools.partial(jax.jit, static_argnums=1)
def reference_of(image: jax.Array, spaces: tuple[str, ...]) -> Any:
    return pooled(statistics(image, spaces))


def made(net: LStainNorm, seed: int = 0, **collections: Any) -> dict[str, Any]:
    return {**jax.jit(net.init)(jax.random.key(seed), jnp.full((1, 8, 8, 3), 0.5)), **collections}


def perturbed(variables: dict[str, Any], scale: float) -> dict[str, Any]:
    """Parameters moved by noise, as after some training."""
    leaves, tree = jax.tree.flatten(variables["params"])
    rng = np.random.default_rng(5)
    moved = [leaf + jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32) for leaf in leaves]
    return {**variables, "params": jax.tree.unflatten(tree, moved)}


def size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# ------------------------------------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (LStainNorm(variant="published"), 53),
        (LStainNorm(), 33 + 3 * 8),
        (LStainNorm(shared_attention=True), 33 + 8),
        (LStainNorm(("lab",)), 6),
        (LStainNorm(FOUR), 44 + 4 * 8),
    ],
    ids=["published", "paper", "paper-shared", "lab", "four"],
)
def test_parameters(net: LStainNorm, count: int) -> None:
    variables = made(net)
    assert size(variables["params"]) == count
    assert set(variables["reference"]) == set(net.spaces)
    for space, moments in variables["reference"].items():
        for name, values in moments.items():
            np.testing.assert_allclose(values, stain_norm.REFERENCE[space][name])
    offsets = {name: values for name, values in variables["params"].items() if name != "fusion"}
    offsets |= {name: v for name, v in variables["params"].get("fusion", {}).items() if name in ("a", "b", "delta")}
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(offsets))


# ------------------------------------------------------------------------------------------ one space


def test_one_space_gives_the_image_the_statistics_of_the_reference() -> None:
    net, images = LStainNorm(("rgb",)), tissue(1, 9, 7, batch=2)
    reference = {"rgb": {"mean": jnp.array([0.5, 0.4, 0.6]), "std": jnp.array([0.1, 0.05, 0.02])}}
    params = {"rgb": {"mean": jnp.array([0.01, 0, 0]), "std": jnp.array([0, 0.01, 0])}}
    found = statistics(run(net, {"params": params, "reference": reference}, images), ("rgb",))["rgb"]
    np.testing.assert_allclose(found["mean"], [[0.51, 0.4, 0.6]] * 2, atol=1e-6)
    np.testing.assert_allclose(found["std"], [[0.1, 0.06, 0.02]] * 2, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_lab_alone_is_reinhard(variant: str) -> None:
    net, image = LStainNorm(("lab",), variant), tissue(2, 6, 6)
    variables = made(net)
    lab = np.asarray(jax.jit(colour.rgb_to_lab)(image), np.float64)
    target = {name: np.asarray(v, np.float64) for name, v in variables["reference"]["lab"].items()}
    matched = (lab - lab.mean((1, 2))) / lab.std((1, 2), ddof=1) * target["std"] + target["mean"]
    wanted = np.clip(np.asarray(jax.jit(colour.lab_to_rgb)(jnp.asarray(matched, jnp.float32))), 0, 1)
    np.testing.assert_allclose(run(net, variables, image), wanted, atol=1e-5)
    assert np.all(np.asarray(run(net, variables, image, "weights")["lab"]) == 1)


def test_a_change_of_gain_and_offset_is_undone() -> None:
    """A scanner that changes each channel linearly does not change the output."""
    net, image = LStainNorm(("rgb",)), tissue(3, 8, 8)
    variables = made(net)
    other = image * jnp.array([0.7, 0.9, 0.8]).reshape(1, 1, 1, 3) + jnp.array([0.1, 0.02, 0.05]).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(run(net, variables, other), run(net, variables, image), atol=1e-5)


def test_hue_is_turned_around_its_circle() -> None:
    """Reds on both sides of the cut move to hue 1 as one colour; ordinary means would tear them apart."""
    hues = np.array([2 * np.pi - 0.2, 0.1, 0.2, 2 * np.pi - 0.1], np.float32)
    image = colour.hsv_to_rgb(jnp.stack((hues, 0 * hues + 0.5, 0 * hues + 0.8), -1)).reshape(1, 2, 2, 3)
    net = LStainNorm(("hsv",))
    moments = reference_of(image, ("hsv",))["hsv"]
    reference = {"hsv": {"mean": moments["mean"].at[0].set(1.0), "std": moments["std"]}}
    turned = jax.jit(colour.rgb_to_hsv)(run(net, made(net, reference=reference), image))[0, ..., 0].ravel()
    np.testing.assert_allclose(turned, [0.8, 1.1, 1.2, 0.9], atol=1e-3)


# ------------------------------------------------------------------------------------------ given statistics


def test_given_statistics_take_the_place_of_the_image_s_own() -> None:
    net, images = LStainNorm(("rgb",)), tissue(1, 9, 7, batch=2)
    mean, std = np.array([0.7, 0.4, 0.6]), np.array([0.2, 0.1, 0.3])
    variables = made(net, source={"rgb": {"mean": jnp.asarray(mean), "std": jnp.asarray(std)}})
    target = {name: np.asarray(values) for name, values in variables["reference"]["rgb"].items()}
    wanted = np.clip((np.asarray(images) - mean) / std * target["std"] + target["mean"], 0, 1)
    np.testing.assert_allclose(run(net, variables, images), wanted, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_tiles_have_in_common(variant: str) -> None:
    """Of one tile its own statistics; of two their averages, hue on its circle in ``paper`` alone."""
    net, images = LStainNorm(("hsv",), variant), tissue(6, 8, 8)
    variables = made(net)
    own = run(net, variables, images, "source")
    np.testing.assert_allclose(run(net, {**variables, "source": own}, images), run(net, variables, images), atol=1e-5)
    reds = [jnp.full((1, 8, 8, 3), jnp.array([0.8, 0.4, 0.4])).at[..., channel].add(0.05) for channel in (1, 2)]
    found = run(net, variables, jnp.concatenate(reds), "source")["hsv"]
    either_side = 0.125 * np.pi / 3  # of the cut
    mean = [2 * np.pi - either_side, either_side] if variant == "published" else [0.0, 0.0]
    turned = (float(found["mean"][0]) - np.mean(mean) + np.pi) % (2 * np.pi) - np.pi
    assert turned == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose(found["std"], 0, atol=1e-6)


# ------------------------------------------------------------------------------------------ identity


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (LStainNorm(FOUR, grid=5), (23, 14)),
        (LStainNorm(variant="published", grid=4), (32, 32)),
    ],
    ids=["paper", "published"],
)
def test_own_statistics_give_the_image_back(net: LStainNorm, shape: tuple[int, int]) -> None:
    image = tissue(4, *shape)
    variables = made(net, reference=reference_of(image, net.spaces))
    np.testing.assert_allclose(run(net, variables, image), image, atol=1e-3)
    shifted = jax.tree.map(lambda v: 0.5 * v, variables["reference"])
    assert np.abs(run(net, {**variables, "reference": shifted}, image) - image).max() > 0.1


# ------------------------------------------------------------------------------------------ attention


@pytest.mark.parametrize("grid", [1, 5, 28])
def test_cells_cover_every_size_and_stay_within_the_grid(grid: int) -> None:
    for side in range(1, 1500):
        cells, cell = stain_norm._cells(side, grid)
        assert cells <= grid and (cells - 1) * cell < side <= cells * cell


def test_the_cells_of_the_published_code() -> None:
    assert stain_norm._cells(224, 28) == (28, 8)


def test_pooling_by_hand() -> None:
    image = jnp.arange(-15.0, 0).reshape(1, 3, 5, 1)
    np.testing.assert_array_equal(pool_to_grid(image, 2)[0, ..., 0], [[-8, -6], [-3, -1]])
    np.testing.assert_array_equal(pool_to_grid(image, 5), image)


def test_enlargement_by_hand() -> None:
    cells = jnp.array([[0.0, 4.0]]).reshape(1, 1, 2, 1)
    wide = spread_from_grid(cells, (1, 3), 2)[0, 0, :, 0]  # of four pixels 0, 1, 3, 4
    np.testing.assert_allclose(wide, [0, 1, 3], atol=1e-6)
    np.testing.assert_allclose(spread_from_grid(jnp.full((1, 2, 3, 1), 0.3), (4, 5), 3), 0.3, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_by_hand(variant: str) -> None:
    x = np.random.default_rng(6).random((1, 2, 2, 3)).astype(np.float32)
    net = Attention(grid=2, variant=variant)
    params = net.init(jax.random.key(1), x)["params"]
    mixed = {name: x.reshape(4, 3) @ np.asarray(p["kernel"]) + np.asarray(p["bias"]) for name, p in params.items()}
    logits = np.outer(mixed["query"], mixed["key"])
    weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = weights.T @ mixed["value"] if variant == "published" else weights @ x.reshape(4, 3)
    assert ("value" in mixed) == (variant == "published")
    np.testing.assert_allclose(net.apply({"params": params}, x).reshape(4, 3), wanted, atol=1e-5)


# ------------------------------------------------------------------------------------------ fusion


def test_pixel_weights_by_hand() -> None:
    """Flat branches attend to themselves, so att = x and the weight of a space is 2 x + 1e-3 over the sum."""
    levels = {"lab": 0.2, "hsv": 0.5, "rgb": 0.0}
    branches = {space: jnp.full((1, 4, 4, 3), level) for space, level in levels.items()}
    net = Fusion(tuple(levels), "paper", shared_attention=False, grid=2)
    weights, _ = jax.jit(net.init_with_output)(jax.random.key(0), branches)
    seen = {space: 2 * level + 1e-3 for space, level in levels.items()}
    for space, image in weights.items():
        share = seen[space] / sum(seen.values())
        np.testing.assert_allclose(image, (share + 1) / 4, rtol=1e-5)


def test_black_is_shared_equally() -> None:
    branches = {space: jnp.zeros((1, 4, 4, 3)) for space in FOUR}
    net = Fusion(FOUR, "paper", shared_attention=True, grid=2)
    weights, _ = jax.jit(net.init_with_output)(jax.random.key(0), branches)
    assert all(np.allclose(image, 0.25) for image in weights.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_output_is_the_weighted_average_of_the_branches(variant: str) -> None:
    net, images = LStainNorm(variant=variant, grid=4), tissue(7, 13, 10, batch=2)
    variables = perturbed(made(net), 0.05)

    @jax.jit
    def parts(variables: Any, images: jax.Array) -> Any:
        return [net.apply(variables, images, method=method) for method in ("__call__", "branches", "weights")]

    output, branches, weights = parts(variables, images)
    np.testing.assert_allclose(sum(weights.values()), 1, atol=1e-6)
    np.testing.assert_allclose(output, sum(weights[s] * branches[s] for s in net.spaces), atol=1e-6)
    lowest, highest = (pick(np.stack(list(branches.values())), 0) for pick in (np.min, np.max))
    if variant == "paper":
        assert np.all(output >= lowest - 1e-6) and np.all(output <= highest + 1e-6)
        assert np.all((output >= 0) & (output <= 1))
    assert max(np.ptp(np.asarray(w)) for w in weights.values()) > 1e-3


@pytest.mark.parametrize("extreme", [-30.0, 30.0])
def test_weights_of_the_paper_stay_an_average_however_far_training_goes(extreme: float) -> None:
    net, images = LStainNorm(grid=4), tissue(8, 8, 8)
    variables = made(net)
    fusion = {k: v if k.startswith("att") else v + extreme for k, v in variables["params"]["fusion"].items()}
    weights = run(net, {**variables, "params": {**variables["params"], "fusion": fusion}}, images, "weights")
    np.testing.assert_allclose(sum(weights.values()), 1, atol=1e-5)
    assert all(np.all(np.asarray(w) >= 0) for w in weights.values())


# ------------------------------------------------------------------------------------------ robustness


@pytest.mark.parametrize(
    "net", [LStainNorm(FOUR, grid=3), LStainNorm(variant="published", grid=3)], ids=["paper", "published"]
)
def test_gradients(net: LStainNorm) -> None:
    """Tissue teaches every parameter; blank tiles give finite outputs and gradients, of parameters and images."""
    variables = made(net)

    @jax.jit
    def step(params: Any, images: jax.Array) -> Any:
        def loss(params: Any, images: jax.Array) -> Any:
            output = net.apply({**variables, "params": params}, images)
            return jnp.mean(jnp.square(output - 0.3)), output

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, images)

    (grads, _), _ = step(variables["params"], tissue(9, 10, 9, batch=4))
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        if "key" in name and "bias" in name:
            continue  # moves all logits of a query alike: the true gradient is zero
        assert np.all(np.isfinite(leaf)) and np.abs(leaf).max() > 1e-10, name

    levels = jnp.array([0.0, 1.0, 0.5, 1.0]).reshape(4, 1, 1, 1)
    blank = jnp.broadcast_to(levels, (4, 10, 9, 3)).at[3, 4, 4].set(254 / 255)
    (grads, image_grads), output = step(variables["params"], blank)
    for leaf in (output, image_grads, image_grads.astype(jnp.bfloat16), *jax.tree.leaves(grads)):
        assert np.all(np.isfinite(np.asarray(leaf, np.float32)))
    assert np.ptp(np.asarray(output[:3]), axis=(1, 2)).max() < 1e-5  # one colour in, one colour out


def test_bfloat16_images_are_computed_in_float32() -> None:
    net, images = LStainNorm(("rgb",)), tissue(10, 6, 6).astype(jnp.bfloat16)
    variables = made(net)
    output = run(net, variables, images)
    assert output.dtype == jnp.float32
    np.testing.assert_allclose(output, run(net, variables, images.astype(jnp.float32)), atol=1e-6)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (LStainNorm(("lab", "luv")), "'luv'"),
        (LStainNorm(()), "expected some of"),
        (LStainNorm(("rgb", "rgb")), "once"),
        (LStainNorm(variant="official"), "'official'.*paper, published"),
        (LStainNorm(grid=0), "grid 0"),
    ],
    ids=["space", "none", "twice", "variant", "grid"],
)
def test_errors_of_settings(net: LStainNorm, words: str) -> None:
    with pytest.raises(UserError, match=words):
        made(net)


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 8, 8, 1), (1, 0, 8, 3)])
def test_errors_of_images(shape: tuple[int, ...]) -> None:
    net = LStainNorm(("rgb",))
    with pytest.raises(UserError, match="expected"):
        net.apply(made(net), jnp.zeros(shape))
