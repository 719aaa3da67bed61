"""The results of the Med-StyleGAN2 paper for any of its four systems, and what the paper lacks: one evaluation.

Everything that can be refused is, from configurations, listings and headers (`_plan`); only then are weights read and
images drawn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.manifest import write_durably
from medgen_jax.engine.writers import write_json
from medgen_jax.evaluation import comparison, results
from medgen_jax.evaluation import networks as pretrained_networks
from medgen_jax.evaluation.distances import Reference
from medgen_jax.evaluation.features import Extractor
from medgen_jax.evaluation.measures import MEASURES, check_counts
from medgen_jax.evaluation.memorisation import Report
from medgen_jax.evaluation.networks import Networks
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.synthesis_study import card, diversity, draws, figure, learned, page, real, table, transfer
from medgen_jax.evaluation.synthesis_study import judge as judging
from medgen_jax.evaluation.synthesis_study.diversity import GROUP, Diversity
from medgen_jax.evaluation.synthesis_study.draws import Artist, Made
from medgen_jax.evaluation.synthesis_study.judge import Judge
from medgen_jax.evaluation.synthesis_study.real import RealSet
from medgen_jax.evaluation.synthesis_study.subjects import Subject, open_subjects
from medgen_jax.evaluation.synthesis_study.table import Compared
from medgen_jax.nn import lpips as lpips_network
from medgen_jax.viz.grids import save_png

Say = Callable[[str], None]
#: Images of each set that are drawn out of noise, as in the paper.
COUNT = 8000
_MOST = 10**8
FIGURE, MAPS, AUDIT = "figure.png", "activation_maps.png", "memorisation_{}.json"
#: Networks by name; ``lpips_points`` gives points whose squared distance is LPIPS.
INCEPTION, POINTS = "inception", "lpips_points"


@dataclass(frozen=True)
class Request:
    """What is judged and by what, named as the flags of the command.

    Attributes:
      workdirs: runs of gan, dcgan, stylegan2 and stargan_v2, any of them.
      n: images of each set that is drawn out of noise; None for `COUNT`.
      judge: directory of a run of ``stain_classifier`` on real images of the same classes, or None.
      tstr: whether classifiers of the judge's kind are trained on drawn and on real images.
      checkpoint: of all runs: ``last``, ``best`` or a step.
      data: where the data of all runs are now, if they were moved.
      against: ``metrics.json`` of an earlier evaluation, or None.
    """

    workdirs: Sequence[str | Path]
    n: int | None = None
    judge: str | Path | None = None
    tstr: bool = False
    checkpoint: str | int = "last"
    data: str | Path | None = None
    against: str | Path | None = None


@dataclass(frozen=True, eq=False)
class _Plan:
    """A request in which nothing is left to be refused."""

    settings: Settings
    count: int
    subjects: list[Subject]
    judge: Judge | None
    extractor: Extractor
    diversity: Diversity
    too_small: frozenset[str]  # runs whose images LPIPS does not take
    earlier: comparison.Numbers | None


def evaluate(
    request: Request, output: str | Path, settings: Settings, *, networks: Networks | None = None, say: Say = print
) -> results.Evaluation:
    """Draw, measure and write the results.

    Args:
      request: which runs.
      output: folder for the results: those of every evaluation, `FIGURE`, `MAPS`, the model card, and a file on each
        run's audit.
      settings: what to compute and how.
      networks: ``inception`` and ``lpips_points`` by name; those in the weights folder when None.
      say: where messages go.

    Raises:
      UserError: whatever is to be refused, before weights are read; images of a run that are not finite.
    """
    plan = _plan(request, settings, networks or _from_weights(settings))
    folder = results.claim(output, settings.overwrite)
    say(page.REMINDER)
    features = functools.cache(lambda images: real.features(images, plan.extractor, settings, say))

    found = results.Evaluation("Synthesis of chest X-rays", _facts(plan), warnings=[page.REMINDER])
    made = {subject.name: _drawn(plan, subject) for subject in plan.subjects}
    for subject in plan.subjects:
        say(f"{subject.name}: distances and their intervals ...")
        found.numbers |= _of_run(plan, subject, made[subject.name], features)
    found.numbers |= _of_real(plan, features)
    found.headline = tuple(found.numbers)
    bands = figure.samples(plan.subjects, made)
    found.cases = page.cases("Drawn and real", bands) if settings.pictures else []
    _save(folder / FIGURE, figure.picture(bands))

    rest = learned.Rest(plan.subjects, made, plan.judge, settings, say)
    rest.audit(features, plan.extractor)
    if plan.judge:
        rest.look()
    else:
        rest.leave_out("class activation maps: --judge is missing, a run of stain_classifier on real images")
    if request.tstr:
        rest.transfer()
    _write_reports(folder, rest.reports)
    (folder / MAPS).unlink(missing_ok=True)
    if rest.maps:
        _save(folder / MAPS, figure.picture(rest.maps))
        found.cases += page.cases("Where the judge looks", rest.maps) if settings.pictures else []
    found.numbers |= rest.numbers
    found.cases += rest.cases
    found.warnings += _left_out(plan) + [f"left out: {line}" for line in rest.left_out]
    found.sections = page.sections(plan.subjects, rest.rows_of_maps, rest.rows_of_training, rest.steps)
    found.changes = comparison.changes(plan.earlier, found.numbers) if plan.earlier else []
    _write_card(folder / card.CARD, plan, found)
    say(f"page: {results.write(folder, found)}")
    return found


# -- what can be refused before anything is computed ------------------------------------------------


def _plan(request: Request, settings: Settings, load: Networks) -> _Plan:
    settings.check()
    if settings.metrics:
        raise UserError("--metrics: this study always gives all its numbers; leave it out")
    count = COUNT if request.n is None else request.n
    if not 1 <= count <= _MOST:
        raise UserError(f"--n={count}: must be from 1 to {_MOST:,}")
    if request.tstr and not request.judge:
        raise UserError("--tstr: --judge is missing, a run of stain_classifier, whose configuration is trained anew")
    earlier = comparison.read(request.against) if request.against else None
    subjects = open_subjects(request.workdirs, request.checkpoint, request.data)
    _check_sizes(subjects, count, settings)
    judge = judging.open_judge(request.judge, request.checkpoint, subjects[-1].classes) if request.judge else None
    if request.tstr:
        transfer.batch_fits(judge)
    extractor = Extractor(load(INCEPTION), settings.protocol, settings.batch)
    measured = Diversity(load(POINTS), max(1, settings.batch // GROUP))
    too_small = frozenset(subject.name for subject in subjects if not _fits(measured, subject))
    return _Plan(settings, count, subjects, judge, extractor, measured, too_small, earlier)


def _from_weights(settings: Settings) -> Networks:
    load = pretrained_networks.from_weights(settings)

    def of(name: str) -> object:
        if name == INCEPTION:
            return load(name)
        return load("lpips")._replace(apply=functools.partial(lpips_network.embed, net=settings.lpips_net))

    return of


def _check_sizes(subjects: Sequence[Subject], count: int, settings: Settings) -> None:
    """Refuse sets that are too small for FID and KID."""
    measures = {name: MEASURES[name] for name in ("fid", "kid")}
    for subject in subjects:
        counts = {f"{subject.name}, training images of {name}": len(s) for name, s in subject.training.items()}
        if subject.translating:
            each = {name: GROUP * len(images) for name, images in subject.sources.items()}
            counts |= {f"{subject.name}, translations of {name}": number for name, number in each.items()}
        else:
            counts |= {f"--n={count}": count}
        check_counts(measures, counts, settings)


def _fits(measured: Diversity, subject: Subject) -> bool:
    try:
        measured.check(subject.run.image.shape)
    except UserError:
        return False
    return True


# -- computing -------------------------------------------------------------------------------------


def _drawn(plan: _Plan, subject: Subject) -> list[Made]:
    artist = Artist(subject, plan.count, plan.settings)
    measured = None if subject.name in plan.too_small else plan.diversity
    named = {pair: table.row(subject, *pair) for pair in subject.sets()}
    return [draws.draw(artist, *pair, plan.extractor, measured, name) for pair, name in named.items()]


def _of_run(
    plan: _Plan, subject: Subject, made: Sequence[Made], features: Callable[[RealSet], np.ndarray]
) -> dict[str, dict]:
    """The rows of a run: of each of its sets; of translations, of each target, the mean over its pairs."""
    settings, made_by, found, pairs = plan.settings, _made_by(plan), {}, {}
    for each in made:
        images = [subject.training[each.target]] if each.target else list(subject.training.values())
        reference = Reference.of(np.concatenate([features(own) for own in images]))
        scored = table.distances_of(reference, each, settings)
        scored |= table.diversity_of(each.diversity, "sources" if each.source else "groups", settings)
        digest, about = table.digest_of([own.digest for own in images]), table.row(subject, each.source, each.target)
        compared = Compared(reference.count, len(each.features), digest, about.partition(", ")[2])
        found |= table.entries(about, scored, compared, made_by, settings, subject)
        if each.source:
            pairs.setdefault(each.target, []).append((scored, compared))
    for target, own in pairs.items():
        scores, compared = zip(*own, strict=True)
        whole = compared[0]._replace(n_fake=sum(c.n_fake for c in compared), settings=f"{target}, mean over pairs")
        name = table.row(subject, None, target)
        found |= table.entries(name, table.mean_of(scores, settings), whole, made_by, settings, subject)
    return found


def _of_real(plan: _Plan, features: Callable[[RealSet], np.ndarray]) -> dict[str, dict]:
    """The diversity of real images, of the data of the last run whose images LPIPS takes."""
    found: dict[str, dict] = {}
    for subject in reversed(plan.subjects):
        if subject.name in plan.too_small:
            continue
        for name, images in subject.training.items():
            values = diversity.among(images, plan.diversity, plan.settings.seed)
            compared = Compared(len(images), GROUP * len(values), images.digest, f"real {name}, as {subject.name}")
            scored = table.diversity_of(values, "groups", plan.settings)
            found |= table.entries(f"{figure.REAL}, {name}", scored, compared, _made_by(plan), plan.settings)
        break
    return found


def _made_by(plan: _Plan) -> dict[str, dict[str, str]]:
    network = plan.diversity.network
    features = plan.extractor.conditions
    return {"fid": features, "kid": features, "diversity": {"network": network.name, "weights": network.digest}}


# -- what the results say ---------------------------------------------------------------------------


def _facts(plan: _Plan) -> dict[str, str]:
    runs = [f"{s.name} ({s.run.kind}, step {s.point.step}, {s.run.image.shape[0]} px)" for s in plan.subjects]
    return {
        "Runs": ", ".join(runs),
        "Classes": ", ".join(plan.subjects[-1].classes),
        "Drawn": f"{plan.count:,} of each set; {GROUP} of each source where images are translated",
        "Judge": plan.judge.name if plan.judge else "none",
        "Intervals": f"{plan.settings.level:.0%}",
        "Seed": str(plan.settings.seed),
    }


def _left_out(plan: _Plan) -> list[str]:
    return [f"left out: {name}: diversity: its images are too small for LPIPS" for name in sorted(plan.too_small)]


def _judged(judge: Judge | None) -> str | None:
    if judge is None:
        return None
    return f"`{judge.name}`, a ResNet for {', '.join(judge.classes)}, checkpoint sha256 `{judge.digest}`."


def _write_card(path: Path, plan: _Plan, found: results.Evaluation) -> None:
    try:
        write_durably(path, card.text(plan.subjects, found.numbers, found.all_warnings, _judged(plan.judge)))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); check the disk and the path") from error


def _write_reports(folder: Path, reports: Mapping[str, Report]) -> None:
    """One file for each run; those of an earlier evaluation of other runs leave."""
    for old in folder.glob(AUDIT.format("*")):
        old.unlink()
    for name, report in reports.items():
        write_json(folder / AUDIT.format(name), report)


def _save(path: Path, picture: np.ndarray) -> None:
    save_png(path, picture, ("synthetic",))
