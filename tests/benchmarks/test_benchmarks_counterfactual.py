"""Counterfactuals beside PyTorch: as many questions of the network on both sides, and a round trip that comes back."""

from __future__ import annotations

import argparse

import jax
import numpy as np
import pytest

from benchmarks import cases, counterfactual, operations, run
from benchmarks.player import build


def tiny(batch):
    (case,) = cases.chosen(("diffusion",), (cases.SMALL,))
    config = case.configure(batch)
    config.network.multipliers, config.network.attention, config.process.steps = (1.0,), (), 40
    config.inference.steps = 4
    return config


CASE = cases.Case("diffusion", cases.SMALL, tiny, (2,), "diffusion", "sample")


def test_a_line_of_ours():
    given = argparse.Namespace(dtype="float32", rounds=1, forms="jax", compiled=False)
    (line,) = counterfactual.measured(CASE, 2, 4, given)
    assert (line["form"], line["steps"], line["batch"]) == (run.OURS, 4, 2)
    assert line["images_per_s"] == pytest.approx(2e3 / line["ms_p50"], rel=2e-3)
    # The network is asked once to encode, twice to decode and once for the control, at each of 4 steps.
    system = build(tiny(2), "float32")
    variables = jax.eval_shape(lambda key: system.inference_variables(system.init(key)), jax.random.key(0))
    x, t = np.zeros((2, 16, 16, 1), np.float32), np.zeros(2, np.int32)
    asked = operations.count(lambda v, x, t: system.denoise(v, x, t, {"label": t}), variables, x, t)
    assert line["gflop"] == pytest.approx(4 * 4 * asked / 1e9, rel=0.01)


def test_what_a_network_that_answers_zero_encodes_comes_back():
    function, arguments = counterfactual.program(CASE, 2, 4, "float32", jax.devices()[0])
    found = jax.jit(function)(*arguments)
    assert float(found.rms.max()) < 1e-3
    np.testing.assert_allclose(found.counterfactual, arguments[1], atol=1e-3)
    assert float(np.abs(found.latent - arguments[1]).max()) > 0.1


@pytest.mark.parity
def test_the_partner_asks_as_often():
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    from benchmarks.partners import diffusion

    config = tiny(2)
    nets = diffusion.networks(config)
    data = {k: torch.from_numpy(x) for k, x in diffusion.records(config, 2, np.random.default_rng(0)).items()}
    asked = []
    nets["net"].register_forward_hook(lambda net, inputs, output: asked.append(len(inputs[0])))
    with torch.no_grad():
        diffusion.counterfactual(nets, steps=4)(data)
        # Encoding, guided decoding in batches of twice the size, and the control.
        assert asked == [2] * 4 + [4] * 4 + [2] * 4
        there = diffusion.nodes(data, 4)[::-1]
        latent = diffusion.walk(data, data["image"], there, lambda x, t: torch.full_like(x, 0.1), ahead=True)
        back = diffusion.walk(data, latent, there[::-1], lambda x, t: torch.full_like(x, 0.1))
    torch.testing.assert_close(back, data["image"], atol=1e-4, rtol=0)
    assert (latent - data["image"]).abs().max() > 0.1
