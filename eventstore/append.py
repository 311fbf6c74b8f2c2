"""Appends: prepared operations become rows, inside the caller's write transaction."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from uuid_utils import uuid7

from eventstore.checked import CheckedRows, chunks, require_counted
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
from eventstore.operations import Context, Prepared
from eventstore.queries import HEAD
from eventstore.sqlite import sqlite3

__all__ = ["Batch", "OwnRows", "Recorded", "Tail", "read_tail"]

SALT_LENGTH = 16

# With a trigger on the table SQLite keeps a statement journal: pages are copied once a statement, not once a
# row, so rows go in many at a time (measured: twice the rate of executemany). SQLite gathers them first, so of
# payloads, which can be large, fewer.
_EVENTS_A_STATEMENT = 200
_PAYLOADS_A_STATEMENT = 20

# Which of the given memories have events.
_MEMORIES_THERE = (
    "SELECT column1 FROM (VALUES {places})"
    " WHERE EXISTS (SELECT 1 FROM events INDEXED BY events_memory WHERE memory_id = column1)"
)
_MEMORIES_A_QUERY = 500


class Tail(NamedTuple):
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


class OwnRows:
    """Rows as the writing connection sees them, for `CheckedRows`: an append builds on nothing unchecked."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self.path = path
        self.connection = connection

    def fetch(self, sql: str, parameters: Sequence[Any] = (), *, brief: bool = False) -> list[tuple[Any, ...]]:
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


class Batch:
    """Appends that are written together: that of one thread, or those of all the threads that share a transaction.

    Nothing of them is in the tables before `write`; an append builds on what those before it in the batch will leave.
    """

    def __init__(self, source: OwnRows, tail: Tail, dimension: int | None, operations: Sequence[Prepared]) -> None:
        """`operations` are those of all the appends: what each would have to ask for is got for all at once."""
        self.tail = tail
        self.dimension = dimension
        self._source = source
        self._events: list[EventRow] = []
        self._payloads: list[PayloadRow] = []
        rows = CheckedRows(source)
        self._known = _recorded_before(source, rows, operations)
        self._states = _States(source, rows, operations)
        salts = os.urandom(SALT_LENGTH * len(operations))
        self._salts = iter([salts[at : at + SALT_LENGTH] for at in range(0, len(salts), SALT_LENGTH)])

    def take(
        self, operations: Sequence[Prepared], instant: int, expected_position: int | None = None
    ) -> list[Recorded]:
        """The events of the next append, in order, and `tail` moved past them; their embeddings are made.

        They are recorded at `instant`, but for those of an import that come with a time of their own.

        An operation whose event_id is recorded already with the same content is not written again: its event is
        returned as it stands. An `AsofError` leaves the batch as it was.
        """
        known = self._known
        if expected_position not in (None, self.tail.position) and any(one.event_id not in known for one in operations):
            raise PositionConflict(
                f"the history is at position {self.tail.position}, not {expected_position}: "
                "read it again and decide anew"
            )
        append = _Append(self._states, self._salts, self.tail, self.dimension, instant)
        results = []
        for number, operation in enumerate(operations):
            before = known.get(operation.event_id) if operation.event_id is not None else None
            try:
                if before is not None:
                    _require_same(operation, before)
                results.append(before or append.take(operation))
            except AsofError as error:
                error.operation = number
                raise
        if len({row.event_id for row in append.events}) < len(append.events):
            raise InvalidOperation("an event_id is given twice in one append: give each event its own")
        self.tail, self.dimension = append.tail, append.dimension
        self._events += append.events
        self._payloads += append.payloads
        self._states.keep(append.latest)
        for operation, recorded in zip(operations, results, strict=True):
            if operation.event_id is not None:
                known[operation.event_id] = replace(recorded, payload=None)
        return results

    def write(self) -> None:
        """Write the rows of all appends that were taken."""
        self._insert("events", self._events, _EVENTS_A_STATEMENT)
        self._insert("payloads", self._payloads, _PAYLOADS_A_STATEMENT)

    def _insert(self, table: str, rows: Sequence[tuple[Any, ...]], at_once: int) -> None:
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            sql = _insert_sql(table, len(some[0]), len(some))
            self._source.connection.execute(sql, tuple(chain.from_iterable(some)))


@lru_cache(maxsize=256)
def _insert_sql(table: str, columns: int, rows: int) -> str:
    places = ",".join([f"({','.join('?' * columns)})"] * rows)
    return f"INSERT INTO {table} VALUES {places}"


