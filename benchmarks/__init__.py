"""Measurements, each a command run from the project's root. Every line of results is one JSON object.

``run``             training steps and samplers of all systems, beside PyTorch and beside the machine's limits
``input_pipeline``  records from memory or disk to the device, apart from the step and together with it
``first_step``      from the start of Python to the first step, with and without the compile cache
``counterfactual``  images encoded and decoded by diffusion, beside PyTorch
``fpm``             Fourier ptychography, beside SciPy
``fpm_simulation``  what it gives back of a known object, by every solver
``convolutions``    convolutions' derivatives, as matrix products and as XLA makes them
``scaling``         what devices tell each other in a step, and what that costs on paper
``papers``          from those lines: hours for the papers' epoch counts, as a table
``gpu.sh``          all of it on a machine with a GPU, in slices of under ten minutes
``stain``           stain normalisers beside NumPy and PyTorch
``stain_claim``     whether normalising stains helps a classifier in another laboratory

``cases`` says what is measured, ``ours``, ``player`` and ``partners/`` how each side is run, ``timing``, ``machine``,
``operations`` and ``collectives`` with what it is compared, ``lines`` how results are kept. Dated tables stand in
``results/``. The PyTorch side (`pip install '.[torch]'`) is left out where torch is missing.
"""

import os
import pathlib
import sys

from medgen_jax.engine import heap

# While Python looks for the module of ``python -m benchmarks.NAME``, which has not imported jax yet.
if sys.argv[0] == "-m":
    heap.keep_freed(os.environ)

#: The PyTorch twins live with the tests, which hold them to the same numbers.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "tests"))
