"""Reads of a database that may be damaged. Nothing here writes, and nothing is taken on trust.

Whatever can be read is read: where SQLite gives up on a range of rows, each row of it is asked for on its own.
Rows come from the tables' own b-trees, never through an index.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eventstore.connections import GUARDS
from eventstore.errors import NotAStore, StorageError
from eventstore.sqlite import sqlite3
from eventstore.sqlite_errors import translated

__all__ = [
    "LEAST_ROW",
    "Row",
    "attempt",
    "has_side_files",
    "last_position",
    "next_position",
    "opened",
    "read_rows",
    "require_file",
]

Row = tuple[Any, ...]

_TIMEOUT = 30.0
LEAST_ROW = 16  # bytes: no row of a table is smaller, so a file of n bytes has fewer than n/16


def require_file(path: str) -> None:
    """Refuse what is no file at all: that is a mistake in the path, not damage."""
    file = Path(path)
    if file.is_dir():
        raise NotAStore(f"{path} is a directory: give the path of a database file")
    if not file.exists():
        raise StorageError(f"{path} does not exist: give the path of a history")
    if not file.is_file():
        raise NotAStore(f"{path} is not a regular file: give the path of a database file")
    if not os.access(path, os.R_OK):
        raise StorageError(f"{path} may not be read: ask for permission to read it")


def has_side_files(path: str) -> bool:
    """Whether somebody has the database open, or had and died."""
    return any(os.path.exists(f"{os.path.realpath(path)}{suffix}") for suffix in ("-wal", "-shm"))


@contextlib.contextmanager
def opened(path: str, *, live: bool) -> Iterator[sqlite3.Connection]:
    """A connection that can only read, with one snapshot for all that is read through it.

    Opening a write-ahead logged database makes side files; so one that nobody has open, not `live`, is read as
    an immutable file and its directory left as it is.
    """
    with translated(path, _TIMEOUT):
        connection = _connect(path, "mode=ro" if live else "mode=ro&immutable=1")
        try:
            _, problem = attempt(connection, "SELECT 1 FROM sqlite_master")
            if problem is not None and "unable to open" in problem and not _size(f"{os.path.realpath(path)}-wal"):
                # The directory takes no side files and the log holds nothing: the file is the whole history.
                connection.close()
                connection = _connect(path, "mode=ro&immutable=1")
            yield connection
        finally:
            connection.close()


def _connect(path: str, query: str) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(os.path.abspath(path)))}?{query}"
    connection = sqlite3.connect(uri, uri=True, timeout=_TIMEOUT, isolation_level=None, check_same_thread=False)
    for pragma in ("query_only = ON", "cache_size = -65536", *GUARDS):
        attempt(connection, f"PRAGMA {pragma}")
    return connection


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def attempt(connection: sqlite3.Connection, sql: str, parameters: Sequence[Any] = ()) -> tuple[list[Row], str | None]:
    """The rows of a query and None, or no rows and why; a lock held too long is not damage and is raised."""
    try:
        return connection.execute(sql, parameters).fetchall(), None
    except UnicodeDecodeError:  # raised by the driver when SQLite quotes what is no text
        return [], "the schema is malformed"
    except sqlite3.DatabaseError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise
        # One printable line: SQLite's words may quote what could not be decoded.
        text = str(error).encode("ascii", "backslashreplace").decode()
        return [], " ".join(text.split())[:200]


def read_rows(
    connection: sqlite3.Connection, table: str, columns: str, after: int, upto: int
) -> tuple[list[Row], dict[int, str]]:
    """The rows of a table with positions in `(after, upto]`, in order; and the positions that cannot be read, why.

    `columns` starts with `seq`.
    """
    select = f"SELECT {columns} FROM {table} NOT INDEXED WHERE seq"
    rows, problem = attempt(connection, f"{select} > ? AND seq <= ? ORDER BY seq", (after, upto))
    if problem is None and _ascending(rows, after, upto):
        return rows, {}
    found: list[Row] = []
    unreadable: dict[int, str] = {}
    for position in range(after + 1, upto + 1):
        rows, problem = attempt(connection, f"{select} = ?", (position,))
        found += rows[:1]
        if problem is not None:
            unreadable[position] = problem
    return found, unreadable


def _ascending(rows: list[Row], after: int, upto: int) -> bool:
    seqs = [row[0] for row in rows]
    if seqs == list(range(after + 1, upto + 1)):
        return True
    return all(a < b for a, b in zip([after, *seqs], [*seqs, upto + 1], strict=True))


def last_position(connection: sqlite3.Connection, tables: Sequence[str]) -> int:
    """The last position at which any of the tables has a row, as far as that can be told."""
    found = [attempt(connection, f"SELECT max(seq) FROM {table} NOT INDEXED") for table in tables]
    if all(problem is None for _, problem in found):
        return max((_number(rows) for rows, _ in found), default=0)
    # The right edge of a table is damaged. What else knows how far it went? Not beyond what the file can hold.
    found.append(attempt(connection, "SELECT seq FROM sqlite_sequence WHERE name = 'events'"))
    found.append(attempt(connection, "SELECT max(seq) FROM events INDEXED BY events_recorded_at"))
    pages, _ = attempt(connection, "PRAGMA page_count")
    size, _ = attempt(connection, "PRAGMA page_size")
    most = _number(pages) * _number(size) // LEAST_ROW
    return max((number for rows, _ in found if (number := _number(rows)) <= most), default=0)


def next_position(connection: sqlite3.Connection, tables: Sequence[str], after: int) -> int | None:
    """The first position past `after` at which any of the tables has a row; None where that cannot be told."""
    sql = "SELECT min(seq) FROM {} NOT INDEXED WHERE seq > ?"
    found = [attempt(connection, sql.format(table), (after,)) for table in tables]
    if any(problem is not None for _, problem in found):
        return None
    return min((number for rows, _ in found if (number := _number(rows))), default=None)


def _number(rows: list[Row]) -> int:
    return rows[0][0] if rows and isinstance(rows[0][0], int) else 0
