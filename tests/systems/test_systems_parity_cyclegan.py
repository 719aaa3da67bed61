"""One step of CycleGAN against the reference's step, written out in PyTorch over the twins."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from medgen_jax.core import config as configs
from medgen_jax.interop import pix2pix_layout, resnet_layout
from medgen_jax.systems import cyclegan

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytestmark = pytest.mark.parity

TO_TORCH = {"g": resnet_layout.resnet_to_torch, "d": pix2pix_layout.patchgan_to_torch}
#: The reference's names of the eight losses -> ours. Its G_A makes b, and D_A judges b.
LOSSES = {
    "G_A": "gan_b", "G_B": "gan_a", "cycle_A": "cycle_a", "cycle_B": "cycle_b",
    "idt_A": "identity_b", "idt_B": "identity_a", "D_A": "d_a", "D_B": "d_b",
}  # fmt: skip


def build():
    config = cyclegan.Config()
    config.data.crop_size = 32
    config.train.batch_size, config.train.steps, config.train.precision = 2, 10, "float32"
    config.model = cyclegan.ModelConfig(3, 3, ngf=8, ndf=8, blocks=2)
    config.optim.decay_fraction = 0.0
    return cyclegan.build(configs.resolve(config, 20))


def twins_of(params):
    """The four torch networks with the same weights."""
    from twins import cyclegan as resnet
    from twins import pix2pix as patch

    made = {}
    for name, weights in params.items():
        kind = name[0]
        made[name] = resnet.ResNetGenerator(3, 3, 8, 2) if kind == "g" else patch.PatchGAN(3, ndf=8, norm="instance")
        state = TO_TORCH[kind](weights, {}, norm="instance")
        made[name].load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    return made


def reference_step(nets, a, b):
    """Losses, and the gradients Adam receives: both generators against the old judges, then both judges."""
    mse, l1 = torch.nn.functional.mse_loss, torch.nn.functional.l1_loss
    g_a, g_b, d_a, d_b = (nets[name] for name in ("g_a", "g_b", "d_a", "d_b"))

    def adam(*names):
        return torch.optim.Adam(itertools.chain(*(nets[n].parameters() for n in names)), lr=2e-4, betas=(0.5, 0.999))

    def judged(net, image, real):
        logits = net(image)
        return mse(logits, torch.full_like(logits, float(real)))

    makers, judges = adam("g_a", "g_b"), adam("d_a", "d_b")
    fake_b, fake_a = g_a(a), g_b(b)
    losses = {
        "idt_A": l1(g_a(b), b), "idt_B": l1(g_b(a), a),
        "G_A": judged(d_a, fake_b, True), "G_B": judged(d_b, fake_a, True),
        "cycle_A": l1(g_b(fake_b), a), "cycle_B": l1(g_a(fake_a), b),
    }  # fmt: skip
    weights = {"idt": 5.0, "G": 1.0, "cycle": 10.0}
    sum(weights[name.split("_")[0]] * value for name, value in losses.items()).backward()
    gradients = {n: {k: p.grad.clone() for k, p in nets[n].named_parameters()} for n in ("g_a", "g_b")}
    makers.step()
    judges.zero_grad()
    for name, net, real, fake in (("D_A", d_a, b, fake_b), ("D_B", d_b, a, fake_a)):
        losses[name] = 0.5 * (judged(net, real, True) + judged(net, fake.detach(), False))
        losses[name].backward()
    gradients |= {n: {k: p.grad.clone() for k, p in nets[n].named_parameters()} for n in ("d_a", "d_b")}
    judges.step()
    return losses, gradients


def has_a_gradient(name, key, keys):
    """Biases in front of an instance norm cancel: all but those of a discriminator's first, and every last layer."""
    last = max(int(k.split(".")[1]) for k in keys)
    return not key.endswith("bias") or key == f"model.{last}.bias" or (name[0] == "d" and key == "model.0.bias")


def test_one_step():
    system = build()
    before = jax.jit(system.init)(jax.random.key(3))
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(-1, 1, (2, 8, 8, 3)).repeat(4, 1).repeat(4, 2).astype(np.float32) for _ in "ab")
    after, metrics = jax.jit(system.train_step)(before, {"a": {"a": a}, "b": {"b": b}}, {})

    nets = twins_of(before.params)
    losses, gradients = reference_step(nets, *(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()) for x in (a, b)))
    assert set(losses) == set(LOSSES)
    for name, value in losses.items():
        np.testing.assert_allclose(float(metrics[LOSSES[name]]), value.item(), rtol=1e-4, err_msg=name)

    for name, net in nets.items():
        # After one step Adam's first moment is the gradient times 1 - beta1.
        moments = jax.tree.map(lambda m: np.asarray(m) / 0.5, after.opt[name].mu)
        ours = TO_TORCH[name[0]](moments, {}, norm="instance")
        weights = TO_TORCH[name[0]](after.params[name], {}, norm="instance")
        assert set(ours) == set(gradients[name])
        for key, theirs in gradients[name].items():
            if not has_a_gradient(name, key, ours):
                continue
            theirs = theirs.numpy()
            assert np.abs(ours[key] - theirs).max() <= 1e-3 * np.abs(theirs).max(), (name, key)
            moved = np.abs(weights[key] - net.state_dict()[key].numpy())
            # An Adam step moves every weight by the rate, 2e-4, whatever the size of its gradient.
            assert moved.mean() < 2e-6, (name, key)
