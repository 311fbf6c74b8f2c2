"""Eight bits for a number: a quarter of the memory to go through, and how far that can be off.

A search goes through the codes (`scan.py`), so each segment says how far its rows can be from theirs.
"""

from __future__ import annotations

import faiss
import numpy as np
import numpy.typing as npt

from eventstore import Vector
from projections.scoring import LARGE, SMALL, Floats, Metric, rounding

__all__ = ["LEVELS", "Codes"]

LEVELS = 127
_ROWS_AT_ONCE = 1024
# New rows are coded with the scale that is there until their error grows to this many times what it was.
_TOLERATED = 1.3


def _longest(rows: npt.NDArray[np.floating]) -> float:
    """At least the largest Euclidean norm among rows whose squares neither overflow nor vanish."""
    largest = float(np.sqrt(np.einsum("ij,ij->i", rows, rows).max()))
    return largest * (1 + rounding(rows.shape[1], float(np.finfo(rows.dtype).eps)))


class Codes:
    """The codes of rows of a segment: a row is `scale * code`, number by number, but for a part of length `error`.

    For the cosine the rows at length 1 are coded. For l2 all dimensions have one scale, since FAISS takes differences
    of codes. `inverse` is `1 / scale`, 0 where that is; `size` bounds the rows' lengths, `code_size` those of their
    codes, which `index` holds for FAISS to go through.
    """

    def __init__(self, metric: Metric, dimension: int) -> None:
        self._metric = metric
        self._dimension = dimension
        self._scale_by(np.zeros(dimension))
        self.error = self.size = self.code_size = 0.0
        self._fresh_error = 0.0
        self.index = self._new_index()

    def _new_index(self) -> faiss.IndexScalarQuantizer:
        kind = faiss.METRIC_L2 if self._metric == "l2" else faiss.METRIC_INNER_PRODUCT
        return faiss.IndexScalarQuantizer(self._dimension, faiss.ScalarQuantizer.QT_8bit_direct_signed, kind)

    @property
    def rows(self) -> int:
        """How many rows are coded."""
        return int(self.index.ntotal)

    @property
    def codes(self) -> npt.NDArray[np.uint8]:
        """The codes, 128 added, shape `(rows, dimension)`: a view, good until the next `add`."""
        flat = faiss.rev_swig_ptr(self.index.codes.data(), self.rows * self._dimension) if self.rows else None
        if flat is None:
            return np.empty((0, self._dimension), dtype=np.uint8)
        view: npt.NDArray[np.uint8] = flat.reshape(self.rows, self._dimension)
        return view

    def _scale_by(self, scale: Floats) -> None:
        self.scale = scale
        self.inverse: Floats = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)

    @classmethod
    def of(cls, metric: Metric, vectors: Vector, norms: Floats) -> Codes:
        """Code rows with the scale that suits them: a function of these rows alone."""
        made = cls(metric, vectors.shape[1])
        largest = np.zeros(vectors.shape[1])
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            block = made._block(vectors, norms, start)
            np.maximum(largest, np.maximum(block.max(axis=0), -block.min(axis=0)), out=largest)
        # Numbers a millionth of the largest ones' size decide nothing: their scale need not be theirs.
        least = float(largest.max()) * (1.0 if metric == "l2" else 1e-6)
        made._scale_by(np.maximum(largest, least) / LEVELS)
        made.add(vectors, norms)
        made._fresh_error = made.error
        return made

    @classmethod
    def empty(cls, metric: Metric, dimension: int, rows: int) -> Codes:
        """Room for so many rows: `codes` is to be filled, and `restore` called, with what a checkpoint holds."""
        made = cls(metric, dimension)
        made.index.codes.resize(rows * dimension)
        made.index.ntotal = rows
        return made

    def restore(self, scale: Floats, error: float, size: float, code_size: float) -> None:
        """Take the scale and the bounds of codes that were read from a checkpoint."""
        self._scale_by(scale)
        self.error, self.size, self.code_size = error, size, code_size
        self._fresh_error = error

    @property
    def loose(self) -> bool:
        """Whether rows that did not fit into the scale have made the bound of all much worse than it need be."""
        return self.error > _TOLERATED * self._fresh_error

    def add(self, vectors: Vector, norms: Floats) -> None:
        """Code the next rows; numbers outside of the scale are cut off, which the bound of the error then tells."""
        inverse = self.inverse
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            block = self._block(vectors, norms, start)
            if inverse.max() > LARGE**2:
                block = block.astype(np.float64)
            numbers = block * inverse.astype(block.dtype)
            np.rint(numbers, out=numbers)
            np.clip(numbers, -LEVELS, LEVELS, out=numbers)
            left = numbers * self.scale.astype(block.dtype)
            left -= block
            size, error = _longest(block), _longest(left)
            # The roundings of a row at length 1, of the code times its scale, and of their difference.
            slack = 8 * float(np.finfo(block.dtype).eps) * (size + error)
            self.size = max(self.size, size + slack)
            self.error = max(self.error, error + slack)
            self.code_size = max(self.code_size, _longest(numbers))
            numbers += 128
            self.index.add_sa_codes(numbers.astype(np.uint8))

    def only(self, rows: npt.NDArray[np.int64]) -> faiss.IndexScalarQuantizer:
        """The codes of some rows, for FAISS to go through no others."""
        index = self._new_index()
        index.add_sa_codes(self.codes[rows])
        return index

    def misses(self, vectors: Vector, norms: Floats) -> npt.NDArray[np.int64]:
        """The coded rows that are further from these vectors, or longer, than the bounds say; `norms` are theirs."""
        missed = []
        for start in range(0, self.rows, _ROWS_AT_ONCE):
            block = self._block(vectors, norms, start).astype(np.float64)
            numbers = self.codes[start : start + _ROWS_AT_ONCE].astype(np.float64) - 128
            errors = np.linalg.norm(block - numbers * self.scale, axis=1)
            within = (errors <= self.error * (1 + 1e-6)) & (np.linalg.norm(block, axis=1) <= self.size * (1 + 1e-6))
            within &= np.linalg.norm(numbers, axis=1) <= self.code_size * (1 + 1e-6)
            missed.append(start + np.flatnonzero(~within))
        return np.concatenate(missed) if missed else np.empty(0, dtype=np.int64)

    def _block(self, vectors: Vector, norms: Floats, start: int) -> npt.NDArray[np.floating]:
        """Some rows as they are coded, in float32 where their sizes allow, else in float64."""
        block = vectors[start : start + _ROWS_AT_ONCE]
        sizes = norms[start : start + _ROWS_AT_ONCE]
        if self._metric == "cosine":
            inverse = np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 0)
            if inverse.min() > SMALL and inverse.max() < LARGE:
                return block * inverse[:, None].astype(np.float32)
            return block.astype(np.float64) * inverse[:, None]
        if sizes.min() > SMALL and sizes.max() < LARGE:
            return block
        return block.astype(np.float64)
