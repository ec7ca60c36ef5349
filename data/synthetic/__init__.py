"""The embedded shapes: parametric objects of 16 classes."""
