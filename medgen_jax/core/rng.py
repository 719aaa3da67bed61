"""Keys by name, so that adding a consumer never changes what the others draw."""

from __future__ import annotations

import zlib

import jax


def named(key: jax.Array, *names: str) -> dict[str, jax.Array]:
    """One independent key per name; a name's key depends on nothing but ``key`` and the name."""
    return {name: jax.random.fold_in(key, zlib.crc32(name.encode())) for name in names}
