"""Migrations: a history of an earlier schema version is replaced by a copy with this version's schema.

Nothing is changed in the old file. A copy is made beside it, brought up to date, compared with it and synced; then a
rename puts it in the old one's place, which is kept as `NAME.vN`. At each moment the path names the old file or the
new one, whole. All the while nobody else has the database open: SQLite's exclusive lock on the old file sees to that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlite_utils import Database

from eventstore.errors import AsofError, CorruptHistory, StorageError, StoreBusy
from eventstore.events import EventRow, PayloadRow
from eventstore.hashing import GENESIS, event_hash, payload_digest
from eventstore.parts import sync_directory, sync_file
from eventstore.schema import (
    apply_migrations,
    is_older,
    migrations,
    newest_version,
    refuse_newer,
    schema_objects,
    schema_version,
)
from eventstore.sqlite import sqlite3
from eventstore.write_ahead import WriteAheadLog

__all__ = ["finish", "is_under_way", "migrate"]

_SAMPLES = 100
_PAGES_AT_ONCE = 1024  # so that Ctrl-C is heard while a large file is copied
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

_EVENT = ", ".join(f"e.{name}" for name in EventRow._fields)
_PAYLOAD = ", ".join(f"p.{name}" for name in PayloadRow._fields)
_ALL = f"SELECT {_EVENT}, {_PAYLOAD} FROM events e NOT INDEXED LEFT JOIN payloads p ON p.seq = e.seq ORDER BY e.seq"
_HEAD = "SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1"
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"

# What is read of an event in both files, by each of the roads that reads take.
_READS = {
    "as a row": f"SELECT {_EVENT}, {_PAYLOAD} FROM events e JOIN payloads p ON p.seq = e.seq WHERE e.seq = ?",
    "in the view": "SELECT * FROM history WHERE id = (SELECT event_id FROM events WHERE seq = ?)",
    "by its memory": (
        "SELECT seq, version FROM events WHERE memory_id = (SELECT memory_id FROM events WHERE seq = ?)"
        " AND version > 0 ORDER BY version DESC LIMIT 1"
    ),
    "by its instant": (
        "SELECT seq FROM events WHERE recorded_at <= (SELECT recorded_at FROM events WHERE seq = ?)"
        " ORDER BY recorded_at DESC, seq DESC LIMIT 1"
    ),
}


def _new(file: str) -> Path:
    return Path(file).with_name(f".{Path(file).name}.migrating")


def _old(file: str) -> Path:
    return Path(file).with_name(f".{Path(file).name}.migrated")


def _copied(file: str) -> Path:
    return Path(file).with_name(f".{Path(file).name}.keeping")


def is_under_way(file: str) -> bool:
    """Whether the copy of a migration is there, being made or left by a process that died."""
    return _new(file).exists()


def migrate(file: str, path: str, deadline: float) -> None:
    """Bring a history of an earlier schema version to this one's; return when it is, by whichever process.

    `path` is how messages call it, `deadline` (of `time.monotonic`) when to stop waiting for others to close it.

    Raises, and the old file stays in use:
        StoreBusy: another process, or another store of this one, has it open.
        CorruptHistory: the copy is not the same history, so the old one is damaged.
        StorageError: the file system refused.
    """
    with _reported(path):
        while not _migrated(file, path):
            if time.monotonic() >= deadline:
                raise StoreBusy(
                    f"{path} is of an older schema version, and another process has it open: close it everywhere, so "
                    f"that it can be brought to version {newest_version()}"
                )
            time.sleep(random.uniform(0.005, 0.05))  # of two that wait for each other one is first


def _migrated(file: str, path: str) -> bool:
    """Try once; False where somebody else has the database open."""
    before = _identity(file)
    with contextlib.ExitStack() as opened:
        old = _connect(file)
        opened.callback(old.close)
        try:
            alone = _take_alone(old)
        except sqlite3.DatabaseError as error:
            if "disk i/o" in str(error).lower():
                opened.pop_all()
                log = WriteAheadLog(file)
                log.mark_failed()
                log.close_unfolded(old)
            raise
        # Where another process was faster, this is the file that it has put out of the way.
        if alone and _identity(file) == before and is_older(Database(old)):
            _replace(old, file, path)
        return alone


@contextlib.contextmanager
def _reported(path: str) -> Iterator[None]:
    """Turn errors into this product's."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if isinstance(error, AsofError):
            raise
        failed = f"{path} could not be brought to schema version {newest_version()}"
        text = str(error)
        if "malformed" in text or "not a database" in text:
            raise CorruptHistory(
                f"{failed}: it is damaged ({text}); run `replay verify` to see what is still good"
            ) from error
        raise StorageError(
            f"{failed} ({text}): nothing of it is lost; look at the disk, and whether a copy finds room beside it, "
            "then open it again"
        ) from error


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _connect(path: str | Path) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path))}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)


