"""The inner loops: indices on point clouds and the visible maximum, three times over.

``plain`` is tensor code for any device, the reference. ``cpu`` (numba) and ``cuda`` (Triton) have
the same functions and return the same indices, ties included. ``choice`` says which of them serves
a device, and ``ops`` makes one PyTorch operator of each function. The public functions, which say
what is computed, are in :mod:`models.pointops` and :mod:`models.projection`.
"""
