"""A folder of generated images against a folder of real ones.

Everything that can be refused is, from listings, headers and weights (`_plan`); only then are images decoded and
networks compiled.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.evaluation import (
    cache,
    comparison,
    distances,
    features,
    fingerprint,
    memorisation,
    numbers,
    references,
    results,
)
from medgen_jax.evaluation.devices import parts
from medgen_jax.evaluation.extremes import Extremes
from medgen_jax.evaluation.features import Extractor
from medgen_jax.evaluation.folders import ImageSet, eight_bit, require_matched, share_of_copies
from medgen_jax.evaluation.measures import Audit, Choice, PairMeasure, SetMeasure, check_counts, choose
from medgen_jax.evaluation.networks import Networks, from_weights
from medgen_jax.evaluation.pairs import PairPass
from medgen_jax.evaluation.references import StoredReference
from medgen_jax.evaluation.settings import Settings
from medgen_jax.viz.scores import Case

if TYPE_CHECKING:
    from medgen_jax.pretrained import Pretrained

DEFAULT = ("fid", "prdc")
Real = ImageSet | StoredReference
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is to be compared, as the user gave it.

    Attributes:
      fake: folder of generated images. Paired metrics match them with the real ones by name.
      real: folder of real images, or a file of reference statistics (FID only); ``held_out`` when None.
      train, held_out: folders for the metric ``memorisation``: what the generator was trained on, and images of
        other patients.
      patients: CSV with the columns ``file`` and ``patient`` about the images of both.
      save_statistics: file for the statistics of the real images.
      against: ``metrics.json`` of an earlier evaluation.
    """

    fake: str | Path
    real: str | Path | None = None
    train: str | Path | None = None
    held_out: str | Path | None = None
    patients: str | Path | None = None
    save_statistics: str | Path | None = None
    against: str | Path | None = None


@dataclass(frozen=True)
class _Plan:
    """A request in which nothing is left to be refused; its networks are loaded, nothing is computed."""

    settings: Settings
    choice: Choice
    real: Real
    fake: ImageSet
    loaded: Mapping[str, Pretrained]
    extractor: Extractor | None
    pairs: PairPass | None
    audited: memorisation.Folders | None
    statistics_file: Path | None
    earlier: comparison.Numbers | None

    @property
    def images(self) -> dict[str, Any]:
        """Conditions that tell which images are compared."""
        counts = {"n_real": len(self.real), "n_fake": len(self.fake)}
        return counts | {"reference": self.real.digest, "fake": self.fake.digest}


def evaluate(
    request: Request, output: str | Path, settings: Settings, *, networks: Networks | None = None, say: Say = print
) -> results.Evaluation:
    """Compare folders and write the results.

    Args:
      request: what with what.
      output: folder for the results.
      settings: what to compute and how.
      networks: pretrained networks by name; those in the weights folder when None.
      say: where messages go.

    Raises:
      UserError: whatever is to be refused, before the first image is decoded.
    """
    plan = _plan(request, settings, networks)
    folder = results.claim(output, settings.overwrite)
    found = results.Evaluation("Generated against real images", _facts(plan))
    found.warnings = _warnings(plan)
    entries = _over_sets(plan, found, say) | _over_pairs(plan, found)
    found.cases = _cases(plan, found, entries)
    if plan.audited:
        entries |= _memorisation(plan, found, say)
    found.numbers = {name: entries[name] for name in plan.choice.numbers if name in entries}
    found.per_image = _identified(plan, found.per_image)
    found.changes = comparison.changes(plan.earlier, found.numbers) if plan.earlier else []
    say(f"page: {results.write(folder, found)}")
    return found


def store_reference(
    real: str | Path, file: str | Path, settings: Settings, *, networks: Networks | None = None, say: Say = print
) -> None:
    """Write the statistics of a folder of real images, for evaluations elsewhere.

    Raises:
      UserError: as `evaluate`.
    """
    settings.check()
    reference = _open_real(real)
    over_sets = choose(("fid",), companions=False).of(SetMeasure)
    check_counts(over_sets, {"--real": len(reference)}, settings)
    path = _statistics_file(file, reference, over_sets, settings)
    extractor = Extractor((networks or from_weights(settings))("inception"), settings.protocol, settings.batch)
    _reference(reference, extractor, settings, path, say)


# -- what can be refused before anything is computed ------------------------------------------------


