"""Images out of trained generators, in bulk: what ``python -m medgen_jax.sample`` does.

Imported by the command and by services; it joins runs, files and pictures.

* ``commands``: from what was asked to a folder of images; everything is checked before weights are read.
* ``runs``: whose sampler draws. ``values``: what it is told beside the numbers of its images.
* ``plan``: which images there are to be, and what their files are called. ``folder``: what is there already.
* ``drawing``: compiled batches of one size, on all devices. ``writing``: files, written while the next batch is drawn.
* ``png``: pixels and where they come from. ``sheet``, ``walk``: pictures of the result.
"""
