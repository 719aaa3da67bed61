"""A code is that of its number, whatever is drawn with it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.systems import numbered


def test_codes_are_those_of_the_numbers():
    key = jax.random.key(3)
    codes = numbered.codes(key, jnp.array([9, 2, 9]), (4,))
    assert codes.shape == (3, 4) and codes.dtype == jnp.float32
    np.testing.assert_array_equal(codes[0], jax.random.normal(jax.random.fold_in(key, 9), (4,)))
    np.testing.assert_array_equal(codes[0], codes[2])
    assert not np.any(codes[0] == codes[1])
    np.testing.assert_array_equal(numbered.codes(key, jnp.array([2]), (4,))[0], codes[1])
