"""Point encoders, one file per network, with its segmentation form."""
