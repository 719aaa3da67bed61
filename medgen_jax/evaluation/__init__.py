"""Judging generators and classifiers: numbers with intervals, fingerprints that say what they may be compared with.

The room joins data, metrics, networks, samplers and pages; only commands import it, ``evaluate`` and ``severity``. From
above:

* ``sets``: folders of generated and of real images. ``runs``: a trained run on a split of its data.
  ``noise``: the same under noise on the source images. ``classes``: a run that answers with classes; ``answers``: its
  numbers; ``labelled``: its records. ``validated``: a run by its system's own evaluators.
* ``counterfactuals``: folders of counterfactuals side by side. ``severity``: scores learned from residuals.
  ``synthesis_study``: runs that synthesise X-rays side by side.
* ``measures``: the table of metrics. An entry says what a metric needs, how it is computed and which direction is
  better: ``distances`` of feature sets, ``pairs`` of images, ``memorisation``. A new metric is one more entry.
* ``numbers``: entries of ``metrics.json`` from what was measured. ``scores``: one number with its interval.
  ``fingerprint``: the conditions of a number, and what makes two incomparable. ``comparison``: this evaluation against
  an earlier one. ``results``: the files that are left.
* ``folders``: images of a folder, and how they become 8-bit RGB. ``splits``: records of a run. ``subject``: its
  sampler, records and targets. ``translator``: the sampler over the records. ``features``: images -> feature
  vectors. ``devices``: functions of batches, on all local devices.
* ``cache``: features of folders seen before. ``references``: reference statistics in a file. ``networks``: pretrained
  networks by name. ``extremes``: worst and best examples. ``settings``: what the user chooses.
  ``forms``: which flags of the command go together.

Networks come as `medgen_jax.pretrained.Pretrained` and images as arrays, so that a study (of noise, of another network)
calls the same functions with other images or another network.
"""
