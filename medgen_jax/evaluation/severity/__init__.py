"""Scores learned from residuals, beside an encoder and by the number of scored patients.

``study`` joins the rest. ``residuals``: the images that have both a residual and a score; ``numbers``: numbers with
intervals; ``page``: what is shown.
"""

from medgen_jax.evaluation.severity.study import Request, evaluate

__all__ = ["Request", "evaluate"]
