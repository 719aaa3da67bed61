"""StyleGAN2 weights in the layout of rosinality's stylegan2-pytorch. NumPy only.

A checkpoint holds the state dicts ``g`` and ``g_ema`` of the generator and its average and ``d`` of the discriminator,
or some of them; a file that was converted from TensorFlow has the average of w beside, ``latent_avg``. The networks
know no classes, and codes are as wide as w.

That code scales a kernel by its fan-in before it demodulates, ours does not: the same up to the 1e-8 that both add to
the sum of squares. Its groups of images in the discriminator take every n-th one of a batch where ours take
consecutive ones. Noise that is stored with ``g`` is read by nothing, and taken from ``g_ema`` where that is there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.interop import stylegan2_tables as tables
from medgen_jax.interop import torch_layout as layout
from medgen_jax.interop.stylegan2_tables import NETWORKS, SMALLEST, Info
from medgen_jax.interop.torch_layout import Row, State, Tree

AVERAGE = "latent_avg"
_IGNORED = ("g_optim", "d_optim", "ada_aug_p")


def split(state: State) -> dict[str, dict[str, np.ndarray]]:
    """The state dict of every network in a file.

    Args:
      state: names joined by dots; or those of one generator, which then counts as the averaged one.

    Raises:
      UserError: there is no generator, or a name belongs to no network that is known.
    """
    if "input.input" in state:
        return {"g_ema": dict(state)}
    names = dict(zip(NETWORKS, NETWORKS, strict=True))
    return tables.split("rosinality StyleGAN2", state, names, (*_IGNORED, AVERAGE))


def networks_info(state: State) -> Info:
    """Read the networks' sizes off a file, as for `split`.

    Raises:
      UserError: tensors that tell the sizes are absent or contradict each other.
    """
    nets = split(state)
    generator = nets.get("g_ema", nets.get("g", {}))
    what = "rosinality StyleGAN2 generator"

    def shape(name: str, axes: int) -> tuple[int, ...]:
        return layout.shape_of(what, generator, name, axes)

    widths = {SMALLEST: shape("conv1.conv.weight", 5)[1]}
    for level in range(layout.numbered(generator, "to_rgbs.{}.bias")):
        widths[2 * max(widths)] = shape(f"convs.{2 * level + 1}.conv.weight", 5)[1]
    base, most = tables.width_rule(what, widths)
    w_dim, z_dim = shape("style.1.weight", 2)
    return Info(
        size=max(widths),
        channels=shape("to_rgb1.conv.weight", 5)[1],
        classes=0,
        z_dim=z_dim,
        w_dim=w_dim,
        map_layers=layout.numbered(generator, "style.{}.weight", 1),
        channel_base=base,
        channel_max=most,
    )


def from_torch(state: State, info: Info) -> dict[str, dict[str, Tree]]:
    """Collections of every network in a file, {name: {collection: tree for `medgen_jax.nn.stylegan2`}}, float32.

    Generators have the collection ``averages`` where the file has `AVERAGE`.

    Args:
      state: as for `split`, of any float type.
      info: of `networks_info`.

    Raises:
      UserError: naming the network and tensors that are absent, unknown or of another shape, or another filter.
    """
    found = {}
    for network, own in split(state).items():
        what = f"rosinality StyleGAN2 {network}"
        found[network] = tables.read_network(what, tensors(network, info), filters(network, info), own)
        if network != "d" and AVERAGE in state:
            average = np.array(state[AVERAGE], np.float32).reshape(-1)
            if average.shape != (info.w_dim,):
                raise UserError(f"{what} weights: {AVERAGE} has {average.size} numbers, expected {info.w_dim}")
            found[network]["averages"] = {"mapping": {"w": average}}
    return found


def to_torch(networks: Mapping[str, Mapping[str, Tree]], info: Info) -> dict[str, dict[str, np.ndarray] | np.ndarray]:
    """State dicts by network, and `AVERAGE` where ``g_ema`` has it, float32; undoes `from_torch`.

    Args:
      networks: as `from_torch` returns them.
      info: the networks.

    Raises:
      UserError: networks that have no counterpart in the layout, or parameters that do not fit it.
    """
    odd = {
        f"{info.classes} classes": info.classes and "its networks have none",
        f"z_dim {info.z_dim}, w_dim {info.w_dim}": info.z_dim != info.w_dim and "both are one number there",
        f"{info.channels} channel": info.channels != 3 and "its images have 3",
        "no minibatch deviation": not info.deviation and "its discriminator always sees it",
    }
    for what, rule in odd.items():
        if rule:
            raise UserError(f"{what}: no counterpart in the layout of rosinality's StyleGAN2, {rule}")
    found: dict[str, dict[str, np.ndarray] | np.ndarray] = {}
    for network, own in networks.items():
        known = {name: tree for name, tree in own.items() if name != "averages"}
        state = layout.write(f"rosinality StyleGAN2 {network}", tensors(network, info), known)
        found[network] = state | filters(network, info)
    if "averages" in networks.get("g_ema", {}):
        found[AVERAGE] = np.array(networks["g_ema"]["averages"]["mapping"]["w"], np.float32)
    return found


def tensors(network: str, info: Info) -> list[Row]:
    """The tensors of a network, by the names within it."""
    return _discriminator(info) if network == "d" else _generator(info)


def filters(network: str, info: Info) -> dict[str, np.ndarray]:
    """The resampling filters of layers that resample, of gain 4 where they double the size."""
    levels = len(info.widths) - 1
    if network == "d":
        places = [f"convs.{level}.{part}.0" for level in range(1, levels + 1) for part in ("conv2", "skip")]
        return {f"{place}.kernel": tables.binomial() for place in places}
    places = [f"convs.{2 * level}.conv.blur" for level in range(levels)]
    places += [f"to_rgbs.{level}.upsample" for level in range(levels)]
    return {f"{place}.kernel": tables.binomial(4.0) for place in places}


def _generator(info: Info) -> list[Row]:
    rows = []
    for layer in range(info.map_layers):
        inner = info.w_dim if layer else info.z_dim
        rows += tables.dense(f"style.{layer + 1}", ("mapping", f"layer_{layer}"), info.w_dim, inner)
    last, *_ = info.widths.values()
    view = (last, SMALLEST, SMALLEST)
    rows.append(Row("input.input", ("params", "synthesis", "const"), "image", (1, *view), view))
    rows += _styled("conv1", "conv_4_1", last, last, SMALLEST, 0, info) + _to_image("to_rgb1", last, SMALLEST, info)
    for level, (side, width) in enumerate(list(info.widths.items())[1:]):
        up, straight = 2 * level, 2 * level + 1
        rows += _styled(f"convs.{up}", f"conv_{side}_0", last, width, side, up + 1, info)
        rows += _styled(f"convs.{straight}", f"conv_{side}_1", width, width, side, straight + 1, info)
        rows += _to_image(f"to_rgbs.{level}", width, side, info)
        last = width
    return rows


def _styled(name: str, module: str, inner: int, outer: int, side: int, noise: int, info: Info) -> list[Row]:
    place = ("synthesis", module)
    return [
        tables.kernel(f"{name}.conv.weight", place, (outer, inner, 3, 3), leading=1),
        *tables.dense(f"{name}.conv.modulation", (*place, "style"), inner, info.w_dim),
        tables.same(f"{name}.noise.weight", ("params", *place, "noise_strength"), (), (1,)),
        tables.bias(f"{name}.activate.bias", place, outer),
        tables.same(f"noises.noise_{noise}", ("constants", *place, "noise"), (side, side), (1, 1, side, side)),
    ]


def _to_image(name: str, inner: int, side: int, info: Info) -> list[Row]:
    place = ("synthesis", f"image_{side}")
    return [
        tables.bias(f"{name}.bias", place, info.channels, (1, info.channels, 1, 1)),
        tables.kernel(f"{name}.conv.weight", place, (info.channels, inner, 1, 1), leading=1),
        *tables.dense(f"{name}.conv.modulation", (*place, "style"), inner, info.w_dim),
    ]


def _conv(name: str, module: tuple[str, ...], view: tuple[int, ...], position: int = 0) -> list[Row]:
    """A convolution at a position of a sequence, and its bias in the activation behind it."""
    weight = tables.kernel(f"{name}.{position}.weight", module, view)
    return [weight, tables.bias(f"{name}.{position + 1}.bias", module, view[0])]


def _discriminator(info: Info) -> list[Row]:
    widths = info.widths
    rows = _conv("convs.0", ("from_image",), (widths[info.size], info.channels, 1, 1))
    for number, side in enumerate(reversed(list(widths)[1:]), 1):
        inner, outer, block = widths[side], widths[side // 2], f"block_{side}"
        rows += _conv(f"convs.{number}.conv1", (block, "conv_0"), (inner, inner, 3, 3))
        rows += _conv(f"convs.{number}.conv2", (block, "conv_1"), (outer, inner, 3, 3), position=1)
        rows.append(tables.kernel(f"convs.{number}.skip.1.weight", (block, "skip"), (outer, inner, 1, 1)))
    last = widths[SMALLEST]
    rows += _conv("final_conv", ("conv",), (last, last + 1, 3, 3)) + tables.hidden("final_linear.0", last)
    return rows + tables.dense("final_linear.1", ("out",), 1, last)
