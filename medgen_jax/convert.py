"""Weights of other projects in, runs out to other programs: ``python -m medgen_jax.convert --from|--to NAME ...``.

--from pytorch-cyclegan-pix2pix --folder checkpoints/NAME --output RUN              all networks of a training
--from pytorch-cyclegan-pix2pix --generator latest_net_G.pth --output RUN           one network
--from guided-diffusion --file MODEL.pt --config NAME --output RUN                  a U-Net or a noise classifier
--from stargan-v2 --file 100000_nets_ema.ckpt [--config NAME] --output RUN          its networks, or all with nets.ckpt
--from stylegan2-rosinality --file 550000.pt [--config NAME] --output RUN            a checkpoint
--from stylegan2-ada --file network-snapshot-025000.pkl [--config NAME] --output RUN   a snapshot, or state dicts of it
--from dcgan --file model_final.pth [--config NAME] --output RUN                    a generator and its discriminator
--to LAYOUT --workdir RUN --output DIR                                              writes the same files back
--to jax-export --workdir RUN --output DIR                                          a sampler that needs jax alone
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags
from ml_collections import config_flags

from medgen_jax import cli, conversions

_SEVERAL_FILES, _EXPORT = "pytorch-cyclegan-pix2pix", "jax-export"
_FROM = flags.DEFINE_enum("from", None, list(conversions.LAYOUTS), "Whose layout the files have.")
_TO = flags.DEFINE_enum("to", None, [*conversions.LAYOUTS, _EXPORT], "What to turn a run into.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory to make: a run with --from, files with --to.")
_FOLDER = flags.DEFINE_string("folder", None, "--from: folder with latest_net_{G,D}.pth or latest_net_{G,D}_{A,B}.pth.")
_EPOCH = flags.DEFINE_string("epoch", "latest", "--from: which files of --folder.")
_GENERATOR = flags.DEFINE_string("generator", None, "--from: generator weights, such as latest_net_G.pth.")
_DISCRIMINATOR = flags.DEFINE_string("discriminator", None, "--from: discriminator weights, such as latest_net_D.pth.")
_SIZE = flags.DEFINE_integer("size", 256, "--from: side of the training images, pixels.")
_STATS = flags.DEFINE_enum("stats", "running", ["running", "batch"], "--from: statistics of batch norms at inference.")
_DROPOUT = flags.DEFINE_bool("dropout", False, "--from: keep dropout at inference, as the reference without --eval.")
_FILE = flags.DEFINE_string("file", None, "--from: weights of a layout of one file, such as 256x256_diffusion.pt.")
_CONFIG = config_flags.DEFINE_config_file("config", None, "--from: what --file should hold, and names of its classes.")
_NULL_ROW = flags.DEFINE_bool("null_row", False, "guided-diffusion: the file's last class stands for an unknown one.")
_WORKDIR = flags.DEFINE_string("workdir", None, "--to: the run.")
_WHICH = flags.DEFINE_string("checkpoint", "last", "--to: last, best, or a step.")
_SAMPLER = flags.DEFINE_string("sampler", None, "--to jax-export: which sampler; the system's first if left out.")


def main(_: list[str]) -> int:
    """Read, compare names, write."""
    if (_FROM.value is None) == (_TO.value is None):
        raise cli.UserError("give either --from or --to")
    _require("output", *(conversions.LAYOUTS[_FROM.value].needed if _FROM.value else ("workdir",)))
    if _FROM.value == _SEVERAL_FILES and (_FOLDER.value is None) == (_GENERATOR.value is None):
        raise cli.UserError("give either --folder, for all networks of a training, or --generator, for one file")
    from medgen_jax.engine import runtime

    runtime.start()
    print("\n".join(_read() if _FROM.value else _write()))
    return 0


def _require(*names: str) -> None:
    for name, value in _values(names).items():
        if value is None:
            raise cli.UserError(f"--{name} is missing")


def _values(names: tuple[str, ...]) -> dict[str, Any]:
    """What was given for flags of these names."""
    return {name: flags.FLAGS[name].value for name in names}


def _read() -> list[str]:
    module, options = conversions.load(_FROM.value), conversions.LAYOUTS[_FROM.value].reading
    weights = _files(module.find_files) if _FROM.value == _SEVERAL_FILES else _FILE.value
    return module.read(weights, _OUTPUT.value, **_values(options))


def _files(find: Callable[[str, str], Mapping[str, Any]]) -> Mapping[str, Any]:
    if _FOLDER.value:
        return find(_FOLDER.value, _EPOCH.value)
    return {name: flag.value for name, flag in (("G", _GENERATOR), ("D", _DISCRIMINATOR)) if flag.value}


def _write() -> list[str]:
    which = int(_WHICH.value) if _WHICH.value.isdigit() else _WHICH.value
    if _TO.value != _EXPORT:
        options = conversions.LAYOUTS[_TO.value].writing
        return conversions.load(_TO.value).write(_WORKDIR.value, _OUTPUT.value, which, **_values(options))
    from medgen_jax import sampling

    folder = sampling.export_sampler(_WORKDIR.value, _OUTPUT.value, _SAMPLER.value, which)
    about = sampling.load_exported(folder).about
    return [
        f"{folder}: sampler {about['sampler']!r}, read it with medgen_jax.sampling.load_exported",
        f"jax {about['jax']}; jax promises to run the program until {about['supported_until']}",
    ]


if __name__ == "__main__":
    cli.run(main, takes_config=any(word.split("=")[0] in ("--config", "-config") for word in sys.argv))
