"""Splits by patient: whole groups, stable, near the shares; overlaps are counted, never named."""

from __future__ import annotations

import hashlib

import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.data.splits import (
    SPLITS,
    by_group,
    check_disjoint,
    class_balance,
    overlaps,
    rsna_seed_split,
    split_named,
)

#: 3,000 patients with 1 to 4 images each.
GROUPS = [f"patient {i}" for i in range(3000) for _ in range(1 + i % 4)]


def sides(splits):
    return {split: {GROUPS[i] for i in indices} for split, indices in splits.items()}


def test_every_record_is_dealt_once_and_no_group_is_cut():
    splits = by_group(GROUPS)
    assert tuple(splits) == SPLITS
    assert sorted(i for indices in splits.values() for i in indices) == list(range(len(GROUPS)))
    assert all(list(indices) == sorted(indices) for indices in splits.values())
    assert overlaps({split: [GROUPS[i] for i in indices] for split, indices in splits.items()}) == ()


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (0.6, 0.25, 0.15), (0.5, 0.5, 0.0), (0.9, 0.0, 0.1), (1, 0, 0)])
def test_shares_are_met_within_four_standard_deviations(shares):
    splits = sides(by_group(GROUPS, shares, seed=1))
    for split, share in zip(SPLITS, shares, strict=True):
        count = len(splits.get(split, ()))
        assert abs(count - 3000 * share) <= 4 * (3000 * share * (1 - share)) ** 0.5, split
        assert (split in splits) == (share > 0)


def test_a_growing_set_moves_nobody():
    before = by_group(GROUPS[:5000], seed=3)
    after = by_group(["a new one", *reversed(GROUPS)], seed=3)
    place = {GROUPS[i]: split for split, indices in before.items() for i in indices}
    grown = ["a new one", *reversed(GROUPS)]
    for split, indices in after.items():
        assert all(place.get(grown[i], split) == split for i in indices)


def test_the_deal_depends_on_the_seed_and_nothing_else():
    assert by_group(GROUPS, seed=5) == by_group(GROUPS, seed=5)
    assert by_group(GROUPS, seed=5) != by_group(GROUPS, seed=6)


def test_the_deal_is_the_hash_of_the_group():
    """Written out once more: another version must find the same patients on the same side."""

    def side(group):
        place = int(hashlib.sha256(f"7\0{group}".encode()).hexdigest()[:12], 16) / 2**48
        return "train" if place < 0.5 else "val" if place < 0.75 else "test"

    groups = [f"pätient {i}" for i in range(40)]
    splits = by_group(groups, (0.5, 0.25, 0.25), seed=7)
    assert {groups[i]: split for split, indices in splits.items() for i in indices} == {g: side(g) for g in groups}


def test_a_split_that_gets_nobody_is_refused_with_a_seed_that_helps():
    groups = ["p", "q", "r", "r", "s"]
    with pytest.raises(
        UserError, match=r"(val|test).* would get none of the 4 .*config\.data\.split_seed=(\d+)"
    ) as caught:
        by_group(groups, seed=next(s for s in range(99) if _fails(groups, s)))
    seed = int(str(caught.value).split("split_seed=")[1].split(",")[0])
    assert set(by_group(groups, seed=seed)) == set(SPLITS)
    with pytest.raises(UserError, match=r"none of the 2 .*column split, or set config\.data\.shares"):
        by_group(["p", "q"])


def _fails(groups, seed):
    try:
        by_group(groups, seed=seed)
    except UserError:
        return True
    return False


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.8, 0.3, 0.1), (1.2, -0.1, -0.1), (0.0, 0.0, 0.0)])
def test_shares_that_are_none(shares):
    with pytest.raises(UserError, match=r"config\.data\.shares = .*three numbers .*together 1"):
        by_group(GROUPS, shares)


def test_overlap_is_refused_by_numbers_not_by_names():
    splits = {"train": ["Ann", "Ann", "Bob", "Cyd"], "val": ["Bob", "Dan"], "test": ["Ann", "Bob", "Eve"]}
    with pytest.raises(UserError) as caught:
        check_disjoint(splits, "study.csv")
    message = str(caught.value)
    assert message.startswith("study.csv: patients or slides in more than one split: 1 in train and val (1 + 1 ")
    assert "2 in train and test (3 + 2 records)" in message
    assert "1 in val and test (1 + 1 records)" in message
    assert "remove the column split" in message
    assert not any(name in message for name in ("Ann", "Bob", "Cyd", "Dan", "Eve"))
    check_disjoint({"train": ["Ann", "Ann"], "val": ["Bob"], "test": []})


def test_class_balance_counts_also_what_is_not_there():
    labels = {"train": [0, 0, 1], "val": [1]}
    assert class_balance(labels, ["n", "s"]) == {"train": {"n": 2, "s": 1}, "val": {"n": 0, "s": 1}}


def test_words_for_splits():
    assert [split_named(w) for w in ("Train", " training", "VALID", "validation", "validate", "Test", "fold1", "")] == [
        *("train", "train", "val", "val", "val", "test", None, None)
    ]


# ---- the split of the counterfactual diffusion paper -----------------------------------------------


@pytest.fixture(scope="module")
def rsna():
    """Class, id and patient of a made-up set with the true class counts; up to four images per patient."""
    classes = ["Normal"] * 8851 + ["Lung Opacity"] * 6012 + ["No Lung Opacity / Not Normal"] * 11821
    ids = [f"{i:08x}" for i in range(len(classes))]
    return classes, ids, [f"nih {i % 9000}" for i in range(len(classes))]


def test_seed_split_has_the_counts_of_the_paper_and_reports_its_leak(rsna):
    classes, _, groups = rsna
    splits, leak = rsna_seed_split(*rsna)
    counted = {
        split: [sum(classes[i] == name for i in indices) for name in ("Normal", "Lung Opacity")]
        for split, indices in splits.items()
    }
    assert counted == {"train": [7081, 4809], "val": [1770, 1203]}
    assert sum(map(len, splits.values())) == 8851 + 6012, "the third class is in neither"
    train, val = ([groups[i] for i in splits[side]] for side in ("train", "val"))
    (found,) = leak
    assert found.splits == ("train", "val")
    assert found.groups == len(set(train) & set(val)) > 1000
    assert found.records == (sum(g in set(val) for g in train), sum(g in set(train) for g in val))


def test_seed_split_is_drawn_by_id(rsna):
    classes, ids, _ = rsna
    splits, leak = rsna_seed_split(classes, ids)
    assert leak == ()
    turned, _ = rsna_seed_split(classes[::-1], ids[::-1])
    last = len(ids) - 1
    assert {ids[i] for i in splits["val"]} == {ids[last - i] for i in turned["val"]}
    other, _ = rsna_seed_split(classes, ids, seed=1)
    assert set(other["val"]) != set(splits["val"])
    assert len(other["val"]) == len(splits["val"])


def test_seed_split_of_a_part_keeps_the_proportion():
    splits, _ = rsna_seed_split(["Normal"] * 20 + ["Lung Opacity"] * 10, [str(i) for i in range(30)])
    assert [len(splits[side]) for side in ("train", "val")] == [24, 6]
    with pytest.raises(UserError, match="no image of class 'Lung Opacity'"):
        rsna_seed_split(["Normal"] * 3, ["1", "2", "3"])
