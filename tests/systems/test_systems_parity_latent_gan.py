"""One step of DCGAN and of the fully connected GAN against the same step written out in PyTorch over the twins."""

from __future__ import annotations

import jax
import latent_layout
import numpy as np
import pytest
import small_systems

torch = pytest.importorskip("torch", reason="needs PyTorch")

from twins import dcgan, mlp_gan  # noqa: E402

pytestmark = pytest.mark.parity

TWINS = {
    "dcgan": lambda: (dcgan.Generator(1, 5, 2, 2), dcgan.Discriminator(1, 2, 2)),
    "gan": lambda: (mlp_gan.Generator((16, 16, 1), 5, (6, 8)), mlp_gan.Discriminator((16, 16, 1), (6, 8))),
}


def reference_step(g, d, real, z):
    """Losses and gradients; the probability goes through the sigmoid, as in the published code."""
    loss = torch.nn.BCELoss()
    adams = {n: torch.optim.Adam(m.parameters(), lr=2e-4, betas=(0.5, 0.999)) for n, m in (("g", g), ("d", d))}

    def judged(image, target):
        probability = torch.sigmoid(d(image))
        return loss(probability, torch.full_like(probability, target))

    adams["d"].zero_grad()
    d_real = judged(real, 1.0)
    d_real.backward()
    fake = g(z)
    d_fake = judged(fake.detach(), 0.0)
    d_fake.backward()
    gradients = {"d": {n: p.grad.clone() for n, p in d.named_parameters()}}
    adams["d"].step()
    adams["g"].zero_grad()
    g_gan = judged(fake, 1.0)
    g_gan.backward()
    gradients["g"] = {n: p.grad.clone() for n, p in g.named_parameters()}
    adams["g"].step()
    return {"d_real": d_real, "d_fake": d_fake, "g_gan": g_gan}, gradients


@pytest.mark.parametrize("name", TWINS)
def test_one_step(name):
    system = small_systems.build(name)
    nets = dict(zip("gd", TWINS[name](), strict=True))
    state = small_systems.initial_state(name)
    params, mutable = {}, {}
    for seed, (player, net) in enumerate(nets.items()):
        torch.manual_seed(seed)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        params[player], stats = latent_layout.ours(net.train().state_dict())
        mutable[player] = {"batch_stats": stats}
    state = state.replace(params=params, mutable=mutable)
    assert jax.tree.structure(state) == jax.tree.structure(small_systems.initial_state(name))
    images = small_systems.batch(name)["records"]["image"]
    after, metrics = jax.jit(system.train_step)(state, {"records": {"image": images}}, {})

    real = torch.from_numpy(images.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()
    losses, gradients = reference_step(nets["g"], nets["d"], real, torch.from_numpy(np.array(system.codes(state))))
    for loss, value in losses.items():
        np.testing.assert_allclose(float(metrics[loss]), value.item(), rtol=1e-4, err_msg=loss)
    for player, net in nets.items():
        # After one step Adam's first moment is the gradient times 1 - beta1.
        ours = jax.tree.map(lambda m: np.asarray(m) / 0.5, after.opt[player].mu)
        theirs, _ = latent_layout.ours(gradients[player])
        for (path, value), mine in zip(jax.tree_util.tree_leaves_with_path(theirs), jax.tree.leaves(ours), strict=True):
            assert np.abs(mine - value).max() <= 1e-3 * np.abs(value).max() > 0, jax.tree_util.keystr(path)
        weights, statistics = latent_layout.ours(net.state_dict())
        # A step of Adam moves every weight by about the rate, 2e-4.
        moved = jax.tree.map(lambda x, y: float(np.abs(np.asarray(x) - y).mean()), after.params[player], weights)
        assert max(jax.tree.leaves(moved)) < 2e-5, moved
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5),
            after.mutable[player]["batch_stats"], statistics,
        )  # fmt: skip
