"""Diffusion as pure functions: noise schedules, the forward and reverse process, guidance, samplers, inversion.

No network is known here. Wherever one is needed it arrives as ``denoise(x, t, condition)``:

* ``x``: (B, H, W, C) float32, noisy images;
* ``t``: (B,) int32, steps of the process the network was trained on, whatever grid is walked;
* ``condition``: any pytree of arrays with leading axis B, such as a class and a view, or None;
* result: (B, H, W, C), or (B, H, W, 2C) where the network also learns the variance (its last C channels).

Samplers and inversions take it inside a `samplers.Model`, beside the schedule whose nodes they walk, and are one
``lax.scan`` each. Nothing here is jitted, so that a sampler built from these functions compiles as one program.
"""
