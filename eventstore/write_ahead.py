"""The write-ahead log beside a database: how long it is, folding it into the file, and what a failed write leaves.

SQLite would fold it by itself, and says nothing when the disk fails at that.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO
from urllib.parse import quote

from eventstore.errors import StorageError
from eventstore.sqlite import sqlite3

__all__ = ["WriteAheadLog"]

_HEADER, _FRAME = 32, 24  # bytes: sqlite.org/fileformat2.html, 4.1


class WriteAheadLog:
    """The log of one database file, for whoever holds the write lock."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._path = f"{file}-wal"
        self._stream: IO[bytes] | None = None
        self.failed = Path(f"{file}-failed")
        """A file that is there from a failed write until the log has been written again."""
        self._failed = str(self.failed)

    def open(self) -> None:
        """Keep hold of the file, for `is_past`: whatever its name may lead to later."""
        self._stream = open(self._path, "rb", buffering=0)  # noqa: SIM115 - closed by close()

    def is_past(self, limit: int) -> bool:
        """Whether more than `limit` bytes of pages are in the log since it was last begun anew.

        The file's length does not tell: it never shrinks while the database is open. What is left there of an
        earlier round has other salts than the header.
        """
        assert self._stream is not None
        if os.fstat(self._stream.fileno()).st_size <= limit:
            return False  # as most often: this is asked after every append
        self._stream.seek(0)
        header = self._stream.read(_HEADER)
        page = int.from_bytes(header[8:12], "big")
        if not page:
            return False  # nothing was ever written to it
        self._stream.seek(_HEADER + limit // page * (_FRAME + page))
        frame = self._stream.read(_FRAME)
        return len(frame) == _FRAME and frame[8:16] == header[16:24]

    def fold(self, connection: sqlite3.Connection) -> None:
        """Sync the log, copy it into the file, sync that: as far as it goes without waiting for any reader.

        An `sqlite3.Error` is raised where the disk fails.
        """
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def mark_failed(self) -> None:
        """Say to whoever writes next that what the log shows may be on no disk."""
        with contextlib.suppress(OSError):  # a disk that failed; the error that is raised says so
            self.failed.touch()

    def write_again(self, path: str) -> None:
        """If a write failed, write the log over itself and sync it; nobody else can write now.

        The system forgets what a sync could not write, and goes on showing it. So what is in the log may be on no
        disk; SQLite takes it for recorded, and the next append, synced, would stand behind it and be lost with it.
        """
        try:
            if not _is_there(self._failed):
                return
            with contextlib.suppress(FileNotFoundError), open(self._path, "r+b", buffering=0) as log:
                while some := log.read(2**20):
                    log.seek(-len(some), os.SEEK_CUR)
                    log.write(some)
                os.fsync(log.fileno())
            self.failed.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"a write to {path} failed before, and what it left cannot be written again "
                f"({error.strerror}): look at the disk"
            ) from error

    def close(self) -> None:
        """Let go of the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def close_unfolded(self, connection: sqlite3.Connection) -> None:
        """Close a connection without SQLite's folding the log, which may be on no disk.

        It does so when the last connection is closed, unless that one can only read.
        """
        self.close()
        uri = f"file:{quote(os.fsencode(self._file))}?mode=ro"
        with contextlib.ExitStack() as last:
            # Where even this cannot be opened, SQLite cannot fold the log either.
            with contextlib.suppress(sqlite3.Error):
                reader = sqlite3.connect(uri, uri=True, isolation_level=None)
                last.callback(reader.close)
                reader.execute("SELECT 1 FROM sqlite_master").fetchone()
            connection.close()


def _is_there(path: str) -> bool:
    # Not `os.access`: it answers no where the disk does not answer.
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    return True
