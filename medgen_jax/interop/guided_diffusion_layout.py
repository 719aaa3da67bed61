"""Weights of denoising U-Nets and noise classifiers in the layout of the guided-diffusion project. NumPy only.

Its files (``256x256_diffusion_uncond.pt``, ``ema_0.9999_100000.pt``, ``256x256_classifier.pt``) are plain state dicts.
`unet_info` reads widths, levels and the rest off names and shapes. Three things leave no trace in a file and are
the caller's to know: the side of the images, the number of heads, and the order of heads (the released networks have
the "legacy" order, that of 64 pixels the "new" one); of a classifier also the number of blocks per level, because
its files look the same for other pairs of levels and blocks.

The layout has one table of classes or none, and none of its networks knows an unknown class. A null row is made of
zeros on the way in, and can be left out on the way back; a table of zeros stands for none.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.interop import torch_layout as layout
from medgen_jax.interop.guided_diffusion_tables import (
    CLASSIFIER,
    UNET,
    ClassifierInfo,
    UNetInfo,
    check_counterpart,
    classifier_rows,
    to_flax,
    unet_rows,
)
from medgen_jax.interop.torch_layout import State, Tree

# ---- what a file says ----------------------------------------------------------------------------


def _stages(state: State, part: str) -> int:
    """Number of stages of ``input_blocks`` or ``output_blocks``, including those without weights."""
    places = [int(found[1]) for name in state if (found := re.match(rf"{part}\.(\d+)\.", name))]
    return 1 + max(places, default=-1)


def _encoder_fields(what: str, state: State, size: int, blocks: int, levels: int, resample: str) -> dict[str, Any]:
    """Fields of `EncoderInfo`, as far as the first stage of every level tells."""
    width = layout.shape_of(what, state, "time_embed.0.weight", 2)[1]
    channels = layout.shape_of(what, state, "input_blocks.0.0.weight")[1]
    firsts = [f"input_blocks.{1 + level * (blocks + 1)}" for level in range(levels)]
    widths = [layout.shape_of(what, state, f"{first}.0.in_layers.2.weight")[0] for first in firsts]
    told = layout.shape_of(what, state, "input_blocks.1.0.emb_layers.1.weight", 2)[0]
    if size % 2 ** (levels - 1):
        raise UserError(
            f"{what} weights: {levels} levels need a size that is a multiple of {2 ** (levels - 1)}, not {size}"
        )
    multipliers = [outer / width for outer in widths]
    return {
        "size": size,
        "channels": channels,
        "width": width,
        "multipliers": tuple(int(m) if m == int(m) else m for m in multipliers),
        "blocks": blocks,
        "attention": tuple(size >> level for level, first in enumerate(firsts) if f"{first}.1.norm.weight" in state),
        "film": told == 2 * widths[0],
        "resample": resample,
    }


def unet_info(state: State, *, size: int, condition: str = "class", null_row: bool = False) -> UNetInfo:
    """What a U-Net file says about its network.

    Args:
      state: the state dict as arrays (`medgen_jax.interop.torch_file.read_state_dict`).
      size: side of the training images, pixels.
      condition: our name for the classes, if the file has a table of them.
      null_row: the table's last row already is a null row, as in files that `unet_to_torch` wrote with theirs.

    Returns:
      Fields of a network with a null row if it has classes.

    Raises:
      UserError: this is no such file.
    """
    stages = _stages(state, "output_blocks")
    marks = (("block", r"output_blocks\.(\d+)\.[12]\.in_layers\."), ("conv", r"output_blocks\.(\d+)\.[12]\.conv\."))
    resample, last = "block", stages - 1  # of a network of one level
    for kind, pattern in marks:
        if places := [int(found[1]) for name in state if (found := re.match(pattern, name))]:
            resample, last = kind, min(places)
            break
    else:
        with_weights = {int(found[1]) for name in state if (found := re.match(r"input_blocks\.(\d+)\.", name))}
        if gaps := set(range(_stages(state, "input_blocks"))) - with_weights:
            resample, last = "pool", min(gaps) - 1
    blocks = max(last, 1)
    fields = _encoder_fields(UNET, state, size, blocks, max(stages // (blocks + 1), 1), resample)
    out = layout.shape_of(UNET, state, "out.2.weight")[0]
    if out not in (fields["channels"], 2 * fields["channels"]):
        raise UserError(
            f"{UNET} weights: out.2.weight makes {out} channels of {fields['channels']}; expected as many or twice as "
            "many"
        )
    conditions: tuple[tuple[str, int], ...] = ()
    if "label_emb.weight" in state:
        conditions = ((condition, layout.shape_of(UNET, state, "label_emb.weight", 2)[0] - null_row),)
    return UNetInfo(**fields, conditions=conditions, null_rows=True, learned_variance=out == 2 * fields["channels"])


def classifier_info(state: State, *, size: int, blocks: int) -> ClassifierInfo:
    """What a classifier's file says about its network.

    Args:
      state: the state dict as arrays.
      size: side of the training images, pixels.
      blocks: residual blocks per level, which the project calls depth: 4 of its classifier of 64 pixels, else 2.

    Raises:
      UserError: this is no such file, or one of another number of blocks.
    """
    stages = _stages(state, "input_blocks")
    if "input_blocks.0.0.weight" in state and (blocks < 1 or stages % (blocks + 1)):
        fitting = [n for n in range(1, stages) if stages % (n + 1) == 0]
        raise UserError(
            f"{CLASSIFIER} weights: {stages} input_blocks are no whole levels of {blocks} blocks each; "
            f"with this number {', '.join(map(str, fitting))} would be"
        )
    convs = any(re.match(r"input_blocks\.\d+\.0\.op\.", name) for name in state)
    found = {int(match[1]) for name in state if (match := re.match(r"input_blocks\.(\d+)\.", name))}
    resample = "conv" if convs else "pool" if set(range(stages)) - found else "block"
    fields = _encoder_fields(CLASSIFIER, state, size, blocks, max(stages // (blocks + 1), 1), resample)
    heads = {
        "attention": "out.2.c_proj.weight",
        "adaptive": "out.3.weight",
        "spatial_v2": "out.3.weight",
        "spatial": "out.2.weight",
    }
    pool = _pool(state)
    classes = np.shape(state[heads[pool]])[0]
    return ClassifierInfo(**fields, classes=classes, pool=pool)


def _pool(state: State) -> str:
    if "out.2.c_proj.weight" in state:
        return "attention"
    if np.ndim(state.get("out.3.weight")) == 4:
        return "adaptive"
    if "out.3.weight" in state:
        return "spatial_v2"
    if np.ndim(state.get("out.2.weight")) == 2:
        return "spatial"
    raise UserError(f"{CLASSIFIER} weights: the file has no out.2 or out.3 of a classifier; is it a U-Net's?")


# ---- files and parameters ------------------------------------------------------------------------


def is_classifier(state: State) -> bool:
    """Whether a state dict of this layout is a classifier's, which has no way up."""
    return not any(name.startswith("output_blocks.") for name in state)


