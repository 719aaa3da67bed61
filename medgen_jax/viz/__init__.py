"""Pictures of a run: image grids, curves as SVG, the HTML report.

NumPy and Pillow only; nothing here touches jax, the network or a system.
"""
