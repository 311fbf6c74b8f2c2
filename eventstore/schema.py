"""The database schema: its migrations, and the checks that a file is one of ours before it is touched."""

from __future__ import annotations

import errno
import os
import re
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlite_utils import Database, Migrations

from eventstore.errors import CorruptHistory, NewerSchema, NotAStore, OlderSchema, StorageError
from eventstore.sqlite import sqlite3

__all__ = [
    "APPLICATION_ID",
    "EVENT_COLUMNS",
    "PAGE_SIZE",
    "apply_migrations",
    "inspect_file",
    "is_older",
    "newest_version",
    "refuse_newer",
    "require_schema",
    "schema_objects",
    "schema_version",
]

APPLICATION_ID = 0x61736F66  # "asof": byte 68 of the SQLite header, how a file is known to be ours
_HEADER_LENGTH = 100
_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
PAGE_SIZE = 16384  # 4096 halves the rate of bulk appends of embeddings, 32768 costs single ones a third

EVENT_COLUMNS = (
    "seq",
    "event_id",
    "memory_id",
    "version",
    "prev_seq",
    "add_seq",
    "embedding_seq",
    "type",
    "recorded_at",
    "occurred_at",
    "actor_id",
    "role",
    "reason",
    "correlation_id",
    "causation_id",
    "source",
    "payload_digest",
    "hash",
)

_TABLES = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL,
    memory_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    prev_seq INTEGER,
    add_seq INTEGER NOT NULL,
    embedding_seq INTEGER,
    type TEXT NOT NULL,
    recorded_at INTEGER NOT NULL,
    occurred_at INTEGER,
    actor_id TEXT,
    role TEXT,
    reason TEXT,
    correlation_id TEXT,
    causation_id TEXT,
    source TEXT,
    payload_digest BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX events_event_id ON events (event_id);
CREATE UNIQUE INDEX events_memory ON events (memory_id, version);
CREATE INDEX events_recorded_at ON events (recorded_at);
CREATE INDEX events_actor ON events (actor_id) WHERE actor_id IS NOT NULL;
CREATE INDEX events_correlation ON events (correlation_id) WHERE correlation_id IS NOT NULL;
CREATE TABLE payloads (
    seq INTEGER PRIMARY KEY,
    salt BLOB NOT NULL,
    content TEXT,
    metadata TEXT,
    embedding BLOB
) STRICT;
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""

# INSERT OR REPLACE walks round DELETE triggers unless recursive_triggers is on, which other clients leave
# off; so an INSERT that could replace a row, by whichever unique key, is refused before it does.
_TRIGGERS = """
CREATE TRIGGER events_no_update BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'asof: the history cannot be changed'); END;
CREATE TRIGGER events_no_delete BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'asof: the history cannot be changed'); END;
CREATE TRIGGER events_only_append BEFORE INSERT ON events
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM events)
    OR EXISTS (SELECT 1 FROM events WHERE event_id = NEW.event_id)
    OR EXISTS (SELECT 1 FROM events WHERE memory_id = NEW.memory_id AND version = NEW.version)
BEGIN SELECT RAISE(ABORT, 'asof: the history can only be appended to'); END;
CREATE TRIGGER payloads_no_update BEFORE UPDATE ON payloads
BEGIN SELECT RAISE(ABORT, 'asof: the history cannot be changed'); END;
CREATE TRIGGER payloads_no_delete BEFORE DELETE ON payloads
BEGIN SELECT RAISE(ABORT, 'asof: the history cannot be changed'); END;
CREATE TRIGGER payloads_only_append BEFORE INSERT ON payloads
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM payloads)
BEGIN SELECT RAISE(ABORT, 'asof: the history can only be appended to'); END;
"""


def _iso(column: str) -> str:
    # Floor division by hand: SQLite's / and % round towards zero, wrongly before 1970.
    micro = f"((({column} % 1000000) + 1000000) % 1000000)"
    return (
        f"(strftime('%Y-%m-%dT%H:%M:%S', ({column} - {micro}) / 1000000, 'unixepoch')"
        f" || printf('.%06d+00:00', {micro}))"
    )


_VIEW = f"""
CREATE VIEW history AS
SELECT
    e.event_id AS id,
    e.memory_id AS memory_id,
    before.content AS old_memory,
    after.content AS new_memory,
    e.type AS event,
    {_iso("born.recorded_at")} AS created_at,
    CASE WHEN e.type <> 'ADD' THEN {_iso("e.recorded_at")} END AS updated_at,
    CAST(e.type = 'DELETE' AS INTEGER) AS is_deleted,
    e.actor_id AS actor_id,
    e.role AS role
FROM events e
LEFT JOIN payloads after ON after.seq = e.seq
LEFT JOIN payloads before ON before.seq = e.prev_seq AND e.type <> 'ADD'
LEFT JOIN events born ON born.seq = e.add_seq;
"""

migrations = Migrations("eventstore")


@migrations(name="m001_history")
def _m001_history(db: Database) -> None:
    for statement in _statements(_TABLES + _TRIGGERS + _VIEW):
        db.execute(statement)