def unet_from_torch(state: State, info: UNetInfo, *, null_row: bool | None = None) -> tuple[Tree, list[str]]:
    """Parameters of a U-Net and what was done to fit them.

    Args:
      state: the state dict as arrays, of any float type.
      info: the network, of `unet_info` or known otherwise.
      null_row: whether the file's table of classes ends with a null row; None: where it has a row more than classes.

    Returns:
      params: float32 tree for `medgen_jax.nn.diffusion_unet.DiffusionUNet`.
      lines: for the reader; one if a null row or a table had to be made.

    Raises:
      UserError: naming the first tensor that is absent, has another shape or is not known to the configuration.
    """
    check_counterpart(UNET, info)
    params, lines = to_flax(UNET, unet_rows(_own(state, info, null_row)), state), []
    for name, count in info.conditions if info.null_rows else ():
        table = params.get(f"condition_{name}", np.zeros((0, 4 * info.width), np.float32))
        missing = count + 1 - len(table)
        params[f"condition_{name}"] = np.concatenate((table, np.zeros((missing, 4 * info.width), np.float32)))
        if missing == 1:
            lines.append(
                f"label_emb.weight: {count} classes and no null row; one of zeros is appended, for an unknown {name}, "
                "of which this network has learned nothing yet"
            )
        elif missing:
            lines.append(f"no label_emb.weight: an unconditional network, whatever {name} it is told")
    return params, lines


def _own(state: State, info: UNetInfo, null_row: bool | None) -> UNetInfo:
    """The network as the file has it: without the null row or the table that is to be made for it."""
    if not (info.conditions and info.null_rows):
        return info
    table = state.get("label_emb.weight")
    if table is None and not null_row:
        return dataclasses.replace(info, conditions=())
    if null_row is None:
        null_row = np.shape(table)[:1] != (info.conditions[0][1],)
    return dataclasses.replace(info, null_rows=null_row)


def unet_to_torch(params: Tree, info: UNetInfo, *, null_row: bool = True) -> dict[str, np.ndarray]:
    """The state dict of a U-Net; the inverse of `unet_from_torch`.

    Args:
      params: of `DiffusionUNet`. A table of classes that is zero throughout, which says nothing, is left out.
      info: its fields.
      null_row: write the null row as the last class; the project itself has none.

    Raises:
      UserError: the network has no counterpart in the layout, or the parameters are those of another one.
    """
    check_counterpart(UNET, info)
    state = layout.to_torch(UNET, unet_rows(info), params, {})
    table = state.get("label_emb.weight")
    if table is not None and not table.any():
        del state["label_emb.weight"]
    elif table is not None and info.null_rows and not null_row:
        state["label_emb.weight"] = table[:-1]
    return state


def classifier_from_torch(state: State, info: ClassifierInfo) -> Tree:
    """Parameters of a classifier, float32, for `medgen_jax.nn.diffusion_classifier.NoiseClassifier`.

    Raises:
      UserError: as `unet_from_torch`.
    """
    check_counterpart(CLASSIFIER, info)
    return to_flax(CLASSIFIER, classifier_rows(info), state)


def classifier_to_torch(params: Tree, info: ClassifierInfo) -> dict[str, np.ndarray]:
    """The state dict of a classifier; the inverse of `classifier_from_torch`.

    Raises:
      UserError: as `unet_to_torch`.
    """
    check_counterpart(CLASSIFIER, info)
    return layout.to_torch(CLASSIFIER, classifier_rows(info), params, {})
