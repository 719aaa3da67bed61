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


def check(order, classes=None, training=True, **labels):
    count = len(next(iter(labels.values())))
    images = np.zeros((count, 8, 8, 1), np.uint8)
    table = ArrayTable({"image": images}, labels, classes=NAMES if classes is None else classes)
    fields = (("image", Field((8, 8, 1))), *((name, Field((), "int32")) for name in labels))
    check_tables({"records": table}, {"records": Stream(fields, 2, order)}, CONFIG, training=training)


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
    check(order, **labels)


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
    check(order, training=False, **labels)  # evaluation takes records as they come


def test_classes_without_names_go_by_number():
    with pytest.raises(UserError, match="no training record has label 1, so"):
        check(class_balanced(), classes={}, label=[0, 2])
    check(class_balanced(), classes={}, label=[0, 1])


def test_no_image_is_looked_at_before():
    table = ArrayTable({"image": np.zeros((2, 4, 4, 1), np.uint8)}, {"label": [0, 0]}, classes=NAMES)
    fields = (("image", Field((8, 8, 1))), ("label", Field((), "int32")))
    with pytest.raises(UserError, match="Lung Opacity.*set config.balance=none"):
        check_tables({"records": table}, {"records": Stream(fields, 2, class_balanced())}, CONFIG)
