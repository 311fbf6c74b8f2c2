"""The new history of a salvage: events of an old one, in order, made to follow from each other whatever is missing.

The rules, for an event that can be read and whose memory has lost another one:

- An UPDATE of a memory that is not there, for its ADD is lost, is an ADD: it repeats all that the memory was.
- An ADD of a memory that is there, for its DELETE is lost, is an UPDATE.
- A DELETE of a memory that is not there is left out: it is not there.
- An UPDATE that kept a vector which is lost has a vector of zeros: its content is worth more than nothing, and cosine
  search finds no zeros.
- A DELETE whose payload is lost gets a new one, since it carries nothing. Any other event without its payload is left
  out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from eventstore.append import SALT_LENGTH
from eventstore.checks import MAX_DIMENSION
from eventstore.events import EventRow, EventType, PayloadRow
from eventstore.hashing import GENESIS, event_hash, payload_digest
from eventstore.instants import from_microseconds
from eventstore.sqlite import sqlite3
from replay.checks import HistoryCheck
from replay.newfile import insert_rows
from replay.salvaged import GapKind, Moved

__all__ = ["NewHistory", "Outcome", "header_fault"]

_BYTES_AT_ONCE = 8 * 2**20
_ROWS_AT_ONCE = 200
_TYPES = ("ADD", "UPDATE", "DELETE")

_PAYLOAD_LOST = "left out: its payload is lost or is not what was recorded"
_NO_MEMORY = "left out: it deletes a memory that is not there, for what added it is lost"
_NO_DIMENSION = "left out: the vector that it kept is lost, and there is no other to tell the dimension by"
_SAME_ID = "left out: an event before it has the same event_id"
_NOW_ADD = "an ADD now: what its memory was before is lost"
_NOW_UPDATE = "an UPDATE now: what deleted its memory before is lost"
_NO_VECTOR = "its vector is zeros now: the one that it kept from an event before is lost"
_NEW_SALT = "its payload is a new one: the old one is lost, and that of a DELETE carries nothing"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an event: whether it was taken, and the gaps that there are in it.

    `is_known`: whether the new history has its memory now as it was after the event.
    """

    taken: bool
    is_known: bool
    gaps: tuple[tuple[GapKind, str], ...] = ()


@dataclass(slots=True)
class _Memory:
    """A memory's last event in the new history; `old_embedding_seq`: where the old one has the vector in force."""

    version: int
    seq: int
    live: bool
    add_seq: int
    embedding_seq: int | None
    old_embedding_seq: int | None
    has_zeros: bool


def header_fault(row: EventRow, not_before: int | None) -> str | None:
    """What about a header by itself no append can have written, in words."""
    if row.type not in _TYPES:
        return f"has the type {row.type[:20]!r}"
    if not_before is not None and row.recorded_at < not_before:
        return "claims to have been recorded before the event before it"
    try:
        from_microseconds(row.recorded_at)
        from_microseconds(row.occurred_at or 0)
    except OverflowError:
        return "has an instant outside of the years 1 to 9999"
    return None


