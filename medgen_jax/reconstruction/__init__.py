"""From a stack of frames on disk to amplitude and phase on disk: the command ``reconstruct``.

It joins readers, solvers and pictures.

* ``description``: ``optics.yaml``: the microscope, how the stack is stored, how it is solved.
* ``stacks``: a stack that fits its description; what is odd about the two, in words.
* ``calibrating``: what a stack says about its description, used and written down.
* ``results``: the files that are written, and the numbers.
* ``pictures``: the panel of a reconstruction, and the preview before it.
* ``commands``: from what was typed to all of these.
* ``demo``: the stack that ships with the package.
* ``pairs``: pairs of phase and amplitude out of many stacks, for training.
"""
