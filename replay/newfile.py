"""A new database file that appears whole, verified and synced, or not at all: made beside, synced, given its name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from eventstore import AsofError, InvalidOperation, StorageError
from eventstore.parts import new_part, sync_directory, sync_file
from eventstore.schema import APPLICATION_ID, PAGE_SIZE, apply_migrations
from eventstore.sqlite import sqlite3
from eventstore.sqlite_errors import translated

__all__ = ["filled", "insert_rows", "new_database"]

_SIDE_FILES = ("-wal", "-shm", "-journal")
_ROWS_A_STATEMENT = 200  # as in eventstore.append


@contextlib.contextmanager
def new_database(to: str | os.PathLike[str], like: str | None) -> Iterator[tuple[Path, Path]]:
    """The path of an empty file to fill, and the one that it gets at the end of the block, where nothing may be.

    Those may read it who may read the file `like`. Whatever ends the block early leaves nothing.

    Raises:
        InvalidOperation: there is something at `to` already, or it is no path of a file.
        StorageError: the file system refused.
    """
    target = _new_path(os.fsdecode(to))
    part: Path | None = None
    try:
        # Those may read it who may read the source.
        part, held = new_part(target, (0o666 if like is None else os.stat(like).st_mode & 0o666) | 0o600)
        # Let go of before it gets its name: closing a file costs the process its locks on it (see schema.inspect_file).
        with held:
            yield part, target
            sync_file(part)
        _publish(part, target)
    except OSError as error:
        if isinstance(error, AsofError):
            raise
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        for suffix in ("", *_SIDE_FILES) if part is not None else ():
            with contextlib.suppress(OSError):  # the error that led here, if one did, says more
                Path(f"{part}{suffix}").unlink(missing_ok=True)


@contextlib.contextmanager
def filled(part: Path, target: Path) -> Iterator[sqlite3.Connection]:
    """A transaction in an empty file that has been given the schema; the file is in its final form after the block."""
    with translated(str(target), 0), closing(sqlite3.connect(part, isolation_level=None)) as connection:
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
        yield connection
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")


def insert_rows(connection: sqlite3.Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows, many in a statement."""
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        some = rows[start : start + _ROWS_A_STATEMENT]
        places = ",".join([f"({','.join('?' * len(some[0]))})"] * len(some))
        connection.execute(f"INSERT INTO {table} VALUES {places}", tuple(chain.from_iterable(some)))


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
