"""Trained runs over users' images and over splits of their own data: the command ``counterfactual``.

It joins readers, runs, samplers and pages.

* ``runs``: a trained diffusion model, alone or with the classifier that guides it, checked before anything compiles.
* ``request``: what is asked for, checked against the run.
* ``inputs``: which images, and what is known about each. ``latents``: encoded images, kept for the next call.
* ``diffusion``, ``cycle``: what makes counterfactuals: a diffusion model, or both ways of a CycleGAN.
* ``made``: what they have in common. ``files``: the folder of results, its pictures and its page.
* ``commands``: from what was typed to all of these.
"""
