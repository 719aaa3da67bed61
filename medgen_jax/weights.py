"""Pretrained weights of the metrics: list, download, convert: ``python -m medgen_jax.weights``.

    (no flags)                                     what is there, what is missing, where, under which licence
    --get inception,lpips_alexnet,lpips_vgg16|all  download what is missing, verified by sha256
    --archive FILE                                 convert a local copy of a published file instead

Folder: --weights DIR, else MEDGEN_WEIGHTS, else MEDGEN_CACHE/weights, else ~/.cache/medgen_jax/weights.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from medgen_jax import cli
from medgen_jax.interop import weight_store

_GET = flags.DEFINE_list("get", None, "Weights to obtain, separated by commas; all: every one.")
_ARCHIVE = flags.DEFINE_string(
    "archive", None, "Local published file, or .tar.gz that holds some; --get chooses among them."
)
_WEIGHTS = flags.DEFINE_string("weights", None, "Folder of the weights.")


def main(_: list[str]) -> int:
    """List, download or convert, as the flags say."""
    folder = weight_store.weights_folder(_WEIGHTS.value)
    names = [name.strip() for name in _GET.value] if _GET.value is not None else None
    if names == []:
        raise cli.UserError(f"--get names nothing; there are {', '.join(weight_store.CATALOGUE)}, or all")
    everything = names is not None and "all" in names
    if _ARCHIVE.value is not None:
        _report(weight_store.convert_archive(_ARCHIVE.value, folder, None if everything else names))
    elif names is not None:
        _report(weight_store.obtain(weight_store.CATALOGUE if everything else names, folder))
    else:
        _list(weight_store.survey(folder), folder, weight_store.command("all", _WEIGHTS.value))
    return 0


def _report(packs: dict[str, Path]) -> None:
    for name, path in packs.items():
        print(f"{name}: {path}\n  {weight_store.CATALOGUE[name].licence}")


def _list(rows: list[weight_store.Status], folder: Path, command: str) -> None:
    print(f"weights in {folder}")
    for row in rows:
        size = f"{row.path.stat().st_size // 1000:,} kB" if row.path.is_file() else ""
        print(f"  {row.name:<14} {row.state:<9} {size:>9}  digest {row.digest[:12]}  {row.licence}")
    if any(row.state in ("missing", "damaged") for row in rows[:-1]):
        print(f"get the rest: {command}")


if __name__ == "__main__":
    cli.run(main)
