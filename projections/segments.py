"""Vectors in segments of a fixed number of rows.

Only the last segment grows; the others never change, so adding never copies the whole index, and a checkpoint
writes only what is new. Rows hold the history's vectors bit for bit; what is gone through in a search are their codes,
and the newest rows, too few yet to be coded, as they are.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from eventstore import Vector
from eventstore.versions import grown
from projections.codes import Codes
from projections.scoring import Floats, Metric, norms_of, quick_norms
from projections.vectors import HeldRows, Rows, StoredRows, digests_of

__all__ = ["SEGMENT_ROWS", "Segment", "Segments"]

SEGMENT_ROWS = 16_384

# Vectors of fewer rows for each part are taken one by one.
_ROWS_OF_A_PART = 2

# A product of so few rows costs less than coding them one by one would.
_UNCODED_ROWS = 1024

# A segment of fewer bytes of vectors never copies them as it grows. The system gives memory when it is written to.
_ROOM = 32 * 2**20


class Segment:
    """Consecutive rows of an index: their vectors, their norms, and the codes of all but the newest."""

    def __init__(self, metric: Metric, dimension: int, capacity: int) -> None:
        self._metric = metric
        self._capacity = capacity
        self._norms: Floats = np.empty(0, dtype=np.float64)
        room = min(capacity, _ROOM // (4 * max(dimension, 1)))
        self.vectors: HeldRows | StoredRows = HeldRows(dimension, room)
        self.codes = Codes(metric, dimension)
        self._coding = threading.Lock()

    @classmethod
    def restored(
        cls, metric: Metric, capacity: int, vectors: HeldRows | StoredRows, norms: Floats, codes: Codes
    ) -> Segment:
        """A segment that was read from a checkpoint; `codes` may lack the newest rows of one that is not full."""
        made = cls(metric, 0, capacity)
        made.vectors, made._norms, made.codes = vectors, norms, codes
        return made

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.vectors.count

    @property
    def full(self) -> bool:
        """Whether the segment takes no more rows."""
        return self.rows == self._capacity

    @property
    def norms(self) -> Floats:
        """Norms of the rows, good for bounds."""
        return self._norms[: self.rows]

    def add(self, vectors: Vector) -> None:
        """Append rows."""
        assert isinstance(self.vectors, HeldRows)
        start = self.rows
        norms = grown(self._norms, start, len(vectors)).view(np.float64)
        norms[start : start + len(vectors)] = quick_norms(vectors)
        self._norms = norms
        self.vectors.add(vectors)
        if self.full:
            self._code_all()

    def _code_all(self) -> None:
        # Once more, with the scale that suits all of its rows; and with norms summed in the fixed order, so that
        # the codes are the same to the last bit wherever and in what batches the rows came.
        held = self.vectors.all()
        for start in range(0, self.rows, _UNCODED_ROWS):
            some = held[start : start + _UNCODED_ROWS]
            self._norms[start : start + len(some)] = norms_of(some)
        self.codes = Codes.of(self._metric, held, self.norms)

    def current_codes(self) -> Codes:
        """The codes of all but the newest rows, made where they are not there yet.

        By the first who goes through them, and not on adding: of rows that come in bulk most are never coded by the
        scale of a part. Others may search meanwhile, but nobody adds; so whoever has these codes has them unchanged.
        """
        if self.full:
            return self.codes
        with self._coding:
            coded = self.codes.rows
            if self.rows - coded >= _UNCODED_ROWS:
                held = self.vectors.all()
                if coded:
                    self.codes.add(held[coded:], self.norms[coded:])
                if not coded or self.codes.loose:
                    self.codes = Codes.of(self._metric, held, self.norms)
            return self.codes

    def misfits(self) -> Rows:
        """Rows whose norms or codes are not those of their vectors: of a checkpoint that was forged."""
        vectors = self.vectors.stored()
        norms = quick_norms(vectors)
        wrong = np.flatnonzero(~np.isclose(norms, self.norms, rtol=1e-9, atol=0.0))
        codes = self.current_codes()
        return np.union1d(wrong, codes.misses(vectors[: codes.rows], norms[: codes.rows])).astype(np.int64)


class Segments:
    """All rows of an index."""

    def __init__(self, metric: Metric, dimension: int, segment_rows: int = SEGMENT_ROWS) -> None:
        self.metric: Metric = metric
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
            if not self.parts or self.parts[-1].full:
                self.parts.append(Segment(self.metric, self.dimension, self.segment_rows))
            part = self.parts[-1]
            some = vectors[done : done + self.segment_rows - part.rows]
            part.add(some)
            done += len(some)

    @property
    def coded(self) -> list[Codes]:
        """The codes of the full segments: a function of their rows alone."""
        return [part.codes for part in self.parts if part.full]

    def vectors(self, rows: Rows) -> Vector:
        """The recorded vectors of rows, shape `(len(rows), dimension)`."""
        if 0 < len(rows) < _ROWS_OF_A_PART * len(self.parts):
            return self._one_by_one(rows)
        found = np.empty((len(rows), self.dimension), dtype=np.float32)
        for part, where, local in self._of_parts(rows):
            found[where] = part.vectors.take(local)
        return found

    def _one_by_one(self, rows: Rows) -> Vector:
        # What is done for each part costs more than what is done for a row.
        places = [divmod(row, self.segment_rows) for row in rows.tolist()]
        parts = [self.parts[number].vectors for number, _ in places]
        found = [vectors.row(local) for vectors, (_, local) in zip(parts, places, strict=True)]
        together = b"".join([vector for vector, _ in found])
        made = np.frombuffer(together, dtype="<f4").reshape(len(rows), self.dimension).astype(np.float32)
        read = [place for place, (_, expected) in enumerate(found) if expected is not None]
        for place, digest in zip(read, digests_of(made[read]).tolist() if read else (), strict=True):
            if digest != found[place][1]:
                vectors = parts[place]
                assert isinstance(vectors, StoredRows)
                raise vectors.altered(np.array([places[place][1]]))
        return made

    def _of_parts(self, rows: Rows) -> Iterator[tuple[Segment, slice | Rows, Rows]]:
        """Each part that has some of the rows, their places among those asked for, and in the part."""
        if len(self.parts) == 1:
            yield self.parts[0], slice(None), rows
            return
        numbers = rows // self.segment_rows
        # Most come a part after the other already: those of one then lie side by side.
        order = None if (numbers[1:] >= numbers[:-1]).all() else numbers.argsort(kind="stable")
        stop = 0
        for number, count in enumerate(np.bincount(numbers).tolist()):
            if count:
                start, stop = stop, stop + count
                where = slice(start, stop) if order is None else order[start:stop]
                yield self.parts[number], where, rows[where] - number * self.segment_rows
