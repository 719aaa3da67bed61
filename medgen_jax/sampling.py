"""The public face: trained models as jitted functions, for use elsewhere.

    from medgen_jax.sampling import load_sampler
    stain = load_sampler("runs/quickstart")
    stained = stain({"image": tiles})        # (b, h, w, c) uint8, uint16, or float in [-1, 1]

A sampler can also be exported, and then runs where neither the run nor its Python code is:

    export_sampler("runs/quickstart", "stain")
    stained = load_exported("stain")({"image": tiles})

A diffusion model becomes a function from images to their counterfactuals, whoever trained it:

    from medgen_jax.sampling import make_counterfactual
    healthy = make_counterfactual(denoise, schedule=make_schedule("linear", 1000), steps=100, null=2)
    result = healthy(images, source=2, target=0, scale=3.0, depth=500)

One trained here is loaded as such a function, or as the denoiser alone:

    healthy = load_counterfactual("runs/rsna")
    model = load_denoiser("runs/rsna")

Importing this module needs jax and NumPy only; the trainer is never imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from medgen_jax import sampler_inputs
from medgen_jax.core.errors import UserError
from medgen_jax.counterfactual_sampler import CounterfactualSampler, make_counterfactual

if TYPE_CHECKING:
    from medgen_jax.counterfactuals.runs import Denoiser

__all__ = [
    "CounterfactualSampler",
    "ExportedSampler",
    "LoadedSampler",
    "export_sampler",
    "load_counterfactual",
    "load_denoiser",
    "load_exported",
    "load_sampler",
    "make_counterfactual",
]

PyTree = Any


@dataclass(frozen=True, eq=False)
class LoadedSampler:
    """A trained sampler. Call it with a dict of arrays; it compiles once per set of shapes.

    Attributes:
      name: which of the system's samplers this is.
      system: registered name of the system.
      config: the run's resolved configuration.
      variables: averaged or raw parameters and statistics, on the default device.
      function: ``(variables, inputs, key) -> images``, pure and un-jitted, for embedding in other
        jitted code; refuses to be traced while an input is missing.
      jitted: the same, compiled.
      inputs: input name -> shape and dtype of one training record, without the batch axis.
      pool: ``(variables, inputs, key) -> variables``, jitted, under which tiles of one image agree in
        colour (`medgen_jax.translation.tiles`); None where they do anyway.
      attempt: ``(variables, inputs, key) -> (images, ok)``, jitted: the same images, and which of them, (b,)
        bool, could be made; the others are what went in. None where all can.
    """

    name: str
    system: str
    config: Any
    variables: PyTree
    function: Any
    jitted: Any
    inputs: Mapping[str, Any]
    pool: Any = None
    attempt: Any = None

    def __repr__(self) -> str:
        return f"LoadedSampler({self.name!r} of system {self.system!r})"

    def __call__(self, inputs: Mapping[str, Any], key: jax.Array | int = 0) -> jax.Array:
        """Images, float32 NHWC in [-1, 1].

        Args:
          inputs: what the sampler names, such as ``{"image": (b, h, w, c)}``: uint8 and uint16 are
            scaled by their range, floats are taken to be in [-1, 1]. ``label`` holds places in ``config.data.classes``.
          key: a PRNG key or an integer seed; only samplers that draw random numbers use it.

        Raises:
          UserError: inputs that are no dict or miss one, images that are no batch or lie outside [-1, 1], other inputs
            of another shape or kind, a label that is no class.
        """
        given = sampler_inputs.converted(inputs, self.inputs, getattr(self.config.data, "classes", ()))
        key = jax.random.key(key) if isinstance(key, int) else key
        return self.jitted(self.variables, given, key)


def load_sampler(workdir: str | Path, name: str | None = None, which: str | int = "last") -> LoadedSampler:
    """Load a sampler of a run: a trained one, one still training, or a converted one.

    Args:
      workdir: the run's directory.
      name: which sampler (``a2b``, ``sample``, ...); the system's first when None.
      which: ``last``, ``best``, or a step that is kept.

    Raises:
      UserError: when there is no run, no intact checkpoint, or no such sampler.
    """
    from medgen_jax import systems
    from medgen_jax.engine import restore

    system, config = restore.open_run(workdir)
    names = list(system.samplers)
    name = name or names[0]
    if name not in names:
        raise UserError(f"{workdir}: has no sampler {name!r}; it has: {', '.join(names)}")
    variables = restore.inference_variables(system, restore.intact_step(workdir, which))
    inputs, pool = system.sampler_inputs[name], system.tile_variables.get(name)
    function = sampler_inputs.complete(system.samplers[name], inputs)
    return LoadedSampler(
        name, systems.name_of(config), config, variables, function, jax.jit(function),
        inputs, jax.jit(sampler_inputs.complete(pool, inputs)) if pool else None,
    )  # fmt: skip


def load_denoiser(workdir: str | Path, which: str | int = "last") -> Denoiser:
    """A run's diffusion model as the functions of `medgen_jax.diffusion` take it; no image is drawn.

    ``model.denoise(x, t, {"label": ..., "view": ...})`` is pure and its parameters are its leaves, so that it may be
    an argument of jitted code. Beside it stand its schedule, what it predicts, the numbers that mean "unknown" and the
    names of classes and views: see `medgen_jax.counterfactuals.runs.Denoiser`.

    Args:
      workdir: directory of a run of ``diffusion``.
      which: ``last``, ``best``, or a step that is kept.

    Raises:
      UserError: no such run, no intact checkpoint, or a run of another system.
    """
    from medgen_jax.counterfactuals import runs

    return runs.denoiser(runs.open_run(workdir), which)


def load_counterfactual(
    workdir: str | Path,
    classifier: str | Path | None = None,
    *,
    which: str | int = "last",
    classifier_which: str | int = "last",
    method: str = "fixed_point",
    steps: int | None = 100,
    clip: bool | None = None,
    **options: Any,
) -> CounterfactualSampler:
    """A run of ``diffusion``, alone or with one of ``noise_classifier``, as a function to counterfactuals.

    Source and target are ``{"label": ..., "view": ...}``, numbers as in `load_denoiser`, the view only where the run
    is told one; guidance leads away from the unknown class and leaves the view as it is.

    Args:
      workdir: directory of the diffusion run.
      classifier: directory of a classifier of noisy images that guides; trained on the same process, size and classes.
      which, classifier_which: ``last``, ``best``, or a step that is kept.
      method, steps, **options: as in `make_counterfactual`.
      clip: limit predicted clean images to [-1, 1]; None: as the run samples, where the method allows it.

    Raises:
      UserError: as `load_denoiser` and `make_counterfactual`; also a classifier that does not fit.
    """
    from medgen_jax.counterfactuals import runs

    run = runs.open_run(workdir)
    guide = None if classifier is None else runs.open_classifier(classifier, run)
    return runs.sampler(run, guide, which, classifier_which, method=method, steps=steps, clip=clip, **options)


@dataclass(frozen=True, eq=False)
class ExportedSampler:
    """A sampler read from the files of `export_sampler`. Call it with a dict of arrays of any batch size.

    Attributes:
      about: its signature: inputs, output, system, sampler, classes, versions, date, last date of support.
    """

    about: Mapping[str, Any]
    artifact: Any

    def __repr__(self) -> str:
        return f"ExportedSampler({self.about.get('sampler')!r} of system {self.about.get('system')!r})"

    def __call__(self, inputs: Mapping[str, Any], key: jax.Array | int = 0) -> jax.Array:
        """Images, float32 NHWC in [-1, 1]; the arguments are those of `LoadedSampler`, of the exported size and dtype.

        Raises:
          UserError: inputs of another name, shape or dtype than exported.
        """
        wanted = self.artifact.inputs
        given = sampler_inputs.converted(inputs, wanted, self.about.get("classes"))
        if strangers := sorted(set(given) - set(wanted)):
            raise UserError(f"inputs hold {strangers}; this sampler takes {sorted(wanted)}")
        for name, field in wanted.items():
            shape, dtype = np.shape(given[name]), np.dtype(given[name].dtype)
            if shape[1:] != field.shape or dtype != np.dtype(field.dtype):
                raise UserError(
                    f"{name!r} is {dtype} {shape}; this sampler was exported for {field.dtype} (any number, "
                    f"{', '.join(map(str, field.shape))})"
                )
        key = jax.random.key(key) if isinstance(key, int) else key
        return self.artifact.call(self.artifact.weights, given, jax.random.key_data(key))


def export_sampler(
    workdir: str | Path,
    output: str | Path,
    name: str | None = None,
    which: str | int = "last",
    *,
    size: tuple[int, int] | None = None,
    dtype: str | None = None,
) -> Path:
    """Write a run's sampler as a folder that `load_exported` reads: program, weights, signature.

    Args:
      workdir, name, which: as in `load_sampler`.
      output: folder to make; must be empty.
      size: height and width of images, if other than in training.
      dtype: of images: ``uint8``, ``uint16`` or ``float32`` (in [-1, 1]), if other than in training.

    Returns:
      The folder.

    Raises:
      UserError: as `load_sampler`; also a folder that holds something, or a size the network does not take.
    """
    from medgen_jax.interop import artifact

    if dtype not in (None, "uint8", "uint16", "float32"):
        raise UserError(f"dtype = {dtype!r}: images are uint8, uint16 or float32")
    loaded = load_sampler(workdir, name, which)
    inputs = {i: _resized(f, size, dtype) for i, f in loaded.inputs.items()}
    folder = Path(output).expanduser()
    about = {"system": loaded.system, "sampler": loaded.name, "classes": list(loaded.config.data.classes)}
    artifact.save(folder, loaded.function, loaded.variables, inputs, about)
    return folder


def _resized(field: Any, size: tuple[int, int] | None, dtype: str | None) -> Any:
    if len(field.shape) != 3:
        return field
    return replace(field, shape=(*(size or field.shape[:2]), field.shape[2]), dtype=dtype or field.dtype)


def load_exported(folder: str | Path) -> ExportedSampler:
    """Read what `export_sampler` wrote; needs jax alone, neither the run nor its system.

    Raises:
      UserError: a folder without an exported sampler, a changed file, or a program too old for this jax.
    """
    from medgen_jax.interop import artifact

    loaded = artifact.load(Path(folder).expanduser())
    return ExportedSampler(loaded.about, loaded)
