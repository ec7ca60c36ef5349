"""The inner loops: indices on point clouds, their matching, maxima over views, sums over edges.

``plain`` is tensor code for any device, the reference. ``cpu`` (numba) has the same functions with
the same results, ties included, and so has ``cuda`` (Triton) as far as it is faster than tensor
code. ``choice`` says which of them serves a device, and ``ops`` makes one PyTorch operator of each
function. The public functions, which say what is computed, are in :mod:`models.layers.pointops`,
:mod:`models.layers.edges`, :mod:`models.terms.alignment` and :mod:`models.losses`.
"""
