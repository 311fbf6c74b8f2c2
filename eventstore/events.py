"""What is read back: events, memories, heads and history records. All of them are immutable values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from eventstore.errors import CorruptHistory
from eventstore.instants import from_microseconds

__all__ = ["Event", "EventType", "Head", "HistoryRecord", "Memory", "Vector", "vector_of"]

EventType = Literal["ADD", "UPDATE", "DELETE"]
Vector = npt.NDArray[np.float32]


def vector_of(embedding: bytes) -> Vector:
    """The float32 vector that an embedding's little-endian bytes hold; read-only, shape `(dimension,)`."""
    return np.frombuffer(embedding, dtype="<f4")


_DEEPEST = 66  # levels of lists and objects in recorded metadata: `checks.MAX_DEPTH` below the object's own values


def metadata_of(text: str, position: int | None = None) -> dict[str, Any]:
    """The metadata of recorded JSON text; `CorruptHistory` for what no append records, though its digest be right."""
    try:
        metadata = orjson.loads(text)
    except orjson.JSONDecodeError:
        metadata = None
    # What is nested deeper than Python's recursion goes could be parsed, and then neither compared nor matched. Each
    # level has two characters.
    if not isinstance(metadata, dict) or (
        len(text) > 2 * _DEEPEST and text.count("{") + text.count("[") > _DEEPEST and _depth(metadata) > _DEEPEST
    ):
        where = "an event" if position is None else f"event {position}"
        raise CorruptHistory(f"{where} has metadata that no append can have recorded: run `replay verify`")
    return metadata


def _depth(metadata: dict[str, Any]) -> int:
    depth = 0
    level: list[dict[str, Any] | list[Any]] = [metadata]
    while level:
        depth += 1
        inside = [inner for value in level for inner in (value.values() if isinstance(value, dict) else value)]
        level = [value for value in inside if isinstance(value, (dict, list))]
    return depth


@dataclass(frozen=True, slots=True)
class Event:
    """One immutable event of the history.

    `content`, `metadata` and `vector` are the memory's state after the event; all are None after a DELETE.
    `position` is the event's place in the one total order, `prev_seq` the position of the memory's event
    before, `add_seq` of the ADD that this life of the memory began with, `embedding_seq` of the event that
    holds the embedding. `payload_digest` and `hash` are lowercase hexadecimal.
    """

    position: int
    event_id: str
    memory_id: str
    version: int
    prev_seq: int | None
    add_seq: int
    embedding_seq: int | None
    type: EventType
    recorded_at: datetime
    occurred_at: datetime | None
    actor_id: str | None
    role: str | None
    reason: str | None
    correlation_id: str | None
    causation_id: str | None
    source: str | None
    payload_digest: str
    hash: str
    content: str | None
    metadata: dict[str, Any] | None
    embedding: bytes | None = field(repr=False)

    @property
    def vector(self) -> Vector | None:
        """The embedding as float32, shape `(dimension,)`, read-only; None after a DELETE."""
        return None if self.embedding is None else vector_of(self.embedding)


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory as it was at some position.

    `position` is that of the event which gave it this state; `created_at` is when it was added, `updated_at`
    when it was last updated, None if never; `actor_id` and `role` are those of the event at `position`.
    """

    memory_id: str
    content: str
    metadata: dict[str, Any]
    version: int
    position: int
    created_at: datetime
    updated_at: datetime | None
    actor_id: str | None
    role: str | None

    @property
    def hash(self) -> str:
        """SHA-256 of the content's UTF-8 bytes, in lowercase hexadecimal."""
        return sha256(self.content.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the history: what to keep elsewhere to be able to prove later what it was.

    `position` 0, `recorded_at` None and 64 zeros for a history without events.
    """

    position: int
    recorded_at: datetime | None
    hash: str


@dataclass(frozen=True, slots=True)
class HistoryRecord:
    """A row of the `history` view (its ten columns), then the event's position, version and reason."""

    id: str
    memory_id: str
    old_memory: str | None
    new_memory: str | None
    event: EventType
    created_at: datetime
    updated_at: datetime | None
    is_deleted: bool
    actor_id: str | None
    role: str | None
    position: int
    version: int
    reason: str | None


class EventRow(NamedTuple):
    """A row of `events`: the columns in their order."""

    seq: int
    event_id: str
    memory_id: str
    version: int
    prev_seq: int | None
    add_seq: int
    embedding_seq: int | None
    type: EventType
    recorded_at: int
    occurred_at: int | None
    actor_id: str | None
    role: str | None
    reason: str | None
    correlation_id: str | None
    causation_id: str | None
    source: str | None
    payload_digest: bytes
    hash: bytes


class PayloadRow(NamedTuple):
    """A row of `payloads`: the columns in their order."""

    seq: int
    salt: bytes
    content: str | None
    metadata: str | None
    embedding: bytes | None


def event_from(row: EventRow, content: str | None, metadata: str | None, embedding: bytes | None) -> Event:
    """The event of a header row and the state after it."""
    return Event(
        *row[:8],
        recorded_at=from_microseconds(row.recorded_at),
        occurred_at=None if row.occurred_at is None else from_microseconds(row.occurred_at),
        actor_id=row.actor_id,
        role=row.role,
        reason=row.reason,
        correlation_id=row.correlation_id,
        causation_id=row.causation_id,
        source=row.source,
        payload_digest=row.payload_digest.hex(),
        hash=row.hash.hex(),
        content=content,
        metadata=None if metadata is None else metadata_of(metadata, row.seq),
        embedding=embedding,
    )
