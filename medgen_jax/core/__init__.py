"""The ground floor: configuration, streams, array vocabulary, keys, trees, precision.

``config``, ``streams`` and ``errors`` need only the standard library and NumPy, so that the
``data`` room can use them without touching jax.
"""
