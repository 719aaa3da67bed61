"""Weights of other projects in, runs out to other programs: ``python -m medgen_jax.convert --from|--to NAME ...``.

--from pytorch-cyclegan-pix2pix --folder checkpoints/NAME --output RUN              all networks of a training
--from pytorch-cyclegan-pix2pix --generator latest_net_G.pth --output RUN           one network
--to pytorch-cyclegan-pix2pix --workdir RUN --output DIR                            writes the same files back
--to jax-export --workdir RUN --output DIR                                          a sampler that needs jax alone
"""

from __future__ import annotations

from absl import flags

from medgen_jax import cli

_FROM = flags.DEFINE_enum("from", None, ["pytorch-cyclegan-pix2pix"], "Whose layout the files have.")
_TO = flags.DEFINE_enum("to", None, ["pytorch-cyclegan-pix2pix", "jax-export"], "What to turn a run into.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory to make: a run with --from, files with --to.")
_FOLDER = flags.DEFINE_string("folder", None, "--from: folder with latest_net_{G,D}.pth or latest_net_{G,D}_{A,B}.pth.")
_EPOCH = flags.DEFINE_string("epoch", "latest", "--from: which files of --folder.")
_GENERATOR = flags.DEFINE_string("generator", None, "--from: generator weights, such as latest_net_G.pth.")
_DISCRIMINATOR = flags.DEFINE_string("discriminator", None, "--from: discriminator weights, such as latest_net_D.pth.")
_SIZE = flags.DEFINE_integer("size", 256, "--from: side of the training images, pixels.")
_STATS = flags.DEFINE_enum("stats", "running", ["running", "batch"], "--from: statistics of batch norms at inference.")
_DROPOUT = flags.DEFINE_bool("dropout", False, "--from: keep dropout at inference, as the reference without --eval.")
_WORKDIR = flags.DEFINE_string("workdir", None, "--to: the run.")
_WHICH = flags.DEFINE_string("checkpoint", "last", "--to: last, best, or a step.")
_SAMPLER = flags.DEFINE_string("sampler", None, "--to jax-export: which sampler; the system's first if left out.")


def main(_: list[str]) -> int:
    """Read, compare names, write."""
    if (_FROM.value is None) == (_TO.value is None):
        raise cli.UserError("give either --from or --to")
    for flag in (_OUTPUT,) if _FROM.value else (_OUTPUT, _WORKDIR):
        if flag.value is None:
            raise cli.UserError(f"--{flag.name} is missing")
    if _FROM.value and (_FOLDER.value is None) == (_GENERATOR.value is None):
        raise cli.UserError("give either --folder, for all networks of a training, or --generator, for one file")
    from medgen_jax import conversion, sampling
    from medgen_jax.engine import runtime

    runtime.start()
    which = int(_WHICH.value) if _WHICH.value.isdigit() else _WHICH.value
    if _FROM.value:
        named = {"G": _GENERATOR.value} | ({"D": _DISCRIMINATOR.value} if _DISCRIMINATOR.value else {})
        lines = conversion.from_torch(
            conversion.find_files(_FOLDER.value, _EPOCH.value) if _FOLDER.value else named,
            _OUTPUT.value,
            size=_SIZE.value,
            stats=_STATS.value,
            dropout=_DROPOUT.value,
        )
    elif _TO.value == "jax-export":
        folder = sampling.export_sampler(_WORKDIR.value, _OUTPUT.value, _SAMPLER.value, which)
        about = sampling.load_exported(folder).about
        lines = [f"{folder}: sampler {about['sampler']!r}, read it with medgen_jax.sampling.load_exported",
                 f"jax {about['jax']}; jax promises to run the program until {about['supported_until']}"]  # fmt: skip
    else:
        lines = conversion.to_torch(_WORKDIR.value, _OUTPUT.value, which)
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    cli.run(main)
