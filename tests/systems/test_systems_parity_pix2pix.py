"""One joint step of the Pair system against the reference's step, written out in PyTorch over the twins."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from medgen_jax.core import config as configs
from medgen_jax.interop import pix2pix_layout
from medgen_jax.systems import options, pix2pix

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytestmark = pytest.mark.parity


def build(norm, gan):
    config = pix2pix.Config()
    config.data.crop_size = 64
    config.train.batch_size, config.train.steps, config.train.precision = 2, 10, "float32"
    config.model = pix2pix.ModelConfig(
        in_channels=1, out_channels=3, ngf=8, ndf=8, downs=6, norm=options.Norm(norm), dropout=0.0
    )
    config.loss.gan = options.Gan(gan)
    config.optim.decay_fraction = 0.0
    return pix2pix.build(configs.resolve(config, 20))


def twins_of(state, norm):
    """The torch networks with the state's weights."""
    from twins import pix2pix as twins

    made = {
        "g": (twins.UNet(1, 3, ngf=8, downs=6, norm=norm, dropout=0.0), pix2pix_layout.unet_to_torch),
        "d": (twins.PatchGAN(4, ndf=8, norm=norm), pix2pix_layout.patchgan_to_torch),
    }
    for name, (module, to_torch) in made.items():
        weights = to_torch(state.params[name], state.mutable[name]["batch_stats"], norm=norm)
        module.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
    return made["g"][0].train(), made["d"][0].train()


def reference_step(g, d, a, b, gan):
    """Losses, and the gradients Adam receives: D on (fake, real), then G against the new D."""
    loss = torch.nn.BCEWithLogitsLoss() if gan == "vanilla" else torch.nn.MSELoss()
    adams = {n: torch.optim.Adam(m.parameters(), lr=2e-4, betas=(0.5, 0.999)) for n, m in (("g", g), ("d", d))}

    def judged(image, real):
        logits = d(torch.cat([a, image], 1))
        return loss(logits, torch.full_like(logits, float(real)))

    fake = g(a)
    d_fake, d_real = judged(fake.detach(), False), judged(b, True)
    adams["d"].zero_grad()
    (0.5 * (d_fake + d_real)).backward()
    gradients = {"d": {n: p.grad.clone() for n, p in d.named_parameters()}}
    adams["d"].step()
    adams["g"].zero_grad()
    g_gan, g_l1 = judged(fake, True), torch.nn.functional.l1_loss(fake, b)
    (g_gan + 100 * g_l1).backward()
    gradients["g"] = {n: p.grad.clone() for n, p in g.named_parameters()}
    adams["g"].step()
    return {"d_fake": d_fake, "d_real": d_real, "g_gan": g_gan, "g_l1": g_l1}, gradients


@pytest.mark.parametrize(("norm", "gan"), [("batch", "vanilla"), ("instance", "lsgan")])
def test_joint_step(norm, gan):
    system = build(norm, gan)
    before = jax.jit(system.init)(jax.random.key(3))
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(-1, 1, (2, 8, 8, c)).repeat(8, 1).repeat(8, 2).astype(np.float32) for c in (1, 3))
    after, metrics = jax.jit(system.train_step)(before, {"pairs": {"a": a, "b": b}}, {})

    g, d = twins_of(before, norm)
    nchw = [torch.from_numpy(x.transpose(0, 3, 1, 2).copy()) for x in (a, b)]
    losses, gradients = reference_step(g, d, *nchw, gan)
    for name, value in losses.items():
        np.testing.assert_allclose(float(metrics[name]), value.item(), rtol=1e-4, err_msg=name)

    # After one step Adam's first moment is the gradient times 1 - beta1.
    from_torch = {"g": pix2pix_layout.unet_from_torch, "d": pix2pix_layout.patchgan_from_torch}
    for name, module in (("g", g), ("d", d)):
        buffers = {n: x.numpy() for n, x in module.named_buffers()}
        theirs, _, _ = from_torch[name]({n: x.numpy() for n, x in gradients[name].items()} | buffers)
        ours = jax.tree.map(lambda m: np.asarray(m) / 0.5, after.opt[name].mu)
        scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
        compared = []
        for path, value in jax.tree_util.tree_leaves_with_path(theirs):
            size = float(np.abs(value).max())
            if size < 1e-5 * scale:
                continue  # a bias in front of a norm: its true gradient is zero
            found = dict(jax.tree_util.tree_leaves_with_path(ours))[path]
            assert np.abs(found - value).max() <= 1e-3 * size, jax.tree_util.keystr(path)
            compared.append(path)
        assert len(compared) >= 7  # five kernels and two biases of the PatchGAN with instance norm
        weights, statistics, _ = from_torch[name]({n: x.numpy() for n, x in module.state_dict().items()})
        moved = jax.tree.map(lambda x, y: float(np.abs(np.asarray(x) - y).mean()), after.params[name], weights)
        # An Adam step moves every weight by about the rate, 2e-4.
        moved = dict(jax.tree_util.tree_leaves_with_path(moved))
        assert max(moved[path] for path in compared) < 2e-5, moved
        own = after.mutable[name]["batch_stats"]
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5), own, statistics)
