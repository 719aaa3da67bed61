"""What a data set holds and what is odd about it, gathered without stopping at the first fault.

findings     one remark each         columns       image columns to look at, whatever they are stored in
folders      directories, leniently  manifests     CSV files, leniently
measures     one image in numbers    containers    what a file says beside its pixels
likeness     copies and near copies  registration  how far the images of a pair are shifted
survey       numbers of all columns  rules         numbers -> findings
pictures     which images to show    glance        the two-second form at the start of a run

NumPy, Pillow and tifffile only. No patient, and no name of a DICOM file or CSV cell, enters a finding.
"""
