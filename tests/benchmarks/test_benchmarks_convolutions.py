"""Both forms of small layers: they agree, and every part has its line and its cell."""

from __future__ import annotations

import pytest

from benchmarks import convolutions
from benchmarks.convolutions import LAYERS, Layer

SMALL = (Layer("small", 8, 4, 6, 3), Layer("down", 8, 4, 6, 4, 2), Layer("phase", 8, 4, 3, 2, 1, (1, 0)))


def test_small_layers_are_measured_in_both_forms() -> None:
    found = list(convolutions.measured(SMALL, batch=2, rounds=2))
    assert [(line["what"], line["part"]) for line in found] == [
        (layer.what, part) for layer in SMALL for part in ("forward", "image", "kernel")
    ]
    assert all(line[form]["ms_p50"] > 0 for line in found for form in ("products", "autodiff"))
    rows = list(convolutions.table(found))
    assert len(rows) == 2 + len(SMALL) and "8² x 4, 4² to 6, stride 2" in rows[3]


def test_forms_that_disagree_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    right = convolutions.conv_products.conv2d
    monkeypatch.setattr(convolutions.conv_products, "conv2d", lambda *given: 1.001 * right(*given))
    with pytest.raises(RuntimeError, match="small, forward: the forms are 1.0e-03 apart"):
        list(convolutions.measured(SMALL[:1], batch=2, rounds=1))


def test_no_layer_is_listed_twice() -> None:
    assert len(set(LAYERS)) == len(LAYERS)
