"""Names, shapes, folding and messages of the FID Inception layout; NumPy alone but for the module's shapes."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.interop import inception_layout as layout
from medgen_jax.nn.inception_fid import InceptionFid

UNIT = "Mixed_6c.branch7x7_2"


def pack() -> dict[str, np.ndarray]:
    """A pack of constants: every kernel 0.5, beta 0.25, mean 1, variance 4 - 1e-3."""
    values = {"bias": 0.25, "running_mean": 1.0, "running_var": 4 - layout.EPSILON}
    arrays = {}
    for unit, shape in layout.KERNELS.items():
        arrays[f"{unit}.conv.weight"] = np.broadcast_to(np.float32(0.5), shape)
        arrays |= {f"{unit}.bn.{name}": np.full(shape[0], value, np.float32) for name, value in values.items()}
    return arrays


def test_the_tree_is_that_of_the_network() -> None:
    variables = layout.variables_from_pack(pack())
    x = jax.ShapeDtypeStruct((1, 75, 75, 3), np.float32)
    wanted = jax.eval_shape(InceptionFid().init, jax.random.key(0), x)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), variables) == jax.tree.map(lambda a: (a.shape, a.dtype), wanted)
    # Gain 1 / sqrt(4): kernel 0.5 / 2, bias 0.25 - 1 / 2.
    np.testing.assert_allclose(variables["params"]["Conv2d_1a_3x3"]["kernel"], 0.25, rtol=1e-6)
    np.testing.assert_allclose(variables["params"]["Mixed_7c"]["branch_pool"]["bias"], -0.25, rtol=1e-6)


def test_folding_equals_convolution_and_batch_norm() -> None:
    """Of one unit, in float64 on one 1 x 7 patch; kernels turn from OIHW to HWIO."""
    rng, arrays = np.random.default_rng(0), pack()
    out, inner, height, width = layout.KERNELS[UNIT]
    kernel = rng.normal(size=(out, inner, height, width)).astype(np.float32)
    beta, mean = rng.normal(size=(2, out)).astype(np.float32)
    var, gamma = rng.uniform(0.01, 3, (2, out)).astype(np.float32)
    arrays |= {f"{UNIT}.conv.weight": kernel}
    arrays |= {f"{UNIT}.bn.{name}": v for name, v in (("bias", beta), ("running_mean", mean), ("running_var", var))}
    patch = rng.normal(size=(height, width, inner))
    product = np.einsum("oihw,hwi->o", kernel.astype(float), patch)
    for gain in (None, gamma):
        extra = {} if gain is None else {f"{UNIT}.bn.weight": gain}
        unit = layout.variables_from_pack(arrays | extra)["params"]["Mixed_6c"]["branch7x7_2"]
        got = np.einsum("hwio,hwi->o", unit["kernel"].astype(float), patch) + unit["bias"]
        wanted = (1 if gain is None else gain) * (product - mean) / np.sqrt(var + 1e-3) + beta
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return pack()


def test_bad_files_are_named(arrays: dict[str, np.ndarray]) -> None:
    mean, kernel = f"{UNIT}.bn.running_mean", f"{UNIT}.conv.weight"
    without = {name: array for name, array in arrays.items() if name != mean}
    for bad, message in [
        (without, f"the file lacks {mean}$"),
        ({}, "the file lacks Conv2d_1a_3x3.bn.bias, .* and 373 more$"),
        (arrays | {"AuxLogits.conv0.conv.weight": arrays[mean]}, "has unknown AuxLogits.conv0.conv.weight$"),
        (without | {"mean": arrays[mean]}, f"lacks {mean}; it has unknown mean$"),
        (
            arrays | {kernel: arrays[kernel][:, :, 0]},
            rf"{kernel} has shape \(160, 160, 7\), expected \(160, 160, 1, 7\)",
        ),
        (arrays | {f"{UNIT}.bn.weight": np.ones(3)}, rf"{UNIT}.bn.weight has shape \(3,\), expected \(160,\)"),
        (arrays | {mean: arrays[mean] * np.nan}, f"{mean} holds NaN or infinity"),
    ]:
        with pytest.raises(UserError, match=message):
            layout.variables_from_pack(bad)


def test_what_inference_does_not_need_is_ignored(arrays: dict[str, np.ndarray]) -> None:
    extra = {
        "fc.weight": np.ones((1008, 2048)),
        "fc.bias": np.ones(1008),
        f"{UNIT}.bn.num_batches_tracked": np.array(3),
    }
    params = layout.variables_from_pack(arrays | extra)["params"]
    assert "fc" not in params and set(params["Mixed_6c"]["branch7x7_2"]) == {"kernel", "bias"}
