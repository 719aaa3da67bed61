"""LPIPS, its map, its gradient and the taps of both backbones against PyTorch twins with the same random weights."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from medgen_jax.interop.lpips_layout import variables_from_pack  # noqa: E402
from medgen_jax.nn import lpips  # noqa: E402
from twins import lpips as twins  # noqa: E402

pytestmark = pytest.mark.parity


def variables(twin: torch.nn.Module, net: str) -> dict[str, Any]:
    """The twin's weights as packs, then as our variables."""
    convolutions = [module for module in twin.net.modules() if isinstance(module, torch.nn.Conv2d)]
    backbone: dict[str, np.ndarray] = {}
    for i, module in enumerate(convolutions):
        backbone[f"Conv_{i}/kernel"] = module.weight.detach().numpy().transpose(2, 3, 1, 0)
        backbone[f"Conv_{i}/bias"] = module.bias.detach().numpy()
    heads = {f"{net}_lin{i}": getattr(twin, f"lin{i}").model[1].weight.detach().numpy().ravel() for i in range(5)}
    return variables_from_pack(backbone, heads, net)


def to_torch(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize(("net", "size"), [("alex", (63, 48)), ("vgg", (35, 32))])
def test_distance_map_gradient_and_taps(net: str, size: tuple[int, int]) -> None:
    twin = twins.LPIPS(net)
    twins.randomise(twin, seed=1)
    v, rng = variables(twin, net), np.random.default_rng(2)
    x, y = rng.uniform(-1, 1, (2, 2, *size, 3)).astype(np.float32)

    def ours(v: dict[str, Any], x: jax.Array):
        def loss(x: jax.Array):
            values = lpips.distance(v, x, y, net)
            return values.sum(), values

        heat = lpips.distance(v, x, y, net, spatial=True)
        gradient, values = jax.grad(loss, has_aux=True)(x)
        return values, heat, gradient, lpips.features(v, x, net, lpips.NETS[net].TAPS)

    values, heat, gradient, taps = jax.jit(ours)(v, x)
    tx, ty = to_torch(x).requires_grad_(True), to_torch(y)
    wanted = twin(tx, ty)
    wanted.sum().backward()
    with torch.no_grad():
        wanted_heat = twin(tx, ty, spatial=True).numpy()
        wanted_taps = twin.net((tx - twin.shift) / twin.scale)
    wanted, wanted_gradient = wanted.detach().numpy(), tx.grad.numpy().transpose(0, 2, 3, 1)

    assert wanted.min() > 0.1
    np.testing.assert_allclose(values, wanted, rtol=1e-4)
    np.testing.assert_allclose(heat, wanted_heat, atol=1e-4 * wanted_heat.max())
    assert np.abs(gradient - wanted_gradient).max() <= 1e-3 * np.abs(wanted_gradient).max()
    for tap, theirs in zip(lpips.NETS[net].TAPS, wanted_taps, strict=True):
        theirs = theirs.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(taps[tap], theirs, atol=1e-4 * theirs.max(), err_msg=tap)


def test_names_are_those_of_the_reference() -> None:
    names = {net: list(twins.LPIPS(net).state_dict()) for net in ("alex", "vgg")}
    places = {"alex": ("1.0", "2.3", "3.6", "4.8", "5.10"), "vgg": ("1.0", "1.2", "2.5", "2.7", "3.10")}
    for net, keys in names.items():
        kernels = [key for key in keys if key.startswith("net") and key.endswith("weight")]
        assert kernels[:5] == [f"net.slice{place}.weight" for place in places[net]]
        assert [key for key in keys if key.startswith("lin")] == [f"lin{i}.model.1.weight" for i in range(5)]
    assert "net.slice5.28.bias" in names["vgg"]
