"""What a camera sees: rays at meshes, splats of clouds, hidden points."""
