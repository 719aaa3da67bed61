"""Pure array functions without parameters: convolutions, intensity scaling, colour, filters, FFTs.

Arrays in, arrays out; needs jax alone. Images are NHWC. Nothing here is jitted, so everything composes
under ``jit``, ``grad``, ``vmap`` and ``jax.export``.
"""