def _open_real(real: str | Path, flag: str = "--real") -> Real:
    """The folder or the file behind a flag."""
    path = Path(real).expanduser()
    return StoredReference.open(path) if path.suffix == ".npz" and not path.is_dir() else ImageSet.open(flag, path)


def _plan(request: Request, settings: Settings, networks: Networks | None) -> _Plan:
    settings.check()
    earlier = comparison.read(request.against) if request.against else None
    if request.real is None and request.held_out is None:
        raise UserError("--real is missing: a folder of real images")
    real = _open_real(request.real) if request.real else _open_real(request.held_out, "--held_out")
    fake = ImageSet.open("--fake", request.fake)
    choice = _chosen(settings, real)
    over_sets, over_pairs = choice.of(SetMeasure), choice.of(PairMeasure)
    check_counts(over_sets, {"--real": len(real), "--fake": len(fake)}, settings)
    if over_pairs:
        require_matched(real, fake)
    audited = _audited(request, choice, fake)
    statistics_file = _statistics_file(request.save_statistics, real, over_sets, settings)
    load = networks or from_weights(settings)
    loaded = {name: load(name) for name in choice.networks}
    extractor = Extractor(loaded["inception"], settings.protocol, settings.batch) if over_sets else None
    if isinstance(real, StoredReference):
        real.require(extractor.conditions)
    pass_over_pairs = PairPass(over_pairs, loaded, settings.batch) if over_pairs else None
    for header in set(fake.headers) if over_pairs else ():
        pass_over_pairs.check((header.height, header.width, header.channels))
    return _Plan(
        settings, choice, real, fake, loaded, extractor, pass_over_pairs, audited, statistics_file, earlier
    )  # fmt: skip


def _audited(request: Request, choice: Choice, fake: ImageSet) -> memorisation.Folders | None:
    given = {"--train": request.train, "--held_out": request.held_out}
    if not choice.of(Audit):
        for flag, value in {**given, "--patients": request.patients}.items():
            if value is not None:
                raise UserError(f"{flag} is for the metric memorisation; add it to --metrics")
        return None
    for flag, value in given.items():
        if value is None:
            raise UserError(f"{flag} is missing: memorisation compares training images and images of other patients")
    return memorisation.Folders.open(request.train, request.held_out, fake, request.patients)


def _chosen(settings: Settings, reference: Real) -> Choice:
    if isinstance(reference, ImageSet):
        return choose(settings.metrics or DEFAULT)
    choice = choose(settings.metrics or ("fid",), companions=False)
    unfit = [name for name, m in choice.measures.items() if not (isinstance(m, SetMeasure) and m.from_statistics)]
    if unfit:
        raise UserError(
            f"--metrics: {unfit[0]} needs the real images, and --real {reference.path} holds only their statistics; "
            "give the folder, or --metrics=fid"
        )
    return choice


def _statistics_file(
    file: str | Path | None, reference: Real, over_sets: Mapping[str, SetMeasure], settings: Settings
) -> Path | None:
    if file is None:
        return None
    if isinstance(reference, StoredReference):
        raise UserError(f"--save_statistics: --real {reference.path} is such a file already; give a folder")
    if not over_sets:
        raise UserError("--save_statistics: no metric here computes features; add fid to --metrics")
    return references.new_file(file, settings.overwrite)


# -- computing -------------------------------------------------------------------------------------


def _cache(settings: Settings) -> Path | None:
    return cache.directory() if settings.cache else None


def _reference(
    real: Real, extractor: Extractor, settings: Settings, file: Path | None, say: Say
) -> distances.Reference:
    if isinstance(real, StoredReference):
        return real.reference
    found = distances.Reference.of(features.cached(real, extractor, _cache(settings), say))
    if file:
        about = fingerprint.conditions("fid", **extractor.conditions, n_real=len(real), reference=real.digest)
        cache.save_statistics(file, found.statistics, about)
        say(f"statistics: {file}")
    return found


def _over_sets(plan: _Plan, found: results.Evaluation, say: Say) -> numbers.Entries:
    over_sets = plan.choice.of(SetMeasure)
    if not over_sets:
        return {}
    real = _reference(plan.real, plan.extractor, plan.settings, plan.statistics_file, say)
    made = features.cached(plan.fake, plan.extractor, _cache(plan.settings), say)
    if real.features is not None:
        index, distance = distances.nearest_real(real, made)
        found.per_image |= {"nearest_real": index, "distance_to_nearest_real": distance}
    say(f"comparing {len(made)} features with {real.count} ...")
    return numbers.of_sets(over_sets, real, made, plan.extractor, plan.settings, plan.images)


