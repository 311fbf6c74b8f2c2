"""Verify: is the history what was recorded, all of it and nothing else?"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from eventstore import AsofError, Closed, EventStore, Head, InvalidOperation
from eventstore.events import EventRow, PayloadRow
from eventstore.hashing import GENESIS
from eventstore.instants import from_microseconds
from eventstore.queries import PAYLOAD_COLUMNS
from eventstore.schema import APPLICATION_ID, EVENT_COLUMNS
from eventstore.sqlite import sqlite3
from replay.checks import HistoryCheck
from replay.damaged import Row, attempt, has_side_files, last_position, next_position, opened, read_rows, require_file
from replay.rebuild import Progress
from replay.report import Fault, FaultKind, Ranges, Report
from replay.structure import check_file, check_schema, check_settings, is_plain_table, readable_tables

__all__ = ["Checkable", "verify"]

_EVENTS_AT_ONCE = 200
_TABLES = {"events": EVENT_COLUMNS, "payloads": PayloadRow._fields}
_EVENT_COLUMNS = ", ".join(EVENT_COLUMNS)


class Checkable(Protocol):
    """A projection that can compare itself with the history, such as `VectorIndex`."""

    def faults(self) -> Iterable[str]:
        """In words, each thing in which the projection differs from the history."""


def verify(
    store: EventStore | str | os.PathLike[str],
    index: Checkable | None = None,
    *,
    against: Iterable[Head | tuple[int, str]] = (),
    progress: Progress | None = None,
) -> Report:
    """Check a history, an open store or the path of one, and report every fault found.

    Checked are the file's structure, the schema, and of every event: its place, its hash in the chain, version,
    links and time, its payload and its embedding. `index` is compared with the history. Of each head in `against`,
    a `Head` or position and hash, it is checked that the history still contains it: a chain alone cannot show
    that its end was cut off, or that all of it was written anew.

    Works on files that are too damaged to be opened, reads around what cannot be read, never writes, and leaves
    no file behind. Memory: one small tuple for each memory that ever was, and a page of events. `progress` is
    called with events checked and in all.

    Raises `StorageError` where there is no file or no permission, `NotAStore` for a directory, `StoreBusy` where
    a lock is held for too long, `InvalidOperation` for a head that is none. Damage is reported, not raised.
    """
    heads = [_head(each) for each in against]
    if isinstance(store, EventStore):
        if store.closed:
            raise Closed(f"the store {store.path} is closed: open it again")
        if store._connections.in_memory:
            with store._connections._reading() as connection:
                report = _Verification(store.path, connection, progress).run(heads)
        else:
            report = _verify_file(store._connections.file, heads, progress)
    else:
        report = _verify_file(os.fsdecode(store), heads, progress)
    if index is not None:
        report.faults.extend(_index_faults(index))
    return report


def _head(given: Any) -> tuple[int, str]:
    position, digest = (given.position, given.hash) if isinstance(given, Head) else given
    if isinstance(position, bool) or not isinstance(position, int) or position < 0:
        raise InvalidOperation(f"the position of a head is {position!r}: give a whole number of at least 0")
    try:
        if len(bytes.fromhex(digest)) == len(GENESIS):
            return position, digest.lower()
    except (TypeError, ValueError):
        pass
    raise InvalidOperation(f"the hash of the head at position {position} is not 64 hexadecimal digits")


def _index_faults(index: Checkable) -> Iterator[Fault]:
    try:
        for fault in index.faults():
            yield Fault("index", None, fault)
    except AsofError as error:
        yield Fault("index", None, f"the index could not be compared with the history: {error}")


def _verify_file(path: str, heads: list[tuple[int, str]], progress: Progress | None) -> Report:
    require_file(path)
    live, before = has_side_files(path), _version(path)
    report = _verify_opened(path, live, heads, progress)
    if not live and (has_side_files(path) or _version(path) != before):
        # Somebody began to write while the file was read as one that nobody writes to.
        report = _verify_opened(path, True, heads, progress)
    return report


def _version(path: str) -> tuple[int, int, int]:
    status = os.stat(path)
    return status[stat.ST_INO], status.st_size, status.st_mtime_ns


def _verify_opened(path: str, live: bool, heads: list[tuple[int, str]], progress: Progress | None) -> Report:
    with opened(path, live=live) as connection:
        size = None if live else os.path.getsize(path)
        return _Verification(path, connection, progress, size).run(heads)


class _Verification:
    """One verification of one database, through a connection that it does not write to."""

    def __init__(
        self, path: str, connection: sqlite3.Connection, progress: Progress | None, size: int | None = None
    ) -> None:
        self._path = path
        self._size = size  # where no write-ahead log can hold pages that the file has not yet
        self._connection = connection
        self._progress = progress
        self._faults: list[Fault] = []
        self._lost: dict[tuple[FaultKind, str], Ranges] = {}
        self._events = self._payloads = self._checked = 0
        self._last: Row | None = None
        self._whole = Ranges()

    def run(self, heads: list[tuple[int, str]]) -> Report:
        """Check everything and compare with heads that were kept elsewhere."""
        with _snapshot(self._connection):
            if self._is_database():
                self._check_all()
            self._check_heads(heads)
        self._faults.sort(key=lambda fault: (fault.position is not None, fault.position or 0))
        faulty = sorted(
            (fault.position, fault.position if fault.last is None else fault.last)
            for fault in self._faults
            if fault.position is not None and fault.kind != "against"
        )
        good = self._whole.without(faulty)
        return Report(self._path, self._faults, self._events, self._payloads, self._checked, self._head(), good)

    def _head(self) -> Head | None:
        if self._last is None:
            return None if self._faults else Head(0, None, GENESIS.hex())
        try:
            last = EventRow._make(self._last)
            return Head(last.seq, from_microseconds(last.recorded_at), last.hash.hex())
        except (OverflowError, TypeError, AttributeError):
            return None

    def _fault(self, kind: FaultKind, position: int | None, message: str, last: int | None = None) -> None:
        self._faults.append(Fault(kind, position, message, last))

    def _lose(self, kind: FaultKind, words: str, first: int, last: int | None = None) -> None:
        """Note a fault that may turn out to be that of many events in a row."""
        self._lost.setdefault((kind, words), Ranges()).add(first, first if last is None else last)

    # What it is made of

    def _is_database(self) -> bool:
        objects = "SELECT count(*) FROM sqlite_master"
        found, problem = attempt(self._connection, objects)
        if problem is not None and "not a database" in problem:
            self._fault("file", None, f"{self._path} is not an SQLite database, or its first bytes were changed")
            return False
        if problem is not None:
            self._fault("file", None, f"{self._path} is cut off or damaged in its first page: {problem}")
            # So that SQLite looks at what is there all the same. The connection cannot write.
            attempt(self._connection, "PRAGMA writable_schema = ON")
            found, problem = attempt(self._connection, objects)
        if problem is not None:
            return False
        if found == [(0,)]:
            self._fault("file", None, f"{self._path} is empty: it holds no history")
            return False
        application, _ = attempt(self._connection, "PRAGMA application_id")
        if application != [(APPLICATION_ID,)]:
            self._fault("file", None, f"{self._path} does not say that it is asof's: its application id is another")
        if self._size is not None:
            self._check_size(self._size)
        return True

    def _check_size(self, size: int) -> None:
        pages, _ = attempt(self._connection, "PRAGMA page_count")
        page, _ = attempt(self._connection, "PRAGMA page_size")
        expected = pages[0][0] * page[0][0] if pages and page else size
        if size != expected:
            self._fault("file", None, f"{self._path} has {size} bytes of {expected}: it was cut off or added to")

    def _check_all(self) -> None:
        connection = self._connection
        self._faults += check_file(connection)
        self._faults += check_schema(connection)
        sound = not self._faults
        dimension, faults = check_settings(connection)
        self._faults += faults
        tables, faults = readable_tables(connection, _TABLES)
        self._faults += faults
        if "events" in tables:
            # An index that is as it should be, in a file that SQLite finds sound, keeps event_ids apart.
            self._check_events(HistoryCheck(dimension, unique_ids=not sound), tables)

    # The rows

    def _check_events(self, check: HistoryCheck, tables: list[str]) -> None:
        """Go through both tables at once, a range of positions at a time."""
        total = last_position(self._connection, tables)
        before, _ = attempt(self._connection, "SELECT seq FROM events NOT INDEXED WHERE seq < 1 LIMIT 100")
        for (seq,) in before:
            self._fault("position", seq, f"event {seq} stands before the first position, 1")
        after = 0
        while after < total:
            upto = min(after + _EVENTS_AT_ONCE, total)
            if not self._check_range(check, tables, after, upto):
                # Nothing there at all: a gap, perhaps of billions.
                following = next_position(self._connection, tables, upto)
                upto = upto if following is None else following - 1
                check.lose(after + 1, upto)
                self._lose("position", "missing from the history", after + 1, upto)
            after = upto
            if self._progress is not None:
                self._progress(after, total)
        self._faults += check.faults
        for (kind, words), ranges in self._lost.items():
            for first, last in ranges:
                named = f"event {first}" if first == last else f"events {first} to {last}"
                self._fault(kind, first, f"{named}: {words}", None if first == last else last)
        self._check_counter(total)

    def _check_range(self, check: HistoryCheck, tables: list[str], after: int, upto: int) -> bool:
        """Check the events in `(after, upto]`; False where neither table has anything there."""
        rows, unreadable = read_rows(self._connection, "events", _EVENT_COLUMNS, after, upto)
        headers = {row[0]: row for row in rows}
        payloads: dict[int, Row] = {}
        unreadable_payloads: dict[int, str] = {}
        if "payloads" in tables:
            rows, unreadable_payloads = read_rows(self._connection, "payloads", PAYLOAD_COLUMNS, after, upto)
            payloads = {row[0]: row for row in rows}
        if not (headers or payloads or unreadable or unreadable_payloads):
            return False
        self._events += len(headers)
        self._payloads += len(payloads)
        for position in range(after + 1, upto + 1):
            row, payload = headers.get(position), payloads.get(position)
            if row is None:
                check.lose(position, position)
                if position in unreadable:
                    self._lose("unreadable", f"cannot be read ({unreadable[position]})", position)
                else:
                    self._lose("position", "missing from the history", position)
                    if payload is not None:
                        self._lose("payload", "a payload without an event", position)
                continue
            self._last = row
            check.take(row)
            if payload is not None:
                check.take_payload(row, payload)
                self._checked += 1
                self._whole.add(position, position)
            elif position in unreadable_payloads:
                self._lose("unreadable", f"the payload cannot be read ({unreadable_payloads[position]})", position)
            elif "payloads" in tables:
                self._lose("payload", "there is no payload", position)
        check.flush()
        return True

    def _check_counter(self, total: int) -> None:
        """SQLite counts the rows that were ever inserted: a clumsy cut shows there."""
        if not is_plain_table(self._connection, "sqlite_sequence"):
            self._fault("schema", None, "the counter of events is not the table it was")
            return
        rows, _ = attempt(self._connection, "SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        recorded = rows[0][0] if rows else 0
        if isinstance(recorded, int) and recorded > total:
            message = f"the history ends at position {total}, and events up to {recorded} were recorded and removed"
            self._fault("position", total + 1, message, recorded)
        elif recorded != total:
            self._fault("sqlite", None, f"the counter of events is at {recorded!r}, and the history ends at {total}")

    def _check_heads(self, heads: list[tuple[int, str]]) -> None:
        sql = "SELECT hash FROM events NOT INDEXED WHERE seq = ?"
        for position, digest in heads:
            rows, problem = attempt(self._connection, sql, (position,)) if position else ([(GENESIS,)], None)
            if problem is not None:
                what = f"cannot be compared with the history: {problem}"
            elif not rows:
                what = "lies beyond the end of the history: that was cut off, or the head is another history's"
            elif rows[0][0] != bytes.fromhex(digest):
                what = "is not in the history: that was written anew, or the head is another history's"
            else:
                continue
            self._fault("against", position, f"the head at position {position} {what}")


@contextlib.contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is read in the block is of one moment."""
    attempt(connection, "BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            attempt(connection, "ROLLBACK")
        attempt(connection, "PRAGMA writable_schema = OFF")  # the connection may be a store's own
