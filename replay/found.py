"""Where every row of a history lies in a file, found by looking at all pages: no tree is followed, no schema read.

What is kept of a row is its position and its place, 16 bytes. The row itself is read when it is asked for.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np

from eventstore.events import EventRow, PayloadRow
from replay.cells import (
    INDEX_LEAF,
    TABLE_LEAF,
    Cell,
    carved,
    cell_at,
    index_cells,
    local_length,
    table_cells,
    values_of,
)
from replay.damaged import LEAST_ROW, Row
from replay.pages import Image, PageFile

__all__ = ["Found", "FoundRow", "is_event", "is_payload"]

_IN_LOG, _CARVED = 2, 1
_LAST_POSITION = 0xFFFFFFFE  # of any history: docs/reference/file-format.md
_TABLES = ("events", "payloads")

FoundRow = tuple[Row, bool]
"""A row, and whether it was found where the pointers of an intact page say that one is."""


class _Places:
    """The places of a table's rows, by position; several where there are copies, those on intact pages first."""

    def __init__(self, rowids: array[int], places: array[int]) -> None:
        seqs, where = np.array(rowids, dtype=np.int64), np.array(places, dtype=np.int64)
        order = np.lexsort((where, where & _CARVED, seqs))
        self.seqs, self._places = seqs[order], where[order]

    def at(self, seq: int) -> list[int]:
        first, end = np.searchsorted(self.seqs, (seq, seq + 1))
        found: list[int] = self._places[first:end].tolist()
        return found

    @property
    def last_intact(self) -> int:
        intact = self.seqs[self._places & _CARVED == 0]
        return int(intact[-1]) if len(intact) else 0

    def after(self, seq: int) -> int | None:
        at = int(np.searchsorted(self.seqs, seq + 1))
        return int(self.seqs[at]) if at < len(self.seqs) else None


class Found:
    """The rows in the pages of a file and its log."""

    def __init__(self, pages: PageFile) -> None:
        self._pages = pages
        # Of bytes that only look like a row, positions past it are none: a whole file would not hold so many rows. What
        # an intact page says is one may lie further on: it may be a log without its file, or the end of one.
        self._most = pages.capacity // LEAST_ROW
        self.settings: dict[str, str] = {}
        self.has_settings = False
        self.counter: int | None = None
        rowids = {table: array("q") for table in _TABLES}
        places = {table: array("q") for table in _TABLES}
        for image in pages.images():
            for cell, flags in self._cells(image):
                if cell.table not in places:
                    self._take_small(image, cell)
                elif 0 < cell.rowid <= (self._most if flags & _CARVED else _LAST_POSITION):
                    rowids[cell.table].append(cell.rowid)
                    places[cell.table].append(image.start + cell.offset << 2 | flags)
        self._places = {table: _Places(rowids[table], places[table]) for table in _TABLES}

    def _cells(self, image: Image) -> Iterator[tuple[Cell, int]]:
        in_log = _IN_LOG * image.in_log
        starts, ends = [], []
        if image.content[image.header] == TABLE_LEAF:
            for cell in table_cells(image.content, image.header):
                starts.append(cell.offset)
                ends.append(cell.record + local_length(cell.length, self._pages.page_size))
                yield cell, in_log
        for cell in carved(image.content):
            # Not what is part of a row on an intact page, or is one: that is somebody's content or embedding.
            at = bisect_right(starts, cell.offset) - 1
            if at < 0 or cell.offset >= ends[at]:
                yield cell, in_log | _CARVED

    def _take_small(self, image: Image, cell: Cell) -> None:
        if self._pages.is_superseded(image):
            return
        for record in self._pages.records(image, cell):
            try:
                key, value = values_of(record)
            except ValueError:
                continue
            if cell.table == "sqlite_sequence" and key == "events" and 0 <= value <= _LAST_POSITION:
                self.counter = value if image.in_log or self.counter is None else max(value, self.counter)
            elif cell.table == "settings" and key in ("dimension", "embedder"):
                self.settings[key] = value
                self.has_settings = True

    def rows(self, table: str, seq: int) -> Iterator[FoundRow]:
        """The rows of a table at a position, in every copy that there is."""
        fits = is_event if table == "events" else is_payload
        for place in self._places[table].at(seq):
            image, offset = self._pages.image_at(place >> 2, bool(place & _IN_LOG))
            cell = cell_at(image.content, offset)
            for record in self._pages.records(image, cell) if cell is not None else ():
                try:
                    row = (seq, *values_of(record)[1:])
                except (ValueError, IndexError):
                    continue  # text that is no text: not what was written
                if fits(row):
                    yield row, not place & _CARVED

    def after(self, table: str, seq: int) -> int | None:
        """The first position past `seq` at which a table has anything."""
        return self._places[table].after(seq)

    def last(self, table: str) -> int:
        """The last position at which an intact page has a row of a table; 0 where none has."""
        return self._places[table].last_intact

    def memory_entries(self) -> Iterator[tuple[str, int, int]]:
        """Memory, version and position of each event that the index of memories names: nothing proves them."""
        for image in self._pages.images():
            if image.content[image.header] == INDEX_LEAF and not self._pages.is_superseded(image):
                for values in index_cells(image.content, image.header):
                    if len(values) == 3 and _are(values, str, int, int) and 0 < values[2] <= _LAST_POSITION:
                        yield values[0], values[1], values[2]


def _are(values: tuple[Any, ...], *types: type) -> bool:
    return all(type(value) is each for value, each in zip(values, types, strict=True))


def is_event(row: Row) -> bool:
    """Whether every value is of the type that its column of `events` holds."""
    if len(row) != len(EventRow._fields):
        return False
    event = EventRow._make(row)
    return (
        _are(
            (event.seq, event.event_id, event.memory_id, event.version, event.add_seq, event.type, event.recorded_at),
            *(int, str, str, int, int, str, int),
        )
        and all(each is None or type(each) is int for each in (event.prev_seq, event.embedding_seq, event.occurred_at))
        and all(each is None or type(each) is str for each in event[10:16])
        and _are((event.payload_digest, event.hash), bytes, bytes)
    )


def is_payload(row: Row) -> bool:
    """Whether every value is of the type that its column of `payloads` holds."""
    if len(row) != len(PayloadRow._fields):
        return False
    seq, salt, content, metadata, embedding = row
    return (
        type(seq) is int
        and type(salt) is bytes
        and all(each is None or type(each) is str for each in (content, metadata))
        and (embedding is None or type(embedding) is bytes)
    )
