"""The PyTorch side: the same training steps and samplers over the twins, one module per system.

Each module has ``networks(config)`` (modules by name), ``records(config, batch, rng)`` (NCHW arrays by name),
``train_step(networks)`` and ``sampler(networks)`` (functions of such records), written as a PyTorch programmer would.
`variants` runs them eager or compiled, in either memory layout, in float32 or bfloat16. `epry` is NumPy and SciPy.
"""
