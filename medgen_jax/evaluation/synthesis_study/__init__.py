"""Runs that synthesise chest X-rays side by side, as the Med-StyleGAN2 paper has them: ``--study medstylegan2``.

``study`` joins the rest. ``subjects``: the runs and what is drawn of each; ``real``: the images of their data;
``draws`` and ``diversity``: images measured as they are drawn; ``table``: the paper's numbers. ``learned``: what the
paper lacks. ``judge``: a classifier of real images, ``lungs``: where it looks, ``transfer``: what its network learns
from drawn images. ``copies``: the audit. ``figure``, ``page`` and ``card``: what is left of it.
"""

from medgen_jax.evaluation.synthesis_study.study import Request, evaluate

__all__ = ["Request", "evaluate"]
