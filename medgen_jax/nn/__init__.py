"""Flax Linen modules: one file per architecture, parts they share in ``blocks``.

Modules are frozen descriptions; parameters stay outside. Images are NHWC in [-1, 1]. Parameters,
statistics and outputs are float32; ``dtype`` is what convolutions compute in. Networks with norms take
``stats`` at the call (see `medgen_jax.nn.blocks.Norm`).
"""
