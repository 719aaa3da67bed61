"""Many names in one message."""

from __future__ import annotations

from medgen_jax.core.errors import listed


def test_the_first_names_and_the_number_of_the_others() -> None:
    assert listed([]) == ""
    assert listed(["a", "b", "c"]) == "a, b, c"
    assert listed(["a", "b", "c", "d"]) == "a, b, c and 1 more"
    assert listed([str(i) for i in range(2000)], most=1) == "0 and 1,999 more"
