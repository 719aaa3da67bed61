"""Turn weights of a public PyTorch project into a run directory: ``python -m medgen_jax.convert --from NAME ...``."""

from __future__ import annotations

from absl import flags

from medgen_jax import cli

LAYOUTS = ["pytorch-cyclegan-pix2pix"]
_FROM = flags.DEFINE_enum("from", None, LAYOUTS, "Whose layout the files have.")
_GENERATOR = flags.DEFINE_string("generator", None, "Generator weights, such as latest_net_G.pth.")
_DISCRIMINATOR = flags.DEFINE_string("discriminator", None, "Discriminator weights, such as latest_net_D.pth.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory of the run to make; must not hold one.")
_SIZE = flags.DEFINE_integer("size", 256, "Side of the training images, pixels.")
_STATS = flags.DEFINE_enum("stats", "running", ["running", "batch"], "Statistics of batch norms at inference.")
_DROPOUT = flags.DEFINE_bool("dropout", False, "Keep dropout on at inference, as the reference does without --eval.")


def main(_: list[str]) -> int:
    """Read, compare names, write a run."""
    for flag in (_FROM, _GENERATOR, _OUTPUT):
        if flag.value is None:
            raise cli.UserError(f"--{flag.name} is missing")
    from medgen_jax import conversion
    from medgen_jax.engine import runtime

    runtime.start()
    lines = conversion.pix2pix_from_torch(
        _GENERATOR.value, _DISCRIMINATOR.value, _OUTPUT.value,
        size=_SIZE.value, stats=_STATS.value, dropout=_DROPOUT.value,
    )  # fmt: skip
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    cli.run(main)
