"""What is asked of a run: target, strength, depth; checked against the run before its weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from medgen_jax.core.errors import UserError
from medgen_jax.counterfactuals import runs
from medgen_jax.counterfactuals.runs import Run
from medgen_jax.diffusion.inversion import INVERSIONS

#: A condition that is not said.
UNKNOWN = "unknown"
#: A depth or a scale that is chosen for each image.
AUTO = "auto"
#: Of classifier-free guidance and of the walk, where nothing is said.
SCALE, STEPS = 3.0, 100
#: Of scales that are chosen, where nothing is said: their ends, and the split that tells which gaps are wide.
SCALE_RANGE, REFERENCE = (0.0, SCALE), "train"


@dataclass(frozen=True)
class Request:
    """Choices; None where nothing was said.

    Attributes:
      target: class to decode as.
      source: class to encode as, or `UNKNOWN`.
      view: of images about which the data say nothing, or `UNKNOWN`.
      scale: of classifier-free guidance; 0 is the plain conditional prediction; or `AUTO`: the wider an image's gap.
      scale_range: ends of scales that are chosen.
      reference: split of the run's data whose widest gap, among images of other classes than the target, stands for the
        highest scale.
      classifier_scale: strength of the classifier.
      steps: of a walk.
      depth: noising steps to encode, or `AUTO`: where guidance would change an image most.
      method: of inversion.
      interval: guide from this step of the process to before that one.
      ensemble: several depths instead of one.
      clip: limit predicted clean images to [-1, 1]; None: as the run samples.
    """

    target: str | None = None
    source: str = UNKNOWN
    view: str = UNKNOWN
    scale: float | str | None = None
    scale_range: tuple[float, float] | None = None
    reference: str | None = None
    classifier_scale: float | None = None
    steps: int | None = None
    depth: int | str | None = None
    method: str = "fixed_point"
    interval: tuple[int, int] | None = None
    ensemble: tuple[int, ...] = ()
    clip: bool | None = None


def settled(request: Request, run: Run, guide: Run | None) -> Request:
    """The request with a value for everything that the run allows to be chosen.

    Raises:
      UserError: naming the first flag that the run, or another flag, does not allow.
    """
    length = len(run.system.schedule)
    _check_method(request)
    target = _target(request.target, run)
    runs.place("--target", target, run.classes, "class")
    _check_known(request, run)
    _check_strength(request, run, guide)
    depth = request.depth if request.depth is not None else max(1, length // 2)
    for value in request.ensemble or (depth,):
        _check_whole("--ensemble" if request.ensemble else "--depth", value, length)
    deepest = max(request.ensemble) if request.ensemble else length if depth == AUTO else depth
    _check_whole("--steps", request.steps, length)
    free = SCALE if run.knows_unknown and guide is None else 0.0
    return replace(
        request,
        target=target,
        scale=request.scale if request.scale is not None else free if run.knows_unknown else None,
        scale_range=(request.scale_range or SCALE_RANGE) if request.scale == AUTO else None,
        reference=(request.reference or REFERENCE) if request.scale == AUTO else None,
        steps=request.steps or min(STEPS, deepest),
        depth=None if request.ensemble else depth,
        clip=runs.clips(run, request.method) if request.clip is None else request.clip,
    )


def settings(request: Request) -> Mapping[str, Any]:
    """A settled request as JSON types."""
    return {
        "target": request.target, "source": request.source, "view": request.view, "method": request.method,
        "steps": request.steps, "depth": request.depth, "ensemble": list(request.ensemble), "scale": request.scale,
        "scale_range": None if request.scale_range is None else list(request.scale_range),
        "reference": request.reference, "classifier_scale": request.classifier_scale, "clip": request.clip,
        "interval": None if request.interval is None else list(request.interval),
    }  # fmt: skip


def _check_method(request: Request) -> None:
    if request.method not in INVERSIONS:
        raise UserError(f"--method {request.method}: expected one of {', '.join(INVERSIONS)}")
    if request.method == "edict" and request.clip:
        raise UserError("--clip: edict inverts affine steps only; leave it out, or take --method=bdia")
    if request.ensemble and request.depth is not None:
        raise UserError("--ensemble takes the place of --depth; give one of them")
    if len(request.ensemble) == 1:
        raise UserError("--ensemble: needs two depths or more; --depth takes one")
    if request.interval is not None and not 0 <= request.interval[0] < request.interval[1]:
        raise UserError(
            f"--interval {request.interval[0]},{request.interval[1]}: expected START,STOP with START < STOP"
        )


def _target(asked: str | None, run: Run) -> str:
    if asked is not None:
        return asked
    normal = [name for name in run.classes if name.lower() == "normal"]
    if len(normal) != 1:
        raise UserError(f"--target is missing: the class to decode as, one of {', '.join(run.classes)}")
    return normal[0]


def _check_known(request: Request, run: Run) -> None:
    if request.source != UNKNOWN:
        runs.place("--source", request.source, run.classes, "class")
    if request.view != UNKNOWN:
        if not run.views:
            raise UserError(f"--view {request.view}: {run.name} is told no view (its config.data.views is empty)")
        runs.place("--view", request.view, run.views, "view")
    if run.knows_unknown:
        return
    asked = "--scale" if request.scale is not None else "--source=unknown" if request.source == UNKNOWN else None
    if asked:
        raise UserError(
            f"{asked}: {run.name} was trained with config.condition.drop = 0, so that it has never met an image of "
            "unknown class; give --source=CLASS and no --scale, or train it with config.condition.drop=0.1"
        )


def _check_strength(request: Request, run: Run, guide: Run | None) -> None:
    if guide is None and request.classifier_scale is not None:
        raise UserError("--classifier_scale: needs --classifier, a run of noise_classifier")
    if guide is not None and request.classifier_scale is None:
        raise UserError("--classifier_scale is missing: how strongly the classifier guides, such as 10")
    if request.scale == AUTO:
        low, high = request.scale_range or SCALE_RANGE
        if not 0 <= low < high:
            raise UserError(f"--scale_range {low:g},{high:g}: expected LOW,HIGH with 0 <= LOW < HIGH")
    elif request.scale_range is not None or request.reference is not None:
        flag = "--reference" if request.scale_range is None else "--scale_range"
        raise UserError(f"{flag}: is for --scale auto; leave it out")
    elif request.scale is not None and request.scale < 0:
        raise UserError(f"--scale {request.scale:g}: must be 0 (plainly conditional) or more")
    if request.classifier_scale is not None and request.classifier_scale < 0:
        raise UserError(f"--classifier_scale {request.classifier_scale:g}: must be 0 or more")


def _check_whole(flag: str, value: int | str | None, length: int) -> None:
    if value in (None, AUTO):
        return
    if not isinstance(value, int) or not 1 <= value <= length:
        raise UserError(f"{flag} {value}: expected 1 to {length}, the steps of the run's process")
