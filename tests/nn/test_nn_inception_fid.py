"""Layers of the FID network by their definitions, protocols by hand, golden features and distances."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from medgen_jax.core.errors import UserError
from medgen_jax.interop.inception_layout import variables_from_pack
from medgen_jax.interop.packs import read_pack
from medgen_jax.metrics.frechet import frechet_distance
from medgen_jax.metrics.kernel import kernel_distance
from medgen_jax.nn import inception_fid as fid

PROTOCOLS = tuple(fid.PROTOCOLS)


def randoms(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# -------------------------------------------------------------------------- layers


@pytest.mark.parametrize("size", [(6, 5), (1, 1), (2, 1)])
def test_neighbours_outside_count_for_nothing(size: tuple[int, int]) -> None:
    x = randoms(1, 2, *size, 3) - 5  # below zero, so that padding with zeros would win every maximum
    framed = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=np.nan)
    framed = np.lib.stride_tricks.sliding_window_view(framed, (3, 3), axis=(1, 2))
    np.testing.assert_array_equal(fid.max3(x), np.nanmax(framed, (-1, -2)))
    np.testing.assert_allclose(fid.mean3(x), np.nanmean(framed, (-1, -2)), rtol=1e-6)


@pytest.mark.parametrize(
    ("kernel", "stride", "padded"),
    [
        ((1, 1), 1, True),
        ((5, 5), 1, True),
        ((1, 7), 1, True),
        ((7, 1), 1, True),
        ((3, 3), 1, False),
        ((3, 3), 2, False),
    ],
)
@pytest.mark.parametrize("width", [9, 10])
def test_units_are_convolutions_with_bias_and_relu(
    kernel: tuple[int, int], stride: int, padded: bool, width: int
) -> None:
    x, params = randoms(2, 2, 11, width, 3), {"kernel": randoms(3, *kernel, 3, 4), "bias": randoms(4, 4)}
    got = fid.Unit(4, kernel, stride, padded).apply({"params": params}, x)
    pads = [(k // 2, k // 2) if padded else (0, 0) for k in kernel]
    framed = np.pad(x, ((0, 0), *pads, (0, 0))).astype(float)
    parts = np.lib.stride_tricks.sliding_window_view(framed, kernel, axis=(1, 2))[:, ::stride, ::stride]
    wanted = np.einsum("bhwcij,ijco->bhwo", parts, params["kernel"]) + params["bias"]
    np.testing.assert_allclose(got, np.maximum(wanted, 0), atol=1e-5)


def test_averages_behind_the_product_equal_averages_in_front() -> None:
    x, params = randoms(5, 2, 6, 7, 5), {"kernel": randoms(6, 1, 1, 5, 2), "bias": randoms(7, 2)}
    behind = fid.Unit(2, averaged=True).apply({"params": params}, x)
    np.testing.assert_allclose(behind, fid.Unit(2).apply({"params": params}, fid.mean3(x)), atol=1e-6)


# -------------------------------------------------------------------------- network


def shapes() -> Any:
    x = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    return jax.eval_shape(fid.InceptionFid().init, jax.random.key(0), x)


def some_variables() -> Any:
    """Random weights that keep the size of activations."""
    rng = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        scale = (2 / np.prod(leaf.shape[:-1])) ** 0.5 if leaf.ndim == 4 else 0.1
        return scale * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree.map(fill, shapes())


def test_ninety_four_units() -> None:
    params = shapes()["params"]
    assert set(params["Mixed_7c"]["branch3x3_2b"]) == {"kernel", "bias"}
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 4]
    assert len(kernels) == 94 and len(jax.tree.leaves(params)) == 188
    # The published pack counts 21,802,784 numbers with three vectors per unit, of which one bias stays.
    outputs = sum(kernel.shape[-1] for kernel in kernels)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 21_802_784 - 2 * outputs


@pytest.mark.parametrize("size", [(299, 299), (75, 139)])
def test_features_of_any_size_are_2048_numbers(size: tuple[int, int]) -> None:
    x = jax.ShapeDtypeStruct((3, *size, 3), jnp.float32)
    out = jax.eval_shape(fid.InceptionFid(jnp.bfloat16).apply, shapes(), x)
    assert out.shape == (3, fid.WIDTH) and out.dtype == jnp.float32


def products(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation.params["precision"]
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                yield from products(getattr(inner, "jaxpr", inner))


def test_float32_products_keep_their_digits_on_accelerators() -> None:
    images, highest = jnp.zeros((1, 20, 30, 1), jnp.uint8), jax.lax.Precision.HIGHEST
    program = jax.make_jaxpr(fid.features, static_argnums=2)(shapes(), images, "clean-fid")
    found = list(products(program.jaxpr))
    assert len(found) == 94 + 2 and set(found) == {(highest, highest)}


@pytest.mark.slow
@pytest.mark.ci_slow
def test_bfloat16_is_close_and_a_sharded_batch_stays_apart() -> None:
    variables, x = some_variables(), 0.5 * randoms(8, 4, 75, 80, 3)
    whole = np.asarray(jax.jit(fid.InceptionFid().apply)(variables, x))
    assert whole.min() >= 0 and whole.std() > 0.05

    half = np.asarray(jax.jit(fid.InceptionFid(jnp.bfloat16).apply)(variables, x))
    assert 0 < np.linalg.norm(half - whole) < 0.05 * np.linalg.norm(whole)

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    everywhere, over_data = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    run = jax.jit(fid.InceptionFid().apply, in_shardings=(everywhere, over_data)).lower(variables, x).compile()
    assert not [word for word in ("all-gather", "all-to-all", "collective-permute") if word in run.as_text()]
    sharded = run(jax.device_put(variables, everywhere), jax.device_put(x, over_data))
    np.testing.assert_allclose(sharded, whole, atol=1e-5)


# -------------------------------------------------------------------------- protocols


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scaling_of_an_image_of_the_right_size(protocol: str) -> None:
    x = np.arange(256, dtype=np.uint8).repeat(350)[: fid.SIZE**2].reshape(1, fid.SIZE, fid.SIZE, 1)
    got = np.asarray(fid.network_input(x, protocol))
    wanted = 2 * (x / 255.0) - 1 if protocol == "pytorch-fid" else (x - 128.0) / 128
    assert got.shape == (1, fid.SIZE, fid.SIZE, 3) and got.dtype == np.float32
    np.testing.assert_allclose(got, wanted.repeat(3, axis=-1), atol=1e-6)
    np.testing.assert_array_equal(fid.network_input(x.astype(np.float32), protocol), got)


def test_protocols_differ_in_their_resize() -> None:
    """A black and a white row, enlarged: where the white begins, and what lies beyond it."""
    x = np.array([0, 255], np.uint8).reshape(1, 2, 1, 1)
    columns = {name: np.asarray(fid.network_input(x, name))[0, :, 0, 0] for name in PROTOCOLS}
    # TensorFlow 1 samples row 1 from half of the picture on, torch and Pillow sample between the rows there.
    assert columns["torch-fidelity"][150] == pytest.approx(127 / 128) and columns["torch-fidelity"][75] < 0.01
    assert columns["pytorch-fid"][149] == pytest.approx(0, abs=1e-6)
    assert columns["clean-fid"][149] == pytest.approx(-0.5 / 128, abs=1e-6)
    # Bicubic overshoot is cut at black and white, and only there.
    assert columns["clean-fid"].min() == -1 and columns["clean-fid"].max() == pytest.approx(127 / 128)
    assert np.count_nonzero(columns["clean-fid"] == -1) == 75
    assert np.count_nonzero(columns["torch-fidelity"] == -1) == 1


def test_grey_images_are_repeated() -> None:
    grey = np.random.default_rng(9).integers(0, 256, (2, 40, 50, 1), dtype=np.uint8)
    for protocol in PROTOCOLS:
        got = fid.network_input(grey.repeat(3, axis=-1), protocol)
        np.testing.assert_allclose(fid.network_input(grey, protocol), got, atol=1e-6)


def test_bad_images() -> None:
    x = jnp.zeros((1, 20, 20, 3), jnp.uint8)
    for call, message in [
        (lambda: fid.features({}, x, "clean"), "'clean': expected one of torch-fidelity, clean-fid, pytorch-fid"),
        (lambda: fid.network_input(x[0]), r"shape \(20, 20, 3\): \(b, h, w, 1\) or \(b, h, w, 3\)"),
        (lambda: fid.network_input(x[..., :2]), r"shape \(1, 20, 20, 2\)"),
        (lambda: fid.network_input(x[:0]), r"shape \(0, 20, 20, 3\)"),
        (lambda: fid.network_input(x.astype(jnp.uint16)), "dtype uint16: features need uint8, or floats in 0..255"),
        (lambda: fid.InceptionFid().apply({}, jnp.zeros((1, 74, 299, 3))), r"\(1, 74, 299, 3\).*at least 75 pixels"),
    ]:
        with pytest.raises(UserError, match=message):
            call()


# -------------------------------------------------------------------------- published weights


@pytest.fixture(scope="module")
def published(shared: pathlib.Path) -> Any:
    path = shared / "weights" / "inception_fid_2015_fp32.npz"
    if not path.is_file():
        pytest.skip(f"needs {path.name} of the shared folder, which is absent")
    return jax.device_put(variables_from_pack(read_pack(path)))


@pytest.fixture(scope="module")
def golden(root: pathlib.Path) -> pathlib.Path:
    return root / "tests" / "metrics" / "golden"


def patterns(variant: int, numbers: range) -> np.ndarray:
    """Waves and a lattice, the images behind the golden values, (n, 299, 299, 3) uint8."""
    y, x, c = np.mgrid[: fid.SIZE, : fid.SIZE, :3].astype(float)

    def one(n: int) -> np.ndarray:
        wave = np.sin(2 * np.pi * (y * (1 + n % 5) + x * (1 + c)) / (29 + 11 * variant) + 0.37 * n)
        return np.floor(127.5 + 100 * wave + 20 * ((x * y * (n + 1)) % 17 - 8) / 8)

    return np.clip([one(n) for n in numbers], 0, 255).astype(np.uint8)


network = jax.jit(fid.InceptionFid().apply)


def test_golden_features(published: Any, golden: pathlib.Path) -> None:
    with np.load(golden / "golden.npz") as file:
        for protocol, key in (("torch-fidelity", "feat_tf_s0"), ("pytorch-fid", "feat_pt_s0")):
            got = np.asarray(network(published, fid.network_input(patterns(0, range(2)), protocol)))
            error = np.linalg.norm(got - file[key][:2], axis=1)
            assert (error <= 1e-5 * np.linalg.norm(file[key][:2], axis=1)).all(), protocol


@pytest.mark.slow
@pytest.mark.ci_slow
def test_golden_distances(published: Any, golden: pathlib.Path) -> None:
    wanted = json.loads((golden / "golden.json").read_text())
    for protocol, short in (("torch-fidelity", "tf"), ("pytorch-fid", "pt")):
        sets = [
            np.concatenate(
                [
                    network(published, fid.network_input(patterns(variant, range(start, start + 2)), protocol))
                    for start in range(0, 32, 2)
                ]
            )
            for variant in (0, 1)
        ]
        assert frechet_distance(*sets) == pytest.approx(wanted[f"fid_{short}_nuclear"], abs=2e-3)
        kid = kernel_distance(*sets)["kid"]
        assert kid == pytest.approx(wanted[f"kid_{short}_full_unbiased"], rel=1e-4)
