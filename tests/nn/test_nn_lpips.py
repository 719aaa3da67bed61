"""Sizes and taps of the backbones, the distance by its definition, its edge cases, golden values."""

from __future__ import annotations

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from medgen_jax.core.errors import UserError
from medgen_jax.interop import packs
from medgen_jax.interop.lpips_layout import variables_from_pack
from medgen_jax.nn import lpips
from medgen_jax.nn.lpips import AlexNetFeatures, Vgg16Features
from medgen_jax.ops import conv

KEY = jax.random.key(0)
SHAPES = {"alex": (2, 31, 39, 3), "vgg": (2, 17, 24, 3)}  # few and small: compiling takes longest
distance = jax.jit(lpips.distance, static_argnames=("net", "spatial", "dtype"))


@functools.cache
def variables(net: str) -> dict[str, Any]:
    """Random weights that keep the activations alive, and heads of which some are zero."""
    rng = np.random.default_rng(0)
    module = lpips.NETS[net]()
    shapes = jax.eval_shape(module.init, KEY, jax.ShapeDtypeStruct((1, 31, 31, 3), jnp.float32))

    def fill(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        gain = np.sqrt(2 / np.prod(leaf.shape[:-1])) if len(leaf.shape) == 4 else 0.1
        return gain * rng.standard_normal(leaf.shape, np.float32)

    widths = {layer.name: layer.features for layer in module.LAYERS}
    heads = {tap: np.maximum(rng.standard_normal(widths[tap[4:]], np.float32), 0) for tap in module.TAPS}
    return {"params": jax.tree.map(fill, shapes["params"]), "heads": heads}


def images(seed: int, *shape: int) -> jax.Array:
    return jax.random.uniform(jax.random.key(seed), shape, minval=-1)


# -------------------------------------------------------------------------------- backbones


@pytest.mark.parametrize(
    ("module", "parameters", "sizes", "widths"),
    [
        (AlexNetFeatures, 2_469_696, (55, 27, 13, 13, 13), (64, 192, 384, 256, 256)),
        (Vgg16Features, 14_714_688, (224, 112, 56, 28, 14), (64, 128, 256, 512, 512)),
    ],
)
def test_the_published_networks(module, parameters: int, sizes: tuple[int, ...], widths: tuple[int, ...]) -> None:
    """Numbers of weights without the fully connected layers, and the sizes that 224 pixels shrink to."""
    taps, tree = jax.eval_shape(lambda: module().init_with_output(KEY, jnp.zeros((1, 224, 224, 3))))
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == parameters
    assert set(taps) == set(module.TAPS)
    for tap, size, width in zip(module.TAPS, sizes, widths, strict=True):
        assert taps[tap].shape == (1, size, size, width)


def test_nothing_behind_the_deepest_tap_is_computed() -> None:
    taps, tree = jax.eval_shape(
        lambda: Vgg16Features().init_with_output(KEY, jnp.zeros((1, 4, 4, 3)), ("relu3_3", "relu1_1"))
    )
    assert set(taps) == {"relu1_1", "relu3_3"}
    assert list(tree["params"]) == ["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"]


@pytest.mark.parametrize(
    ("net", "taps", "side"),
    [
        ("alex", None, 31),
        ("alex", ("relu2",), 15),
        ("alex", ("relu1",), 7),
        ("vgg", None, 16),
        ("vgg", ("relu3_3",), 4),
        ("vgg", ("relu1_2",), 1),
    ],
)
def test_smallest_image(net: str, taps: tuple[str, ...] | None, side: int) -> None:
    module = lpips.NETS[net]()

    def run(height: int, width: int):
        return jax.eval_shape(lambda: module.init_with_output(KEY, jnp.zeros((1, height, width, 3)), taps))

    assert min(min(leaf.shape) for leaf in run(side, side)[0].values()) == 1
    if side > 1:
        with pytest.raises(
            UserError, match=rf"{side - 1} x {side + 9} pixels: relu\w+ needs at least {side} .*enlarge"
        ):
            run(side - 1, side + 9)


def test_standardised_colours() -> None:
    """ImageNet's mean colour, .485 .456 .406 on [0, 1], becomes zero, and a deviation of .229 one."""
    mean = jnp.array([0.485, 0.456, 0.406]).reshape(1, 1, 1, 3) * 2 - 1
    np.testing.assert_allclose(lpips.standardise(mean), np.zeros((1, 1, 1, 3)), atol=1e-6)
    above = lpips.standardise(mean + 2 * jnp.array([0.229, 0.224, 0.225]).reshape(1, 1, 1, 3))
    np.testing.assert_allclose(above, np.ones((1, 1, 1, 3)), atol=1e-6)
    grey = lpips.standardise(jnp.full((1, 1, 1, 1), 0.5))
    np.testing.assert_array_equal(grey, lpips.standardise(jnp.full((1, 1, 1, 3), 0.5)))


def test_unit_vectors_by_hand() -> None:
    """The gradient of the first component, (1 - u u^T) e / |x|, and none at zero."""
    x = jnp.array([[3.0, 4.0], [0.0, 0.0], [jnp.nan, 1.0]])
    units = lpips.unit_vectors(x)
    np.testing.assert_allclose(units[:2], [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    assert np.isnan(units[2]).any()
    gradient = jax.grad(lambda x: lpips.unit_vectors(x)[:, 0].sum())(x[:2])
    np.testing.assert_allclose(gradient, [[0.128, -0.096], [0.0, 0.0]], rtol=1e-5)


# --------------------------------------------------------------------------------- distance


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_the_definition(net: str) -> None:
    """Equation 1 in float64 from the activations; the squared distance of the embedded points is the same."""
    v, x, y = variables(net), images(2, *SHAPES[net]), images(3, *SHAPES[net])
    module = lpips.NETS[net]
    both = jax.jit(lambda v, z: (lpips.features(v, z, net, module.TAPS), lpips.embed(v, z, net)))
    a, b = both(v, x), both(v, y)
    wanted = np.zeros(2)
    for tap in module.TAPS:
        units = [np.float64(f[0][tap]) for f in (a, b)]
        units = [f / (np.linalg.norm(f, axis=-1, keepdims=True) + 1e-10) for f in units]
        wanted += np.mean(np.sum(v["heads"][tap] * (units[0] - units[1]) ** 2, axis=-1), axis=(1, 2))
    got = distance(v, x, y, net=net)
    assert got.shape == (2,) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    embedded = sum(np.sum(np.square(np.float64(p) - np.float64(q)), (1, 2, 3)) for p, q in zip(a[1], b[1], strict=True))
    np.testing.assert_allclose(embedded, wanted, rtol=1e-5)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_equal_images_symmetry_and_independence(net: str) -> None:
    v, x, y = variables(net), images(4, *SHAPES[net]), images(5, *SHAPES[net])
    run = functools.partial(distance, v, net=net)
    forth = run(x, y)
    np.testing.assert_allclose(forth, run(y, x), rtol=1e-6)
    assert np.all(np.asarray(forth) > 0.01)
    np.testing.assert_allclose(run(x, x), np.zeros(2), atol=1e-12)
    np.testing.assert_allclose(run(x[::-1], y[::-1]), forth[::-1], rtol=1e-5)


def test_map_has_the_size_of_the_images_and_shows_where_they_differ() -> None:
    x = images(6, 1, 64, 48, 3)
    y = x.at[:, :16, :16].multiply(-1)
    heat = np.asarray(distance(variables("alex"), x, y, spatial=True))
    assert heat.shape == (1, 64, 48)
    assert heat[0, :16, :16].mean() > 5 * heat[0, 48:, 32:].mean() >= 0


def test_dead_features_have_no_gradient_and_nan_is_not_hidden() -> None:
    """Biases far below zero silence every layer: 0 / 0 in the plain formula."""
    v, x, y = variables("alex"), images(7, *SHAPES["alex"]), images(8, *SHAPES["alex"])
    silent = {**v, "params": {n: {**p, "bias": p["bias"] - 1e3} for n, p in v["params"].items()}}
    value_and_grad = jax.jit(jax.value_and_grad(lambda x, v: lpips.distance(v, x, y).sum()))
    value, gradient = value_and_grad(x, silent)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros(x.shape))
    for image in (x, jnp.full_like(x, -1), jnp.zeros_like(x), y):
        value, gradient = value_and_grad(image, v)
        assert np.isfinite(value) and np.isfinite(gradient).all()
    assert np.isnan(value_and_grad(x.at[0, 3, 3, 0].set(jnp.nan), v)[0])


def test_float32_products_are_asked_for_on_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "AS_PRODUCTS", frozenset())

    def precisions(dtype: Any) -> set[Any]:
        x = jnp.zeros((1, 31, 31, 3))
        program = jax.make_jaxpr(lambda x: lpips.distance(variables("alex"), x, x, dtype=dtype))(x)
        return {e.params["precision"] for e in program.eqns if e.primitive.name == "conv_general_dilated"}

    highest = jax.lax.Precision.HIGHEST
    assert precisions(jnp.float32) == {(highest, highest)}
    assert precisions(jnp.bfloat16) == {None}


def test_bfloat16_is_close() -> None:
    v, x, y = variables("alex"), images(9, *SHAPES["alex"]), images(10, *SHAPES["alex"])
    got = distance(v, x, y, dtype=jnp.bfloat16)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, distance(v, x, y), rtol=0.02)


