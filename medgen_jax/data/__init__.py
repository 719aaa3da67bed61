"""Images from files to batches, on the host. Nothing in this room imports jax.

images      files <-> HWC arrays (formats/) listing     the records of a split, no file opened
layouts     folders -> listings             csv_manifest, csv_rows: CSV files -> listings
splits      by patient; overlaps            fence       whether a file lies inside a folder
tables      random-access records           prepared    TFDS ArrayRecord sets; manifest: their checksums
sources     config.data -> tables           checks      refuse unfit data from headers
transforms  crops, flips, turns             pipeline    tables -> training and evaluation batches
domains     classes as unpaired domains     slides      whole slides, read region by region
counterfactual_folders   images, counterfactuals and scores: written by one command, read by others
led_stacks               frames of a microscope, one per LED: MAT, HDF5, NPZ, TIFF, folders; read in parts
severity_scores          graded scores of images, from RALO or a CSV file
builders/   write prepared sets             inspection/ what a set holds, and what is odd about it
isl/        a small real data set (see its README); hololab/: a small real LED stack
"""
