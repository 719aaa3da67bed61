"""Orders that draw classes evenly are tried on the labels before anything is decoded or compiled."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Field, Stream, balanced, class_balanced, pairs_of_class, shuffled
from medgen_jax.data.checks import check_tables
from medgen_jax.data.tables import ArrayTable

NAMES = {"label": ("Normal", "Lung Opacity"), "view": ("PA", "AP")}
CONFIG = DataConfig(crop_size=8)


class Watched(ArrayTable):
    """Remembers the records whose images were looked at."""

    seen = ()

    def header(self, index, name):
        self.seen = [*self.seen, index]
        return super().header(index, name)


def check(order, classes=None, training=True, unbalanced="", **labels):
    """The records whose images were looked at, which labels that cannot be balanced never lead to."""
    count = len(next(iter(labels.values())))
    images = np.zeros((count, 8, 8, 1), np.uint8)
    table = Watched({"image": images}, labels, classes=NAMES if classes is None else classes)
    fields = (("image", Field((8, 8, 1))), *((name, Field((), "int32")) for name in labels))
    stream = Stream(fields, 2, order, unbalanced=unbalanced)
    check_tables({"records": table}, {"records": stream}, CONFIG, training=training)
    return table.seen


VIEWED = balanced("label", "view", view=(0, 1))


@pytest.mark.parametrize(
    ("order", "labels"),
    [
        (class_balanced(), {"label": [0, 1, 1]}),
        (shuffled, {"label": [0, 0, 0]}),
        (VIEWED, {"label": [0, 0, 1, 1, 1], "view": [0, 1, 0, 1, -1]}),
        (balanced("view", view=(1,)), {"view": [1, 1]}),
        (pairs_of_class("label"), {"label": [0, 0, 1, 1]}),
    ],
)
def test_what_can_be_balanced_passes(order, labels):
    assert check(order, **labels) == list(range(len(next(iter(labels.values())))))


@pytest.mark.parametrize(
    ("order", "labels", "message"),
    [
        (class_balanced(), {"label": [0, 0]}, "no training record has label Lung Opacity, so they .* over label; add"),
        (class_balanced(), {"label": [1, 1]}, "no training record has label Normal,"),
        (
            VIEWED,
            {"label": [0, 0, 1], "view": [0, 1, 1]},
            "has label Lung Opacity and view PA, .* over label and view;",
        ),
        (VIEWED, {"label": [0, 0, 1, 1], "view": [0, -1, 0, -1]}, "has label Normal and view AP,"),
        (class_balanced(), {"label": [0, 1, -1]}, "labels 'label': -1 is no class"),
        (class_balanced("view"), {"label": [0, 1]}, "labels 'view': a balanced order needs them"),
        (pairs_of_class("label"), {"label": [0, 0, 1]}, "record 2 is the only one of its class"),
        (pairs_of_class("label"), {"label": [0, 1, 1]}, "record 0 is the only one of its class"),
    ],
)
def test_what_cannot_be_balanced_is_named(order, labels, message):
    with pytest.raises(UserError, match=message) as caught:
        check(order, **labels)
    assert "\n" not in str(caught.value)
    assert check(order, training=False, **labels)  # evaluation takes records as they come


def test_classes_without_names_go_by_number():
    with pytest.raises(UserError, match="no training record has label 1, so"):
        check(class_balanced(), classes={}, label=[0, 2])
    assert check(class_balanced(), classes={}, label=[0, 1]) == [0, 1]


@pytest.mark.parametrize(
    ("order", "unbalanced", "remedies"),
    [
        (class_balanced(), "", "add some, or name what does occur in config.data.classes"),
        (
            class_balanced(),
            "config.balance=none",
            "add some, or name what does occur in config.data.classes, or set config.balance=none",
        ),
        (
            balanced("label", "view"),
            "config.off=1",
            "add some, or name what does occur in config.data.classes or config.data.views, or set config.off=1",
        ),
        (class_balanced("grade"), "", "add some"),
    ],
)
def test_only_settings_that_the_system_has_are_advised(order, unbalanced, remedies):
    labels = {name: [0, 0] for name in order.columns}
    with pytest.raises(UserError) as caught:
        check(order, unbalanced=unbalanced, classes=NAMES | {"grade": ("low", "high")}, **labels)
    assert str(caught.value).split("; ")[1] == remedies


def test_no_image_is_looked_at_before():
    table = ArrayTable({"image": np.zeros((2, 4, 4, 1), np.uint8)}, {"label": [0, 0]}, classes=NAMES)
    fields = (("image", Field((8, 8, 1))), ("label", Field((), "int32")))
    with pytest.raises(UserError, match="Lung Opacity"):
        check_tables({"records": table}, {"records": Stream(fields, 2, class_balanced())}, CONFIG)
