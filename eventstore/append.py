"""The append: prepared operations become rows, inside the caller's write transaction."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from uuid_utils import uuid7

from eventstore.checked import CheckedRows, require_counted
from eventstore.errors import (
    AsofError,
    DimensionMismatch,
    EventConflict,
    InvalidOperation,
    MemoryExists,
    MemoryNotFound,
    PositionConflict,
    VersionConflict,
)
from eventstore.events import EventRow, PayloadRow
from eventstore.hashing import GENESIS, event_hash, payload_digest
from eventstore.operations import Prepared
from eventstore.queries import HEAD
from eventstore.sqlite import sqlite3

__all__ = ["OwnRows", "Recorded", "Tail", "read_tail", "record"]

SALT_LENGTH = 16

# With a trigger on the table SQLite keeps a statement journal: pages are copied once a statement, not once a
# row, so rows go in many at a time (measured: twice the rate of executemany). SQLite gathers them first, so of
# payloads, which can be large, fewer.
_EVENTS_A_STATEMENT = 200
_PAYLOADS_A_STATEMENT = 20


@dataclass(slots=True)
class Tail:
    """The end of the history inside a write transaction: what the next event links to."""

    position: int
    recorded_at: int | None
    hash: bytes


@dataclass(slots=True)
class Recorded:
    """An event as it stands in the history, with the state after it; no `payload` where a retry found it."""

    row: EventRow
    content: str | None
    metadata: str | None
    embedding: bytes | None
    payload: PayloadRow | None

    @property
    def new(self) -> bool:
        """Whether this append recorded it."""
        return self.payload is not None


@dataclass(slots=True)
class _Current:
    """A memory's latest event, and its state where it is known already."""

    version: int
    seq: int
    live: bool
    add_seq: int
    embedding_seq: int | None
    unread: EventRow | None = None  # the header, as long as what follows has not been read
    content: str | None = None
    metadata: str | None = None
    embedding: bytes | None = None


class OwnRows:
    """Rows as the writing connection sees them, for `CheckedRows`: an append builds on nothing unchecked."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self.path = path
        self.connection = connection

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of one query."""
        return self.connection.execute(sql, parameters).fetchall()


def read_tail(rows: OwnRows, known: Tail | None = None) -> Tail:
    """The last event's position, time and hash; checked, unless it is the `known` one.

    `CorruptHistory` where the end was changed or cut off: the next event would seal that.
    """
    row = rows.fetch(HEAD)[0]
    tail = Tail(0, None, GENESIS) if row[0] is None else Tail(*row[:3])
    if tail != known:
        require_counted(rows.path, tail.position, row[3])
        if tail.position:
            CheckedRows(rows).headers([tail.position])
    return tail


def record(
    source: OwnRows,
    tail: Tail,
    operations: Sequence[Prepared],
    instant: int,
    dimension: int | None,
    expected_position: int | None = None,
) -> list[Recorded]:
    """Write the operations in order and move `tail`; their embeddings are made.

    They are recorded at `instant`, but for those of an import that come with a time of their own.

    An operation whose event_id is recorded already with the same content is not written again: its event is
    returned as it stands. Raises before the first row is written.
    """
    rows = CheckedRows(source)
    known = _recorded_before(source, rows, operations)
    if expected_position not in (None, tail.position) and any(one.event_id not in known for one in operations):
        raise PositionConflict(
            f"the history is at position {tail.position}, not {expected_position}: read it again and decide anew"
        )
    batch = _Batch(source.connection, rows, tail, instant, dimension)
    results = []
    for number, operation in enumerate(operations):
        before = known.get(operation.event_id) if operation.event_id is not None else None
        try:
            if before is not None:
                _require_same(operation, before)
            results.append(before or batch.take(operation))
        except AsofError as error:
            error.operation = number
            raise
    batch.write()
    return results


