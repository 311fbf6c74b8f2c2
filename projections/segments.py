"""Vectors in FAISS, in segments of a fixed number of rows.

Only the last segment grows; the others never change, so adding never copies the whole index, and a checkpoint
writes only what is new. Rows hold the history's vectors bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from eventstore import Vector
from projections.scoring import Floats, Metric, norms_of

__all__ = ["SEGMENT_ROWS", "Approximate", "Segment", "Segments"]

SEGMENT_ROWS = 16_384

# Rows this close to unit length are compared by cosine as they are; others need a normalised copy.
_UNIT_TOLERANCE = 1e-3

# Below this share of a segment's rows a product of the gathered rows costs less than FAISS with a bitmap.
_GATHER_SHARE = 0.05

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Approximate:
    """Candidates of one segment: rows and float32 scores, widened; what was left out scores at most `rest`."""

    rows: Rows
    scores: Floats
    rest: float


class Segment:
    """Consecutive rows of an index."""

    def __init__(self, metric: Metric, dimension: int) -> None:
        self._metric = metric
        self._dimension = dimension
        self._flat = self._new_flat()
        # Normalised copies of the rows, for FAISS to search by cosine; only where the rows are not of unit length.
        self._unit: faiss.IndexFlat | None = None
        self._norms = np.empty(0, dtype=np.float64)
        self.unit_error = 0.0
        self.largest_norm = 0.0

    def _new_flat(self) -> faiss.IndexFlat:
        return faiss.IndexFlatL2(self._dimension) if self._metric == "l2" else faiss.IndexFlatIP(self._dimension)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self._flat.ntotal)

    @property
    def vectors(self) -> Vector:
        """The rows as they were recorded, shape `(rows, dimension)`: a view, good until the next `add`."""
        if not self.rows:
            return np.empty((0, self._dimension), dtype=np.float32)
        flat = faiss.rev_swig_ptr(self._flat.get_xb(), self.rows * self._dimension)
        view: Vector = flat.reshape(self.rows, self._dimension)
        return view

    @property
    def norms(self) -> Floats:
        """Euclidean norms of the rows."""
        return self._norms

    def largest_norm_of(self, selected: Mask | None) -> float:
        """The largest norm among the selected rows; None for all."""
        if selected is None or self._metric == "cosine":
            return self.largest_norm
        return float(self._norms[selected].max(initial=0.0))

    def add(self, vectors: Vector) -> None:
        """Append rows."""
        norms = norms_of(vectors)
        self._flat.add(vectors)
        self._norms = np.concatenate([self._norms, norms])
        self.largest_norm = max(self.largest_norm, float(norms.max(initial=0.0)))
        if self._metric == "cosine":
            if self._unit is None:
                error = max(self.unit_error, float(np.abs(norms - 1).max(initial=0.0)))
                if error <= _UNIT_TOLERANCE:
                    self.unit_error = error
                    return
                self.unit_error = 0.0
                self._unit = self._new_flat()
                vectors, norms = self.vectors, self._norms
            self._unit.add(_normalised(vectors, norms))

    def search(self, query: Vector, most: int, selected: Mask | None, count: int) -> Approximate:
        """The best `most` of the selected rows by float32 score, higher is better.

        `query` is as FAISS takes it (normalised for cosine), shape `(dimension,)`; `selected` is None for all
        rows, `count` how many are selected.
        """
        index = self._flat if self._unit is None else self._unit
        if count <= most or (selected is not None and count < _GATHER_SHARE * self.rows):
            return self._score_all(index, query, selected)
        parameters = None
        if selected is not None:
            bitmap = np.packbits(selected, bitorder="little")
            selector = faiss.IDSelectorBitmap(bitmap)  # type: ignore[call-arg, arg-type]
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        # One query is one thread's work: with more, FAISS has them wait for each other (measured: 16 ms for 1.4 ms).
        # OpenMP keeps the number for each thread, so this changes nothing for others.
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            scores, rows = index.search(query[None, :], most, params=parameters)
        finally:
            faiss.omp_set_num_threads(threads)
        found = (-scores[0] if self._metric == "l2" else scores[0]).astype(np.float64)
        return Approximate(rows[0].astype(np.int64), found, float(found[-1]))

    def _score_all(self, index: faiss.IndexFlat, query: Vector, selected: Mask | None) -> Approximate:
        flat = faiss.rev_swig_ptr(index.get_xb(), self.rows * self._dimension).reshape(self.rows, self._dimension)
        rows = np.arange(self.rows) if selected is None else np.flatnonzero(selected)
        vectors = flat if selected is None else flat[rows]
        if self._metric == "l2":
            difference = vectors - query
            scores = -np.einsum("ij,ij->i", difference, difference)
        else:
            scores = vectors @ query
        return Approximate(rows.astype(np.int64), scores.astype(np.float64), float("-inf"))


def _normalised(vectors: Vector, norms: Floats) -> Vector:
    """The rows at unit length, rounded to float32; rows of zeros stay so."""
    scale = np.where(norms > 0, norms, 1.0)
    return (vectors.astype(np.float64) / scale[:, None]).astype(np.float32)


class Segments:
    """All rows of an index."""

    def __init__(self, metric: Metric, dimension: int, segment_rows: int = SEGMENT_ROWS) -> None:
        self.metric = metric
        self.dimension = dimension
        self.segment_rows = segment_rows
        self.parts: list[Segment] = []

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return (len(self.parts) - 1) * self.segment_rows + self.parts[-1].rows if self.parts else 0

    def add(self, vectors: Vector) -> None:
        """Append rows, float32, shape `(rows, dimension)`."""
        done = 0
        while done < len(vectors):
            if not self.parts or self.parts[-1].rows == self.segment_rows:
                self.parts.append(Segment(self.metric, self.dimension))
            part = self.parts[-1]
            some = vectors[done : done + self.segment_rows - part.rows]
            part.add(np.ascontiguousarray(some))
            done += len(some)

    def vectors(self, rows: Rows) -> Vector:
        """The recorded vectors of rows, shape `(len(rows), dimension)`."""
        found = np.empty((len(rows), self.dimension), dtype=np.float32)
        for part, inside, where in self._by_part(rows):
            found[where] = part.vectors[inside]
        return found

    def norms(self, rows: Rows) -> Floats:
        """Euclidean norms of rows, shape `(len(rows),)`."""
        found = np.empty(len(rows), dtype=np.float64)
        for part, inside, where in self._by_part(rows):
            found[where] = part.norms[inside]
        return found

    def _by_part(self, rows: Rows) -> list[tuple[Segment, Rows, Mask]]:
        numbers = rows // self.segment_rows
        return [
            (self.parts[number], rows[numbers == number] % self.segment_rows, numbers == number)
            for number in np.unique(numbers).tolist()
        ]
