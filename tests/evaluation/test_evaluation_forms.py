"""Which flags of ``evaluate`` go together."""

from __future__ import annotations

import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.evaluation import forms

NOTHING = dict.fromkeys((*forms.OF_SETS, *forms.OF_RUNS, *forms.OF_COUNTERFACTUALS, "workdir", "output")) | {
    "counterfactuals": []
}


@pytest.mark.parametrize(
    "given",
    [
        {"real": "a", "fake": "b", "output": "o"},
        {"real": "a", "save_statistics": "f.npz"},
        {"workdir": "run", "split": "test"},
        {"counterfactuals": ["c"], "judge": "run", "train_boxes": "boxes.csv", "output": "o"},
    ],
)
def test_whole_forms_pass(given):
    forms.require_one(NOTHING | given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "--fake is missing: a folder of generated images, or --workdir RUN"),
        ({"fake": "b"}, "--output is missing: a folder for results"),
        ({"counterfactuals": ["c"]}, "--output is missing: a folder for results"),
        ({"counterfactuals": ["c"], "real": "a"}, "--real does not go with --counterfactuals"),
        ({"counterfactuals": ["c"], "workdir": "run"}, "--workdir does not go with --counterfactuals"),
        ({"workdir": "run", "judge": "run"}, "--judge does not go with --workdir"),
        ({"judge": "run", "fake": "b"}, "--judge is about counterfactuals: --counterfactuals is missing"),
        ({"split": "test", "fake": "b"}, "--split is about a run: --workdir is missing"),
    ],
)
def test_anything_else_is_refused_by_name(given, message):
    with pytest.raises(UserError) as error:
        forms.require_one(NOTHING | given)
    assert str(error.value) == message
