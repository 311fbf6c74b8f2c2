"""Verify: is the history what was recorded, all of it and nothing else?"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from eventstore import AsofError, Closed, EventStore, Head, InvalidOperation
from eventstore.events import EventRow
from eventstore.hashing import GENESIS
from eventstore.instants import from_microseconds
from eventstore.schema import APPLICATION_ID
from eventstore.sqlite import sqlite3
from replay.checks import HistoryCheck
from replay.damaged import Row, attempt, has_side_files, opened, require_file
from replay.found import Found
from replay.pages import opened_pages
from replay.rebuild import Progress
from replay.report import Fault, FaultKind, Ranges, Report
from replay.structure import check_file, check_schema, check_settings, is_plain_table, readable_tables
from replay.tables import COLUMNS, Tables

__all__ = ["Checkable", "verify"]

_EVENTS_AT_ONCE = 200


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


def _look_through(path: str, live: bool, heads: list[tuple[int, str]], progress: Progress | None) -> Report | None:
    """Verify once more, with the rows that lie in the pages; None where there are none."""
    try:
        with opened_pages(path) as pages:
            found = Found(pages)
            if any(map(found.last, COLUMNS)):
                return _verify_opened(path, live, heads, progress, found)
    except InvalidOperation:
        pass  # a store of this process has it open: reading it as bytes would cost that its locks
    return None


def _version(path: str) -> tuple[int, int, int]:
    status = os.stat(path)
    return status[stat.ST_INO], status.st_size, status.st_mtime_ns


def _verify_opened(
    path: str, live: bool, heads: list[tuple[int, str]], progress: Progress | None, found: Found | None = None
) -> Report:
    with opened(path, live=live) as connection:
        size = None if live else os.path.getsize(path)
        verification = _Verification(path, connection, progress, size, found)
        report = verification.run(heads)
    if verification.lacks_tables and found is None:
        report = _look_through(path, live, heads, progress) or report
    return report


class _Verification:
    """One verification of one database, through a connection that it does not write to."""

    def __init__(
        self,
        path: str,
        connection: sqlite3.Connection,
        progress: Progress | None,
        size: int | None = None,
        found: Found | None = None,
    ) -> None:
        self.lacks_tables = False  # nothing is known by their names: perhaps their rows are there all the same
        self._path = path
        self._found = found
        self._size = size  # where no write-ahead log can hold pages that the file has not yet
        self._connection = connection
        self._progress = progress
        self._faults: list[Fault] = []
        self._lost: dict[tuple[FaultKind, str], Ranges] = {}
        self._events = self._payloads = self._checked = 0
        self._last: Row | None = None
        self._whole = Ranges()
        self._good: list[tuple[int, int]] = []
        self._tables = Tables(connection, [], None)

    def run(self, heads: list[tuple[int, str]]) -> Report:
        """Check everything and compare with heads that were kept elsewhere."""
        with _snapshot(self._connection):
            self._check_all(self._is_database())
            self._check_heads(heads)
        self._faults.sort(key=lambda fault: (fault.position is not None, fault.position or 0))
        return Report(self._path, self._faults, self._events, self._payloads, self._checked, self._head(), self._good)

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

    def _check_all(self, is_database: bool) -> None:
        connection, by_sqlite = self._connection, list[str]()
        dimension, missing = None, list(COLUMNS)
        if is_database:
            self._faults += check_file(connection)
            self._faults += check_schema(connection)
        sound = not self._faults
        if is_database:
            dimension, faults = check_settings(connection)
            self._faults += faults
            by_sqlite, faults = readable_tables(connection, COLUMNS)
            self._faults += faults
            # Where something else has a table's name, what the file holds besides is not the history.
            names, _ = attempt(connection, "SELECT name FROM sqlite_master")
            missing = [table for table in COLUMNS if (table,) not in names]
        self.lacks_tables = bool(missing)
        self._tables = Tables(connection, by_sqlite, self._found if missing else None)
        if self._tables.in_pages:
            dimension = dimension or self._tables.dimension()
            words = "their rows were read out of the pages, which `replay salvage` does as well"
            self._fault("unreadable", None, f"SQLite cannot read {' and '.join(self._tables.in_pages)}: {words}")
        if "events" in self._tables:
            # An index that is as it should be, in a file that SQLite finds sound, keeps event_ids apart.
            self._check_events(HistoryCheck(dimension, unique_ids=not sound))

    # The rows

    def _check_events(self, check: HistoryCheck) -> None:
        """Go through both tables at once, a range of positions at a time."""
        total = self._tables.last()
        before, _ = attempt(self._connection, "SELECT seq FROM events NOT INDEXED WHERE seq < 1 LIMIT 100")
        for (seq,) in before:
            self._fault("position", seq, f"event {seq} stands before the first position, 1")
        after = 0
        while after < total:
            upto = min(after + _EVENTS_AT_ONCE, total)
            if not self._check_range(check, after, upto):
                # Nothing there at all: a gap, perhaps of billions.
                following = self._tables.next(upto)
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
        self._good = list(self._whole.without(check.unproven).without(self._at_fault()))
        self._check_counter(total)

    def _at_fault(self) -> Ranges:
        ranges = Ranges()
        for first, last in sorted(
            (fault.position, fault.last or fault.position) for fault in self._faults if fault.position
        ):
            ranges.add(first, last)
        return ranges

    def _check_range(self, check: HistoryCheck, after: int, upto: int) -> bool:
        """Check the events in `(after, upto]`; False where neither table has anything there."""
        rows, unreadable = self._tables.read("events", after, upto)
        payload_rows: list[Row] = []
        unreadable_payloads: dict[int, str] = {}
        if "payloads" in self._tables:
            payload_rows, unreadable_payloads = self._tables.read("payloads", after, upto)
        if [row[0] for row in rows] == list(range(after + 1, upto + 1)) and check.take_whole(rows, payload_rows):
            self._events += len(rows)
            self._payloads += len(rows)
            self._checked += len(rows)
            self._whole.add(after + 1, upto)
            self._last = rows[-1]
            return True
        headers, payloads = {row[0]: row for row in rows}, {row[0]: row for row in payload_rows}
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
            elif "payloads" in self._tables:
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
        if "events" in self._tables.in_pages and self._found is not None:
            recorded = total if self._found.counter is None else self._found.counter
        if isinstance(recorded, int) and recorded > total:
            message = f"the history ends at position {total}, and events up to {recorded} were recorded and removed"
            self._fault("position", total + 1, message, recorded)
        elif recorded != total:
            self._fault("sqlite", None, f"the counter of events is at {recorded!r}, and the history ends at {total}")

    def _check_heads(self, heads: list[tuple[int, str]]) -> None:
        for position, digest in heads:
            rows: list[Row] = [(GENESIS,)]
            problem = None if position == 0 or "events" in self._tables else "its events cannot be read"
            if position and problem is None:
                rows, unreadable = self._tables.read("events", position - 1, position)
                problem = unreadable.get(position)
            if problem is not None:
                what = f"cannot be compared with the history: {problem}"
            elif not rows:
                what = "lies beyond the end of the history: that was cut off, or the head is another history's"
            elif rows[0][-1] != bytes.fromhex(digest):
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
