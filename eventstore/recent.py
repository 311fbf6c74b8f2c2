"""The rows of a store's own latest appends: what an index catches up with at once need not be read back."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from eventstore.events import EventRow, PayloadRow

__all__ = ["RecentRows"]

_MOST_ROWS = 16_384
_MOST_BYTES = 32 * 2**20


class RecentRows:
    """Consecutive rows as they were committed, in bounded memory. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: list[tuple[EventRow, PayloadRow]] = []
        self._bytes = 0

    def put(self, rows: Sequence[tuple[EventRow, PayloadRow]]) -> None:
        """Take the rows of a committed append, in order; earlier ones are let go of when the room ends."""
        if not rows:
            return
        with self._lock:
            if self._rows and self._rows[-1][0].seq + 1 != rows[0][0].seq:
                self._rows, self._bytes = [], 0  # another process has appended in between
            self._rows += rows
            self._bytes += sum(map(_size, rows))
            if self._bytes > _MOST_BYTES or len(self._rows) > _MOST_ROWS:
                # The newest append stays if there is room for it; of what was before, none.
                self._rows = self._rows[len(self._rows) - len(rows) :] if len(rows) <= _MOST_ROWS else []
                self._bytes = sum(map(_size, self._rows))
                if self._bytes > _MOST_BYTES:
                    self._rows, self._bytes = [], 0

    def between(self, after: int, upto: int) -> list[tuple[EventRow, PayloadRow]] | None:
        """The rows at the positions in `(after, upto]`; None if not all of them are here."""
        with self._lock:
            if not self._rows:
                return None
            first = self._rows[0][0].seq
            if after + 1 < first or upto >= first + len(self._rows):
                return None
            return self._rows[after + 1 - first : upto + 1 - first]


def _size(row: tuple[EventRow, PayloadRow]) -> int:
    payload = row[1]
    return _text_size(payload.content) + _text_size(payload.metadata) + len(payload.embedding or b"")


def _text_size(text: str | None) -> int:
    """At least the bytes that a text takes: four for each character, where one of them is no ASCII."""
    return 0 if text is None else len(text) if text.isascii() else 4 * len(text)
