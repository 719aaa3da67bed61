"""Folders of counterfactuals side by side, each a row of the same tables.

``study`` joins the rest. ``measures``: one pass over the images; ``statistics``: numbers with intervals; ``judge``: a
classifier that is asked before and after; ``localisation`` and ``maps``: residuals and boxes; ``page``: the tables;
``pictures``: examples.
"""

from medgen_jax.evaluation.counterfactuals.study import Request, evaluate

__all__ = ["Request", "evaluate"]
