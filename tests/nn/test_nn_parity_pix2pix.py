"""U-Net, PatchGAN and one joint pix2pix step against PyTorch twins with the same random weights."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from medgen_jax.interop import pix2pix_layout as layout  # noqa: E402
from medgen_jax.losses.adversarial import discriminator_loss, generator_loss  # noqa: E402
from medgen_jax.losses.pixel import l1  # noqa: E402
from medgen_jax.nn.patchgan import PatchGAN  # noqa: E402
from medgen_jax.nn.unet import UNet  # noqa: E402
from twins import pix2pix as twins  # noqa: E402

pytestmark = pytest.mark.parity

NORMS = ("batch", "instance")
Tree = dict[str, Any]


def arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


def to_torch(x: jax.Array) -> torch.Tensor:
    return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())


def to_nhwc(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 1)


def images(seed: int, *shape: int) -> jax.Array:
    return jax.random.uniform(jax.random.key(seed), shape, minval=-1)


def assert_close(ours: jax.Array, theirs: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Largest difference within ``tolerance`` of the range of the twin's output."""
    wanted = to_nhwc(theirs)
    assert np.ptp(wanted) > 0.1
    assert np.abs(np.asarray(ours) - wanted).max() <= tolerance * np.ptp(wanted)


def unet_pair(norm: str, **sizes: int) -> tuple[torch.nn.Module, UNet, Tree]:
    twin = twins.UNet(1, 1, norm=norm, dropout=0.0, **sizes)
    twins.randomise(twin, seed=1)
    params, stats, info = layout.unet_from_torch(arrays(twin))
    assert info.norm == norm
    return twin, UNet(1, norm=norm, **sizes), {"params": params, "batch_stats": stats}


def patchgan_pair(norm: str, channels: int, **sizes: int) -> tuple[torch.nn.Module, PatchGAN, Tree]:
    twin = twins.PatchGAN(channels, norm=norm, **sizes)
    twins.randomise(twin, seed=2)
    params, stats, info = layout.patchgan_from_torch(arrays(twin))
    assert info.norm == norm
    return twin, PatchGAN(norm=norm, **sizes), {"params": params, "batch_stats": stats}


