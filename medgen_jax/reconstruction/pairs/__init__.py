"""From stacks of LED frames to pairs of phase and amplitude for training: ``reconstruct --pairs``.

* ``commands``: from what was typed to a folder of pairs, and what is said about it.
* ``plan``: which fields and colours there are, and which split each field is in.
* ``fields``: every field solved, the next one's stacks read meanwhile.
* ``shifts``, ``registered``: its colours on one grid, level phase, amplitudes in step, a mask.
* ``tiles``: where tiles lie, which values their levels stand for. ``writing``: the folder they go to, its list and
  metadata.
"""
