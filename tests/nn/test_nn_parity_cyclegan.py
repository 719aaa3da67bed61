"""The residual generator against its PyTorch twin with the same random weights: outputs and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from medgen_jax.interop import resnet_layout as layout  # noqa: E402
from medgen_jax.nn.resnet_generator import ResNetGenerator  # noqa: E402
from twins import cyclegan as twins  # noqa: E402
from twins.pix2pix import randomise  # noqa: E402

pytestmark = pytest.mark.parity


def pair(norm: str, **sizes):
    twin = twins.ResNetGenerator(1, 3, norm=norm, **sizes)
    randomise(twin, seed=1)
    state = {name: tensor.detach().numpy().copy() for name, tensor in twin.state_dict().items()}
    params, stats, info = layout.resnet_from_torch(state)
    assert (info.norm, info.ngf, info.blocks) == (norm, sizes["ngf"], sizes["blocks"])
    back = layout.resnet_to_torch(params, stats, norm=norm, dropout=info.dropout, batches_tracked=info.batches_tracked)
    assert set(back) == set(state) and all(np.array_equal(back[name], state[name]) for name in state)
    return twin, ResNetGenerator(3, norm=norm, **sizes), {"params": params, "batch_stats": stats}


def nchw(x):
    return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())


def assert_close(ours, theirs, tolerance=1e-4):
    wanted = theirs.detach().numpy().transpose(0, 2, 3, 1)
    assert np.ptp(wanted) > 0.1
    assert np.abs(np.asarray(ours) - wanted).max() <= tolerance * np.ptp(wanted)


@pytest.mark.parametrize(
    ("norm", "dropout", "sizes"),
    [
        ("instance", 0.0, {"ngf": 8, "blocks": 2}),
        ("batch", 0.0, {"ngf": 8, "blocks": 1}),
        ("instance", 0.5, {"ngf": 4, "blocks": 1}),
        ("instance", 0.0, {"ngf": 64, "blocks": 9}),
    ],
    ids=["instance", "batch", "dropout", "reference"],
)
def test_outputs(norm, dropout, sizes):
    twin, net, variables = pair(norm, dropout=dropout, **sizes)
    x = jax.random.uniform(jax.random.key(0), (2, 32, 32, 1), minval=-1)
    apply = jax.jit(lambda v, x: net.apply(v, x, stats="running"))
    assert_close(apply(variables, x), twin.eval()(nchw(x)))


def test_gradients():
    twin, net, variables = pair("instance", ngf=8, blocks=2)
    x = jax.random.uniform(jax.random.key(0), (2, 32, 32, 1), minval=-1)
    weights = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    grads = jax.jit(jax.grad(lambda p: jnp.mean(net.apply({"params": p}, x) * weights)))(variables["params"])
    (twin(nchw(x)) * nchw(weights)).mean().backward()
    ours = layout.resnet_to_torch(grads, {}, norm="instance")
    head = "model.19.bias"
    for name, parameter in twin.named_parameters():
        if name.endswith(".bias") and name != head:
            continue  # before an instance norm: the true gradient is zero
        wanted = parameter.grad.numpy()
        assert np.abs(ours[name] - wanted).max() <= 1e-3 * np.abs(wanted).max(), name