def assert_both_modes(twin: torch.nn.Module, net: Any, variables: Tree, x: jax.Array, back: Any) -> None:
    """Running mode, then batch mode and what it leaves in the running statistics."""
    apply = jax.jit(lambda v, x, stats: net.apply(v, x, stats=stats, mutable=["batch_stats"]), static_argnums=2)
    assert_close(apply(variables, x, "running")[0], twin.eval()(to_torch(x)))
    y, new = apply(variables, x, "batch")
    assert_close(y, twin.train()(to_torch(x)))
    if variables["batch_stats"]:
        state = back(variables["params"], new["batch_stats"], norm=net.norm, batches_tracked=1)
        for name, wanted in arrays(twin).items():
            np.testing.assert_allclose(state[name], wanted, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("norm", NORMS)
def test_unet_output_and_running_statistics(norm: str) -> None:
    twin, net, variables = unet_pair(norm, ngf=8, downs=6)
    assert_both_modes(twin, net, variables, images(3, 2, 64, 64, 1), layout.unet_to_torch)


@pytest.mark.parametrize("norm", NORMS)
def test_patchgan_output_and_running_statistics(norm: str) -> None:
    twin, net, variables = patchgan_pair(norm, 2, ndf=8)
    assert_both_modes(twin, net, variables, images(4, 2, 64, 64, 2), layout.patchgan_to_torch)


def test_networks_at_the_width_of_the_reference() -> None:
    twin, net, variables = unet_pair("batch", ngf=64, downs=5)
    x = images(5, 2, 32, 32, 1)
    assert_close(jax.jit(net.apply)(variables, x), twin.train()(to_torch(x)))
    twin, net, variables = patchgan_pair("batch", 1, ndf=64)
    assert_close(jax.jit(net.apply)(variables, x), twin.train()(to_torch(x)))


def test_dropout_stands_where_the_reference_has_it() -> None:
    """With a rate of 1 both sides are deterministic: the dropped levels pass on their skips alone."""
    twin, _, variables = unet_pair("batch", ngf=8, downs=7)
    for module in twin.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 1.0
    net, x = UNet(1, ngf=8, downs=7, dropout=1.0), images(6, 1, 128, 128, 1)
    apply = jax.jit(net.apply, static_argnames=("dropout",))
    dropped = apply(variables, x, dropout=True, rngs={"dropout": jax.random.key(0)})
    assert_close(dropped, twin.train()(to_torch(x)))
    assert np.abs(np.asarray(dropped - apply(variables, x))).max() > 1e-2


# --------------------------------------------------------------------------- a joint step, D then G

RATE = 0.02  # plain gradient descent on D between the two losses: a known, well-conditioned update


def twin_step(g: torch.nn.Module, d: torch.nn.Module, a: torch.Tensor, b: torch.Tensor):
    """Losses and gradients of D, then of G against the updated D, with everything in train mode."""
    bce = torch.nn.functional.binary_cross_entropy_with_logits

    def gan(logits: torch.Tensor, target: float) -> torch.Tensor:
        return bce(logits, torch.full_like(logits, target))

    fake = g.train()(a)
    on_fake, on_real = d.train()(torch.cat((a, fake.detach()), 1)), d(torch.cat((a, b), 1))
    loss_d = 0.5 * (gan(on_fake, 0.0) + gan(on_real, 1.0))
    loss_d.backward()
    gradients_d = {name: p.grad.numpy().copy() for name, p in d.named_parameters()}
    with torch.no_grad():
        for p in d.parameters():
            p -= RATE * p.grad
    loss_g = gan(d(torch.cat((a, fake), 1)), 1.0) + 100 * torch.nn.functional.l1_loss(fake, b)
    loss_g.backward()
    gradients_g = {name: p.grad.numpy().copy() for name, p in g.named_parameters()}
    return (loss_d.item(), gradients_d), (loss_g.item(), gradients_g)


def our_step(g: UNet, d: PatchGAN, g_params: Tree, d_params: Tree, a: jax.Array, b: jax.Array):
    def judge(params: Tree, image: jax.Array) -> jax.Array:
        return d.apply({"params": params}, jnp.concatenate((a, image), axis=-1))

    def of_d(params: Tree, fake: jax.Array) -> jax.Array:
        return discriminator_loss(judge(params, b), judge(params, fake))

    def of_g(params: Tree, d_params: Tree) -> jax.Array:
        fake = g.apply({"params": params}, a)
        return generator_loss(judge(d_params, fake)) + 100 * l1(fake, b)

    step_d = jax.value_and_grad(of_d)(d_params, g.apply({"params": g_params}, a))
    d_params = jax.tree.map(lambda p, gradient: p - RATE * gradient, d_params, step_d[1])
    return step_d, jax.value_and_grad(of_g)(g_params, d_params)


def in_front_of_a_norm(name: str, twin: torch.nn.Module) -> bool:
    """A bias that the next layer's mean takes away again: its true gradient is zero, rounding is left."""
    parent, _, leaf = name.rpartition(".")
    owner, _, place = parent.rpartition(".")
    layers = twin.get_submodule(owner)
    follower = layers[int(place) + 1] if int(place) + 1 < len(layers) else None
    return leaf == "bias" and isinstance(follower, torch.nn.InstanceNorm2d)


def check_gradients(twin: torch.nn.Module, theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray]) -> None:
    compared = {name for name in theirs if not in_front_of_a_norm(name, twin)}
    assert len(compared) >= 0.5 * len(theirs)
    for name in sorted(compared):
        scale = np.abs(theirs[name]).max()
        assert scale > 0, name
        assert np.abs(ours[name] - theirs[name]).max() <= 1e-3 * scale, name


@pytest.mark.parametrize("norm", NORMS)
def test_joint_step_losses_and_gradients(norm: str) -> None:
    g_twin, g, g_variables = unet_pair(norm, ngf=8, downs=6)
    d_twin, d, d_variables = patchgan_pair(norm, 2, ndf=8)
    a, b = images(7, 2, 64, 64, 1), images(8, 2, 64, 64, 1)

    step = jax.jit(lambda gp, dp, a, b: our_step(g, d, gp, dp, a, b))
    (loss_d, grad_d), (loss_g, grad_g) = step(g_variables["params"], d_variables["params"], a, b)
    (wanted_d, wanted_grad_d), (wanted_g, wanted_grad_g) = twin_step(g_twin, d_twin, to_torch(a), to_torch(b))

    assert float(loss_d) == pytest.approx(wanted_d, rel=1e-4)
    assert float(loss_g) == pytest.approx(wanted_g, rel=1e-4)
    # The gradient trees have the structure of the parameters, so the layout tables name them too.
    named_g = layout.unet_to_torch(grad_g, g_variables["batch_stats"], norm=norm)
    named_d = layout.patchgan_to_torch(grad_d, d_variables["batch_stats"], norm=norm)
    check_gradients(g_twin, wanted_grad_g, named_g)
    check_gradients(d_twin, wanted_grad_d, named_d)