def _statements(script: str) -> list[str]:
    # Not executescript: it would commit the transaction that makes a migration all or nothing.
    statements, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        if line.rstrip().endswith(";") and ("CREATE TRIGGER" not in current or line.rstrip().endswith("END;")):
            statements.append(current.strip())
            current = ""
    return statements


def apply_migrations(db: Database, path: str) -> None:
    """Bring the schema up to this version; inside the caller's transaction all or nothing."""
    refuse_newer(db, path)
    if migrations.pending(db):
        migrations.apply(db)


def schema_version(db: Database) -> int:
    """The number of the last step that was applied; 0 where there is no schema yet."""
    return max((_number(step.name) for step in migrations.applied(db)), default=0)


def newest_version() -> int:
    """The version that this asof makes."""
    return max(_number(step.name) for step in migrations._migrations)


def _number(step: str) -> int:
    found = re.match(r"m(\d+)", step)
    return int(found[1]) if found else 0


def is_older(db: Database) -> bool:
    """Whether the database holds a history whose schema is an earlier version's."""
    return bool(migrations.applied(db)) and bool(migrations.pending(db))


def require_schema(db: Database, path: str) -> None:
    """Refuse a database, opened for reading only, whose schema is not exactly this version's."""
    refuse_newer(db, path)
    if pending := migrations.pending(db):
        raise OlderSchema(
            f"{path} has schema version {schema_version(db)}, lacks the schema step {pending[0].name!r} and cannot be "
            f"written to: make it writable and open it once to bring it to version {newest_version()}, "
            "or read it with the asof that wrote it"
        )


def refuse_newer(db: Database, path: str) -> None:
    """Refuse a database with a step of the schema that this version does not know."""
    known = {migration.name for migration in migrations._migrations}
    newer = [step.name for step in migrations.applied(db) if step.name not in known]
    if newer:
        raise NewerSchema(
            f"{path} was written by a newer asof: its schema has version {schema_version(db)} (step {newer[-1]!r}) "
            f"and this one knows versions up to {newest_version()}; upgrade asof to open it"
        )


def inspect_file(path: str) -> bool:
    """Whether `path` holds a history already; False where there is nothing yet to hold one.

    Reads the file's header only and touches nothing. `NotAStore` for a directory, a file that is not
    an SQLite database or another application's; `CorruptHistory` for one that is shorter than it says.
    """
    if not path or "\0" in path:
        raise NotAStore(f"{path!r} cannot be a path: give that of a database file")
    file = Path(path)
    try:
        if file.is_dir():
            raise NotAStore(f"{path} is a directory: give the path of a database file")
        if not file.exists():
            if not file.parent.is_dir():
                raise StorageError(f"cannot create {path}: its directory does not exist; create it first")
            return False
        if not file.is_file():
            raise NotAStore(f"{path} is not a regular file: give the path of a database file")
        if not os.access(file, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        size = file.stat().st_size
        if not size or _was_being_created(path):
            return False
        application, whole = _read_header(path) if size >= _HEADER_LENGTH else (None, False)
        # In this order: what another process does between the steps only makes the file longer.
        logged = _has_bytes(f"{os.path.realpath(path)}-wal")
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    if application is None:
        raise NotAStore(f"{path} is not an SQLite database: give the path of an asof history or of a new file")
    if application != APPLICATION_ID:
        raise NotAStore(f"{path} is an SQLite database of another application: give another path")
    if not whole and not logged:
        raise CorruptHistory(
            f"{path} is cut off: it is shorter than its header says; "
            "bring back a copy, or look at what is left with `replay verify`"
        )
    return True


def _read_header(path: str) -> tuple[int | None, bool]:
    """The application id in a file's header, None if that is not SQLite's; and whether the file is as long as it says.

    Asked of SQLite. Were the file opened and closed here, this process would lose every lock that it has on it
    (POSIX; sqlite.org/howtocorrupt.html, 2.2), and the next process to close it would delete the log that a store
    of this process goes on writing to.
    """
    uri = f"file:{quote(os.fsencode(os.path.realpath(path)))}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:

        def pragma(name: str) -> int:
            return int(connection.execute(f"PRAGMA {name}").fetchone()[0])

        try:
            application = pragma("application_id")
            return application, os.path.getsize(path) >= pragma("page_count") * pragma("page_size")
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error):
                return None, False
            if "malformed" not in str(error):
                raise
        connection.execute("PRAGMA writable_schema = ON")  # and SQLite makes do with a file that is too short
        return pragma("application_id"), False


def _was_being_created(path: str) -> bool:
    """Whether a journal beside the file says that it was empty before, and whoever began to fill it has not ended.

    Whatever is in the file then SQLite takes back when it opens it (sqlite.org/fileformat2.html, 3).
    """
    try:
        with open(f"{os.path.realpath(path)}-journal", "rb") as stream:
            header = stream.read(20)
    except FileNotFoundError:
        return False
    return header.startswith(_JOURNAL_MAGIC) and header[16:] == bytes(4)


def _has_bytes(path: str) -> bool:
    try:
        return os.path.getsize(path) > 0
    except FileNotFoundError:
        return False


def schema_objects(db: Any) -> dict[str, str]:
    """Name -> SQL of every table, index, trigger and view of the history, as they should be."""
    rows = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: sql for name, sql in rows}
