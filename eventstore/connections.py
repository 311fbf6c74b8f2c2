"""SQLite connections: one that writes, a pool that reads."""

from __future__ import annotations

import contextlib
import os
import random
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
from eventstore.migrate import finish, is_under_way, migrate
from eventstore.parts import sync_directory
from eventstore.schema import (
    APPLICATION_ID,
    PAGE_SIZE,
    apply_migrations,
    inspect_file,
    is_older,
    refuse_newer,
    require_schema,
)
from eventstore.shape import refuse_foreign_schema, require_tables
from eventstore.sqlite import sqlite3
from eventstore.sqlite_errors import is_busy, translated
from eventstore.write_ahead import WriteAheadLog

__all__ = ["Connections", "Durability"]

Durability = Literal["full", "normal"]
Row = tuple[Any, ...]

LOG_LIMIT = 64 * 2**20  # bytes at which the write-ahead log is folded into the file: twice the bulk rate of the default

_IDLE_READERS = 8

GUARDS = (
    "trusted_schema = OFF",  # nothing that is written in the file's schema may call what has effects
    "cell_size_check = ON",
    "mmap_size = 0",  # a mapped file that somebody cuts ends the process (SIGBUS), and one that fails is no error
)

_Identity = tuple[int, int] | None  # of a file: its device and inode


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
        self._write_lock = threading.RLock()
        self._pool_lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        self._changes_before = 0
        self._identity: list[_Identity] = []
        self._log: WriteAheadLog | None = None
        self._unlocked: tuple[int, ...] | None = None
        self._failure: str | None = None
        self._writing_thread: int | None = None
        # Whether the connection that writes is wanted for a write. It is asked, and set, by who has the lock beside it,
        # with which nobody ever waits: others read through that connection meanwhile, briefly.
        self._writer_is_busy = False
        self._writer_use = threading.RLock()
        with translated(path, timeout):
            try:
                self._writer = self._open_writer(time.monotonic() + timeout)
            except AsofError:
                raise
            except OSError as error:
                raise StorageError(f"cannot open {path} or the files beside it: {error.strerror or error}") from error
            except (LookupError, UnicodeDecodeError) as error:
                # What sqlite-utils and sqlite3 make of a schema whose text was changed in the file.
                raise CorruptHistory(f"the schema of {path} is damaged ({error!r}): run `replay verify`") from error

    def _open_writer(self, deadline: float) -> sqlite3.Connection:
        if self.in_memory:
            connection = self._open_for_writing()
            assert connection is not None  # what is in memory is new
            return connection
        while True:
            exists = inspect_file(self.path)
            # Resolved once: a later chdir must not lead the next connection to another file.
            self.file = os.path.realpath(self.path)
            if exists and not self._writable():
                return self._open_for_reading()
            before = _identity(self.file)
            try:
                connection = self._open_for_writing()
                if connection is None:
                    migrate(self.file, self.path, deadline)
                elif before in (None, self._identity[0]):
                    return connection
                else:
                    # A migration put another file in its place meanwhile.
                    connection.close()
                    if self._log is not None:
                        self._log.close()
            except sqlite3.OperationalError as error:
                # Where another process opens the file just now, SQLite refuses the switch to WAL without waiting.
                if not is_busy(error) and _identity(self.file) == before:
                    raise
                if time.monotonic() >= deadline:
                    if is_under_way(self.file):
                        raise StoreBusy(
                            f"{self.path} is being brought to a newer schema version by another process, "
                            f"for more than {self.timeout:g} s: try again when that is done"
                        ) from error
                    raise
            time.sleep(0.005)

    def _writable(self) -> bool:
        # The write-ahead log is a file beside it, so the directory has to take files too.
        return os.access(self.file, os.W_OK) and os.access(os.path.dirname(self.file), os.W_OK)

    def _open_for_writing(self) -> sqlite3.Connection | None:
        """A connection that can write; None where the schema has to be brought up to date first."""
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
            # What one insert can undo is more than SQLite keeps in memory by itself: it made a file for each append.
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("BEGIN IMMEDIATE")
            try:
                if not self.in_memory:
                    self._log = WriteAheadLog(self.file)
                    self._log.write_again(self.path)
                    finish(self.file, db)
                older = is_older(db)
                if not older:
                    apply_migrations(db, self.path)
                    require_tables(connection, self.path)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            if self._log is not None:
                # The log's name is on disk before anything is acknowledged that is in it. SQLite syncs the directory,
                # too, later, and says nothing where that fails. One that may not be read cannot be synced by anybody.
                with contextlib.suppress(PermissionError):
                    sync_directory(Path(self.file).parent)
                connection.execute("PRAGMA busy_timeout = 0")  # see _begin
                self._identity = self._files()
                self._log.open()
        except BaseException:
            connection.close()
            raise
        if older:
            self._close_writer(connection)
            return None
        return connection

    def _files(self) -> list[_Identity]:
        """Which files the paths of the database and, where it is written to, of its log name now."""
        paths = (self.file,) if self.read_only else (self.file, f"{self.file}-wal")
        return [_identity(path) for path in paths]

    def _require_same_files(self, outcome: str) -> None:
        """Refuse to work on files that were deleted, or replaced by others, while they were open.

        SQLite would go on writing to them, for nobody to see.
        """
        if self.in_memory:
            return
        try:
            files = self._files()
        except OSError as error:
            raise StorageError(f"{self.path} can no longer be reached ({error.strerror}): {outcome}") from error
        if files != self._identity:
            raise StorageError(f"{self.path} was deleted or replaced while it was open: {outcome}")

    def _open_for_reading(self) -> sqlite3.Connection:
        self.read_only = True
        self._unlocked = None
        self._identity = self._files()
        connection = self._connect(self._query)
        try:
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            # A WAL database needs its side files; where the directory takes none and no writer left any,
            # the file itself is the whole history. It is read without locks, so each read looks whether that is so.
            connection.close()
            seen = self._seen()
            if seen is None:
                raise
            self._unlocked = seen
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

    @property
    def _query(self) -> str:
        """How a connection to read with is opened."""
        if self._unlocked is not None:
            return "mode=ro&immutable=1"
        return "mode=ro" if self.read_only else "mode=rw"

    def _seen(self) -> tuple[int, ...] | None:
        """What changes of a file when it is written to; None where a log holds pages that it has not, or it is gone."""
        try:
            if os.path.exists(f"{self.file}-wal") and os.path.getsize(f"{self.file}-wal"):
                return None
            status = os.stat(self.file)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _connect(self, query: str) -> sqlite3.Connection:
        # isolation_level None: no transaction begins but by our own BEGIN IMMEDIATE.
        where = self.path if self.in_memory else f"file:{quote(os.fsencode(self.file))}?{query}"
        return sqlite3.connect(
            where, uri=not self.in_memory, timeout=self.timeout, isolation_level=None, check_same_thread=False
        )

    def _tune(self, connection: sqlite3.Connection) -> None:
        for pragma in (
            f"synchronous = {'FULL' if self._durability == 'full' else 'NORMAL'}",
            "wal_autocheckpoint = 0",  # see _fold_log
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
                with self._writer_use:  # a brief read under way ends first
                    self._writer_is_busy = True
                self._begin(connection)
                if self._log is not None:
                    self._log.write_again(self.path)  # if another process, still there or not, failed at it
                self._changes_before = connection.total_changes
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                if isinstance(error, sqlite3.Error) and "disk i/o" in str(error).lower():
                    # What the system could not write it may have forgotten: the next sync would succeed without.
                    self._fail(error)
                # Some errors (a full disk) have rolled back already.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if self._failure is not None:
                    raise StorageError(
                        f"an I/O error while writing to {self.path} ({error}): what was being written is not "
                        "acknowledged; look at the disk, then open the store again to see whether it is there"
                    ) from error
                raise
            else:
                self._require_same_files("what was being written is lost; open the store again")
                self._fold_log(connection, LOG_LIMIT)
            finally:
                self._writing_thread = None
                self._writer_is_busy = False

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Take the write lock, waiting for other processes up to `timeout`."""
        # SQLite's own waiting sleeps ever longer, so one that waits loses to whoever comes again at once: of four
        # writers two got nothing in four seconds. Asking every other millisecond, each gets its turn.
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() >= deadline:
                    raise
            time.sleep(random.uniform(0.0005, 0.002))

    def _fail(self, error: Exception) -> None:
        self._failure = str(error)
        if self._log is not None:
            self._log.mark_failed()

    def _fold_log(self, connection: sqlite3.Connection, limit: int) -> None:
        """Fold the log into the file if it is past `limit`.

        What was committed stays acknowledged where that fails: the log holds it, as durable as it was. But the sync
        that failed must not be tried again as if it had worked, so nothing more is written.
        """
        if self._log is None:
            return
        try:
            if self._log.is_past(limit):
                self._log.fold(connection)
        except (sqlite3.Error, OSError) as error:
            # No space in the file: that was not synced, the log goes on, and the next append tries again.
            if "full" not in str(error).lower():
                self._fail(error)

    def refuse_nested_write(self) -> None:
        """`InvalidOperation` if this thread is inside a write of this store already: it would wait for itself."""
        if self._writing_thread == threading.get_ident():
            raise InvalidOperation(f"a write to {self.path} began inside another one: end that first")

    def fetch(self, sql: str, parameters: Sequence[Any] = (), *, brief: bool = False) -> list[Row]:
        """All rows of one query; one of a hundred rows at most, `brief`, may be asked of the connection that writes."""
        if brief and (found := self._fetch_from_writer(sql, parameters)) is not None:
            return found
        deadline = time.monotonic() + self.timeout
        while True:
            seen, problem, rows = self._unlocked, None, []
            try:
                with self._reading() as connection:
                    rows = connection.execute(sql, parameters).fetchall()
            except AsofError as error:
                problem = error
            if seen is not None and not self.closed:
                if not self._is_as_seen(seen):
                    if time.monotonic() < deadline:
                        continue
                    problem = StoreBusy(f"{self.path} is written to all the time and cannot be locked: try again")
            if problem is None:
                return rows
            try:
                raise problem
            finally:
                problem = None  # whose traceback has this frame: what both hold would stay until garbage is collected

    def _fetch_from_writer(self, sql: str, parameters: Sequence[Any]) -> list[Row] | None:
        """The rows, where the connection that writes is idle; None where it is not.

        It has its pages at hand: others forget all that they have read with every commit that is not their own.
        """
        if self.read_only or self.in_memory or self._writer_is_busy:
            return None
        try:
            # Not tried but taken, which Ctrl-C cannot come into the middle of: whoever has it has it briefly.
            with self._writer_use:
                if self._writer_is_busy or self._failure is not None or self._writer.in_transaction:
                    return None
                return self._writer.execute(sql, parameters).fetchall()
        except sqlite3.Error:
            return None  # another connection is asked again: it waits where that helps, or says what is wrong

    def _is_as_seen(self, seen: tuple[int, ...]) -> bool:
        """Whether a file that is read without locks is still the one that was opened; if not, it is opened again."""
        with self._pool_lock, translated(self.path, self.timeout):
            if self._unlocked == seen == self._seen():
                return True
            if self._unlocked == seen:
                for connection in (*self._idle, self._writer):
                    connection.close()
                self._idle.clear()
                try:
                    self._writer = self._open_for_reading()
                except BaseException:
                    self._unlocked = seen  # the next read tries again
                    raise
            return False

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
                connection, seen = self._idle.pop() if self._idle else None, self._unlocked
            if connection is None:
                connection = self._open_reader()
            try:
                yield connection
            finally:
                with self._pool_lock:
                    keep = not self._closed and len(self._idle) < _IDLE_READERS and seen == self._unlocked
                    if keep:
                        self._idle.append(connection)
                if not keep:
                    connection.close()

    def _open_reader(self) -> sqlite3.Connection:
        connection = self._connect(self._query)
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
            with self._writer_use:  # a brief read under way ends first
                self._writer_is_busy = True
            # Last, so that SQLite removes the log when no other process has it open.
            self._close_writer(self._writer)

    def _close_writer(self, connection: sqlite3.Connection) -> None:
        failed_before = self._failure
        if failed_before is None:
            # Now, because SQLite says nothing where it fails when the last connection is closed.
            self._fold_log(connection, 0)
        if self._log is not None and self._failure is not None:
            self._log.close_unfolded(connection)
        else:
            if self._log is not None:
                self._log.close()
            connection.close()
        if self._failure != failed_before:
            raise StorageError(
                f"an I/O error while closing {self.path} ({self._failure}): what was acknowledged is in its log, "
                f"{self.file}-wal; look at the disk, then open the store again"
            )


def _identity(path: str) -> _Identity:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
