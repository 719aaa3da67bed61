"""Images from files to batches, on the host. Nothing in this room imports jax.

images      files <-> HWC arrays            layouts     which file belongs where
tables      random-access records           prepared    TFDS ArrayRecord sets; manifest: their checksums
sources     config.data -> tables           checks      refuse unfit data from headers
transforms  crops, flips, turns             pipeline    tables -> training and evaluation batches
builders/   write prepared sets             isl/        a small real data set (see its README)
"""
