"""What the paper lacks, gathered for all runs: the audit, the judge's maps, and what classifiers learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.evaluation import memorisation, numbers
from medgen_jax.evaluation.features import Extractor
from medgen_jax.evaluation.memorisation import Report
from medgen_jax.evaluation.numbers import Entries
from medgen_jax.evaluation.scores import Score
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.synthesis_study import copies, figure, lungs, table, transfer
from medgen_jax.evaluation.synthesis_study.draws import Made
from medgen_jax.evaluation.synthesis_study.judge import Asked, Judge
from medgen_jax.evaluation.synthesis_study.lungs import Looked
from medgen_jax.evaluation.synthesis_study.real import LUNGS, RealSet, spread
from medgen_jax.evaluation.synthesis_study.subjects import Subject
from medgen_jax.viz.scores import Case

_SOURCES_ARE_ALL = (
    "its images are made of the only real ones that it was not trained on; give data with a val and a test split"
)


class Rest:
    """Numbers and pictures beside the paper's table.

    Args:
      subjects: the runs.
      made: their sets by name.
      judge: a classifier, or None.
      settings: of the evaluation.
      say: where messages go.

    Attributes:
      numbers: entries of ``metrics.json``.
      reports: audits by run.
      cases: pairs that look alike.
      maps: class -> rows of images and the judge's maps.
      rows_of_maps, rows_of_training: names of rows.
      steps: of each training; None before one.
      left_out: what was not computed, and why.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        made: Mapping[str, Sequence[Made]],
        judge: Judge | None,
        settings: Settings,
        say: Callable[[str], None],
    ):
        self._subjects, self._made, self._judge = subjects, made, judge
        self._settings, self._say = settings, say
        self.numbers: Entries = {}
        self.reports: dict[str, Report] = {}
        self.cases: list[Case] = []
        self.maps: dict[str, list[figure.Pictures]] = {}
        self.rows_of_maps: list[str] = []
        self.rows_of_training: list[str] = []
        self.steps: int | None = None
        self.left_out: list[str] = []

    def leave_out(self, sentence: str) -> None:
        """Note what is not computed."""
        self.left_out.append(sentence)

    # -- copies ------------------------------------------------------------------------------------

    def audit(self, features: Callable[[RealSet], np.ndarray], extractor: Extractor) -> None:
        """Look for copies of training images among those that were kept of each run."""
        for subject in self._subjects:
            if not subject.independent:
                self.leave_out(f"{subject.name}: the audit: {_SOURCES_ARE_ALL}")
                continue
            self._say(f"{subject.name}: looking for copies of training images ...")
            made = self._made[subject.name]
            try:
                report, folders = copies.audit(subject, made, features, extractor, self._settings, self._say)
            except UserError as error:
                self.leave_out(f"{subject.name}: the audit: {error}")
                continue
            self.reports[subject.name] = report
            scored = {f"{kind} {subject.name}": score for kind, score in memorisation.scores(report).items()}
            digests = [own.digest for side in (subject.training, subject.unseen) for own in side.values()]
            counts = {"n_real": len(folders.train) + len(folders.held_out), "n_fake": len(folders.generated)}
            self._add(scored, 1, counts | {"reference": table.digest_of(digests)} | subject.origin)
            for case in memorisation.cases(report, folders, self._settings):
                self.cases.append(case._replace(heading=f"{subject.name}: {case.heading[0].lower()}{case.heading[1:]}"))

    # -- maps --------------------------------------------------------------------------------------

    def look(self) -> None:
        """Where the judge looks in real images, and in drawn ones of every class."""
        owner, asked = self._subjects[-1], Asked(self._judge, self._settings.batch)
        own = self._outlines(owner)
        mean = {name: lungs.mean_lungs(found) for name, found in own.items()}
        everywhere = lungs.mean_lungs(np.concatenate(list(own.values()))) if own else None
        pictures: dict[str, dict[str, list]] = {name: {} for name in owner.unseen}
        for name, images in owner.unseen.items():
            chosen = lungs.chosen(images)
            groups = tuple(images.groups[i] for i in chosen) if images.groups else ()
            label, region = self._judge.classes.index(name), mean.get(name)
            looked = lungs.look(asked, images.images(chosen), label, region, self._settings, own.get(name), groups)
            self._looked(f"{figure.REAL}, {name}", looked, {"reference": images.digest})
            pictures[name][figure.REAL] = looked.pictures
        for subject in self._subjects:
            for target in subject.classes if subject.conditional else (None,):
                label = None if target is None else self._judge.classes.index(target)
                region = everywhere if target is None else mean.get(target)
                looked = lungs.look(asked, self._kept(subject, target, lungs.LOOKED), label, region, self._settings)
                self._looked(table.row(subject, None, target), looked, subject.origin)
                for name in pictures if target is None else (target,):
                    pictures[name][subject.name] = looked.pictures
        self.maps = {name: figure.maps(found) for name, found in pictures.items()}

    def _outlines(self, owner: Subject) -> dict[str, np.ndarray]:
        """The lungs of the unseen images by class; none, and a note, where the data do not outline them."""
        if all(images.outlined for images in owner.unseen.values()):
            return {name: lungs.masks(images, self._judge.size) for name, images in owner.unseen.items()}
        self.leave_out(f"energy in the lungs: the data of {owner.name} outline none (column {LUNGS})")
        return {}

    def _looked(self, name: str, looked: Looked, about: Mapping[str, Any]) -> None:
        self.rows_of_maps.append(name)
        for kind, score in looked.scored.items():
            count = score.extras["n"]
            judged = {"settings": f"judge={self._judge.digest[:8]}", "n_real": count, "n_fake": count}
            self._add({f"{kind} {name}": score}, lungs.BETTER[kind], judged | about)

    # -- classifiers -------------------------------------------------------------------------------

    def transfer(self) -> None:
        """Train on drawn and on as many real images, test all on the same unseen ones, the judge too."""
        able = [subject for subject in self._subjects if subject.conditional and subject.independent]
        for subject in self._subjects:
            if subject not in able:
                reason = _SOURCES_ARE_ALL if subject.conditional else "its images have no classes"
                self.leave_out(f"{subject.name}: training a classifier: {reason}")
        if not able:
            return
        owner = able[-1]
        sizes = [len(images) for images in owner.training.values()]
        sizes += [sum(len(m.kept) for m in self._made[s.name] if m.target == t) for s in able for t in s.classes]
        count = min(sizes)
        trainer = transfer.Trainer(self._judge, count * len(owner.classes))
        self.steps = trainer.steps
        real = {name: list(own.images(spread(len(own), count))) for name, own in owner.training.items()}
        sets: dict[str, tuple[Mapping, Mapping]] = {f"real images of {owner.name}": (real, {})}
        for subject in able:
            drawn = {name: self._kept(subject, name, count) for name in subject.classes}
            sets[f"images by {subject.name}"] = drawn, subject.origin
        for name, (images, about) in sets.items():
            self._say(f"training a classifier on {name} ...")
            variables = trainer.train(images, self._settings.seed, name)
            asked = Asked(self._judge, self._settings.batch, variables)
            self._tested(name, asked, trainer.count, owner, about)
        self._tested(f"the judge, {self._judge.name}", Asked(self._judge, self._settings.batch), None, owner, {})

    def _tested(self, name: str, asked: Asked, count: int | None, owner: Subject, about: Mapping[str, Any]) -> None:
        scored = transfer.test(asked, self._judge.classes, owner.unseen, self._settings)
        self.rows_of_training.append(name)
        unseen = list(owner.unseen.values())
        tested = sum(map(len, unseen))
        images = {
            "n_real": tested,
            "n_fake": tested,
            "split": owner.splits[1],
            "reference": table.digest_of([own.digest for own in unseen]),
            "settings": f"judge={self._judge.digest[:8]},trained_on={count or 'its own data'}",
        }
        self._add({f"{kind} {name}": score for kind, score in scored.items()}, 1, {**images, **about})
        for kind in scored:
            self.numbers[f"{kind} {name}"]["trained_on"] = count

    # -- both --------------------------------------------------------------------------------------

    def _kept(self, subject: Subject, target: str | None, most: int) -> list[np.ndarray]:
        """Kept images of a class, evenly spread over its sets."""
        images = [image for each in self._made[subject.name] if each.target == target for image in each.kept]
        return [images[i] for i in spread(len(images), most)]

    def _add(self, scored: Mapping[str, Score], better: int, images: Mapping[str, Any]) -> None:
        self.numbers |= numbers.of_classes(scored, dict.fromkeys(scored, better), self._settings, images)
