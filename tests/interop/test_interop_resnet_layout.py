"""Names and shapes of the residual generator's files; a wrong file is named."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.interop import resnet_layout as layout
from medgen_jax.nn.resnet_generator import ResNetGenerator


def state(norm="instance", dropout=False, blocks=9):
    net = ResNetGenerator(3, ngf=2, blocks=blocks, norm=norm)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32))
    rng = np.random.default_rng(0)
    made = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    stats = made.get("batch_stats", {})
    return layout.resnet_to_torch(made["params"], stats, norm=norm, dropout=dropout, batches_tracked=7)


def test_names_of_the_reference():
    wanted = {f"model.{i}.{k}" for i in (1, 4, 7, 19, 22, 26) for k in ("weight", "bias")}
    wanted |= {f"model.{i}.conv_block.{j}.{k}" for i in range(10, 19) for j in (1, 5) for k in ("weight", "bias")}
    assert set(state()) == wanted
    assert "model.10.conv_block.6.weight" in state(dropout=True)
    assert {"model.11.weight", "model.14.weight", "model.18.weight"} <= set(state(blocks=1))


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("dropout", [False, True])
def test_there_and_back(norm, dropout):
    old = state(norm, dropout, blocks=2)
    params, stats, info = layout.resnet_from_torch(old)
    assert (info.in_channels, info.out_channels, info.ngf, info.blocks) == (1, 3, 2, 2)
    assert (info.norm, info.dropout, info.batches_tracked) == (norm, dropout, 7 if norm == "batch" else 0)
    new = layout.resnet_to_torch(params, stats, norm=norm, dropout=dropout, batches_tracked=info.batches_tracked)
    assert set(new) == set(old) and all(np.array_equal(new[name], old[name]) for name in old)


def test_old_statistics_of_instance_norm_are_dropped():
    old = state(blocks=1)
    params, stats, _ = layout.resnet_from_torch(
        {**old, "model.2.running_mean": np.ones(2), "model.2.num_batches_tracked": np.array(3)}
    )
    assert stats == {} and np.array_equal(params["stem"]["bias"], old["model.1.bias"])


def test_wrong_files_and_networks_are_named():
    whole = state(blocks=2)
    with pytest.raises(UserError, match=r"lacks model\.4\.weight"):
        layout.resnet_from_torch({n: a for n, a in whole.items() if n != "model.4.weight"})
    with pytest.raises(UserError, match=r"the blocks \[11\] do not follow each other from 10 on"):
        layout.resnet_from_torch({n: a for n, a in whole.items() if not n.startswith("model.10.")})
    with pytest.raises(UserError, match="no tensor model.1.weight"):
        layout.resnet_from_torch({"model.0.weight": np.zeros((1, 1, 4, 4))})
    params, stats, _ = layout.resnet_from_torch(whole)
    with pytest.raises(UserError, match="'nearest_conv' has no counterpart"):
        layout.resnet_to_torch(params, stats, norm="instance", upsample="nearest_conv")
    with pytest.raises(UserError, match="'sample' has no counterpart"):
        layout.resnet_to_torch(params, stats, norm="sample")
