"""Files that appear whole or not at all: written beside under a hidden name, synced, renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from eventstore.errors import AsofError, InvalidOperation, StorageError

try:
    import fcntl
except ImportError:  # Windows: what a killed process left stays there
    fcntl = None  # type: ignore[assignment]

__all__ = ["new_part", "remove_abandoned", "sync_directory", "sync_file", "write_whole"]

_SUFFIX = ".part"
_SIDE_FILES = ("-wal", "-shm", "-journal")


def new_part(target: Path, mode: int = 0o666) -> tuple[Path, IO[bytes]]:
    """A new empty file beside `target`, under a hidden name, and a stream to it.

    As long as the stream is open nobody takes it for left behind. Those that a killed process left of the same
    target are removed first.
    """
    remove_abandoned(target)
    while True:
        part = target.with_name(f".{target.name}.{secrets.token_hex(8)}{_SUFFIX}")
        descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), mode)
        stream = os.fdopen(descriptor, "r+b")
        if fcntl is not None:
            # A file system without locks: there nothing is taken for left behind either.
            with contextlib.suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
        # Between the two another process may have taken it for left behind.
        if part.exists():
            return part, stream
        stream.close()


def remove_abandoned(target: Path) -> None:
    """Remove what killed processes left of files that were to become `target`: those that nobody has locked."""
    if fcntl is None:
        return
    beginning = f".{target.name}."
    try:
        names = os.listdir(target.parent)
    except PermissionError:
        return  # a directory that takes files and does not show them
    for name in names:
        if name.startswith(beginning) and name.endswith(_SUFFIX):
            part = target.with_name(name)
            # Another user's, or gone by now: whoever may remove it will.
            with contextlib.suppress(OSError), part.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for suffix in (*_SIDE_FILES, ""):
                    Path(f"{part}{suffix}").unlink(missing_ok=True)


@contextlib.contextmanager
def write_whole(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """A binary stream whose bytes become the file `path` all at once: temporary file, sync, rename, sync."""
    target = Path(path)
    if target.exists() and not overwrite:
        raise InvalidOperation(f"{target} exists already: remove it or give another path")
    part: Path | None = None
    try:
        part, stream = new_part(target)
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            if fcntl is None:
                stream.close()  # Windows renames no open file
            os.replace(part, target)
        sync_directory(target.parent)
    except OSError as error:
        if isinstance(error, AsofError):
            raise
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        if part is not None:
            with contextlib.suppress(OSError):  # the error that led here, if one did, says more
                part.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Make what was written to a file last."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Make a rename in `directory` last; where directories cannot be synced (Windows) the system sees to it."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
