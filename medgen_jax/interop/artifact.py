"""A sampler as a folder of plain files that run with jax alone: nothing of this package is needed to call them.

    program.bin           the sampler as a serialised `jax.export` program for cpu, cuda and tpu, any batch size
    weights.safetensors   its variables, one tensor per leaf, named by path
    manifest.json         sha256 of both, and the signature: inputs, output, versions, date, last date of support

jax promises to run a serialised program for six months after its export; the weights do not age. The
program takes ``(weights, inputs, key data)``: a flat dict of arrays, a dict of batches, uint32 (2,).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from medgen_jax.core import manifest
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Field

PyTree = Any

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, WEIGHTS = "program.bin", "weights.safetensors"
#: How long jax promises to read a serialised program.
SUPPORT = datetime.timedelta(days=183)


class Artifact(NamedTuple):
    """A loaded folder.

    Attributes:
      call: ``(weights, inputs, key data) -> output``, jitted.
      weights: flat dict of arrays.
      inputs: input name -> `Field` of one record.
      about: the manifest's signature.
    """

    call: Callable[..., jax.Array]
    weights: dict[str, jax.Array]
    inputs: dict[str, Field]
    about: Mapping[str, Any]


def save(
    folder: Path,
    function: Callable[[PyTree, Mapping[str, jax.Array], jax.Array], jax.Array],
    variables: PyTree,
    inputs: Mapping[str, Field],
    about: Mapping[str, Any],
) -> None:
    """Export ``function(variables, inputs, key)`` with its variables.

    Args:
      folder: an empty or new folder.
      function: pure; every input and the output carry a leading batch axis, which stays symbolic.
      variables: its arrays, any pytree.
      inputs: shape and dtype of one record of each input.
      about: JSON values kept in the manifest.

    Raises:
      UserError: the serialiser is not installed, or the folder holds something.
    """
    _require_serialiser()
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: holds something already; give another folder")
    paths, leaves, tree = _named(variables)

    def program(weights: Mapping[str, jax.Array], batch: Mapping[str, jax.Array], key_data: jax.Array) -> jax.Array:
        return function(tree.unflatten(weights[p] for p in paths), batch, jax.random.wrap_key_data(key_data))

    size = jax.export.symbolic_shape("b")
    specs = {name: jax.ShapeDtypeStruct((*size, *f.shape), f.dtype) for name, f in inputs.items()}
    weights = dict(zip(paths, leaves, strict=True))
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(
        {p: jax.ShapeDtypeStruct(x.shape, x.dtype) for p, x in weights.items()}, specs, key
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRAM).write_bytes(exported.serialize())
    # The library's own file writer would make it readable for its owner alone.
    (folder / WEIGHTS).write_bytes(to_bytes({p: np.asarray(x, order="C") for p, x in weights.items()}))
    (output,) = exported.out_avals
    today = datetime.datetime.now(datetime.UTC).date()
    manifest.seal(
        folder,
        **about,
        inputs={name: _described(field) for name, field in inputs.items()},
        output={"shape": [str(d) for d in output.shape], "dtype": str(output.dtype)},
        platforms=list(PLATFORMS),
        jax=jax.__version__,
        made=str(today),
        supported_until=str(today + SUPPORT),
    )


def load(folder: Path) -> Artifact:
    """Read a folder that `save` wrote, after checking every byte.

    Raises:
      UserError: no artifact, a file that is not as written, or a program this jax cannot read.
    """
    _require_serialiser()
    if not manifest.is_sealed(folder):
        raise UserError(f"{folder}: holds no exported sampler ({manifest.NAME} is missing)")
    try:
        manifest.verify(folder)
        about = manifest.read(folder)
        inputs = {
            n: Field(tuple(i["shape"]), i["dtype"], unknown=i.get("unknown", False)) for n, i in about["inputs"].items()
        }
        weights = load_file(folder / WEIGHTS)
    except (manifest.Damaged, SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: is not as it was exported ({error}); export it again") from error
    try:
        exported = jax.export.deserialize((folder / PROGRAM).read_bytes())
    except Exception as error:  # whatever an older or newer serialiser stumbles over
        raise UserError(
            f"{folder}: jax {jax.__version__} cannot read this program, made by jax {about.get('jax')} and supported "
            f"until {about.get('supported_until')} ({type(error).__name__}); export it again from the run"
        ) from error
    return Artifact(jax.jit(exported.call), jax.device_put(weights), inputs, about)


def _described(field: Field) -> dict[str, Any]:
    about = {"shape": list(field.shape), "dtype": str(np.dtype(field.dtype))}
    return about | {"unknown": True} if field.unknown else about


def _require_serialiser() -> None:
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise UserError("exported samplers need a serialiser: pip install 'medgen_jax[export]'") from error


def _named(variables: PyTree) -> tuple[list[str], list[jax.Array], Any]:
    flat, tree = jax.tree_util.tree_flatten_with_path(variables)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
    return paths, [leaf for _, leaf in flat], tree
