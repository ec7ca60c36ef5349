"""Weights that others published: recognised by their names and shapes, and converted."""
