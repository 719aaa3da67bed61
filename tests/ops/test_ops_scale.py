"""Integer samples to [-1, 1] and back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.ops.scale import from_unit, to_unit


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_round_trip_is_exact_for_every_value(dtype: type, jit: bool) -> None:
    values = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    there, back = (jax.jit(to_unit), jax.jit(from_unit, static_argnums=1)) if jit else (to_unit, from_unit)
    unit = there(jnp.asarray(values))
    assert unit.dtype == jnp.float32
    again = back(unit, dtype)
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize(("dtype", "white"), [(jnp.uint8, 255), (jnp.uint16, 65535)])
def test_ends_and_middle_by_hand(dtype: type, white: int) -> None:
    unit = to_unit(jnp.array([0, white // 2, white], dtype))
    np.testing.assert_allclose(unit, [-1, -1 / white, 1], atol=1e-7)


def test_values_beyond_the_range_are_clipped_and_halves_rounded() -> None:
    x = jnp.array([-7.0, -1.0001, -1 + 0.6 / 127.5, -1 + 0.4 / 127.5, 1.5])
    np.testing.assert_array_equal(from_unit(x, jnp.uint8), [0, 0, 1, 0, 255])
    np.testing.assert_array_equal(from_unit(x, jnp.uint16)[jnp.array([0, 4])], [0, 65535])


def test_floats_pass_as_float32() -> None:
    x = jnp.array([-1.0, 0.25, 3.0], jnp.bfloat16)
    assert to_unit(x).dtype == jnp.float32
    np.testing.assert_array_equal(to_unit(x), [-1.0, 0.25, 3.0])


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.uint32])
def test_other_dtypes_are_refused(dtype: type) -> None:
    with pytest.raises(UserError, match=f"dtype {jnp.dtype(dtype)}: expected uint8, uint16"):
        to_unit(jnp.zeros(3, dtype))
    with pytest.raises(UserError, match="expected uint8, uint16"):
        from_unit(jnp.zeros(3), dtype)