def test_a_sharded_batch_moves_no_features_between_devices() -> None:
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    over_data, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    v, x, y = variables("alex"), images(11, *SHAPES["alex"]), images(12, *SHAPES["alex"])
    run = jax.jit(lpips.distance, in_shardings=(everywhere, over_data, over_data)).lower(v, x, y).compile()
    assert not [word for word in ("all-gather", "all-to-all", "collective-permute") if word in run.as_text()]
    args = jax.device_put(v, everywhere), *jax.device_put((x, y), over_data)
    np.testing.assert_allclose(run(*args), distance(v, x, y), rtol=1e-5)


# -------------------------------------------------------------------------- pretrained, errors


def golden_image(variant: int, number: int) -> jax.Array:
    """The 64 x 64 test image behind the golden values, uint8 brought to [-1, 1]."""
    y, x, c = np.mgrid[:64, :64, :3].astype(float)
    wave = np.sin(2 * np.pi * (y * (1 + number % 5) + x * (1 + c)) / (29 + 11 * variant) + 0.37 * number)
    value = np.floor(127.5 + 100 * wave + 20 * ((x * y * (number + 1)) % 17 - 8) / 8)
    return jnp.asarray(np.clip(value, 0, 255) / 127.5 - 1, jnp.float32)[None]


@pytest.mark.parametrize(
    ("net", "file", "key"),
    [
        ("alex", "lpips_alexnet_fp32.npz", "lpips_alex_s0n3_vs_s1n5_64px"),
        ("vgg", "lpips_vgg16_fp16.npz", "lpips_vgg_fp16weights"),
    ],
)
def test_golden_values_of_the_pretrained_networks(shared, net: str, file: str, key: str) -> None:
    folder = shared / "weights"
    heads = packs.read_npz(folder / "lpips_lin_v0_1.npz")
    v = variables_from_pack(packs.read_pack(folder / file), heads, net)
    golden = json.loads((folder / "golden.json").read_text())
    got = float(distance(v, golden_image(0, 3), golden_image(1, 5), net=net)[0])
    assert got == pytest.approx(golden[key], abs=1e-5)
    if net == "vgg":  # the pack holds rounded weights
        assert got == pytest.approx(golden["lpips_vgg_fp32"], abs=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v, x: lpips.distance(v, x, x[:, :32]), r"one shape, not \(1, 40, 40, 3\) and \(1, 32, 40, 3\)"),
        (lambda v, x: lpips.distance(v, x[..., :2], x[..., :2]), r"\(1, 40, 40, 2\).*1 or 3 channels"),
        (lambda v, x: lpips.distance(v, x[0], x[0]), r"\(40, 40, 3\)"),
        (lambda v, x: lpips.distance(v, x[:, :30], x[:, :30]), "30 x 40 pixels: relu5 needs at least 31"),
        (lambda v, x: lpips.distance(v, x, x, net="squeeze"), "'squeeze': expected one of alex, vgg"),
        (lambda v, x: lpips.distance(v, x.astype(jnp.uint8), x.astype(jnp.uint8)), "uint8 images: scale them"),
        (lambda v, x: lpips.features(v, x, "alex", ("relu6",)), "no tap 'relu6'; there are relu1, relu2"),
        (lambda v, x: lpips.features(v, x, "alex", ()), "no tap asked for; there are"),
        (lambda v, x: AlexNetFeatures().apply(v, x[..., :1]), r"expected \(batch, height, width, 3\)"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        jax.eval_shape(call, variables("alex"), jnp.zeros((1, 40, 40, 3)))
