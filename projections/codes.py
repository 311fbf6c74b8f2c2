"""Eight bits for a number: a quarter of the memory to go through, and how far that can be off.

FAISS goes through the codes; what it finds is only a proposal, since each score comes with the bound of its error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from eventstore import Vector
from projections.scoring import LARGE, SMALL, Floats, Metric, Query, Scored, distance_bounds, rounding

__all__ = ["Codes", "Mask"]

Mask = npt.NDArray[np.bool_]

_LEVELS = 127
_ROWS_AT_ONCE = 1024
# New rows are coded with the scale that is there until their error grows to this many times what it was.
_TOLERATED = 1.3
# Where such a share of the rows passes, going through all of them costs no more than FAISS's look at each. So many more
# are looked for than would do if those that pass lay evenly.
_MOST_PASS = 0.75
_WIDER = 32


@dataclass(frozen=True, slots=True)
class _Asked:
    """A query in whole numbers: `step` times them is the query times the scale, but for a part of size `error`.

    `length` is the numbers' norm.
    """

    numbers: Floats
    step: float
    error: float
    length: float


def _length(numbers: Floats) -> float:
    return math.sqrt(float(numbers.dot(numbers)))


def _inverse_of(scale: Floats) -> Floats:
    """`1 / scale`, 0 where that is."""
    return np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)


def _longest(rows: npt.NDArray[np.floating]) -> float:
    """At least the largest Euclidean norm among rows whose squares neither overflow nor vanish."""
    largest = float(np.sqrt(np.einsum("ij,ij->i", rows, rows).max()))
    return largest * (1 + rounding(rows.shape[1], float(np.finfo(rows.dtype).eps)))


class Codes:
    """The codes of rows of a segment: a row is `scale * code`, number by number, but for a part of length `error`.

    For the cosine the rows at length 1 are coded. For l2 all dimensions have one scale, since FAISS takes differences
    of codes.
    """

    def __init__(self, metric: Metric, dimension: int) -> None:
        self._metric = metric
        self._dimension = dimension
        self.scale: Floats = np.zeros(dimension)
        self._inverse: Floats | None = None  # made by the first search, once the scale is settled
        self.error = self.size = self.code_size = 0.0
        self._fresh_error = 0.0
        self._index = self._new_index()

    def _new_index(self) -> faiss.IndexScalarQuantizer:
        kind = faiss.METRIC_L2 if self._metric == "l2" else faiss.METRIC_INNER_PRODUCT
        return faiss.IndexScalarQuantizer(self._dimension, faiss.ScalarQuantizer.QT_8bit_direct_signed, kind)

    @property
    def rows(self) -> int:
        """How many rows are coded."""
        return int(self._index.ntotal)

    @property
    def codes(self) -> npt.NDArray[np.uint8]:
        """The codes, 128 added, shape `(rows, dimension)`: a view, good until the next `add`."""
        flat = faiss.rev_swig_ptr(self._index.codes.data(), self.rows * self._dimension) if self.rows else None
        if flat is None:
            return np.empty((0, self._dimension), dtype=np.uint8)
        view: npt.NDArray[np.uint8] = flat.reshape(self.rows, self._dimension)
        return view

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
        made.scale = np.maximum(largest, least) / _LEVELS
        made.add(vectors, norms)
        made._fresh_error = made.error
        return made

    @classmethod
    def empty(cls, metric: Metric, dimension: int, rows: int) -> Codes:
        """Room for so many rows: `codes` is to be filled, and `restore` called, with what a checkpoint holds."""
        made = cls(metric, dimension)
        made._index.codes.resize(rows * dimension)
        made._index.ntotal = rows
        return made

    def restore(self, scale: Floats, error: float, size: float, code_size: float) -> None:
        """Take the scale and the bounds of codes that were read from a checkpoint."""
        self.scale, self.error, self.size, self.code_size = scale, error, size, code_size
        self._fresh_error = error

    @property
    def loose(self) -> bool:
        """Whether rows that did not fit into the scale have made the bound of all much worse than it need be."""
        return self.error > _TOLERATED * self._fresh_error

    def add(self, vectors: Vector, norms: Floats) -> None:
        """Code the next rows; numbers outside of the scale are cut off, which the bound of the error then tells."""
        inverse = _inverse_of(self.scale)
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            block = self._block(vectors, norms, start)
            if inverse.max() > LARGE**2:
                block = block.astype(np.float64)
            numbers = block * inverse.astype(block.dtype)
            np.rint(numbers, out=numbers)
            np.clip(numbers, -_LEVELS, _LEVELS, out=numbers)
            left = numbers * self.scale.astype(block.dtype)
            left -= block
            size, error = _longest(block), _longest(left)
            # The roundings of a row at length 1, of the code times its scale, and of their difference.
            slack = 8 * float(np.finfo(block.dtype).eps) * (size + error)
            self.size = max(self.size, size + slack)
            self.error = max(self.error, error + slack)
            self.code_size = max(self.code_size, _longest(numbers))
            numbers += 128
            self._index.add_sa_codes(numbers.astype(np.uint8))

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

    def search(self, queries: Sequence[Query], most: int, selected: Mask | None, count: int) -> list[Scored]:
        """For each query the best `most` of the selected rows by their codes.

        `selected` is None for all rows; `count` says how many are selected.
        """
        asked = [self._asked(query) for query in queries]
        most = min(most, count)
        if selected is None or count < _MOST_PASS * self.rows:
            return self._best(queries, asked, most, selected, count)
        wide = min(self.rows, math.ceil(most * self.rows / count) + _WIDER)
        found = self._best(queries, asked, wide, None, self.rows)
        for place, some in enumerate(found):
            kept = selected[some.rows]
            if np.count_nonzero(kept) >= most:
                found[place] = Scored(some.rows[kept], some.lower[kept], some.upper[kept], some.rest)
            else:  # the nearest are among those that do not pass
                one = slice(place, place + 1)
                (found[place],) = self._best(queries[one], asked[one], most, selected, count)
        return found

    def _best(
        self, queries: Sequence[Query], asked: Sequence[_Asked], most: int, selected: Mask | None, count: int
    ) -> list[Scored]:
        parameters = None
        if selected is not None:
            bitmap = np.packbits(selected, bitorder="little")
            selector = faiss.IDSelectorBitmap(bitmap)  # type: ignore[call-arg, arg-type]
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        numbers = np.array([one.numbers for one in asked], dtype=np.float32)
        scores, rows = self._index.search(numbers, most, params=parameters)
        found = []
        for query, one, some, its in zip(queries, asked, scores.astype(np.float64), rows.astype(np.int64), strict=True):
            lower, upper = self._bounds(query, one, some)
            found.append(Scored(its, lower, upper, float(upper[-1]) if most < count else float("-inf")))
        return found

    def _asked(self, query: Query) -> _Asked:
        if self._metric == "l2":
            step = float(self.scale[0]) or 1.0
            numbers = np.rint(query.wide / step)
            np.clip(numbers, -_LEVELS, _LEVELS, out=numbers)
            left = query.wide - numbers * step
        else:
            if self._inverse is None:
                self._inverse = _inverse_of(self.scale)
            scaled = query.wide * self.scale
            step = max(float(scaled.max()), -float(scaled.min())) / _LEVELS or 1.0
            numbers = np.rint(scaled / step)
            left = (scaled - numbers * step) * self._inverse
        return _Asked(numbers, step, _length(left), _length(numbers))

    def _bounds(self, query: Query, asked: _Asked, found: Floats) -> tuple[Floats, Floats]:
        """Ends of the exact scores, from FAISS's.

        q.x = (q + dq).(x + dx) with the errors dq of the query and dx of the row: off by at most |q||dx| + |dq||x + dx|
        (Cauchy and Schwarz). FAISS sums whole numbers: exactly up to 2**24, and rounded like any floats past that.
        """
        relative = rounding(self._dimension, 2.0**-24)
        if self._metric == "l2":
            distances = np.sqrt(found) * asked.step
            return distance_bounds(distances, (self.error + asked.error) * (1 + 1e-9) + relative * distances)
        scores = found * asked.step
        coded = asked.length * self.code_size * asked.step
        slack = (query.norm * self.error + asked.error * (self.size + self.error)) * (1 + 1e-9) + relative * coded
        return scores - slack, scores + slack
