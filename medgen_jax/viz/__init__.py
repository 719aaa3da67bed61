"""Pictures of runs and results: image grids, curves as SVG, HTML pages, panels of reconstructions.

NumPy and Pillow, matplotlib for panels; nothing here touches jax, the network or a system.
"""
