"""StyleGAN2 weights under the names of stylegan2-ada-pytorch. NumPy only.

Its snapshots are pickled modules ``G``, ``D`` and ``G_ema`` (`medgen_jax.interop.inert_pickles.read_modules` reads them
without running the code they carry); an exported file holds the state dicts of these, or that of one generator.
Networks with or without classes, of the ``skip`` generator and the ``resnet`` discriminator, which are the defaults.

What no state dict tells: the bound of activations at low precision (``conv_clamp``), the number of images in a group
of the discriminator, and that its groups take every n-th image of a batch where ours take consecutive ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medgen_jax.interop import stylegan2_tables as tables
from medgen_jax.interop import torch_layout as layout
from medgen_jax.interop.stylegan2_tables import SMALLEST, Info
from medgen_jax.interop.torch_layout import Row, State, Tree

#: Our names of the networks -> the files'.
NAMES = {"g": "G", "d": "D", "g_ema": "G_ema"}
_IGNORED = ("augment_pipe",)


def split(state: State) -> dict[str, dict[str, np.ndarray]]:
    """The state dict of every network in a file, by our names of them.

    Args:
      state: names joined by dots; or those of one generator, which then counts as the averaged one.

    Raises:
      UserError: there is no generator, or a name belongs to no network that is known.
    """
    if any(name.startswith("synthesis.") for name in state):
        return {"g_ema": dict(state)}
    return tables.split("StyleGAN2-ADA", state, NAMES, _IGNORED)


def networks_info(state: State) -> Info:
    """Read the networks' sizes off a file, as for `split`.

    Raises:
      UserError: tensors that tell the sizes are absent or contradict each other.
    """
    nets = split(state)
    generator, judge = nets.get("g_ema", nets.get("g", {})), nets.get("d", {})
    what = "StyleGAN2-ADA generator"

    def shape(name: str, axes: int) -> tuple[int, ...]:
        return layout.shape_of(what, generator, name, axes)

    sides = [SMALLEST]
    while f"synthesis.b{2 * sides[-1]}.conv1.weight" in generator:
        sides.append(2 * sides[-1])
    widths = {side: shape(f"synthesis.b{side}.conv1.weight", 4)[0] for side in sides}
    base, most = tables.width_rule(what, widths)
    map_layers = layout.numbered(generator, "mapping.fc{}.weight")
    w_dim = shape("mapping.w_avg", 1)[0]
    classes = shape("mapping.embed.weight", 2)[1] if "mapping.embed.weight" in generator else 0
    joined = np.shape(judge.get("b4.conv.weight", np.zeros((0, widths[SMALLEST] + 1))))[1]
    return Info(
        size=sides[-1],
        channels=shape(f"synthesis.b{sides[-1]}.torgb.weight", 4)[0],
        classes=classes,
        z_dim=shape("mapping.fc0.weight", 2)[1] - (w_dim if classes else 0),
        w_dim=w_dim,
        map_layers=map_layers,
        channel_base=base,
        channel_max=most,
        judge_layers=layout.numbered(judge, "mapping.fc{}.weight"),
        deviation=joined == widths[SMALLEST] + 1,
    )


def from_torch(state: State, info: Info) -> dict[str, dict[str, Tree]]:
    """Collections of every network in a file, {our name: {collection: tree for `medgen_jax.nn.stylegan2`}}, float32.

    Args:
      state: as for `split`, of any float type.
      info: of `networks_info`.

    Raises:
      UserError: naming the network and tensors that are absent, unknown or of another shape, or another filter.
    """
    found = {}
    for network, own in split(state).items():
        what = f"StyleGAN2-ADA {NAMES[network]}"
        found[network] = tables.read_network(what, tensors(network, info), filters(network, info), own)
    return found


def to_torch(networks: Mapping[str, Mapping[str, Tree]], info: Info) -> dict[str, dict[str, np.ndarray]]:
    """State dicts by the files' names of the networks, float32; undoes `from_torch`.

    Args:
      networks: as `from_torch` returns them.
      info: the networks.

    Raises:
      UserError: parameters that do not fit the layout.
    """
    return {
        NAMES[network]: layout.write(f"StyleGAN2-ADA {NAMES[network]}", tensors(network, info), own)
        | filters(network, info)
        for network, own in networks.items()
    }


def tensors(network: str, info: Info) -> list[Row]:
    """The tensors of a network, by the names within it."""
    return _discriminator(info) if network == "d" else _generator(info)


def filters(network: str, info: Info) -> dict[str, np.ndarray]:
    """The resampling filters, which every level and most layers store, used or not."""
    sides = list(info.widths)
    if network == "d":
        places = [f"b{side}{part}." for side in sides[1:] for part in ("", ".conv0", ".conv1", ".skip")]
        places += [f"b{info.size}.fromrgb.", "b4.conv."]
    else:
        levels = [f"synthesis.b{side}" for side in sides]
        places = [f"{level}." for level in levels] + [f"{level}.conv1." for level in levels]
        places += [f"{level}.conv0." for level in levels[1:]]
    return {f"{place}resample_filter": tables.binomial() for place in places}


def _mapping(module: tuple[str, ...], info: Info, z_dim: int, w_dim: int, layers: int) -> list[Row]:
    """A mapping; with classes, their embedding is as wide as w."""
    rows = tables.dense("mapping.embed", (*module, "embed"), w_dim, info.classes) if info.classes else []
    inner = z_dim + (w_dim if info.classes else 0)
    for layer in range(layers):
        rows += tables.dense(f"mapping.fc{layer}", (*module, f"layer_{layer}"), w_dim, w_dim if layer else inner)
    return rows


def _generator(info: Info) -> list[Row]:
    rows = _mapping(("mapping",), info, info.z_dim, info.w_dim, info.map_layers)
    rows.append(tables.same("mapping.w_avg", ("averages", "mapping", "w"), (info.w_dim,)))
    inner = 0
    for side, width in info.widths.items():
        level = f"synthesis.b{side}"
        if inner:
            rows += _styled(f"{level}.conv0", f"conv_{side}_0", inner, width, side, info)
        else:
            shape = (width, side, side)
            rows.append(Row(f"{level}.const", ("params", "synthesis", "const"), "image", shape, shape))
        rows += _styled(f"{level}.conv1", f"conv_{side}_1", width, width, side, info)
        name, module = f"{level}.torgb", ("synthesis", f"image_{side}")
        rows += tables.dense(f"{name}.affine", (*module, "style"), width, info.w_dim)
        rows.append(tables.kernel(f"{name}.weight", module, (info.channels, width, 1, 1)))
        rows.append(tables.bias(f"{name}.bias", module, info.channels))
        inner = width
    return rows


def _styled(name: str, module: str, inner: int, outer: int, side: int, info: Info) -> list[Row]:
    place = ("synthesis", module)
    return [
        *tables.dense(f"{name}.affine", (*place, "style"), inner, info.w_dim),
        tables.kernel(f"{name}.weight", place, (outer, inner, 3, 3)),
        tables.same(f"{name}.noise_const", ("constants", *place, "noise"), (side, side)),
        tables.same(f"{name}.noise_strength", ("params", *place, "noise_strength"), ()),
        tables.bias(f"{name}.bias", place, outer),
    ]


def _conv(name: str, module: tuple[str, ...], view: tuple[int, ...], biased: bool = True) -> list[Row]:
    weight = tables.kernel(f"{name}.weight", module, view)
    return [weight, tables.bias(f"{name}.bias", module, view[0])] if biased else [weight]


def _discriminator(info: Info) -> list[Row]:
    widths = info.widths
    rows = _conv(f"b{info.size}.fromrgb", ("from_image",), (widths[info.size], info.channels, 1, 1))
    for side in reversed(list(widths)[1:]):
        inner, outer, block = widths[side], widths[side // 2], f"block_{side}"
        rows += _conv(f"b{side}.conv0", (block, "conv_0"), (inner, inner, 3, 3))
        rows += _conv(f"b{side}.conv1", (block, "conv_1"), (outer, inner, 3, 3))
        rows += _conv(f"b{side}.skip", (block, "skip"), (outer, inner, 1, 1), biased=False)
    last = widths[SMALLEST]
    rows += _conv("b4.conv", ("conv",), (last, last + info.deviation, 3, 3)) + tables.hidden("b4.fc", last)
    rows += tables.dense("b4.out", ("out",), last if info.classes else 1, last)
    return rows + (_mapping(("mapping",), info, 0, last, info.judge_layers) if info.classes else [])
