"""Weights from and to the file layouts of other projects, and exported samplers.

A layout module turns a flat ``{name: array}`` dictionary into parameters and statistics of one of our
networks and back, with NumPy alone. Reading a PyTorch file is the only place that needs PyTorch, which
is imported when it happens.
"""