class _States:
    """The latest event of each memory, None where it has none: as the tables have it, or an append that was taken."""

    def __init__(self, source: OwnRows, rows: CheckedRows, operations: Sequence[Prepared]) -> None:
        self._rows = rows
        self._latest: dict[str, Recorded | None] = {}
        # Most memories that are added are new.
        ids = [one.memory_id for one in operations if one.type == "ADD" and one.memory_id is not None]
        if len(ids) < 2:
            return
        for some in chunks(ids, _MEMORIES_A_QUERY):
            sql = _MEMORIES_THERE.format(places=",".join(["(?)"] * len(some)))
            there = {memory_id for (memory_id,) in source.fetch(sql, some)}
            self._latest.update((memory_id, None) for memory_id in some if memory_id not in there)

    def latest(self, memory_id: str) -> Recorded | None:
        """A memory's latest event. Of one that is in the tables only the header, until it is `read`."""
        if memory_id not in self._latest:
            header = self._rows.last_of(memory_id)
            self._latest[memory_id] = None if header is None else Recorded(header, None, None, None, None)
        return self._latest[memory_id]

    def read(self, event: Recorded) -> None:
        """Fill in the state after an event that is no DELETE."""
        if event.content is not None:
            return
        # What an update keeps gets a digest of its own: what was changed in the file must not come by one that way.
        payload, embedding = self._rows.payloads([event.row])[event.row.seq], self._rows.embedding_of(event.row)
        # Once all of it has been found good: the next append of a group finds what this one leaves.
        event.content, event.metadata, event.embedding = payload.content, payload.metadata, embedding

    def keep(self, latest: dict[str, Recorded]) -> None:
        """Take over what an append has left."""
        self._latest.update(latest)


class _Append:
    """The rows to be of one append, and the memories' states as they are after each of them."""

    def __init__(
        self, states: _States, salts: Iterator[bytes], tail: Tail, dimension: int | None, instant: int
    ) -> None:
        self.tail = tail
        self.dimension = dimension
        self.latest: dict[str, Recorded] = {}
        self.events: list[EventRow] = []
        self.payloads: list[PayloadRow] = []
        self._states = states
        self._salts = salts
        self._instant = instant
        self._context: Context | None = None
        self._shared: tuple[Any, ...] = ()

    def take(self, operation: Prepared) -> Recorded:
        """The event of the next operation; its rows are not written yet."""
        memory_id, before = operation.memory_id, None
        if operation.type == "ADD":
            if memory_id is None:
                memory_id = str(uuid7())  # new by construction: nothing to look up
            else:
                before = self._before(memory_id)
                if before is not None and before.row.type != "DELETE":
                    raise MemoryExists(
                        f"memory {memory_id!r} exists at version {before.row.version}: update it, or delete it first"
                    )
            content, metadata, embedding = operation.content, operation.metadata, operation.embedding
            return self._add_rows(operation, memory_id, before, content, metadata, embedding, embedding)
        assert memory_id is not None
        before = self._before(memory_id)
        if before is None or before.row.type == "DELETE":
            ended = f" (it was deleted at position {before.row.seq})" if before else ""
            raise MemoryNotFound(f"memory {memory_id!r} does not exist{ended}: add it first")
        if operation.expected_version not in (None, before.row.version):
            raise VersionConflict(memory_id, operation.expected_version or 0, before.row.version)
        if operation.type == "DELETE":
            return self._add_rows(operation, memory_id, before, None, None, None, None)
        self._states.read(before)
        content = before.content if operation.content is None else operation.content
        metadata = before.metadata if operation.metadata is None else operation.metadata
        own = None if operation.embedding == before.embedding else operation.embedding
        return self._add_rows(
            operation, memory_id, before, content, metadata, before.embedding if own is None else own, own
        )

    def _add_rows(
        self,
        operation: Prepared,
        memory_id: str,
        before: Recorded | None,
        content: str | None,
        metadata: str | None,
        embedding: bytes | None,
        own_embedding: bytes | None,
    ) -> Recorded:
        tail, type = self.tail, operation.type
        seq = tail.position + 1
        version, prev_seq, add_seq, embedding_seq = 1, None, seq, None
        if before is not None:
            version, prev_seq = before.row.version + 1, before.row.seq
            if type == "UPDATE":
                embedding_seq = before.row.embedding_seq
            if type != "ADD":
                add_seq = before.row.add_seq
        if own_embedding is not None:
            embedding_seq = seq
            if len(own_embedding) // 4 != self.dimension:
                self._check_length(own_embedding)
        if operation.context is not self._context:
            self._context = operation.context
            self._shared = self._context.columns()
        recorded_at = self._instant if operation.recorded_at is None else operation.recorded_at
        salt = operation.salt or next(self._salts)
        header = (
            seq,
            operation.event_id or str(uuid7()),
            memory_id,
            version,
            prev_seq,
            add_seq,
            embedding_seq,
            type,
            recorded_at,
            *self._shared,
            payload_digest(salt, content, metadata, own_embedding),
        )
        row = EventRow._make((*header, event_hash(tail.hash, *header)))
        payload = PayloadRow(seq, salt, content, metadata, own_embedding)
        self.events.append(row)
        self.payloads.append(payload)
        self.tail = Tail(seq, recorded_at, row.hash)
        recorded = self.latest[memory_id] = Recorded(row, content, metadata, embedding, payload)
        return recorded

    def _before(self, memory_id: str) -> Recorded | None:
        return self.latest.get(memory_id) or self._states.latest(memory_id)

    def _check_length(self, embedding: bytes) -> None:
        # Operations were checked before the lock was taken; the dimension may have been fixed since.
        if self.dimension is not None:
            raise DimensionMismatch(
                f"vector has {len(embedding) // 4} numbers, and this store's vectors have {self.dimension}"
            )
        self.dimension = len(embedding) // 4


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
