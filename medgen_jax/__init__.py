"""medgen_jax: medical-imaging generative systems as pure functions in JAX.

Importing this package costs nothing: every room below is imported by name.
Arrows between the rooms run one way:

    core <- ops <- {nn, losses, metrics, diffusion, fpm} <- systems <- engine <- mains

``data``, ``viz`` and ``interop`` hang beside and are joined in the mains.
"""

__version__ = "0.1.0"
