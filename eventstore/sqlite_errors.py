"""SQLite's errors in this product's words."""

from __future__ import annotations

from eventstore.errors import (
    AsofError,
    Closed,
    CorruptHistory,
    InvalidOperation,
    ReadOnlyStore,
    StorageError,
    StoreBusy,
)
from eventstore.sqlite import sqlite3

__all__ = ["is_busy", "translated"]

# What SQLite, or its driver, says of files whose contents it cannot make sense of.
_DAMAGED = ("no such", "malformed", "not a database", "corrupt", "could not decode", "no query solution")


class translated:  # a class: as a generator it took longer, and every read passes here
    """Turn SQLite's errors inside the block into this product's, naming the file and what to do."""

    __slots__ = ("_path", "_timeout")

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._timeout = timeout

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise _translate(error, self._path, self._timeout) from error


def _translate(error: Exception, path: str, timeout: float) -> AsofError:
    text = str(error).lower()
    if "closed" in text:
        return Closed(f"the store {path} is closed: open it again")
    if is_busy(error):
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


def is_busy(error: Exception) -> bool:
    """Whether another connection has the lock that was asked for."""
    text = str(error).lower()
    return "locked" in text or "busy" in text
