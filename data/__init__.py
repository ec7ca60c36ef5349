"""What a sample is: meshes, cameras, rendering, visibility, sampling, data sets, the bank."""