class _Batch:
    """Rows to be, and the memories' states as they are after each of them."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        rows: CheckedRows,
        tail: Tail,
        instant: int,
        dimension: int | None,
    ) -> None:
        self._connection = connection
        self._rows = rows
        self._tail = tail
        self._instant = instant
        self._bytes = None if dimension is None else 4 * dimension
        self._current: dict[str, _Current | None] = {}
        self._events: list[EventRow] = []
        self._payloads: list[PayloadRow] = []

    def take(self, operation: Prepared) -> Recorded:
        if operation.type == "ADD":
            if operation.memory_id is None:
                memory_id, current = str(uuid7()), None  # new by construction: nothing to look up
            else:
                memory_id = operation.memory_id
                current = self._state(memory_id)
                if current is not None and current.live:
                    raise MemoryExists(
                        f"memory {memory_id!r} exists at version {current.version}: update it, or delete it first"
                    )
            content, metadata, embedding = operation.content, operation.metadata, operation.embedding
            own_embedding = embedding
        else:
            assert operation.memory_id is not None
            memory_id = operation.memory_id
            current = self._state(memory_id)
            if current is None or not current.live:
                ended = f" (it was deleted at position {current.seq})" if current else ""
                raise MemoryNotFound(f"memory {memory_id!r} does not exist{ended}: add it first")
            if operation.expected_version not in (None, current.version):
                raise VersionConflict(memory_id, operation.expected_version or 0, current.version)
            if operation.type == "UPDATE":
                self._load(current)
                content = current.content if operation.content is None else operation.content
                metadata = current.metadata if operation.metadata is None else operation.metadata
                own_embedding = operation.embedding
                if own_embedding == current.embedding:
                    own_embedding = None
                embedding = current.embedding if own_embedding is None else own_embedding
            else:
                content = metadata = embedding = own_embedding = None
        if own_embedding is not None:
            self._check_length(own_embedding)
        return self._add_rows(operation, memory_id, current, content, metadata, embedding, own_embedding)

    def _add_rows(
        self,
        operation: Prepared,
        memory_id: str,
        current: _Current | None,
        content: str | None,
        metadata: str | None,
        embedding: bytes | None,
        own_embedding: bytes | None,
    ) -> Recorded:
        tail, context = self._tail, operation.context
        recorded_at = self._instant if operation.recorded_at is None else operation.recorded_at
        seq = tail.position + 1
        version = 1 if current is None else current.version + 1
        add_seq = seq if operation.type == "ADD" or current is None else current.add_seq
        embedding_seq = None
        if operation.type != "DELETE":
            embedding_seq = seq if own_embedding is not None else (current.embedding_seq if current else None)
        salt = operation.salt or os.urandom(SALT_LENGTH)
        digest = payload_digest(salt, content, metadata, own_embedding)
        header = (
            seq,
            operation.event_id or str(uuid7()),
            memory_id,
            version,
            None if current is None else current.seq,
            add_seq,
            embedding_seq,
            operation.type,
            recorded_at,
            context.occurred_at,
            context.actor_id,
            context.role,
            context.reason,
            context.correlation_id,
            context.causation_id,
            context.source,
            digest,
        )
        row = EventRow(*header, event_hash(tail.hash, *header))
        payload = PayloadRow(seq, salt, content, metadata, own_embedding)
        self._events.append(row)
        self._payloads.append(payload)
        tail.position, tail.recorded_at, tail.hash = seq, recorded_at, row.hash
        self._current[memory_id] = _Current(
            version,
            seq,
            operation.type != "DELETE",
            add_seq,
            embedding_seq,
            None,
            content,
            metadata,
            embedding,
        )
        return Recorded(row, content, metadata, embedding, payload)

    def _state(self, memory_id: str) -> _Current | None:
        if memory_id not in self._current:
            last = self._rows.last_of(memory_id)
            self._current[memory_id] = (
                None
                if last is None
                else _Current(last.version, last.seq, last.type != "DELETE", last.add_seq, last.embedding_seq, last)
            )
        return self._current[memory_id]

    def _load(self, current: _Current) -> None:
        # What an update keeps gets a digest of its own: what was changed in the file must not come by one that way.
        if current.unread is not None:
            payload = self._rows.payloads([current.unread])[current.seq]
            current.content, current.metadata = payload.content, payload.metadata
            current.embedding = self._rows.embedding_of(current.unread)
            current.unread = None

    def _check_length(self, embedding: bytes) -> None:
        # Operations were checked before the lock was taken; another process may have fixed the dimension since.
        if self._bytes is None:
            self._bytes = len(embedding)
        elif len(embedding) != self._bytes:
            raise DimensionMismatch(
                f"vector has {len(embedding) // 4} numbers, and this store's vectors have {self._bytes // 4}"
            )

    def write(self) -> None:
        if len({row.event_id for row in self._events}) < len(self._events):
            raise InvalidOperation("an event_id is given twice in one append: give each event its own")
        self._insert("events", self._events, _EVENTS_A_STATEMENT)
        self._insert("payloads", self._payloads, _PAYLOADS_A_STATEMENT)

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]], at_once: int) -> None:
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            places = ",".join([f"({','.join('?' * len(some[0]))})"] * len(some))
            self._connection.execute(f"INSERT INTO {table} VALUES {places}", tuple(chain.from_iterable(some)))


def _recorded_before(source: OwnRows, rows: CheckedRows, operations: Sequence[Prepared]) -> dict[str, Recorded]:
    ids = [operation.event_id for operation in operations if operation.event_id is not None]
    known: dict[str, Recorded] = {}
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        sql = f"SELECT seq FROM events INDEXED BY events_event_id WHERE event_id IN ({','.join('?' * len(some))})"
        headers = rows.headers(seq for (seq,) in source.fetch(sql, some))
        payloads = rows.payloads(headers.values())
        for header in headers.values():
            payload = payloads[header.seq]
            embedding = payload.embedding if header.embedding_seq == header.seq else rows.embedding_of(header)
            known[header.event_id] = Recorded(header, payload.content, payload.metadata, embedding, None)
    return known


def _require_same(operation: Prepared, recorded: Recorded) -> None:
    """A retry says again what was recorded; `EventConflict` names the first thing in which it differs.

    What the operation leaves open (a generated memory_id, what an update keeps) is not compared, and neither is
    an embedding that an embedder made: embedders need not repeat themselves.
    """
    row, context = recorded.row, operation.context
    pairs: list[tuple[str, Any, Any, bool]] = [
        ("type", operation.type, row.type, True),
        ("memory_id", operation.memory_id, row.memory_id, operation.memory_id is not None),
        ("content", operation.content, recorded.content, operation.content is not None),
        ("metadata", operation.metadata, recorded.metadata, operation.metadata is not None),
        ("vector", operation.embedding, recorded.embedding, operation.vector_given),
        ("occurred_at", context.occurred_at, row.occurred_at, True),
        ("actor_id", context.actor_id, row.actor_id, True),
        ("role", context.role, row.role, True),
        ("reason", context.reason, row.reason, True),
        ("correlation_id", context.correlation_id, row.correlation_id, True),
        ("causation_id", context.causation_id, row.causation_id, True),
    ]
    for name, given, there, compared in pairs:
        if compared and given != there:
            raise EventConflict(
                f"event {row.event_id!r} is recorded already at position {row.seq} with another {name}: "
                "give a new event_id to record something new"
            )
