"""Recover: a new database file that is the history up to an instant."""

from __future__ import annotations

import contextlib
import os
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import IO, Any

from sqlite_utils import Database

from eventstore import AsOf, AsofError, CorruptHistory, EventStore, Head, InvalidOperation, StorageError
from eventstore.connections import translated
from eventstore.events import PayloadRow
from eventstore.parts import new_part, sync_directory
from eventstore.schema import APPLICATION_ID, EVENT_COLUMNS, PAGE_SIZE, apply_migrations
from eventstore.sqlite import sqlite3
from replay.rebuild import Progress
from replay.verify import verify

__all__ = ["recover"]

_SIDE_FILES = ("-wal", "-shm", "-journal")
_ROWS_A_STATEMENT = 200  # as in eventstore.append
_BYTES_AT_ONCE = 8 * 2**20
_TABLES = {"events": EVENT_COLUMNS, "payloads": PayloadRow._fields}


def recover(store: EventStore, as_of: AsOf, to: str | os.PathLike[str], *, progress: Progress | None = None) -> Head:
    """Write the history up to an instant or position to a new database file, and return its head.

    The file holds the same events, hashes and settings and can be opened, and written to, like any other. It
    appears whole, verified and synced, or not at all: it is made beside under another name. `progress` is called
    with events copied and then checked, of twice the number of events.

    Raises:
        InvalidOperation: there is something at `to` already, or it is no path of a file.
        InvalidInstant: `as_of` names no settled point of the history.
        CorruptHistory: what was copied is not sound, so the store is not.
        StorageError: the file system refused.
    """
    head = store.head_at(as_of)
    target = _new_path(os.fsdecode(to))
    part: Path | None = None
    try:
        part, held = _create(target, None if store._connections.in_memory else store._connections.file)
        # Let go of before it gets its name: closing a file costs the process its locks on it (see schema.inspect_file).
        with held:
            with translated(str(target), 0):
                _copy(store, head.position, part, target, progress)
            _require_sound(store, head, part, target, progress)
            _sync(part)
        _publish(part, target)
    except OSError as error:
        if isinstance(error, AsofError):
            raise
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        for suffix in ("", *_SIDE_FILES) if part is not None else ():
            with contextlib.suppress(OSError):  # the error that led here, if one did, says more
                Path(f"{part}{suffix}").unlink(missing_ok=True)
    return head


def _new_path(to: str) -> Path:
    target = Path(to)
    if to == ":memory:" or not target.name:
        raise InvalidOperation(f"{to!r} is no path of a file: give the path of a new one")
    # A log left beside by another database would be taken for this one's.
    for suffix in ("", *_SIDE_FILES):
        if os.path.lexists(f"{target}{suffix}"):
            raise InvalidOperation(f"{target}{suffix} exists already: remove it or give another path")
    if not target.parent.is_dir():
        raise StorageError(f"cannot create {target}: its directory does not exist; create it first")
    return target


def _create(target: Path, source: str | None) -> tuple[Path, IO[bytes]]:
    """An empty file that those may read who may read the source, and the stream that keeps it from being removed."""
    mode = 0o666 if source is None else os.stat(source).st_mode & 0o666
    return new_part(target, mode | 0o600)


def _copy(store: EventStore, position: int, part: Path, target: Path, progress: Progress | None) -> None:
    with closing(sqlite3.connect(part, isolation_level=None)) as connection:
        # Nobody will see the file if this fails, so nothing is logged or synced on the way.
        for pragma in (
            f"page_size = {PAGE_SIZE}",
            f"application_id = {APPLICATION_ID}",
            "journal_mode = OFF",
            "synchronous = OFF",
            "cache_size = -65536",
        ):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        apply_migrations(Database(connection), str(part))
        for key, value in store._connections.fetch("SELECT key, value FROM settings"):
            if position or key != "dimension":  # which the first event fixes
                connection.execute("INSERT INTO settings VALUES (?, ?)", (key, value))
        step = max(1, min(1000, _BYTES_AT_ONCE // (4 * (store.dimension or 1))))
        for after in range(0, position, step):
            upto = min(after + step, position)
            for table, columns in _TABLES.items():
                sql = f"SELECT {', '.join(columns)} FROM {table} WHERE seq > ? AND seq <= ? ORDER BY seq"
                rows = store._connections.fetch(sql, (after, upto))
                if len(rows) != upto - after:
                    raise CorruptHistory(
                        f"{store.path} lacks {table} between positions {after + 1} and {upto}: "
                        f"{target} was not written; run `replay verify` to see what is still good"
                    )
                _insert(connection, table, rows)
            if progress is not None:
                progress(upto, 2 * position)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")


def _insert(connection: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        some = rows[start : start + _ROWS_A_STATEMENT]
        places = ",".join([f"({','.join('?' * len(some[0]))})"] * len(some))
        connection.execute(f"INSERT INTO {table} VALUES {places}", tuple(chain.from_iterable(some)))


def _require_sound(store: EventStore, head: Head, part: Path, target: Path, progress: Progress | None) -> None:
    def shifted(done: int, total: int) -> None:
        assert progress is not None
        progress(head.position + done, head.position + total)

    report = verify(part, progress=None if progress is None else shifted)
    if not report.ok or report.head != head or report.events != head.position:
        found = report.faults[0].message if report.faults else f"its head is {report.head}, not {head}"
        raise CorruptHistory(
            f"what was copied from {store.path} is not sound ({found}): {target} was not written; "
            "run `replay verify` to see what is still good"
        )


def _sync(part: Path) -> None:
    descriptor = os.open(part, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(part: Path, target: Path) -> None:
    """Give the file its name, which nothing may have by now; and make that last."""
    try:
        os.link(part, target)
    except FileExistsError:
        raise InvalidOperation(f"{target} exists already: remove it or give another path") from None
    except OSError:
        # A file system without links: a rename, which on some systems would replace a file made just now.
        if os.path.lexists(target):
            raise InvalidOperation(f"{target} exists already: remove it or give another path") from None
        os.rename(part, target)
    try:
        part.unlink(missing_ok=True)
        sync_directory(target.parent)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
