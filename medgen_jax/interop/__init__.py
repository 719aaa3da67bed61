"""Weights from and to the file layouts of other projects, the store of pretrained ones, and exported samplers.

A layout module turns a flat ``{name: array}`` dictionary into parameters and statistics of one of our
networks and back, with NumPy alone. Reading a PyTorch file is the only place that needs PyTorch, which
is imported when it happens.

Pretrained networks of the metrics: ``weight_store`` says which there are and where, ``download`` fetches,
``weight_archives`` converts (``inert_pickles`` reads without executing), ``packs`` is the format they are kept
in. ``artifact`` holds exported samplers.
"""