def _take_alone(connection: sqlite3.Connection) -> bool:
    """Fold the log into the file, remove it, and lock everybody else out until the connection is closed; False if busy.

    Without a log, because the next file of that name would take it for its own. A process that has the file open
    already and waits cannot begin a log once the file has lost its name: SQLite looks.
    """
    try:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
        # In between another process may have begun a log again.
        return bool(connection.execute("PRAGMA journal_mode").fetchone() == ("delete",))
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            return False
        raise


def _replace(old: sqlite3.Connection, file: str, path: str) -> None:
    refuse_newer(Database(old), path)
    finish(file, Database(old))  # of a process that died
    new, kept, directory = _new(file), _old(file), Path(file).parent
    try:
        _create_like(new, file, path)
        _copy(old, new)
        with closing(_connect(new)) as connection:
            _bring_up_to_date(connection, path)
            _require_same(old, connection, path)
        sync_file(new)
        _keep(old, file, kept)
        # From here on the log is gone for good, and both names are on disk.
        sync_directory(directory)
        os.replace(new, file)
    except BaseException:
        for leftover in (new, kept, _copied(file)):
            with contextlib.suppress(OSError):  # the error that led here says more; the next opening removes it
                leftover.unlink(missing_ok=True)
        raise


def _create_like(new: Path, file: str, path: str) -> None:
    """An empty file that belongs to whom the old one does, with its permissions."""
    status = os.stat(file)
    descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        made = os.fstat(descriptor)
        if (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):
            os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, status.st_mode & 0o7777)
    except PermissionError as error:
        raise StorageError(
            f"{path} is of an older schema version, and a new file in its place would not belong to its owner: "
            "open it once as the user that it belongs to"
        ) from error
    finally:
        os.close(descriptor)


def _copy(old: sqlite3.Connection, to: Path) -> None:
    with closing(_connect(to)) as connection:
        _expect_nothing(connection)
        old.backup(connection, pages=_PAGES_AT_ONCE, progress=lambda *_: None)


def _expect_nothing(connection: sqlite3.Connection) -> None:
    """Nobody will see the file if anything fails, so nothing is logged or synced on the way."""
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -65536", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}")


def _bring_up_to_date(connection: sqlite3.Connection, path: str) -> None:
    _expect_nothing(connection)
    db = Database(connection, recursive_triggers=True)
    connection.execute("BEGIN")
    apply_migrations(db, path)
    connection.execute("COMMIT")


def _keep(old: sqlite3.Connection, file: str, kept: Path) -> None:
    """Give the old file a second name; where the file system knows no such thing, copy it."""
    try:
        os.link(file, kept)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        copied = _copied(file)
        _create_like(copied, file, file)
        _copy(old, copied)
        sync_file(copied)
        os.rename(copied, kept)


def finish(file: str, db: Database) -> None:
    """End a migration of `file`, also one that was killed; `db` is that file, and the caller has its write lock.

    If the new file is in place, the old one gets the name that it is kept by. If not, the new one and the old one's
    second name are removed.
    """
    new, old = _new(file), _old(file)
    try:
        for leftover in (new, _copied(file)):
            if leftover.exists():
                leftover.unlink()
        if old.exists():
            version = _version_of(old)
            if version == schema_version(db):
                old.unlink()
            else:
                _name_old(old, f"{file}.v{version}")
    except (OSError, sqlite3.Error) as error:
        raise StorageError(
            f"what a migration of {file} left beside it cannot be tidied up ({error}): "
            f"look at {new.name} and {old.name} there; nothing is lost"
        ) from error


