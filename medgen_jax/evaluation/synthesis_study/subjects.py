"""Whose images are judged: runs of four systems, and by which protocol the paper's table has each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medgen_jax.core.errors import UserError
from medgen_jax.engine import rundir
from medgen_jax.engine.restore import Checkpoint
from medgen_jax.evaluation.synthesis_study import real
from medgen_jax.evaluation.synthesis_study.real import RealSet
from medgen_jax.synthesis import runs
from medgen_jax.synthesis.runs import Run

#: Systems in the order of the paper's table, and what the table calls them.
TITLES = {
    "gan": "GAN",
    "dcgan": "DCGAN",
    "stylegan2": "Med-StyleGAN2 as described",
    "stargan_v2": "Med-StyleGAN2 as published",
}
#: Those that are told no class; those that translate images.
UNCONDITIONAL, TRANSLATING = ("gan", "dcgan"), ("stargan_v2",)


@dataclass(frozen=True, eq=False)
class Subject:
    """A run and the images of its data.

    Attributes:
      run: no weights yet.
      point: its checkpoint.
      classes: of the study, in the order of its rows.
      training: images it was trained on, by class.
      sources: of the split whose images are translated, by class.
      unseen: images that nothing was made of, by class; those of ``sources`` where the data have no other split.
      splits: names of the splits of ``sources`` and ``unseen``.
    """

    run: Run
    point: Checkpoint
    classes: tuple[str, ...]
    training: Mapping[str, RealSet]
    sources: Mapping[str, RealSet]
    unseen: Mapping[str, RealSet]
    splits: tuple[str, str]

    @property
    def name(self) -> str:
        """What rows call it; no other run of the study has it."""
        return self.run.name

    @property
    def title(self) -> str:
        """What the table calls its system."""
        return TITLES[self.run.kind]

    @property
    def conditional(self) -> bool:
        """Whether it is told a class."""
        return self.run.kind not in UNCONDITIONAL

    @property
    def translating(self) -> bool:
        """Whether it makes images of images."""
        return self.run.kind in TRANSLATING

    @property
    def independent(self) -> bool:
        """Whether nothing that it is shown here comes from the unseen images."""
        return not self.translating or self.splits[0] != self.splits[1]

    @property
    def origin(self) -> dict[str, str]:
        """What fingerprints say of where its images come from."""
        return {"fake": self.point.sha256, "run": f"{self.run.kind} step {self.point.step} {self.run.sampler}"}

    def label(self, name: str) -> int:
        """Place of a class among those that the run is told."""
        return list(self.run.config.data.classes).index(name)

    def sets(self) -> list[tuple[str | None, str | None]]:
        """Source and target of every set of images that is drawn; None where there is none."""
        if not self.conditional:
            return [(None, None)]
        if not self.translating:
            return [(None, name) for name in self.classes]
        return [(source, target) for target in self.classes for source in self.classes if source != target]


def open_subjects(workdirs: Sequence[str | Path], which: str | int, data: str | Path | None) -> list[Subject]:
    """All runs with their data, in the order of the paper's table; no weights are read.

    Args:
      workdirs: directories of runs of the systems of `TITLES`.
      which: checkpoint of each: ``last``, ``best`` or a step.
      data: where the data of all of them are now, if they were moved.

    Raises:
      UserError: a run of another system, two of one name, or one that does not know the classes of the others.
    """
    for workdir in workdirs:
        kind = rundir.read_config(Path(workdir).expanduser())["system"]
        if kind not in TITLES:
            raise UserError(f"--workdirs {workdir}: is a run of {kind}; this study is about {', '.join(TITLES)}")
    opened = sorted((runs.open_run(workdir) for workdir in workdirs), key=lambda run: list(TITLES).index(run.kind))
    names = [run.name for run in opened]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--workdirs: two runs are called {twice[0]}, and rows go by that name; rename one of them")
    classes = _classes(opened)
    return [_open(run, classes, which, data) for run in opened]


def _classes(opened: Sequence[Run]) -> tuple[str, ...]:
    """The classes of the runs that are told one; empty where none is: then those of the data."""
    told = [run for run in opened if run.kind not in UNCONDITIONAL]
    for run in told:
        own, first = run.config.data.classes, told[0].config.data.classes
        if len(own) < 2:
            raise UserError(f"--workdirs {run.workdir}: names {len(own)} classes (config.data.classes); two are needed")
        if missing := sorted(set(own) ^ set(first)):
            one, other = (told[0], run) if missing[0] in first else (run, told[0])
            raise UserError(
                f"--workdirs {other.workdir}: does not know the class {missing[0]!r} of {one.workdir}; give runs of "
                "the same classes"
            )
    return tuple(told[0].config.data.classes) if told else ()


def _open(run: Run, classes: tuple[str, ...], which: str | int, data: str | Path | None) -> Subject:
    names = real.splits(run, data)
    found = {split: real.open_split(run, split, data) for split in dict.fromkeys(("train", *names))}
    classes = classes or tuple(found["train"])
    for split, sets in found.items():
        if missing := [name for name in classes if name not in sets]:
            raise UserError(
                f"--workdirs {run.workdir}: the {split} split of its data has no image of the class {missing[0]!r}; "
                f"it has {', '.join(sets) or 'none'}"
            )
    training, sources, unseen = ({name: found[s][name] for name in classes} for s in ("train", *names))
    return Subject(run, run.checkpoint(which), classes, training, sources, unseen, names)
