"""One file per family of image formats; `medgen_jax.data.images` is their face.

samples   what is read from a file: headers, ranges, views; levels and physical values
storage   how samples lie in a file, and how large its pixels are
budget    how much a file may ask for, checked before anything is decoded
raster    PNG, JPEG, BMP              tiff      TIFF; tiff_segments: its strips and tiles
dicom     data sets and greyscales    dicom_frames, codestream: pixels of one frame; dicom_write
arrays    NPY, NPZ                    matlab, hdf5: the other containers of arrays
slide     what readers of whole slides share: slide_tiff (tiled pyramids), slide_scanner (OpenSlide)
ome_tiff  the writer of pyramids; tiff_directory: the entries of a TIFF page

A format is two functions, ``describe(source, view) -> Described``, from the header alone, and
``decode(source, view) -> levels``, and may raise anything on a bad file: the face names the file.
"""
