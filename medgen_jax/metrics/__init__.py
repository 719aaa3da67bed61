"""Measures of generated images, as pure functions.

A measure that runs over a data set is four functions: ``init() -> acc``,
``accumulate(acc, ..., mask) -> acc``, ``merge(acc, acc) -> acc`` and ``compute(acc) -> {name: float}``.
Accumulators are small arrays of fixed shape whose merge is a sum, so shards, hosts and batches may
be combined in any order; ``accumulate`` and ``merge`` run under jit, ``compute`` on the host in
float64. Images are float32 NHWC in [-1, 1]. Feature networks are arguments, never imports.

Measures of feature sets (``frechet``, ``kernel``, ``manifold``) need float64 and stay on the host: their
accumulators are NumPy, and those that compare every pair take whole sets.

pairs of images    paired, ssim, structure, haarpsi, masked, colour (colour_difference), lpips
sets of features   frechet (FID), kernel (KID), manifold (precision, recall, density, coverage), memorisation/
sets of images     intensity, spectra; baselines, restoration: answers without a network
maps               anomaly (anomaly_maps), localisation, boxes, ranking (AUROC, AUPRC); attribution (CAM, Grad-CAM)
single images      focus: sharpness, one number per image
graded scores      severity: from residuals, by the number of labels; ridge
how sure           intervals, resampling
"""
