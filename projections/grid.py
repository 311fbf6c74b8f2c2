"""One scale for the codes of many segments, in whole numbers, so that what is computed with them has no rounding.

A row is about `scale * numbers`, number by number, with numbers from -127 to 127. Products of whole numbers that stay
below 2**24 are exact in float32, in any order of summation: whatever processor, library and number of threads work
them out, the bits are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from eventstore import Vector
from projections.codes import Codes
from projections.scoring import Floats, Metric, norms_of

__all__ = ["LEVELS", "Bytes", "Grid", "unpacked"]

Bytes = npt.NDArray[np.uint8]

LEVELS = 127
_ROWS_AT_ONCE = 1024
# Half of what float32 holds exactly: the other half is for rounding the numbers themselves.
_EXACT = 2.0**23
# A segment fits where at most so large a part of its length is lost.
_TOLERATED = 0.1
# Keeps numbers finite where one scale is immensely larger than another.
_LARGEST_RATIO = 1e6


def unpacked(codes: Bytes) -> Vector:
    """The whole numbers that codes stand for."""
    return codes.astype(np.float32) - np.float32(128)


class Grid:
    """A scale, and rows and queries brought to it."""

    def __init__(self, metric: Metric, scale: Floats) -> None:
        self.metric: Metric = metric
        self.scale = scale

    @classmethod
    def of(cls, metric: Metric, coded: Sequence[Codes]) -> Grid:
        """The grid that suits these segments: none of their numbers lies outside."""
        return cls(metric, np.maximum.reduce([codes.scale for codes in coded]))

    def over(self, values: Floats) -> Floats:
        """`values / scale`, 0 where the scale is."""
        return np.divide(values, self.scale, out=np.zeros_like(values), where=self.scale > 0)

    def recoded(self, codes: Codes, rows: npt.NDArray[np.int64] | None = None) -> tuple[Bytes, bool]:
        """Codes of a segment, or of some of its rows, on this grid; and whether the grid is fine and wide enough."""
        ratio = np.minimum(self.over(codes.scale), _LARGEST_RATIO).astype(np.float32)
        held = codes.codes if rows is None else codes.codes[rows]
        made = np.empty(held.shape, dtype=np.uint8)
        lost = length = 0.0
        for start in range(0, len(held), _ROWS_AT_ONCE):
            exact = unpacked(held[start : start + _ROWS_AT_ONCE])
            exact *= ratio
            numbers = np.rint(exact)
            np.clip(numbers, -LEVELS, LEVELS, out=numbers)
            made[start : start + _ROWS_AT_ONCE] = numbers + np.float32(128)
            length += _square_sum(exact)
            exact -= numbers
            lost += _square_sum(exact)
        return made, lost <= _TOLERATED**2 * length

    def weights(self, vectors: Floats) -> tuple[Vector, float]:
        """Whole numbers and a step: a row's numbers times these, times the step, is about its product with a vector.

        Shape `(n, dimension)`; all have the same step. Their products with rows are exact in float32.
        """
        scaled = vectors * self.scale
        # No row is longer than 127 times the root of the dimension.
        longest = _EXACT / (LEVELS * np.sqrt(len(self.scale)))
        step = float(norms_of(scaled).max(initial=0.0)) / longest or 1.0
        return np.rint(scaled / step).astype(np.float32), step

    def asked(self, vector: Floats) -> tuple[Vector, float]:
        """The same of one vector, in numbers from -127 to 127: FAISS makes bytes of a query too."""
        if self.metric == "l2":
            return self.numbers(vector), float(self.scale.max())
        scaled = vector * self.scale
        step = float(np.abs(scaled).max()) / LEVELS or 1.0
        return np.rint(scaled / step).astype(np.float32), step

    def numbers(self, vectors: Floats) -> Vector:
        """Whole numbers of rows on this grid, cut off at its ends."""
        return np.clip(np.rint(self.over(vectors)), -LEVELS, LEVELS).astype(np.float32)


def _square_sum(block: Vector) -> float:
    # Rounded to whole numbers: a sum of those is the same in any order.
    return float(np.rint(block * block * np.float32(2**16)).sum(dtype=np.float64))
