"""The innermost loop of a maximum over rows, for loops that numba compiles and that choose rows."""

from __future__ import annotations

from models.kernels.compiled import inlined


@inlined
def raise_to_four(highest, who, rows, numbers):
    """Raise ``highest`` (C,) to four ``rows``, each (C,); ``who`` (C,) int32 is the number of the
    row that each maximum comes from.

    Only what is larger takes a place, so of equal rows the first keeps it, and a row that is
    repeated to fill the four changes nothing.
    """
    x0, x1, x2, x3 = rows
    who0, who1, who2, who3 = numbers
    for c in range(len(highest)):
        high, from_ = highest[c], who[c]
        from_ = who0 if x0[c] > high else from_
        high = x0[c] if x0[c] > high else high
        from_ = who1 if x1[c] > high else from_
        high = x1[c] if x1[c] > high else high
        from_ = who2 if x2[c] > high else from_
        high = x2[c] if x2[c] > high else high
        from_ = who3 if x3[c] > high else from_
        high = x3[c] if x3[c] > high else high
        highest[c], who[c] = high, from_
