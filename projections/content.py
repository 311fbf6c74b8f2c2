"""What an index holds: the rows' lifetimes, their vectors, and their metadata where filters have asked for them."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from eventstore import CorruptHistory, Vector
from eventstore.filters import Everything, Filter
from eventstore.reads import EventColumns
from eventstore.versions import Positions
from projections.approximate import Kind, new_structure
from projections.checkpoints import DataFile, SegmentFiles
from projections.ivf import Check, InvertedLists
from projections.metadata_index import MetadataIndex
from projections.recent import Recent
from projections.rows import RowTable
from projections.scoring import Metric
from projections.segments import Segments
from projections.selection import Selection

__all__ = ["Content"]

_REMEMBERED = 8


class Content:
    """An index's content at `position`: nothing but the fold of the history up to there.

    `structure` finds candidates where the kind has one; it takes full segments.
    `written` has the files of segments that a checkpoint holds already, by number; `metadata_files` those that
    hold the metadata of a segment's rows, and of how many, by number.
    """

    def __init__(self, metric: Metric, segment_rows: int, kind: Kind = "flat") -> None:
        self.metric: Metric = metric
        self.segment_rows = segment_rows
        self.position = 0
        self.table = RowTable()
        self.segments: Segments | None = None
        self.kind: Kind = kind
        self.structure = new_structure(kind, metric, segment_rows)
        self.metadata = MetadataIndex()
        self._selections: Recent[tuple[int, Filter], Selection] = Recent(_REMEMBERED)
        self.metadata_files: list[tuple[DataFile | None, int]] = []
        self.written: dict[int, SegmentFiles] = {}

    def take(self, columns: EventColumns) -> None:
        """Take the next events.

        Raises:
            CorruptHistory: they do not fit together; found before anything was changed.
        """
        vectors = self._vectors_of_rows(columns)
        self.table.extend(columns.seqs, columns.prev_seqs, columns.is_delete)
        if len(vectors):
            if self.segments is None:
                self.segments = Segments(self.metric, vectors.shape[1], self.segment_rows)
            self.segments.add(vectors)
            for selection in self._selections.values():
                selection.scans.clear()  # they would hold codes that are made anew
            self.fold()
        self.position = int(columns.seqs[-1])

    @property
    def vector_bytes(self) -> int:
        """How many bytes of vectors are in memory."""
        return sum(part.vectors.in_memory for part in self.segments.parts) if self.segments is not None else 0

    def new_structure(self) -> None:
        """Begin with an empty structure."""
        self.structure = new_structure(self.kind, self.metric, self.segment_rows)

    def fold(self) -> None:
        """Let the structure take the segments that it is time for."""
        if self.structure is not None and self.segments is not None:
            self.structure.fold(self.segments.coded[: self.structure.ready(self.segments.rows)])

    def ahead(self) -> Callable[[Check], None] | None:
        """What can be made beside searches before it is time for the next full segment; None where nothing can."""
        structure, segments = self.structure, self.segments
        if isinstance(structure, InvertedLists) and segments is not None:
            full = segments.rows // segments.segment_rows
            return functools.partial(structure.prepare, segments.coded) if structure.is_behind(full) else None
        return None

    def selection(self, position: int, filter: Filter) -> Selection:
        """The rows that were alive at a position and match a filter, whose rows up to there are indexed.

        Those that were asked for last are remembered: what was alive at a position never changes.
        """
        asked = position, filter
        found = self._selections.get(asked)
        if found is None:
            mask = self.table.alive(position)
            if not isinstance(filter, Everything):
                mask &= self.metadata.matching(filter, len(mask))
            found = Selection(mask, self.segment_rows)
        self._selections.put(asked, found)
        return found

    def _vectors_of_rows(self, columns: EventColumns) -> Vector:
        """The vector of each event that is not a DELETE: its own, one before it in the columns, or an indexed one."""
        held_by = columns.embedding_seqs[~columns.is_delete]
        if len(held_by) == len(columns.embedding_at) and (held_by == columns.embedding_at).all():
            return columns.embeddings
        vectors = np.empty((len(held_by), columns.embeddings.shape[1]), dtype=np.float32)
        indexed = held_by <= self.position
        fresh = held_by[~indexed]
        at = np.searchsorted(columns.embedding_at, fresh)
        found = np.isin(fresh, columns.embedding_at).all() and (held_by <= columns.seqs[~columns.is_delete]).all()
        if not found or (indexed.any() and self.segments is None):
            raise CorruptHistory("an event points at an embedding that is not there: run `replay verify`")
        vectors[~indexed] = columns.embeddings[at]
        if indexed.any():
            assert self.segments is not None
            vectors[indexed] = self.segments.vectors(self.table.rows_of(held_by[indexed]))
        return vectors

    def alive(self, position: int) -> tuple[Positions, Vector]:
        """Positions of the versions alive at a position, ascending, and their vectors as recorded."""
        rows = np.flatnonzero(self.table.alive(position)).astype(np.int64)
        born = self.table.born[rows].astype(np.int64)
        if self.segments is None:
            return born, np.empty((0, 0), dtype=np.float32)
        return born, self.segments.vectors(rows)
