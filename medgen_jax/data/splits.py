"""Splits by patient or slide: nobody may be on both sides.

A *group* is whatever must stay together: the images of one patient, the tiles of one slide. Groups
are named in no message and no result, they are counted.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from medgen_jax.core.errors import UserError

#: Names of the splits, in the order in which they are reported.
SPLITS = ("train", "val", "test")
#: How users write them, in lower case.
SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation"),
    "test": ("test", "testing"),
}

#: Class -> (training, validation) images of the random split by image that the counterfactual
#: diffusion paper draws from the RSNA stage-2 training set (its table 1).
RSNA_SEED_COUNTS = {"Normal": (7081, 1770), "Lung Opacity": (4809, 1203)}

_SEEDS_TRIED = 1000

Indices = dict[str, tuple[int, ...]]  # split -> indices of its records, ascending


class Overlap(NamedTuple):
    """Groups that two splits share, and how many records each side has of them."""

    splits: tuple[str, str]
    groups: int
    records: tuple[int, int]

    def __str__(self) -> str:
        (one, other), (n, m) = self.splits, self.records
        return f"{self.groups} in {one} and {other} ({n} + {m} records)"


def split_named(word: str) -> str | None:
    """The split that a user's word means, in any case: train, val, test or None."""
    return next((split for split, words in SPELLINGS.items() if word.strip().casefold() in words), None)


def by_group(groups: Sequence[str], shares: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> Indices:
    """Deal whole groups into train, val and test.

    Where a group goes depends on its name and the seed alone, so that a set may grow without moving
    anything. The shares are therefore those of the groups, and met in expectation: of n groups a
    share p gets n p, give or take sqrt(n p (1 - p)).

    Args:
      groups: of each record.
      shares: of train, val and test; not negative, together 1. A share of 0 leaves a split out.
      seed: another one deals anew.

    Raises:
      UserError: for shares that are none, or a split that got no group; says which seed would help.
    """
    _check_shares(shares)
    names = sorted(set(groups))
    dealt = _deal(names, shares, seed)
    wanted = {split for split, share in zip(SPLITS, shares, strict=True) if share > 0}
    empty = sorted(wanted - set(dealt.values()), key=SPLITS.index)
    if empty:
        remedy = _remedy(names, shares, wanted)
        raise UserError(f"{', '.join(empty)} would get none of the {len(names)} patients or slides; {remedy}")
    found: dict[str, list[int]] = {split: [] for split in SPLITS if split in wanted}
    for index, group in enumerate(groups):
        found[dealt[group]].append(index)
    return {split: tuple(indices) for split, indices in found.items()}


def overlaps(splits: Mapping[str, Sequence[str]]) -> tuple[Overlap, ...]:
    """Groups on both sides, for every two splits that share some.

    Args:
      splits: split -> group of each record.
    """
    counts = {split: Counter(groups) for split, groups in splits.items()}
    found = []
    for one, other in itertools.combinations(counts, 2):
        shared = counts[one].keys() & counts[other].keys()
        if shared:
            records = tuple(sum(counts[side][group] for group in shared) for side in (one, other))
            found.append(Overlap((one, other), len(shared), records))
    return tuple(found)


def check_disjoint(splits: Mapping[str, Sequence[str]], where: str = "the data") -> None:
    """Refuse groups on both sides; says how many, never who.

    Args:
      splits: split -> group of each record.
      where: what messages call the data.

    Raises:
      UserError: when two splits share a group.
    """
    found = overlaps(splits)
    if found:
        raise UserError(
            f"{where}: patients or slides in more than one split: {'; '.join(map(str, found))}. A network can remember "
            "them, and the numbers would flatter it: give each patient one split, or remove the column split to "
            "have whole patients dealt out"
        )


def class_balance(labels: Mapping[str, Sequence[int]], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Records of each class in each split.

    Args:
      labels: split -> label of each record.
      classes: names of the labels 0, 1, ...
    """
    counts = {split: Counter(values) for split, values in labels.items()}
    return {split: {name: count[i] for i, name in enumerate(classes)} for split, count in counts.items()}


def rsna_seed_split(
    classes: Sequence[str], ids: Sequence[str], groups: Sequence[str] = (), seed: int = 0
) -> tuple[Indices, tuple[Overlap, ...]]:
    """Train and val as the counterfactual diffusion paper has them: by image, class by class, not by patient.

    The paper gives counts (`RSNA_SEED_COUNTS`) and no list, so that the images are drawn anew, by a
    hash of id and seed. Of the full stage-2 training set the counts are met exactly, of a part in
    proportion. Records of other classes are in neither split.

    Args:
      classes: class of each record, as stage_2_detailed_class_info.csv names it.
      ids: of each image.
      groups: patient of each record, where known.

    Returns:
      The splits, and what they leak: patients on both sides.

    Raises:
      UserError: when one of the two classes is missing.
    """
    train, val = [], []
    for name, (many, few) in RSNA_SEED_COUNTS.items():
        members = sorted((i for i, c in enumerate(classes) if c == name), key=lambda i: (_place(ids[i], seed), ids[i]))
        if not members:
            raise UserError(
                f"no image of class {name!r}: the split of the paper is of {' and '.join(RSNA_SEED_COUNTS)}"
            )
        border = len(members) - round(len(members) * few / (many + few))
        train += members[:border]
        val += members[border:]
    found = {"train": tuple(sorted(train)), "val": tuple(sorted(val))}
    leak = overlaps({split: [groups[i] for i in indices] for split, indices in found.items()}) if groups else ()
    return found, leak


def _place(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on a name and the seed, uniform over names."""
    digest = hashlib.sha256(f"{seed}\0{unicodedata.normalize('NFC', name)}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6]) / 2**48


def _deal(names: Sequence[str], shares: Sequence[float], seed: int) -> dict[str, str]:
    wanted = [
        (split, upper)
        for split, upper, share in zip(SPLITS, itertools.accumulate(shares), shares, strict=True)
        if share
    ]

    def split(place: float) -> str:
        # The last one also takes what the rounding of the sum leaves.
        return next((split for split, upper in wanted if place < upper), wanted[-1][0])

    return {name: split(_place(name, seed)) for name in names}


def _check_shares(shares: Sequence[float]) -> None:
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise UserError(
            f"config.data.shares = {tuple(shares)!r}: must be three numbers for train, val and test, "
            "not negative, together 1"
        )


def _remedy(names: Sequence[str], shares: Sequence[float], wanted: set[str]) -> str:
    """What a user can do about an empty split."""
    if len(names) >= len(wanted):
        for seed in range(_SEEDS_TRIED):
            if set(_deal(names, shares, seed).values()) == wanted:
                return f"set config.data.split_seed={seed}, or say it with a column split"
    return "write a column split, or set config.data.shares to fewer splits"
