"""`ModelStore`: what a store should hold, as a plain list that is folded naively.

It knows the operations and the errors, and shares no code with what it judges: no numpy, no orjson, no SQLite.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from eventstore import (
    Add,
    Delete,
    Event,
    InvalidInstant,
    MemoryExists,
    MemoryNotFound,
    Operation,
    Update,
    VersionConflict,
)
from eventstore.testing.clocks import START

__all__ = ["ModelEvent", "ModelStore", "embedding_of", "json_of"]

CONTEXT = ("actor_id", "role", "reason", "correlation_id", "causation_id")
"""What an operation says beside the change itself, but for `event_id` and `occurred_at`: text or nothing."""


@dataclass(frozen=True)
class ModelEvent:
    """An event as the model has it, with the memory's state after it.

    `content`, `metadata` and `embedding` are None after a DELETE. `before` is the content before the event, None for
    an ADD; `created_at` is when this life of the memory began. `event_id`, `occurred_at` and the rest of the context
    are what the operation said.
    """

    position: int
    memory_id: str
    version: int
    prev_seq: int | None
    type: str
    recorded_at: datetime
    created_at: datetime
    content: str | None
    metadata: dict[str, Any] | None
    embedding: bytes | None
    before: str | None
    event_id: str | None = None
    actor_id: str | None = None
    role: str | None = None
    reason: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    occurred_at: datetime | None = None

    @property
    def vector(self) -> list[float] | None:
        """The embedding as Python floats."""
        if self.embedding is None:
            return None
        return list(struct.unpack(f"<{len(self.embedding) // 4}f", self.embedding))


@dataclass
class ModelStore:
    """A history as a list of events: the oracle for stores, states, instants and searches.

    `embed` turns a list of texts into vectors, for operations without one. Give the model the operations that
    succeeded (`append`), or the events that something else recorded (`observe`).
    """

    embed: Callable[[list[str]], Any] | None = None
    events: list[ModelEvent] = field(default_factory=list)

    @classmethod
    def of(cls, events: Iterable[Event]) -> ModelStore:
        """The model of a history that is there already; `AssertionError` where its events do not fit together."""
        model = cls()
        for event in events:
            model.observe(event)
        return model

    # Telling it

    def append(self, operations: Sequence[Operation], now: datetime | None = None) -> list[ModelEvent]:
        """Take an append, all of it or, raising what a store should raise, nothing.

        `now` is the clock's reading. All events get one instant: `now`, or a microsecond after the last event
        where that is later; without `now` always that.
        """
        instant = START if now is None else now
        if self.events and (now is None or now <= self.events[-1].recorded_at):
            instant = self.events[-1].recorded_at + timedelta(microseconds=1)
        kept = len(self.events)
        try:
            for operation in operations:
                self.events.append(self._event(operation, instant))
        except BaseException:
            del self.events[kept:]
            raise
        return self.events[kept:]

    def _event(self, operation: Operation, instant: datetime) -> ModelEvent:
        last = self.last(operation.memory_id)
        live = last is not None and last.type != "DELETE"
        if isinstance(operation, Add):
            if live:
                raise MemoryExists(f"memory {operation.memory_id!r} is live")
            if operation.memory_id is None:
                raise ValueError("an Add without a memory_id: give the model the event, with observe()")
            state: tuple[Any, ...] = (operation.content, dict(operation.metadata or {}), self._embedding(operation))
            return self._after(last, operation, operation.memory_id, instant, instant, *state)
        if last is None or not live:
            raise MemoryNotFound(f"memory {operation.memory_id!r} is not live")
        if operation.expected_version not in (None, last.version):
            raise VersionConflict(operation.memory_id, operation.expected_version or 0, last.version)
        if isinstance(operation, Delete):
            state = (None, None, None)
        else:
            made = self._embedding(operation)
            state = (
                last.content if operation.content is None else operation.content,
                last.metadata if operation.metadata is None else dict(operation.metadata),
                last.embedding if made is None else made,
            )
        return self._after(last, operation, operation.memory_id, instant, last.created_at, *state)

    def _after(
        self,
        last: ModelEvent | None,
        source: Operation | Event,
        memory_id: str,
        recorded_at: datetime,
        created_at: datetime,
        content: str | None,
        metadata: dict[str, Any] | None,
        embedding: bytes | None,
    ) -> ModelEvent:
        return ModelEvent(
            position=self.position + 1,
            memory_id=memory_id,
            version=1 if last is None else last.version + 1,
            prev_seq=None if last is None else last.position,
            type=source.type,
            recorded_at=recorded_at,
            created_at=created_at,
            content=content,
            metadata=copy.deepcopy(metadata),
            embedding=embedding,
            before=None if last is None else last.content,
            occurred_at=_as_datetime(source.occurred_at),
            **{name: getattr(source, name) for name in ("event_id", *CONTEXT)},
        )

    def _embedding(self, operation: Add | Update) -> bytes | None:
        if operation.vector is not None:
            return embedding_of(operation.vector)
        if operation.content is None:
            return None
        if self.embed is None:
            raise ValueError("an operation has text and no vector: give the model the store's embedder, embed=...")
        return embedding_of(next(iter(self.embed([operation.content]))))

    def observe(self, event: Event) -> ModelEvent:
        """Take an event as a store recorded it. `AssertionError` says where it does not follow on those before."""
        last = self.last(event.memory_id)
        live = last is not None and last.type != "DELETE"
        where = f"event {event.position}"
        _same(where, "position", event.position, self.position + 1)
        _same(where, "version", event.version, 1 if last is None else last.version + 1)
        _same(where, "prev_seq", event.prev_seq, None if last is None else last.position)
        if (event.type == "ADD") == live:
            state = "is live" if live else "is not live"
            raise AssertionError(f"{where} is {event.type} of memory {event.memory_id!r}, which {state} by then")
        if self.events and event.recorded_at < self.events[-1].recorded_at:
            raise AssertionError(f"{where} was recorded at {event.recorded_at}, before the one before it")
        created = event.recorded_at if event.type == "ADD" or last is None else last.created_at
        state_after = (event.content, event.metadata, event.embedding)
        if (event.type == "DELETE") != (state_after == (None, None, None)):
            raise AssertionError(f"{where} is {event.type} and has content {event.content!r}")
        seen = self._after(last, event, event.memory_id, event.recorded_at, created, *state_after)
        self.events.append(seen)
        return seen

    # Asking it

    @property
    def position(self) -> int:
        """The position of the last event."""
        return len(self.events)

    def position_at(self, as_of: datetime | int | None = None) -> int:
        """How many events were recorded no later than an instant; a position stands for itself."""
        if as_of is None:
            return self.position
        if isinstance(as_of, datetime):
            return sum(event.recorded_at <= as_of for event in self.events)
        if not 0 <= as_of <= self.position:
            raise InvalidInstant(f"position {as_of} is not in the model's history of {self.position} events")
        return as_of

    def state(self, as_of: datetime | int | None = None) -> dict[str, ModelEvent]:
        """The live memories, each as the event that gave it its state, in the order of those events."""
        live: dict[str, ModelEvent] = {}
        for event in self.events[: self.position_at(as_of)]:
            live.pop(event.memory_id, None)
            if event.type != "DELETE":
                live[event.memory_id] = event
        return live

    def last(self, memory_id: str | None) -> ModelEvent | None:
        """A memory's last event, which may be its DELETE."""
        own = [event for event in self.events if event.memory_id == memory_id]
        return own[-1] if own else None

    def chosen(self, **wanted: Any) -> list[ModelEvent]:
        """The events whose fields are as given."""
        return [event for event in self.events if all(getattr(event, key) == wanted[key] for key in wanted)]

    def batches(self) -> list[list[ModelEvent]]:
        """The events by append: those that share an instant."""
        found: list[list[ModelEvent]] = []
        for event in self.events:
            if found and found[-1][-1].recorded_at == event.recorded_at:
                found[-1].append(event)
            else:
                found.append([event])
        return found


def _same(where: str, what: str, found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"{where} has {what} {found!r}, and after those before it that is {expected!r}")


def _as_datetime(instant: datetime | str | None) -> datetime | None:
    if not isinstance(instant, str):
        return instant
    return datetime.fromisoformat(instant.replace("Z", "+00:00"))  # which Python 3.10 does not read as UTC


def embedding_of(vector: Sequence[float]) -> bytes:
    """The bytes that a vector is recorded as: float32, little-endian."""
    numbers = [float(number) for number in vector]
    return struct.pack(f"<{len(numbers)}f", *numbers)


def json_of(metadata: Mapping[str, Any] | None) -> str:
    """JSON with sorted keys, which tells 1 from 1.0 from true, as Python's `==` does not."""
    return json.dumps(metadata, sort_keys=True)
