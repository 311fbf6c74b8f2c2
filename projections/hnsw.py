"""A graph of near neighbours (HNSW), made by FAISS out of the 8-bit codes of full segments, for who asks for it.

It is made by one thread, a segment at a time, with a random generator that is set by the number of the segment: so it
is the same however the events came, by one FAISS. (Codes are whole numbers, whose products float32 holds exactly up to
about a thousand dimensions; past that on one kind of processor.) A graph only grows, and has no past: it answers for
histories with as many full segments as it has taken, and others are searched exactly.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import faiss as _faiss
import numpy as np

from eventstore import Vector
from projections.checkpoints import DataFile
from projections.codes import Codes
from projections.grid import Bytes, Grid, unpacked
from projections.scoring import Floats, Metric, Query
from projections.selection import Selection, selector_of
from projections.vectors import Rows

__all__ = ["Graph"]

faiss: Any = _faiss  # its types lack much of what a graph has

# With 24 neighbours a search that keeps 64 rows in view finds about as much as one that keeps 128 with 16, and a graph
# takes half as long again to make.
_NEIGHBOURS = 24
_BREADTH_OF_ADDING = 100
# How many rows a search keeps in view at effort 1, among so many; of more rows, with the root of their number. And at
# least so many more than it is to find.
_BREADTH = 64
_BREADTH_ROWS = 65_536
_BREADTH_SPARE = 32
_SEED = 20_261_124
# By so large a part of its length a query by l2 may be cut off at the ends of the grid.
_TOLERATED = 0.1


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


class Graph:
    """The graph of an index. `taken` says of each full segment seen so far whether it is in it.

    One whose numbers do not fit the grid of the first is not: a search goes through it as it is.
    """

    kind = "hnsw"

    def __init__(self, metric: Metric, segment_rows: int) -> None:
        self.taken: list[bool] = []
        # The file that holds it as it is, if there is one.
        self.written: DataFile | None = None
        self._metric: Metric = metric
        self._segment_rows = segment_rows
        self._grid = Grid(metric, np.zeros(0))
        self._index: Any = None

    def ready(self, rows: int) -> int:
        """How many full segments are taken of a history with so many rows: all."""
        return rows // self._segment_rows

    def fold(self, coded: Sequence[Codes]) -> None:
        """Take the segments that are new; `coded` has the codes of all that are to be taken."""
        for number in range(len(self.taken), len(coded)):
            if self._index is None:
                self._scale_by(coded[0])
                self._index = self._empty()
            codes, fits = self._grid.recoded(coded[number])
            if fits:
                self._index.hnsw.rng = faiss.RandomGenerator(_SEED + number)
                with _one_thread():
                    self._add(codes)
                self.written = None
            self.taken.append(fits)

    def _add(self, codes: Bytes) -> None:
        self._index.add(unpacked(codes))

    def _scale_by(self, codes: Codes) -> None:
        # One step for all numbers: FAISS compares rows with each other by the products of their codes.
        self._grid = Grid(self._metric, np.full(len(codes.scale), codes.scale.max()))

    def _empty(self) -> Any:
        kind = faiss.METRIC_L2 if self._metric == "l2" else faiss.METRIC_INNER_PRODUCT
        signed = faiss.ScalarQuantizer.QT_8bit_direct_signed
        index = faiss.IndexHNSWSQ(len(self._grid.scale), signed, _NEIGHBOURS, kind)
        index.storage.is_trained = index.is_trained = True
        self._prepare(index)
        return index

    @staticmethod
    def _prepare(index: Any) -> None:
        index.hnsw.efConstruction = _BREADTH_OF_ADDING
        # A row keeps as many links as there is room for, also to rows that are nearer to each other than to it. Without
        # these parts of a graph of a million rows are hardly ever reached, however broad a search is.
        index.keep_max_size_level0 = True

    # Checkpoints

    def packed(self) -> bytes:
        """The graph for `restore`, once it has taken a segment."""
        packed: bytes = faiss.serialize_index(self._index).tobytes()
        return packed

    def restore(self, coded: Sequence[Codes], taken: Sequence[bool], packed: bytes) -> None:
        """Take a graph that `packed` made, by the same FAISS, and that has been found undamaged.

        Raises:
            ValueError: it is no graph of these segments.
        """
        if len(taken) != len(coded) or not taken:
            raise ValueError(f"it is a graph of {sum(taken)} of {len(coded)} segments")
        limits = faiss.get_deserialization_loop_limit(), faiss.get_deserialization_vector_byte_limit()
        try:
            # No part of it is longer than the whole.
            faiss.set_deserialization_loop_limit(len(packed))
            faiss.set_deserialization_vector_byte_limit(8 * len(packed))
            index = faiss.deserialize_index(np.frombuffer(packed, dtype=np.uint8))
        except RuntimeError as error:
            raise ValueError(str(error).splitlines()[0]) from error
        finally:
            faiss.set_deserialization_loop_limit(limits[0])
            faiss.set_deserialization_vector_byte_limit(limits[1])
        self._scale_by(coded[0])
        like = self._empty()
        rows = sum(taken) * self._segment_rows
        if (
            not isinstance(index, faiss.IndexHNSWSQ)
            or (index.d, index.metric_type, index.ntotal) != (like.d, like.metric_type, rows)
            or index.hnsw.nb_neighbors(1) != _NEIGHBOURS
        ):
            raise ValueError(f"it is no graph of {rows} rows of dimension {like.d}")
        self._prepare(index)
        self._index, self.taken = index, list(taken)

    # Searching

    def covered(self, taken: int) -> list[int]:
        """The segments that candidates come from, of a history of which so many are taken; maybe none."""
        return [number for number in range(taken) if self.taken[number]] if taken == len(self.taken) else []

    def candidates(self, query: Query, most: int, selection: Selection, taken: int, effort: float) -> Rows | None:
        """About the best `most` of the selected rows of the covered segments, where `taken` segments are taken.

        None for a query that is so far out that a graph is no good for it.
        """
        size, parts = self._segment_rows, np.flatnonzero(self.taken)
        asked = self._asked(query.wide)
        if asked is None:
            return None
        count, selector = len(parts) * size, None
        breadth = _BREADTH * math.sqrt(max(1.0, count / _BREADTH_ROWS))
        breadth = effort * max(breadth, most + _BREADTH_SPARE)
        if not selection.whole_until(taken * size):
            chosen = selection.mask[: taken * size].reshape(-1, size)[parts].ravel()
            breadth *= count / np.count_nonzero(chosen)  # few of those in view are selected
            selector = selector_of(chosen)
        parameters = faiss.SearchParametersHNSW(efSearch=max(most, math.ceil(breadth)), sel=selector)
        _, found = self._index.search(asked[None, :], most, params=parameters)
        ids = found[0][found[0] >= 0].astype(np.int64)
        rows: Rows = parts[ids // size] * size + ids % size
        return rows

    def _asked(self, vector: Floats) -> Vector | None:
        """A query in numbers from -127 to 127; None where it is so far out that these are not what is asked for."""
        numbers, _ = self._grid.asked(vector)
        if self._metric == "l2":
            exact = self._grid.over(vector)
            if np.linalg.norm(exact - numbers) > _TOLERATED * np.linalg.norm(exact):
                return None
        return numbers