def _version_of(path: Path) -> int:
    with closing(sqlite3.connect(f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1", uri=True)) as connection:
        return schema_version(Database(connection))


def _name_old(old: Path, name: str) -> None:
    # First of all: until this is on disk the old file may come back, so nothing is recorded in the new one.
    sync_directory(old.parent)
    names = (Path(f"{name}-{number}" if number > 1 else name) for number in count(1))
    os.rename(old, next(path for path in names if not os.path.lexists(path)))
    sync_directory(old.parent)


# -- is it the same history? ----------------------------------------------------------------------------------


def _require_same(old: sqlite3.Connection, new: sqlite3.Connection, path: str) -> None:
    difference = _difference(old, new)
    if difference is not None:
        raise CorruptHistory(
            f"{path} was not brought to schema version {newest_version()}: in the copy {difference}; it is as it was, "
            "and the asof that wrote it can use it; run `replay verify` to see what is still good"
        )


def _difference(old: sqlite3.Connection, new: sqlite3.Connection) -> str | None:
    """The first thing in which the new file is not the same history with this version's schema; None if it is."""
    found = new.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        return f"SQLite finds a fault ({' '.join(found.split())})"
    return _other_schema(new) or _other_rows(old, new) or _broken_chain(old, new) or _other_reads(old, new)


def _other_schema(new: sqlite3.Connection) -> str | None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        apply_migrations(Database(connection), ":memory:")
        expected = schema_objects(connection)
    found = schema_objects(new)
    # The record of steps is sqlite-utils' own table, which may look otherwise in another version of it.
    names = (name for name in expected if migrations.migrations_table not in name)
    wrong = next((name for name in names if found.get(name) != expected[name]), None)
    return None if wrong is None else f"{wrong} is not as it is made in a new history"


def _other_rows(old: sqlite3.Connection, new: sqlite3.Connection) -> str | None:
    there = set(new.execute(_TABLES))
    for (table,) in old.execute(_TABLES).fetchall():
        if (table,) in there and table not in (migrations.migrations_table, "settings"):
            sql = 'SELECT count(*) FROM "{}"'.format(table.replace('"', '""'))
            before, after = old.execute(sql).fetchone()[0], new.execute(sql).fetchone()[0]
            if before != after:
                return f"{table} has {after} rows of {before}"
    settings = "SELECT key, value FROM settings"
    if not set(old.execute(settings)) <= set(new.execute(settings)):
        return "a setting is missing or another"
    counter = "SELECT seq FROM sqlite_sequence WHERE name = 'events'"
    if old.execute(counter).fetchall() != new.execute(counter).fetchall():
        return "the counter of events is another"
    return None


def _broken_chain(old: sqlite3.Connection, new: sqlite3.Connection) -> str | None:
    """Hash every event and payload anew, up to the old file's head: so nothing that is hashed was changed."""
    before, position = GENESIS, 0
    for row in new.execute(_ALL):
        event, payload = EventRow._make(row[: len(EventRow._fields)]), PayloadRow._make(row[len(EventRow._fields) :])
        if event.seq != position + 1:
            return f"event {position + 1} is missing"
        if payload.seq is None:
            return f"event {event.seq} has no payload"
        try:
            digest, expected = payload_digest(*payload[1:]), event_hash(before, *event[:-1])
        except (AttributeError, TypeError, struct.error):
            return f"event {event.seq} holds what no event can hold"
        if digest != event.payload_digest:
            return f"event {event.seq} does not match the digest of its payload"
        if expected != event.hash:
            return f"event {event.seq} does not fit into the hash chain"
        before, position = event.hash, event.seq
    head = old.execute(_HEAD).fetchone() or (0, GENESIS)
    return None if head == (position, before) else f"the head is at position {position}, not {head[0]}, or another"


def _other_reads(old: sqlite3.Connection, new: sqlite3.Connection) -> str | None:
    head = (old.execute(_HEAD).fetchone() or (0, None))[0]
    step = max(1, head // _SAMPLES)
    for position in sorted({*range(1, head + 1, step), head} - {0}):
        for road, sql in _READS.items():
            if _rows(old, sql, position) != _rows(new, sql, position):
                return f"event {position} is not the same, read {road}"
    return None


def _rows(connection: sqlite3.Connection, sql: str, position: int) -> list[Any]:
    return connection.execute(sql, (position,)).fetchall()
