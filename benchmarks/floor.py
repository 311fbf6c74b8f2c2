"""The floor: the same bytes through SQLite and FAISS with nothing around them.

What the bytes are is taken from a file that `EventStore` wrote, read with plain sqlite3: its schema from
`sqlite_master`, triggers and indexes included, and its rows. So the floor follows whatever the schema becomes.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.data import Vectors

__all__ = ["RawHistory", "Recording", "flat_of", "hashed_rows", "open_raw", "read_hashed", "read_vectors"]

# As the store sets them for its own connections; the page size is in the file.
_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "cache_size = -65536", "temp_store = MEMORY")
_LOG_BYTES = 64 * 2**20
_READ = 1000
# Rows with all their columns: so many stay in the processor's cache.
_HASHED = 200


def open_raw(path: Path) -> sqlite3.Connection:
    """A plain connection for reading, with the file mapped."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA mmap_size = {2**40}")
    return connection


def _tables(connection: sqlite3.Connection) -> list[str]:
    """The tables in the order in which they were made. `ValueError` for one whose rows have no rowid."""
    names = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid")
        if not name.startswith("sqlite_")
    ]
    for name, without_rowid in connection.execute("SELECT name, wr FROM pragma_table_list WHERE type = 'table'"):
        if without_rowid and name in names:
            raise ValueError(f"table {name} has no rowid: the floor cannot tell which append its rows came with")
    return names


class Recording:
    """The rows that each append of a store's file added, table by table, ready to be inserted again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._counts: list[dict[str, int]] = []

    def mark(self) -> None:
        """Remember how many rows there are now: before the first append and after each."""
        with closing(open_raw(self.path)) as connection:
            self._counts.append(
                {
                    name: connection.execute(f'SELECT coalesce(max(rowid), 0) FROM "{name}"').fetchone()[0]
                    for name in _tables(connection)
                }
            )

    @property
    def appends(self) -> int:
        """How many appends were recorded."""
        return max(0, len(self._counts) - 1)

    def rows(self, append: int) -> list[tuple[str, list[tuple[Any, ...]]]]:
        """Of each table that the append added to, its name and new rows."""
        before, after = self._counts[append], self._counts[append + 1]
        with closing(open_raw(self.path)) as connection:
            return [
                (
                    name,
                    connection.execute(
                        f'SELECT * FROM "{name}" WHERE rowid > ? AND rowid <= ? ORDER BY rowid', (before[name], last)
                    ).fetchall(),
                )
                for name, last in after.items()
                if last > before[name]
            ]


class RawHistory:
    """A database with the schema of a recording, to which its rows are added with `executemany`."""

    def __init__(self, path: Path, recording: Recording) -> None:
        self.path = path
        with closing(open_raw(recording.path)) as source:
            page = source.execute("PRAGMA page_size").fetchone()[0]
            schema = [
                sql
                for name, sql in source.execute("SELECT name, sql FROM sqlite_master WHERE sql NOTNULL ORDER BY rowid")
                if not name.startswith("sqlite_")
            ]
        self._connection = sqlite3.connect(path, isolation_level=None)
        for pragma in (f"page_size = {page}", *_PRAGMAS, f"wal_autocheckpoint = {_LOG_BYTES // page}"):
            self._connection.execute(f"PRAGMA {pragma}")
        for sql in schema:
            self._connection.execute(sql)

    def add(self, rows: Sequence[tuple[str, list[tuple[Any, ...]]]]) -> None:
        """One durable transaction."""
        self._connection.execute("BEGIN IMMEDIATE")
        for table, some in rows:
            self._connection.executemany(f'INSERT INTO "{table}" VALUES ({",".join("?" * len(some[0]))})', some)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file, and fold its log into it."""
        self._connection.close()


def embedding_table(connection: sqlite3.Connection) -> str:
    """The table whose rows carry embeddings. `ValueError` where there is no such column."""
    for name in _tables(connection):
        if any(row[1] == "embedding" for row in connection.execute(f'PRAGMA table_info("{name}")')):
            return name
    raise ValueError("no table has a column named embedding: the floor must learn where embeddings are now")


def read_vectors(path: Path, dims: int, rows: int) -> Vectors:
    """A raw read of all embeddings into one matrix: the fastest that was found for plain sqlite3."""
    matrix, at = np.empty((rows, dims), dtype=np.float32), 0
    with closing(open_raw(path)) as connection:
        table = embedding_table(connection)
        cursor = connection.execute(f'SELECT embedding FROM "{table}" WHERE embedding NOTNULL ORDER BY rowid')
        while blobs := cursor.fetchmany(_READ):
            block = np.frombuffer(b"".join(blob for (blob,) in blobs), dtype="<f4").reshape(-1, dims)
            matrix[at : at + len(block)] = block
            at += len(block)
    return matrix[:at]


def hashed_rows(path: Path) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """Rows of the tables that have one per event, some at a time, each hashed by SHA-256 as a whole."""
    with closing(open_raw(path)) as connection:
        for table in ("events", "payloads"):
            cursor = connection.execute(f"SELECT * FROM {table} ORDER BY rowid")
            while rows := cursor.fetchmany(_HASHED):
                for row in rows:
                    parts = [
                        value if isinstance(value, bytes) else str(value).encode() for value in row if value is not None
                    ]
                    hashlib.sha256(b"".join(parts)).digest()
                yield table, rows


def read_hashed(path: Path, dims: int, rows: int) -> Vectors:
    """What `read_vectors` gives, where everything else about the events is read too, and all of it hashed."""
    with closing(open_raw(path)) as connection:
        table = embedding_table(connection)
        column = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')].index("embedding")
    matrix, at = np.empty((rows, dims), dtype=np.float32), 0
    for name, some in hashed_rows(path):
        if name == table:
            blobs = [row[column] for row in some if row[column] is not None]
            matrix[at : at + len(blobs)] = np.frombuffer(b"".join(blobs), dtype="<f4").reshape(-1, dims)
            at += len(blobs)
    return matrix[:at]


def flat_of(vectors: Any, dims: int) -> Any:
    """A FAISS Flat index of a matrix, or of several, by inner product."""
    flat = faiss.IndexFlatIP(dims)
    for some in [vectors] if isinstance(vectors, np.ndarray) else vectors:
        flat.add(some)
    return flat
