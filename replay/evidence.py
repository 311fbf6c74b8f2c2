"""Which of the rows that can be read are the history's: the hash chain and the payloads' digests decide.

A row is read by SQLite where that can, and out of the pages where it cannot or where what it read does not prove
itself. The file is looked through for rows only when the first row is missed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from eventstore.events import EventRow, PayloadRow
from eventstore.hashing import GENESIS, event_hash, payload_digest
from eventstore.schema import APPLICATION_ID, EVENT_COLUMNS
from eventstore.sqlite import sqlite3
from replay.damaged import Row, attempt, read_rows
from replay.found import Found, FoundRow, is_event, is_payload
from replay.pages import PageFile
from replay.structure import readable_tables

__all__ = ["Evidence", "Header", "Rows"]

_COLUMNS = {"events": EVENT_COLUMNS, "payloads": PayloadRow._fields}
_AT_ONCE = {"events": 200, "payloads": 20}

UNREADABLE = "cannot be read: its text, or a page that it goes on in, is damaged"
CHANGED = "does not match its hash: it was changed or moved"
LOOSE = "lies outside of an intact page, and nothing proves it"
LATE = "claims to have been recorded after the event that follows it, and the event before it is lost"
FIRST = "the event before it is lost, so the chain cannot prove what its header says"
OUTSIDE = "it lies outside of an intact page, and no later event confirms it"


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of the event at a position: its row and what is doubtful about it, or no row and why."""

    position: int
    row: EventRow | None
    why: str | None = None