def _over_pairs(plan: _Plan, found: results.Evaluation) -> numbers.Entries:
    """Run the measures of pairs over both folders, whose images are aligned."""
    if plan.pairs is None:
        return {}
    kinds: dict[Any, list[int]] = {}
    for index, header in enumerate(plan.fake.headers):
        kinds.setdefault(header, []).append(index)
    for indices in kinds.values():
        for part in parts(indices, plan.pairs.batch):
            x, y = (np.stack([side.image(i) for i in part]) for side in (plan.fake, plan.real))
            plan.pairs.add(part, x, y)
    found.per_image |= {n: v for n, v in plan.pairs.per_image().items() if n in plan.choice.numbers}
    over_pairs = plan.choice.of(PairMeasure)
    return numbers.of_pairs(over_pairs, plan.pairs, plan.loaded, plan.settings, plan.images, "files as stored")


def _memorisation(plan: _Plan, found: results.Evaluation, say: Say) -> numbers.Entries:
    folders = plan.audited

    def features_of(images: ImageSet) -> np.ndarray:
        return features.cached(images, plan.extractor, _cache(plan.settings), say)

    report = memorisation.examine(folders, plan.extractor, features_of, plan.settings, say)
    found.audit = report
    found.cases += memorisation.cases(report, folders, plan.settings)
    images = {
        "n_real": len(folders.train) + len(folders.held_out),
        "n_fake": len(folders.generated),
        "reference": hashlib.sha256(f"{folders.train.digest} {folders.held_out.digest}".encode()).hexdigest(),
        "fake": folders.generated.digest,
    }
    return numbers.of_audit(memorisation.scores(report), plan.extractor, plan.settings, images)


# -- what the results say ---------------------------------------------------------------------------


def _facts(plan: _Plan) -> dict[str, str]:
    sides = {"Real": plan.real, "Generated": plan.fake}
    if plan.audited:
        sides |= {"Trained on": plan.audited.train, "Held out": plan.audited.held_out}
    where = {label: (side.path if isinstance(side, StoredReference) else side.folder) for label, side in sides.items()}
    shown = {label: f"{where[label].name}, {len(side)} images" for label, side in sides.items()}
    return shown | {"Intervals": f"{plan.settings.level:.0%}", "Seed": str(plan.settings.seed)}


def _warnings(plan: _Plan) -> list[str]:
    if isinstance(plan.real, StoredReference):
        lost = "KID, which belongs beside FID, and the floor need the real images, not only their statistics"
        return [*plan.fake.warnings(), lost]
    copies = share_of_copies(plan.real.digests, plan.fake.digests)
    said = [f"{copies} of {len(plan.fake)} generated files are byte for byte files of --real"] if copies else []
    return [*plan.real.warnings(), *plan.fake.warnings(), *said]


def _identified(plan: _Plan, columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """The columns behind what identifies an image: its place in the order of names, its hash, on demand its name."""
    if not columns:
        return {}
    names = {"name": plan.fake.names} if plan.settings.names else {}
    return {"image": range(len(plan.fake)), **names, "sha256": [d[:16] for d in plan.fake.digests], **columns}


def _cases(plan: _Plan, found: results.Evaluation, entries: numbers.Entries) -> list[Case]:
    """The worst and the best images by the first number that is known of single images."""
    number = next((name for name in plan.choice.numbers if name in found.per_image), None)
    if number:
        values, partners, title = found.per_image[number], range(len(plan.fake)), "real"
        kept = Extremes(plan.settings.pictures, entries[number]["better"])
    elif found.per_image:
        number, title = "distance to the nearest real image", "nearest real"
        values, partners = found.per_image["distance_to_nearest_real"], found.per_image["nearest_real"]
        # Nearest is not best: it may be a copy.
        kept = Extremes(plan.settings.pictures, "lower", ("Farthest from all real images", "Nearest to a real image"))
    else:
        return []

    def shown(index: int) -> tuple[str, list[tuple[str, np.ndarray]]]:
        pictures = [("generated", plan.fake.image(index)), (title, plan.real.image(int(partners[index])))]
        return f"image {index}: {number} {values[index]:.4g}", [(name, eight_bit(image)) for name, image in pictures]

    for index, value in enumerate(values):
        kept.add(float(value), functools.partial(shown, index))
    return kept.cases()