class NewHistory:
    """Takes events of an old history in order and writes them, through a connection to an empty database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.count = 0
        self.kept = 0
        self.moved: list[Moved] = []
        self.recorded_at: int | None = None
        self._connection = connection
        self._memories: dict[str, _Memory] = {}
        self._dimension: int | None = None
        self._hash = GENESIS
        self._events: list[EventRow] = []
        self._payloads: list[PayloadRow] = []
        self._ids: set[str] = set()
        self._bytes = 0

    def take(self, row: EventRow, payload: PayloadRow | None) -> Outcome:
        """Record an event anew, or leave it out where it cannot be made whole."""
        if self._has(row.event_id):
            return Outcome(False, False, (("refused", _SAME_ID),))
        memory = self._memories.get(row.memory_id)
        if row.type == "DELETE":
            if memory is None or not memory.live:
                return Outcome(False, True, (("memory", _NO_MEMORY),))
            if payload is None:
                payload = PayloadRow(row.seq, os.urandom(SALT_LENGTH), None, None, None)
                return self._write(row, payload, memory, "DELETE", None, [("changed", _NEW_SALT)])
        if payload is None:
            return Outcome(False, False, (("payload", _PAYLOAD_LOST),))
        fault = self._payload_fault(row, payload)
        if fault is not None:
            return Outcome(False, False, (("refused", f"left out: it {fault}"),))
        if row.type == "DELETE":
            return self._write(row, payload, memory, "DELETE", None, [])
        return self._take_state(row, payload, memory)

    def _take_state(self, row: EventRow, payload: PayloadRow, memory: _Memory | None) -> Outcome:
        gaps: list[tuple[GapKind, str]] = []
        live = memory is not None and memory.live
        if live != (row.type == "UPDATE"):
            gaps.append(("changed", _NOW_UPDATE if live else _NOW_ADD))
        embedding_seq: int | None = self.count + 1
        if payload.embedding is None:
            kept = memory if memory is not None and live else None
            if kept is not None and kept.old_embedding_seq == row.embedding_seq:
                embedding_seq = kept.embedding_seq
                gaps += [("changed", _NO_VECTOR)] * kept.has_zeros
            elif self._dimension is None:
                return Outcome(False, False, (("payload", _NO_DIMENSION),))
            else:
                payload = payload._replace(embedding=bytes(4 * self._dimension))
                gaps.append(("changed", _NO_VECTOR))
        return self._write(row, payload, memory, "UPDATE" if live else "ADD", embedding_seq, gaps)

    def _has(self, event_id: str) -> bool:
        sql = "SELECT 1 FROM events WHERE event_id = ?"
        return event_id in self._ids or self._connection.execute(sql, (event_id,)).fetchone() is not None

    def _payload_fault(self, row: EventRow, payload: PayloadRow) -> str | None:
        """What about a payload that has the right digest no append can have written, in words."""
        if self._dimension is None and payload.embedding is not None:
            numbers, rest = divmod(len(payload.embedding), 4)
            if not rest and 1 <= numbers <= MAX_DIMENSION:
                self._dimension = numbers
        check = HistoryCheck(self._dimension)
        check.take_payload(row, payload)
        check.flush()
        return check.faults[0].message.removeprefix(f"event {row.seq} ") if check.faults else None

    def _write(
        self,
        row: EventRow,
        payload: PayloadRow,
        memory: _Memory | None,
        type: EventType,
        embedding_seq: int | None,
        gaps: list[tuple[GapKind, str]],
    ) -> Outcome:
        seq = self.count + 1
        header = row._replace(
            seq=seq,
            version=1 if memory is None else memory.version + 1,
            prev_seq=None if memory is None else memory.seq,
            add_seq=seq if memory is None or type == "ADD" else memory.add_seq,
            embedding_seq=embedding_seq,
            type=type,
            payload_digest=payload_digest(*payload[1:]),
        )
        header = header._replace(hash=event_hash(self._hash, *header[:-1]))
        has_zeros = ("changed", _NO_VECTOR) in gaps
        self._memories[row.memory_id] = _Memory(
            header.version, seq, type != "DELETE", header.add_seq, embedding_seq, row.embedding_seq, has_zeros
        )
        self.count, self._hash, self.recorded_at = seq, header.hash, row.recorded_at
        if header == row and self.kept == seq - 1:
            self.kept = seq
        self._note_move(row.seq, seq)
        self._events.append(header)
        self._payloads.append(payload._replace(seq=seq))
        self._ids.add(row.event_id)
        self._bytes += sum(len(part) for part in payload[1:] if part is not None)
        if len(self._events) >= _ROWS_AT_ONCE or self._bytes >= _BYTES_AT_ONCE:
            self.flush()
        return Outcome(True, True, tuple(gaps))

    def _note_move(self, old: int, new: int) -> None:
        if old == new:
            return
        last = self.moved[-1] if self.moved else None
        if last is not None and last.last == old - 1 and last.to + (old - last.first) == new:
            self.moved[-1] = Moved(last.first, old, last.to)
        else:
            self.moved.append(Moved(old, old, new))

    def flush(self) -> None:
        """Write what is still held back."""
        insert_rows(self._connection, "events", self._events)
        insert_rows(self._connection, "payloads", self._payloads)
        self._events.clear()
        self._payloads.clear()
        self._ids.clear()
        self._bytes = 0

    def finish(self, embedder: str | None) -> None:
        """Write the rest, and the settings."""
        self.flush()
        settings = {"dimension": None if self._dimension is None else str(self._dimension), "embedder": embedder}
        rows = [
            (key, value) for key, value in settings.items() if value is not None and (self.count or key != "dimension")
        ]
        insert_rows(self._connection, "settings", rows)