class Rows:
    """The rows of a file by position: those that SQLite reads first, then those found in the pages."""

    def __init__(self, pages: PageFile, connection: sqlite3.Connection) -> None:
        self._pages = pages
        self._connection = connection
        # What the log holds SQLite is not asked for: that would make side files.
        self._tables = [] if pages.frames.pages else readable_tables(connection, _COLUMNS)[0]
        self._block = lru_cache(maxsize=4)(self._read_block)

    @cached_property
    def found(self) -> Found:
        """What lies in the pages; looking takes a while."""
        return Found(self._pages)

    @property
    def was_searched(self) -> bool:
        """Whether the pages were looked through."""
        return "found" in self.__dict__

    def _read_block(self, table: str, number: int) -> dict[int, Row]:
        size = _AT_ONCE[table]
        columns = ", ".join(_COLUMNS[table])
        rows, _ = read_rows(self._connection, table, columns, number * size, (number + 1) * size)
        return {row[0]: row for row in rows}

    def _by_sqlite(self, table: str, position: int) -> Row | None:
        if table not in self._tables:
            return None
        row = self._block(table, (position - 1) // _AT_ONCE[table]).get(position)
        fits = is_event if table == "events" else is_payload
        return row if row is not None and fits(row) else None

    def at(self, table: str, position: int) -> Iterator[FoundRow]:
        """Every copy of a row, the likeliest first."""
        row = self._by_sqlite(table, position)
        if row is not None:
            yield row, True
        yield from self.found.rows(table, position)

    def next_event(self, position: int) -> int | None:
        """The next position at which there is anything of an event's header."""
        if self._by_sqlite("events", position + 1) is not None:
            return position + 1
        if not self.was_searched and self.counter() == position:
            return None  # SQLite has read all that it ever wrote
        return self.found.after("events", position)

    def counter(self) -> int | None:
        """How many events were ever recorded, where the table that SQLite counts them in can be read."""
        if not self.was_searched and "events" in self._tables:
            rows, problem = attempt(self._connection, "SELECT seq FROM sqlite_sequence WHERE name = 'events'")
            if problem is None:
                number = rows[0][0] if rows else 0
                return number if isinstance(number, int) and number >= 0 else None
        return self.found.counter

    def settings(self) -> dict[str, str] | None:
        """The settings, where they can be read."""
        if not self.was_searched and "events" in self._tables:
            rows, problem = attempt(self._connection, "SELECT key, value FROM settings NOT INDEXED")
            if problem is None:
                return {key: value for key, value in rows if isinstance(key, str) and isinstance(value, str)}
        return self.found.settings if self.found.has_settings else None

    def is_empty_history(self) -> bool:
        """Whether this is a history, whole as far as SQLite can tell, in which nothing was ever recorded."""
        application, _ = attempt(self._connection, "PRAGMA application_id")
        return (
            application == [(APPLICATION_ID,)]
            and sorted(self._tables) == sorted(_COLUMNS)
            and all(attempt(self._connection, f"SELECT count(*) FROM {name}") == ([(0,)], None) for name in _COLUMNS)
            and self.counter() == 0
        )


class Evidence:
    """Goes through what there is, in order, and tells what is the history's."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._run: dict[int, bytes] = {}  # position -> hash of the events last confirmed together

    def headers(self) -> Iterator[Header]:
        """A `Header` for each position at which there is anything at all."""
        position, solid = 0, True
        before: tuple[bytes, ...] = (GENESIS,)
        while (following := self._rows.next_event(position)) is not None:
            if following != position + 1:
                before, solid = (), False
            position = following
            header, before = self._decide(position, before, solid)
            solid = header.row is not None and header.why != FIRST
            yield header

    def payload(self, row: EventRow) -> PayloadRow | None:
        """The payload of an event, if one with its digest can be read."""
        for found, _ in self._rows.at("payloads", row.seq):
            payload = PayloadRow._make(found)
            if payload_digest(*payload[1:]) == row.payload_digest:
                return payload
        return None

    def _decide(self, position: int, before: tuple[bytes, ...], solid: bool) -> tuple[Header, tuple[bytes, ...]]:
        """What is at a position, and what the hash of the event there may be. `solid`: `before` is proven."""
        rows: list[tuple[EventRow, bool]] = []
        last: EventRow | None = None
        for found, intact in self._rows.at("events", position):
            row = EventRow._make(found)
            if any(_hash(each, row) == row.hash for each in before):
                confirmed = intact or self._confirmed(position, row.hash)
                if confirmed:
                    return Header(position, row), (row.hash,)
                if confirmed is None and solid:
                    last = last or row
            if (row, intact) not in rows:
                rows.append((row, intact))
        if last is not None:
            return Header(position, last, OUTSIDE), (last.hash,)
        for row, _ in rows if solid else ():
            # Perhaps it is the hash that was changed: then the event after it follows the one that it should have.
            computed = _hash(before[0], row)
            if self._confirmed(position, computed):
                return Header(position, row._replace(hash=computed)), (computed,)
        # Whatever becomes of it, the next event may prove itself by the hash that this one has.
        hashes = tuple(row.hash for row, _ in rows)
        if not rows:
            return Header(position, None, UNREADABLE), ()
        intact_rows = [row for row, intact in rows if intact]
        if not intact_rows:
            return Header(position, None, LOOSE), hashes
        if solid:
            return Header(position, None, CHANGED), hashes
        row = next((row for row in intact_rows if self._followers(position, row.hash)), intact_rows[0])
        if self._is_late(row):
            return Header(position, None, LATE), hashes
        return Header(position, row, FIRST), (row.hash,)

    def _followers(self, position: int, hash: bytes) -> list[tuple[EventRow, bool]]:
        """The rows at the next position that follow a hash."""
        found = ((EventRow._make(row), intact) for row, intact in self._rows.at("events", position + 1))
        return [(row, intact) for row, intact in found if _hash(hash, row) == row.hash]

    def _confirmed(self, position: int, hash: bytes) -> bool | None:
        """Whether an event on an intact page follows, directly or over others that are on none.

        None where what came next is lost, so that nothing confirms it and nothing speaks against it.

        Bytes in a content or an embedding can be made to look like a row that follows from an event before it. They
        cannot be made to have the event that was recorded next follow from them.
        """
        run = {position: hash}
        while self._run.get(position) != hash:
            followers = self._followers(position, hash)
            if not followers:
                return False if any(intact for _, intact in self._rows.at("events", position + 1)) else None
            if any(intact for _, intact in followers):
                self._run = run
                return True
            position, hash = position + 1, followers[0][0].hash
            run[position] = hash
        return True

    def _is_late(self, row: EventRow) -> bool:
        following = self._rows.next_event(row.seq)
        if following is None:
            return False
        found = [EventRow._make(each) for each, intact in self._rows.at("events", following) if intact]
        return bool(found) and max(each.recorded_at for each in found) < row.recorded_at


def _hash(before: bytes, row: EventRow) -> bytes:
    try:
        return event_hash(before, *row[:-1])
    except (ValueError, OverflowError):  # text with a lone surrogate, as no column of ours holds
        return b""
