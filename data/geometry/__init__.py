"""Shapes as numbers: meshes, clouds, their files, points on surfaces."""
