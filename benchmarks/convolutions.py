"""Convolutions and their derivatives in both forms of `medgen_jax.ops`: one JSON line per layer, and a table.

    python -m benchmarks.convolutions --out lines.jsonl

Layers of the U-Net, the ResNet generator, PatchGAN and the denoiser at the papers' widths, and where their images are
smallest. ``forward`` is the convolution, ``image`` and ``kernel`` its derivatives; ``products`` are those of
`medgen_jax.ops.conv_products`, ``autodiff`` what XLA makes of a plain convolution. Both take turns; before that they
must agree. `medgen_jax.ops.conv` chooses by backend.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import lines, machine
from benchmarks.timing import Form, in_turns, summary
from medgen_jax.ops import conv_products

#: Largest difference, over the largest value, above which the two forms do different work.
MOST_APART = 1e-4


class Layer(NamedTuple):
    """A convolution: side of its square image, channels, side of its kernel, stride, zeros before and after."""

    what: str
    side: int
    channels: int
    out: int
    size: int
    stride: int = 1
    pad: tuple[int, int] = (1, 1)


LAYERS = (
    Layer("ResNet, first", 262, 3, 64, 7, 1, (3, 3)),
    Layer("ResNet, down", 256, 64, 128, 3, 2),
    Layer("ResNet, block", 64, 256, 256, 3),
    Layer("ResNet, a phase of up", 64, 256, 128, 2, 1, (1, 0)),
    Layer("ResNet, last", 262, 64, 3, 7, 1, (3, 3)),
    Layer("U-Net, down", 128, 64, 128, 4, 2),
    Layer("U-Net, down", 16, 512, 512, 4, 2),
    Layer("U-Net, down", 4, 512, 512, 4, 2),
    Layer("U-Net, down", 2, 512, 512, 4, 2),
    Layer("U-Net, a phase of up", 2, 1024, 512, 2, 1, (1, 0)),
    Layer("U-Net, a phase of up", 16, 1024, 256, 2, 1, (1, 0)),
    Layer("U-Net, a phase of the last", 128, 128, 3, 2, 1, (1, 0)),
    Layer("PatchGAN, third", 32, 256, 512, 4),
    Layer("PatchGAN, last", 31, 512, 1, 4),
    Layer("denoiser, block", 64, 64, 64, 3),
    Layer("denoiser, block", 16, 256, 256, 3),
    Layer("denoiser, skip", 64, 256, 128, 1, 1, (0, 0)),
)
Program = Callable[..., jax.Array]


def programs(layer: Layer) -> dict[str, dict[str, Program]]:
    """What of a layer is measured -> form -> function of an image, a kernel and the gradient of the output."""
    pads = (layer.pad, layer.pad)

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        strides, layout = (layer.stride,) * 2, ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=layout)

    def products(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv_products.conv2d(x, kernel, layer.stride, pads)

    found: dict[str, dict[str, Program]] = {"forward": {}, "image": {}, "kernel": {}}
    for name, form in {"products": products, "autodiff": plain}.items():
        found["forward"][name] = lambda x, kernel, g, form=form: form(x, kernel)
        found["image"][name] = lambda x, kernel, g, form=form: jax.vjp(lambda x: form(x, kernel), x)[1](g)[0]
        found["kernel"][name] = lambda x, kernel, g, form=form: jax.vjp(lambda w: form(x, w), kernel)[1](g)[0]
    return found


def measured(layers: Sequence[Layer], batch: int, rounds: int) -> Iterator[dict[str, Any]]:
    """The lines of layers.

    Raises:
      RuntimeError: the forms disagree.
    """
    for layer in layers:
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (batch, layer.side, layer.side, layer.channels))
        kernel = jax.random.normal(keys[1], (layer.size, layer.size, layer.channels, layer.out))
        both = programs(layer)
        g = jax.random.normal(keys[2], jax.eval_shape(both["forward"]["autodiff"], x, kernel, None).shape)
        for what, forms in both.items():
            compiled = {name: jax.jit(form).lower(x, kernel, g).compile() for name, form in forms.items()}
            values = [run(x, kernel, g) for run in compiled.values()]
            apart = float(jnp.max(jnp.abs(values[0] - values[1])) / jnp.max(jnp.abs(values[1])))
            if not apart <= MOST_APART:
                raise RuntimeError(f"{layer.what}, {what}: the forms are {apart:.1e} apart")
            seconds = in_turns({name: _form(run, x, kernel, g) for name, run in compiled.items()}, rounds)
            line = {"benchmark": "convolutions", **layer._asdict(), "batch": batch, "part": what, "rounds": rounds}
            line |= {name: summary(spent) for name, spent in seconds.items()}
            yield {**line, **machine.facts(jax.devices()[0])}


def _form(run: Program, *given: jax.Array) -> Form:
    return lambda: jax.block_until_ready(run(*given))


def table(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown: a row per layer, milliseconds of autodiff and of products."""
    yield "| layer | image, kernel | batch | forward | image's gradient | kernel's gradient |"
    yield "|---|---|---|---|---|---|"
    for first in (line for line in found if line["part"] == "forward"):
        own = [line for line in found if all(line[key] == first[key] for key in (*Layer._fields, "batch"))]
        cells = {line["part"]: f"{line['autodiff']['ms_p50']:.2f} -> {line['products']['ms_p50']:.2f}" for line in own}
        shape = "{side}² x {channels}, {size}² to {out}".format(**first) + (", stride 2" if first["stride"] > 1 else "")
        row = (first["what"], shape, str(first["batch"]), cells["forward"], cells["image"], cells["kernel"])
        yield f"| {' | '.join(row)} |"


def main() -> None:
    """Measure all layers and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines, appended to")
    given = parser.parse_args()
    found = []
    for batch in given.batches:
        for line in measured(LAYERS, batch, given.rounds):
            lines.append(given.out, line)
            found.append(line)
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
