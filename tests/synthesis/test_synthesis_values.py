"""What samplers are told: classes, values, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Field
from medgen_jax.synthesis import plan
from medgen_jax.synthesis.values import Classes, classes_of, constants_of

KNOWN = ("covid", "normal", "viral")
TOLD, MAY_BE_UNKNOWN = {"label": Field((), "int32")}, {"label": Field((), "int32", unknown=True)}
DATA = DataConfig(views=("PA", "AP"))
TAKES = {
    "number": Field((), "int32"), "z": Field((4,), "float32"), "image": Field((8, 8, 1)), "label": Field((), "int32"),
    "scale": Field((), "float32"), "truncation": Field((), "float32"), "view": Field((), "int32", unknown=True),
}  # fmt: skip


@pytest.mark.parametrize(
    ("word", "inputs", "known", "expected"),
    [
        ("normal", TOLD, KNOWN, Classes((1,), ("normal",))),
        ("2", TOLD, KNOWN, Classes((2,), ("viral",))),
        ("all", TOLD, KNOWN, Classes((0, 1, 2), KNOWN, KNOWN)),
        ("unknown", MAY_BE_UNKNOWN, KNOWN, Classes((-1,), ("unknown",))),
        ("5", TOLD, (), Classes((5,), ("5",))),
        (None, {}, KNOWN, Classes()),
    ],
)
def test_classes_by_name_and_place(word, inputs, known, expected):
    assert classes_of(word, inputs, known) == expected


@pytest.mark.parametrize(
    ("word", "inputs", "known", "message"),
    [
        (None, TOLD, KNOWN, "--class is missing: covid, normal, viral, all"),
        (None, MAY_BE_UNKNOWN, KNOWN, "--class is missing: covid, normal, viral, unknown, all"),
        ("flu", TOLD, KNOWN, "--class flu: is no class of this run; there are: covid, normal, viral, all"),
        ("3", TOLD, KNOWN, "--class 3: is no class of this run"),
        ("unknown", TOLD, KNOWN, "--class unknown: is no class of this run"),
        ("-1", MAY_BE_UNKNOWN, KNOWN, "--class -1: is no class of this run"),
        ("all", TOLD, (), "--class all: the run does not say which classes there are"),
        ("covid", {}, KNOWN, "--class covid: this run draws all classes together, it is told none"),
    ],
)
def test_other_classes_are_refused(word, inputs, known, message):
    with pytest.raises(UserError, match=message):
        classes_of(word, inputs, known)


def test_folders_of_classes_are_plain_and_distinct():
    names = ("a/b", "a_b", "..", "pictures", ".git", "Lung Opacity")
    folders = classes_of("all", TOLD, names).folders
    assert folders == ("a_b", "a_b_2", "class", "pictures_2", "git", "Lung Opacity")


def test_values_have_their_types_and_their_defaults():
    found = constants_of({"scale": "2", "view": "AP"}, TAKES, DATA, "sample")
    assert {name: (value.item(), value.dtype.name) for name, value in found.items()} == {
        "scale": (2, "float32"), "truncation": (1, "float32"), "view": (1, "int32"),
    }  # fmt: skip
    found = constants_of({"truncation": "0.7"}, TAKES, DATA, "sample")
    assert (found["scale"], found["view"]) == (0, -1) and found["truncation"] == np.float32(0.7)


@pytest.mark.parametrize(
    ("texts", "inputs", "message"),
    [
        ({"label": "covid"}, TAKES, "--set label: is what --class says; give --class covid"),
        ({"number": "3"}, TAKES, "number: sampler 'sample' is told no such value; .* are: scale, truncation, view"),
        ({"truncation": "0.7"}, {}, "truncation: sampler 'sample' is told no such value; .* are: none"),
        ({"scale": "nan"}, TAKES, "scale = nan: expected a number"),
        ({"scale": "much"}, TAKES, "scale = much: expected a number"),
        ({"view": "lateral"}, TAKES, "view = lateral: expected one of PA, AP"),
        ({"view": "2"}, TAKES, "view = 2: expected one of PA, AP"),
        ({}, {"depth": Field((), "int32")}, "also needs depth; add --set depth=NUMBER"),
        ({"depth": "1.5"}, {"depth": Field((), "int32")}, "depth = 1.5: expected a whole number"),
        ({}, {"style": Field((64,), "float32")}, r"also needs style, an array of shape \(64,\) .* from Python"),
    ],
)
def test_other_values_are_refused(texts, inputs, message):
    with pytest.raises(UserError, match=message):
        constants_of(texts, inputs, DATA, "sample")


# -- which images -----------------------------------------------------------------------------------


def test_numbers_count_on_and_classes_take_turns():
    assert plan.numbered(2, Classes()) == [plan.Item(0, "00000000.png"), plan.Item(1, "00000001.png")]
    one = plan.numbered(3, Classes((2,), ("viral",)))
    assert [(item.file, item.kind) for item in one] == [(f"0000000{i}.png", 0) for i in range(3)]
    every = plan.numbered(7, Classes((0, 1, 2), KNOWN, KNOWN))
    assert [item.kind for item in every] == [0, 1, 2, 0, 1, 2, 0]
    assert every[4] == plan.Item(4, "normal/00000004.png", 1)
    assert plan.numbered(5, Classes((0, 1, 2), KNOWN, KNOWN)) == every[:5]


def test_of_every_source_come_images_of_every_class():
    taken = plan.Sources(("a", "b"), (), "")
    assert plan.of_sources(taken, 2, Classes())[2:] == [
        plan.Item(2, "b_000.png", None, 1), plan.Item(3, "b_001.png", None, 1)
    ]  # fmt: skip
    every = plan.of_sources(taken, 2, Classes((0, 1), ("x", "y"), ("x", "y")))
    assert [item.number for item in every] == list(range(8))
    assert [item.file for item in every[:4]] == ["x/a_000.png", "x/a_001.png", "y/a_000.png", "y/a_001.png"]
    assert len({item.file for item in every}) == 8 and [item.source for item in every] == [0] * 4 + [1] * 4
