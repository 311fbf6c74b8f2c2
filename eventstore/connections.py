"""SQLite connections: one that writes, a pool that reads, and their errors in this product's words."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from sqlite_utils import Database

from eventstore.errors import (
    AsofError,
    Closed,
    CorruptHistory,
    InvalidOperation,
    ReadOnlyStore,
    StorageError,
    StoreBusy,
)
from eventstore.schema import (
    APPLICATION_ID,
    PAGE_SIZE,
    apply_migrations,
    inspect_file,
    refuse_newer,
    require_schema,
)
from eventstore.shape import refuse_foreign_schema, require_tables
from eventstore.sqlite import sqlite3

__all__ = ["Connections", "Durability", "translated"]

Durability = Literal["full", "normal"]
Row = tuple[Any, ...]

LOG_LIMIT = 64 * 2**20  # bytes at which the write-ahead log is folded into the file: twice the bulk rate of the default

_IDLE_READERS = 8

GUARDS = (
    "trusted_schema = OFF",  # nothing that is written in the file's schema may call what has effects
    "cell_size_check = ON",
    "mmap_size = 0",  # a mapped file that somebody cuts ends the process (SIGBUS), and one that fails is no error
)

# What SQLite, or its driver, says of files whose contents it cannot make sense of.
_DAMAGED = ("no such", "malformed", "not a database", "corrupt", "could not decode", "no query solution")


@contextlib.contextmanager
def translated(path: str, timeout: float) -> Iterator[None]:
    """Turn SQLite's errors into this product's, naming the file and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(error, path, timeout) from error


def _translate(error: Exception, path: str, timeout: float) -> AsofError:
    text = str(error).lower()
    if "closed" in text:
        return Closed(f"the store {path} is closed: open it again")
    if _is_busy(error):
        return StoreBusy(
            f"{path} stayed locked by another writer for {timeout:g} s: try again, or open with a longer timeout"
        )
    if "readonly" in text or "read-only" in text:
        return ReadOnlyStore(
            f"{path} can only be read: nothing was written; make the file writable, and those beside it (-wal, -shm)"
        )
    if "unable to open" in text:
        return StorageError(f"cannot open {path} or the files beside it: look at the permissions of its directory")
    if any(words in text for words in _DAMAGED):
        return CorruptHistory(f"{path} is damaged ({error}): run `replay verify` to see what is still good")
    if "full" in text:
        return StorageError(f"no space left for {path} ({error}): free some; nothing was written")
    if "too big" in text or "too large" in text:
        return InvalidOperation(f"too large for one row ({error}): nothing was written; split the content")
    if "asof:" in text:
        return CorruptHistory(f"{path} refused an event ({error}): run `replay verify`")
    return StorageError(f"SQLite could not work on {path} ({error}): nothing was written; look at the disk")


def _is_busy(error: Exception) -> bool:
    text = str(error).lower()
    return "locked" in text or "busy" in text


