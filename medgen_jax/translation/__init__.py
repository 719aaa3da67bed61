"""Trained translators over users' files, of any size and kind: what the command ``translate`` does.

Imported by the command and by services; it joins data, samplers and pages.

* ``files``: images and folders in, images of the same kind out, and a page about them.
* ``tiles``: images larger than the training's, in overlapping tiles that agree in colour.
* ``slides``: whole slides, streamed into pyramids.
* ``outputs``: how an output is stored: as its input is. ``batching``: how many images fit into one call.
"""
