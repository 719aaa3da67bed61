"""Which flags of ``evaluate`` go together."""

from __future__ import annotations

import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.evaluation import forms

NOTHING = dict.fromkeys(
    (*forms.OF_SETS, *forms.OF_RUNS, *forms.OF_COUNTERFACTUALS, *forms.OF_SYNTHESIS, "workdir", "output")
) | {"counterfactuals": [], "workdirs": []}


def refusal(given):
    """What is said against some flags; None where nothing is."""
    try:
        forms.require_one(NOTHING | given)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("given", "left_out", "missing"),
    [
        ({"real": "a", "fake": "b", "output": "o"}, "fake", "--fake"),
        ({"real": "a", "fake": "b", "output": "o"}, "output", "--output"),
        ({"real": "a", "save_statistics": "f.npz"}, "save_statistics", "--fake"),
        ({"workdir": "run", "split": "test"}, "workdir", "--workdir"),
        ({"counterfactuals": ["c"], "judge": "run", "train_boxes": "boxes.csv", "output": "o"}, "output", "--output"),
        ({"workdirs": ["a", "b"], "study": "medstylegan2", "output": "o"}, "output", "--output"),
        ({"workdirs": ["a"], "study": "medstylegan2", "judge": "j", "n": 8, "output": "o"}, "study", "--study"),
        ({"workdirs": ["a"], "study": "medstylegan2", "tstr": True, "output": "o"}, "workdirs", "--workdir"),
    ],
)
def test_whole_forms_pass_and_lack_whatever_is_left_out(given, left_out, missing):
    assert refusal(given) is None
    assert f"{missing} is missing" in refusal(given | {left_out: None})


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
        ({"n": 8, "fake": "b"}, "--n is about runs side by side: --workdirs is missing"),
        ({"workdirs": ["a"], "workdir": "b"}, "--workdirs does not go with --workdir"),
        (
            {"workdir": "a", "study": "medstylegan2"},
            "--study medstylegan2: does not go with --workdir; give --workdirs",
        ),
        ({"workdirs": ["a"], "study": "noise"}, "--study noise: does not go with --workdirs; give --workdir"),
    ],
)
def test_anything_else_is_refused_by_name(given, message):
    assert refusal(given) == message
