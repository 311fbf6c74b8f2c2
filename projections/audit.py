"""Comparing an index with the history that it came from, bit for bit."""

from __future__ import annotations

import numpy as np

from eventstore.reads import EventColumns
from eventstore.versions import NEVER
from projections.rows import RowTable
from projections.segments import Segments

__all__ = ["Audit", "named"]

_NAMED = 20


class Audit:
    """Goes through the history a range at a time and says in words where the index differs from it."""

    def __init__(self, table: RowTable, segments: Segments | None, position: int) -> None:
        self._table = table
        self._position = position
        self._segments = segments
        self._expected = RowTable()

    def compare(self, columns: EventColumns) -> list[str]:
        """Compare the rows that these events, the next ones, gave birth to."""
        start = self._expected.rows
        self._expected.extend(columns.seqs, columns.prev_seqs, columns.is_delete)
        end = min(self._expected.rows, self._table.rows, self._segments.rows if self._segments else 0)
        if end <= start:
            return []
        rows = np.arange(start, end)
        held_by = columns.embedding_seqs[~columns.is_delete][: end - start]
        own = np.isin(held_by, columns.embedding_at)
        expected = np.empty((len(rows), columns.embeddings.shape[1]), dtype=np.float32)
        expected[own] = columns.embeddings[np.searchsorted(columns.embedding_at, held_by[own])]
        assert self._segments is not None
        if (~own).any():
            # Held by an earlier event, whose own row has been compared with the history already.
            expected[~own] = self._segments.vectors(self._expected.rows_of(held_by[~own]))
        differs = (self._segments.vectors(rows).view(np.uint32) != expected.view(np.uint32)).any(axis=1)
        born = self._expected.born[start:end]
        return named("the vector of the event at position {} differs from the history", born[differs])

    def ends(self) -> list[str]:
        """Compare the rows' lifetimes, once all events have been compared."""
        expected, position = self._expected, self._position
        # The index may have grown since: what came after the position is none of this audit's business.
        born_there = int(np.count_nonzero(self._table.born <= np.uint32(position)))
        vectors = self._segments.rows if self._segments else 0
        faults = []
        if born_there != expected.rows or vectors < expected.rows:
            faults.append(f"the index has {min(born_there, vectors)} rows and the history {expected.rows} versions")
        rows = min(born_there, expected.rows)
        born, found_born = expected.born[:rows], self._table.born[:rows]
        faults += named("the row of the event at position {} is born at another", born[found_born != born])
        died = self._table.died[:rows]
        ends = np.where(died > np.uint32(position), NEVER, died) != expected.died[:rows]
        return faults + named("the row of the event at position {} ends at another position", born[ends])


def named(message: str, positions: np.typing.NDArray[np.uint32]) -> list[str]:
    """A message for each position, for the first twenty of them, and how many more there are."""
    named = [message.format(position) for position in positions[:_NAMED].tolist()]
    return [*named, f"... and {len(positions) - _NAMED} more such rows"] if len(positions) > _NAMED else named
