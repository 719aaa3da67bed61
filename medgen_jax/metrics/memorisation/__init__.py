"""Does a generator emit its training images? Measures of copying, and how far each can be trusted here.

``thumbnails`` makes small images comparable pixel by pixel, ``neighbours`` finds nearest ones exactly.
``sets`` holds generated, training and held-out images with their patients; ``measures`` and
``data_copying`` are the measures, ``planting`` tries each on planted copies, and ``audit`` joins all of it into
one report with a verdict.
"""
