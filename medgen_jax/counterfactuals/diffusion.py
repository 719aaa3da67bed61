"""Counterfactuals of a diffusion model: encoded, decoded under guidance, beside the control that was not guided."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import LABEL, VIEW
from medgen_jax.counterfactual_sampler import CounterfactualSampler
from medgen_jax.counterfactuals import latents, request, runs
from medgen_jax.counterfactuals.inputs import Case, Wanted
from medgen_jax.counterfactuals.latents import Latent
from medgen_jax.counterfactuals.made import Made, Taken, fill, stack, take
from medgen_jax.counterfactuals.request import AUTO, UNKNOWN, Request
from medgen_jax.counterfactuals.runs import Run
from medgen_jax.data.counterfactual_folders import Arrays
from medgen_jax.diffusion.depths import Choice, choose_depth, choose_scale

PyTree = Any


class _Settled(NamedTuple):
    """What of a request may differ between images.

    Attributes:
      scale: of classifier-free guidance, () or (b,); None where there is none.
      choice: depths and gaps; None where nothing was to be chosen.
      numbers: of each image, what its choice follows from.
    """

    scale: Any
    choice: Choice | None
    numbers: Sequence[Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Diffusion:
    """Makes counterfactuals with a diffusion model; see `medgen_jax.counterfactuals.made.Maker`.

    Attributes:
      wanted, settings: as in ``Maker``.
      run, guide: of the model, and of the classifier that guides it or None.
      steps: checkpoints of both.
      asked: what of them, settled.
      folders: where latents are looked for; kept in the first.
      encoding: JSON types: what makes a latent what it is, beside its image and its view.
      references: images of other classes than the target, for scales that are chosen.
    """

    wanted: Wanted
    settings: Mapping[str, Any]
    run: Run
    guide: Run | None
    steps: tuple[int, int]
    asked: Request
    folders: tuple[Path, ...]
    encoding: Mapping[str, Any]
    references: Sequence[Case] = ()
    _found: dict[str, Latent] = field(default_factory=dict, init=False, repr=False)
    _reasons: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _widest: list[float] = field(default_factory=list, init=False, repr=False)

    @functools.cached_property
    def sampler(self) -> CounterfactualSampler:
        """Of the run; its weights are read when it is first asked for."""
        asked = self.asked
        how = {"method": asked.method, "steps": asked.steps, "clip": asked.clip}
        return runs.sampler(self.run, self.guide, *self.steps, **how)

    def ready(self, taken: Taken) -> bool:
        """Whether a latent of the image is kept that was made in the same way."""
        if self.asked.ensemble:
            return False
        for folder in self.folders:
            found, reason = latents.load(folder, taken.case.name, self._key(taken))
            if found is not None:
                self._found[taken.case.name] = found
                return True
            if reason:
                self._reasons[reason] = self._reasons.get(reason, 0) + 1
        return False

    def notes(self) -> list[str]:
        """Sentences about latents that were there and did not fit."""
        several = [(f"{n:,} latent{'s' if n > 1 else ''}", reason) for reason, n in self._reasons.items()]
        return [f"{count} kept before could not be used ({reason}); encoded anew" for count, reason in several]

    def make(self, batch: Sequence[Taken], size: int) -> list[Made]:
        """See ``Maker``."""
        images = stack(batch, size)
        kept = [self._found.pop(taken.case.name, None) for taken in batch]
        settled = self._settled(batch, images, encoded=None not in kept)
        if self.asked.ensemble:
            return self._ensemble(batch, images, settled)
        if None not in kept:
            known, rows = kept, fill(kept, size)
            guidance = self._guidance(batch, size, settled.scale)
            depth = np.array([latent.depth for latent in rows], np.int32)
            made = np.asarray(self.sampler.decode(latents.together(rows), depth=depth, **guidance))
        else:
            known, made = self._encoded(batch, images, settled)
        made = _finite(np.clip(made, -1, 1), batch, self.run)
        return self._finished(batch, images, made, known, settled)

    def _encoded(
        self, batch: Sequence[Taken], images: np.ndarray, settled: _Settled
    ) -> tuple[list[Latent], np.ndarray]:
        """Latents, kept from now on, and counterfactuals."""
        source, guidance = self._source(batch, len(images)), self._guidance(batch, len(images), settled.scale)
        if self.asked.depth == AUTO:
            depth = settled.choice.depth
        else:
            depth = np.full(len(images), self.asked.depth, np.int32)
        result = jax.device_get(self.sampler(images, source, depth=depth, **guidance))
        states = result.latent if isinstance(result.latent, tuple) else (result.latent,)
        control = _finite(np.clip(result.control, -1, 1), batch, self.run)
        known = []
        for i, taken in enumerate(batch):
            numbers = {"round_trip_rms": float(result.rms[i]), "round_trip_max": float(result.maximum[i])}
            if result.monitor is not None:
                numbers["fixed_point_stalled"] = float(result.monitor.stalled[:, i].sum())
            latent = Latent(tuple(state[i] for state in states), control[i], int(depth[i]), numbers)
            latents.save(self.folders[0], taken.case.name, latent, self._key(taken))
            known.append(latent)
        return known, result.counterfactual

    def _finished(
        self, batch: Sequence[Taken], images: np.ndarray, made: np.ndarray, known: Sequence[Latent], settled: _Settled
    ) -> list[Made]:
        probabilities, scales = self._probabilities(images, made, len(batch)), _each(settled.scale, len(batch))
        return [
            Made(
                Arrays(taken.image, made[i], latent.control), *self._said(taken), latent.depth, scales[i],
                {**latent.numbers, **settled.numbers[i], **probabilities[i]},
            )
            for i, (taken, latent) in enumerate(zip(batch, known, strict=True))
        ]  # fmt: skip

    def _ensemble(self, batch: Sequence[Taken], images: np.ndarray, settled: _Settled) -> list[Made]:
        depths = np.array(self.asked.ensemble, np.int32)
        source, guidance = self._source(batch, len(images)), self._guidance(batch, len(images), settled.scale)
        found = jax.device_get(self.sampler.ensemble(images, source, depth=depths, **guidance))
        made = _finite(np.clip(images - found.residual, -1, 1), batch, self.run)
        control = _finite(np.clip(images - found.control_residual, -1, 1), batch, self.run)
        probabilities, scales = self._probabilities(images, made, len(batch)), _each(settled.scale, len(batch))
        return [
            Made(
                Arrays(taken.image, made[i], control[i]), *self._said(taken), None, scales[i],
                {"round_trip_rms": float(found.rms[:, i].max()), **settled.numbers[i], **probabilities[i]},
                found.deviation[i],
            )
            for i, taken in enumerate(batch)
        ]  # fmt: skip

    def _probabilities(self, images: np.ndarray, made: np.ndarray, count: int) -> list[dict[str, float]]:
        """What the guiding classifier gives the target, before and after."""
        if self.guide is None:
            return [{} for _ in range(count)]
        label = self.run.classes.index(self.asked.target)
        before, after = (_softmax(self.sampler.networks.classifier, x)[:count, label] for x in (images, made))
        return [
            {"probability_before": float(b), "probability_after": float(a)} for b, a in zip(before, after, strict=True)
        ]

    # -- what is chosen for each image -----------------------------------------------------------

    def _settled(self, batch: Sequence[Taken], images: np.ndarray, encoded: bool) -> _Settled:
        """Depths, where they are open and the images not ``encoded`` yet, and scales."""
        asked = self.asked
        if asked.scale != AUTO and (asked.depth != AUTO or encoded):
            return _Settled(asked.scale, None, [{}] * len(batch))
        choice = self._choice(batch, images)
        numbers = {"forward_gap": choice.peak}
        scale = asked.scale
        if scale == AUTO:
            widest = self._widest_gap(len(images))
            scale = np.asarray(choose_scale(choice.peak, widest, *asked.scale_range))
            numbers["forward_gap_reference"] = np.full(len(images), widest)
        columns = [{name: float(values[i]) for name, values in numbers.items()} for i in range(len(batch))]
        return _Settled(scale, choice, columns)

    def _choice(self, batch: Sequence[Taken], images: np.ndarray) -> Choice:
        """Where guidance at the highest scale would change each image most, and by how much."""
        asked, whole = self.asked, len(self.run.system.schedule)
        walk = max(asked.ensemble) if asked.ensemble else whole if asked.depth == AUTO else asked.depth
        guidance = self._guidance(batch, len(images), _highest(asked))
        gaps = self.sampler.forward_gap(images, self._source(batch, len(images)), depth=walk, **guidance)
        return jax.device_get(choose_depth(gaps, walk))

    def _widest_gap(self, size: int) -> float:
        """The widest gap among the references, in calls of ``size`` images; measured once."""
        if not self._widest:
            peaks = []
            for part in (self.references[i : i + size] for i in range(0, len(self.references), size)):
                batch = [take(case) for case in part]
                peaks += self._choice(batch, stack(batch, size)).peak[: len(batch)].tolist()
            self._widest.append(max(peaks))
        return self._widest[0]

    # -- conditions ------------------------------------------------------------------------------

    def _view(self, taken: Taken) -> str | None:
        said = taken.case.view if taken.case.view in self.run.views else None
        return said if runs.has_view(self.run) else None

    def _condition(self, batch: Sequence[Taken], size: int, label: str) -> dict[str, np.ndarray]:
        unknown = runs.unknown(self.run)
        number = unknown[LABEL] if label == UNKNOWN else self.run.classes.index(label)
        condition = {LABEL: np.full(size, number, np.int32)}
        if runs.has_view(self.run):
            views = [self._view(taken) for taken in batch]
            numbers = [unknown[VIEW] if view is None else self.run.views.index(view) for view in views]
            condition[VIEW] = np.array(fill(numbers, size), np.int32)
        return condition

    def _source(self, batch: Sequence[Taken], size: int) -> PyTree:
        return self._condition(batch, size, self.asked.source)

    def _guidance(self, batch: Sequence[Taken], size: int, scale: Any) -> dict[str, Any]:
        asked = self.asked
        found = {"target": self._condition(batch, size, asked.target), "scale": scale, "interval": asked.interval}
        if self.guide is not None:
            found |= {"label": self.run.classes.index(asked.target), "classifier_scale": asked.classifier_scale}
        return found

    def _said(self, taken: Taken) -> tuple[dict[str, Any], dict[str, Any]]:
        view = self._view(taken)
        source = None if self.asked.source == UNKNOWN else self.asked.source
        return {"label": source, "view": view}, {"label": self.asked.target, "view": view}

    def _key(self, taken: Taken) -> dict[str, Any]:
        return {**self.encoding, "image": taken.sha256, "view": self._view(taken)}


def load(
    run: Run,
    guide: Run | None,
    asked: Request,
    folder: Path,
    *,
    which: str | int = "last",
    guide_which: str | int = "last",
    more_latents: Path | None = None,
    references: Sequence[Case] = (),
) -> Diffusion:
    """A maker of a run; its checkpoints are checked, its weights read when they are first needed.

    Args:
      run, guide: open, and checked against each other.
      asked: settled.
      folder: of the results, where latents are kept.
      which, guide_which: checkpoints.
      more_latents: another folder of results whose latents may be used.
      references: see `Diffusion`; needed where scales are chosen.
    """
    point = run.checkpoint(which)
    made_of = {"run": point.sha256, "method": asked.method, "steps": asked.steps, "clip": asked.clip}
    encoding = {**made_of, "source": asked.source, "depth": asked.depth}
    said = {"system": run.kind, "run": run.name, "checkpoint": point.step, "run_digest": made_of["run"]}
    own, judge = point, {}
    if guide:
        own = guide.checkpoint(guide_which)
        judge = {
            "classifier": guide.name,
            "classifier_checkpoint": own.step,
            "classifier_digest": own.sha256,
        }
    if asked.depth == AUTO:  # the depth hangs on what guides
        encoding |= {"target": asked.target, "scale": _highest(asked), "classifier_scale": asked.classifier_scale}
        encoding |= {"classifier": judge.get("classifier_digest"), "interval": request.settings(asked)["interval"]}
    settings = {**said, "classifier": None, **judge, **request.settings(asked)}
    folders = (folder, *([more_latents] if more_latents else []))
    steps = point.step, own.step
    return Diffusion(wanted(run), settings, run, guide, steps, asked, folders, encoding, references)


def wanted(run: Run) -> Wanted:
    """What a diffusion model takes."""
    return Wanted(run.name, run.system.size, run.system.channels, run.config.data)


@jax.jit
def _softmax(classifier: Any, images: jax.Array) -> jax.Array:
    return jax.nn.softmax(classifier(images, jnp.zeros(images.shape[:1], jnp.int32)))


def _highest(asked: Request) -> float | None:
    """The one scale, or the higher end of scales that are chosen: gaps are measured there."""
    return asked.scale_range[1] if asked.scale == AUTO else asked.scale


def _each(scale: Any, count: int) -> list[float | None]:
    """A scale for each image, () or (b,) or None."""
    return [None] * count if scale is None else np.broadcast_to(scale, np.shape(scale) or count)[:count].tolist()


def _finite(images: np.ndarray, batch: Sequence[Taken], run: Run) -> np.ndarray:
    good = np.isfinite(images[: len(batch)]).all(axis=(1, 2, 3))
    if not good.all():
        title = batch[int(np.argmin(good))].case.title
        raise UserError(
            f"{title}: {run.name} gives values that are not finite; try a smaller --scale, another --method or "
            "--checkpoint"
        )
    return images