class Connections:
    """The connections to one history file, or to one in memory.

    Reads take an idle connection from the pool, so they run beside each other and beside a write. In memory
    there is one connection only, and a lock makes them take turns.
    """

    def __init__(self, path: str, *, durability: Durability, timeout: float) -> None:
        self.path = path
        self.timeout = timeout
        self.in_memory = path == ":memory:"
        self.read_only = False
        self.file = path  # absolute once it is known to be one
        self._durability = durability
        self._query = ""
        self._write_lock = threading.RLock()
        self._pool_lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._changes_before = 0
        self._identity: list[tuple[int, int] | None] = []
        self._failure: str | None = None
        self._writing_thread: int | None = None
        with translated(path, timeout):
            try:
                self._writer = self._open_writer(time.monotonic() + timeout)
            except (LookupError, UnicodeDecodeError) as error:
                if isinstance(error, AsofError):
                    raise
                # What sqlite-utils and sqlite3 make of a schema whose text was changed in the file.
                raise CorruptHistory(f"the schema of {path} is damaged ({error!r}): run `replay verify`") from error

    def _open_writer(self, deadline: float) -> sqlite3.Connection:
        while True:
            exists = not self.in_memory and inspect_file(self.path)
            if not self.in_memory:
                # Resolved once: a later chdir must not lead the next connection to another file.
                self.file = os.path.realpath(self.path)
            if exists and not self._writable():
                return self._open_for_reading()
            try:
                return self._open_for_writing()
            except sqlite3.OperationalError as error:
                # Where another process opens the file just now, SQLite refuses the switch to WAL without waiting.
                if not _is_busy(error) or time.monotonic() >= deadline:
                    raise
            time.sleep(0.005)

    def _writable(self) -> bool:
        # The write-ahead log is a file beside it, so the directory has to take files too.
        return os.access(self.file, os.W_OK) and os.access(os.path.dirname(self.file), os.W_OK)

    def _open_for_writing(self) -> sqlite3.Connection:
        connection = self._connect("mode=rwc")
        try:
            db = Database(connection, recursive_triggers=True)
            # Asked of SQLite, which first undoes what a process that died while it created the file left of that.
            connection.execute("PRAGMA trusted_schema = OFF")
            if connection.execute("PRAGMA page_count").fetchone()[0]:
                refuse_foreign_schema(connection, self.path)
                refuse_newer(db, self.path)  # before anything is changed
            else:
                # Before WAL, so that the page size holds and the file is known as ours from its first page.
                connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("PRAGMA journal_mode = WAL")
            self._tune(connection)
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._write_log_again()
                apply_migrations(db, self.path)
                require_tables(connection, self.path)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            if not self.in_memory:
                self._identity = self._files()
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def _failed(self) -> Path:
        """A file that is there from a failed write until the next time that the database is opened for writing."""
        return Path(f"{self.file}-failed")

    def _write_log_again(self) -> None:
        """If a write failed and its process died, write the log over itself and sync it; nobody else can write now.

        The system forgets what a sync could not write, and goes on showing it. So what is in the log may be on no
        disk; SQLite takes it for recorded, and the next append, synced, would stand behind it and be lost with it.
        """
        if self.in_memory or not self._failed.exists():
            return
        try:
            with contextlib.suppress(FileNotFoundError), open(f"{self.file}-wal", "r+b", buffering=0) as log:
                while some := log.read(2**20):
                    log.seek(-len(some), os.SEEK_CUR)
                    log.write(some)
                os.fsync(log.fileno())
            self._failed.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"a write to {self.path} failed before, and what it left cannot be written again "
                f"({error.strerror}): look at the disk"
            ) from error

    def _files(self) -> list[tuple[int, int] | None]:
        """Which files the paths of the database and of its log name now."""
        files: list[tuple[int, int] | None] = []
        for path in (self.file, f"{self.file}-wal"):
            try:
                status = os.stat(path)
                files.append((status.st_dev, status.st_ino))
            except FileNotFoundError:
                files.append(None)
        return files

    def _require_same_files(self, outcome: str) -> None:
        """Refuse to work on files that were deleted, or replaced by others, while they were open.

        SQLite would go on writing to them, for nobody to see.
        """
        if self.in_memory or self.read_only:
            return
        try:
            files = self._files()
        except OSError as error:
            raise StorageError(f"{self.path} can no longer be reached ({error.strerror}): {outcome}") from error
        if files != self._identity:
            raise StorageError(f"{self.path} was deleted or replaced while it was open: {outcome}")

    def _open_for_reading(self) -> sqlite3.Connection:
        self.read_only = True
        self._query = "mode=ro"
        connection = self._connect(self._query)
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            # A WAL database needs its side files; where the directory takes none and no writer left any,
            # the file itself is the whole history.
            connection.close()
            wal = Path(f"{self.file}-wal")
            if wal.exists() and wal.stat().st_size:
                raise
            self._query = "mode=ro&immutable=1"
            connection = self._connect(self._query)
        try:
            self._tune(connection)
            refuse_foreign_schema(connection, self.path)
            require_schema(Database(connection), self.path)
            require_tables(connection, self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self, query: str) -> sqlite3.Connection:
        # isolation_level None: no transaction begins but by our own BEGIN IMMEDIATE.
        where = self.path if self.in_memory else f"file:{quote(os.fsencode(self.file))}?{query}"
        return sqlite3.connect(
            where, uri=not self.in_memory, timeout=self.timeout, isolation_level=None, check_same_thread=False
        )

    def _tune(self, connection: sqlite3.Connection) -> None:
        for pragma in (
            f"synchronous = {'FULL' if self._durability == 'full' else 'NORMAL'}",
            f"wal_autocheckpoint = {LOG_LIMIT // PAGE_SIZE}",
            "cache_size = -65536",
            *GUARDS,
        ):
            connection.execute(f"PRAGMA {pragma}")

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A `BEGIN IMMEDIATE` transaction: committed at the end of the block, rolled back by any error."""
        with self._write_lock, translated(self.path, self.timeout):
            self.require_open()
            if self.read_only:
                raise ReadOnlyStore(f"{self.path} can only be read: nothing was written; make the file writable")
            if self._failure is not None:
                raise StorageError(
                    f"{self.path} takes no more writes after a failed one ({self._failure}): "
                    "look at the disk, then open the store again"
                )
            connection = self._writer
            self.refuse_nested_write()
            self._require_same_files("nothing was written; open the store again")
            try:
                # Inside the try: an interrupt can come right after it.
                self._writing_thread = threading.get_ident()
                connection.execute("BEGIN IMMEDIATE")
                self._changes_before = connection.total_changes
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                if isinstance(error, sqlite3.Error) and "disk i/o" in str(error).lower():
                    # What the system could not write it may have forgotten: the next sync would succeed without.
                    self._failure = str(error)
                    if not self.in_memory:
                        with contextlib.suppress(OSError):
                            self._failed.touch()
                # Some errors (a full disk) have rolled back already.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if self._failure is not None:
                    raise StorageError(
                        f"an I/O error while writing to {self.path} ({error}): what was being written is not "
                        "acknowledged; look at the disk, then open the store again to see whether it is there"
                    ) from error
                raise
            finally:
                self._writing_thread = None
            self._require_same_files("what was being written is lost; open the store again")

    def refuse_nested_write(self) -> None:
        """`InvalidOperation` if this thread is inside a write of this store already: it would wait for itself."""
        if self._writing_thread == threading.get_ident():
            raise InvalidOperation(f"a write to {self.path} began inside another one: end that first")

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of one query."""
        with self._reading() as connection:
            return connection.execute(sql, parameters).fetchall()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with translated(self.path, self.timeout):
            if self.in_memory:
                with self._write_lock:
                    self.require_open()
                    if self._writer.in_transaction and self._writer.total_changes != self._changes_before:
                        # It would see what may yet be rolled back.
                        raise InvalidOperation("a store in memory cannot be read inside its own write: read before")
                    yield self._writer
                return
            with self._pool_lock:
                self.require_open()
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                connection = self._open_reader()
            try:
                yield connection
            finally:
                with self._pool_lock:
                    keep = not self._closed and len(self._idle) < _IDLE_READERS
                    if keep:
                        self._idle.append(connection)
                if not keep:
                    connection.close()

    def _open_reader(self) -> sqlite3.Connection:
        connection = self._connect(self._query or "mode=rw")
        try:
            self._require_same_files("open the store again")
            self._tune(connection)
            connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def require_open(self) -> None:
        """Raise `Closed` after `close()`."""
        if self._closed:
            raise Closed(f"the store {self.path} is closed: open it again")

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    def close(self) -> None:
        """Close every connection; reads under way finish first on their own. Closing again does nothing."""
        with self._write_lock, self._pool_lock:
            if self._closed:
                return
            self._closed = True
            for connection in self._idle:
                connection.close()
            self._idle.clear()
            # Last, so that SQLite folds the write-ahead log into the file when no other process has it open.
            self._writer.close()
