"""Every error of asof: one base class, each also the nearest builtin error.

A message names the thing at fault and says what to do about it. Whatever raised it acknowledged nothing, and wrote
nothing either, but in one case: after an I/O error, or where the file was taken away meanwhile (`StorageError`, "open
the store again"), what was being written may be there all the same, whole. Retry with the same `event_id`: it is
recorded once.
"""

from __future__ import annotations

__all__ = [
    "AsofError",
    "Closed",
    "CorruptHistory",
    "DimensionMismatch",
    "EmbedderMismatch",
    "EmbedderMissing",
    "EventConflict",
    "ImportFailed",
    "IndexMismatch",
    "InvalidFilter",
    "InvalidInstant",
    "InvalidMetadata",
    "InvalidOperation",
    "InvalidVector",
    "MemoryExists",
    "MemoryNotFound",
    "NewerSchema",
    "NotAStore",
    "OlderSchema",
    "PositionConflict",
    "ReadOnlyStore",
    "StorageError",
    "StoreBusy",
    "VersionConflict",
]


class AsofError(Exception):
    """The base of every error that asof raises on purpose.

    `operation` counts from 0 and names the operation of an append that was at fault, where one was.
    """

    operation: int | None = None


class Closed(AsofError, ValueError):
    """The store or index was used after `close()`."""


class CorruptHistory(AsofError, ValueError):
    """The history holds something that no append can have written; run `replay verify`."""


class InvalidOperation(AsofError, ValueError):
    """An operation that cannot be recorded: an empty batch, an overlong id, nothing to change."""


class InvalidVector(AsofError, ValueError):
    """Not a vector of finite float32 numbers."""


class DimensionMismatch(InvalidVector):
    """A vector whose length is not the store's dimension."""


class InvalidMetadata(AsofError, ValueError):
    """Metadata that is not a JSON object."""


class InvalidFilter(AsofError, ValueError):
    """A filter with an unknown operator or an operand of the wrong type."""


class InvalidInstant(AsofError, ValueError):
    """An instant or position that names no settled point of the history."""


class EmbedderMissing(AsofError, ValueError):
    """Text was given where only an embedder could turn it into a vector."""


class EmbedderMismatch(AsofError, ValueError):
    """The store's vectors were made by an embedder of another name."""


class MemoryExists(AsofError, ValueError):
    """An add of a memory that is live."""


class MemoryNotFound(AsofError, KeyError):
    """An update or delete of a memory that is not live, or a look-up of one that never was."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; the message is meant to be read.
        return str(self.args[0]) if self.args else ""


class VersionConflict(AsofError, ValueError):
    """The memory is not at the version that the caller expected.

    Attributes: `memory_id`, `expected` and `actual` versions.
    """

    def __init__(self, memory_id: str, expected: int, actual: int) -> None:
        super().__init__(
            f"memory {memory_id!r} is at version {actual}, not {expected}: "
            "somebody changed it since; read it again and decide anew"
        )
        self.memory_id = memory_id
        self.expected = expected
        self.actual = actual

    def __reduce__(self) -> tuple[type[VersionConflict], tuple[str, int, int]]:
        return VersionConflict, (self.memory_id, self.expected, self.actual)


class PositionConflict(AsofError, ValueError):
    """The history has grown past the position that the caller expected."""


class EventConflict(AsofError, ValueError):
    """An event_id that is already recorded, with other content."""


class NotAStore(AsofError, ValueError):
    """The path holds something that is not an asof history."""


class NewerSchema(NotAStore):
    """The history was written by a newer asof than this one."""


class OlderSchema(NotAStore):
    """The history was written by an older asof, and cannot be brought up to date because it can only be read."""


class ReadOnlyStore(AsofError, PermissionError):
    """A write to a history that could only be opened for reading."""


class StorageError(AsofError, OSError):
    """SQLite or the file system refused: disk full, I/O error, no permission.

    Where it says to open the store again, only that shows whether what was being written is there.
    """


class StoreBusy(StorageError, TimeoutError):
    """Another process kept the history locked for longer than the store waits."""


class ImportFailed(AsofError, ValueError):
    """A record that cannot be imported; `line` counts from 1. Nothing of the import was kept."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line

    def __reduce__(self) -> tuple[type[ImportFailed], tuple[str, int]]:
        return ImportFailed, (str(self), self.line)


class IndexMismatch(AsofError, ValueError):
    """The index directory belongs to another history or has vectors of another dimension."""
