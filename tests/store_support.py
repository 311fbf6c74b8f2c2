"""What the store's tests share: a clock to turn by hand, random histories, and a model that folds them naively.

The model knows the operations only. It shares no code with the store, keeps everything in lists and dicts, and
answers every question by reading its events from the first to the last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from eventstore import (
    Add,
    AsofError,
    Delete,
    EventStore,
    MemoryExists,
    MemoryNotFound,
    Operation,
    Update,
    VersionConflict,
)

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def move(self, **step: float) -> datetime:
        """Move by a timedelta's arguments; the new time."""
        self.now += timedelta(**step)
        return self.now


def vector(*numbers: float) -> list[float]:
    """A vector of this store's tests: three numbers unless told otherwise."""
    return list(numbers or (1.0, 2.0, 3.0))


def dump(store: EventStore) -> tuple[Any, ...]:
    """Every row of every table, to say that nothing was written."""
    tables = ("events", "payloads", "settings")
    return tuple(tuple(store._connections.fetch(f"SELECT * FROM {table} ORDER BY 1")) for table in tables)


# -- the model ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """An event as the model has it, with the memory's state after it."""

    position: int
    memory_id: str
    version: int
    type: str
    recorded_at: datetime
    content: str | None
    metadata: dict[str, Any] | None
    vector: tuple[float, ...] | None
    actor_id: str | None
    role: str | None
    correlation_id: str | None
    created_at: datetime
    before: str | None


@dataclass
class Model:
    """A history as a list, and a clock's last reading."""

    events: list[Told] = field(default_factory=list)

    def append(self, operations: Sequence[Operation], now: datetime) -> None:
        """All of them or, raising what the store should raise, none."""
        if self.events:
            now = max(now, self.events[-1].recorded_at + MICROSECOND)
        told = list(self.events)
        for operation in operations:
            told.append(_next(told, operation, now))
        self.events = told

    def state(self, position: int) -> dict[str, Told]:
        """What is live after the first `position` events, in the order in which each got its state."""
        live: dict[str, Told] = {}
        for event in self.events[:position]:
            live.pop(event.memory_id, None)
            if event.type != "DELETE":
                live[event.memory_id] = event
        return live

    def position_at(self, instant: datetime) -> int:
        """How many events were recorded no later."""
        return sum(event.recorded_at <= instant for event in self.events)

    def chosen(self, **wanted: Any) -> list[Told]:
        """The events whose fields are as given."""
        return [event for event in self.events if all(getattr(event, key) == wanted[key] for key in wanted)]


def _next(told: list[Told], operation: Operation, now: datetime) -> Told:
    own = [event for event in told if event.memory_id == operation.memory_id]
    last = own[-1] if own else None
    live = last is not None and last.type != "DELETE"
    assert operation.memory_id is not None
    common: dict[str, Any] = {
        "position": len(told) + 1,
        "memory_id": operation.memory_id,
        "version": len(own) + 1,
        "type": operation.type,
        "recorded_at": now,
        "actor_id": operation.actor_id,
        "role": operation.role,
        "correlation_id": operation.correlation_id,
        "before": last.content if last is not None else None,
    }
    if isinstance(operation, Add):
        if live:
            raise MemoryExists
        metadata = dict(operation.metadata or {})
        return Told(
            content=operation.content, metadata=metadata, vector=tuple(operation.vector), created_at=now, **common
        )
    if last is None or not live:
        raise MemoryNotFound
    if operation.expected_version not in (None, last.version):
        raise VersionConflict(operation.memory_id, operation.expected_version or 0, last.version)
    common["created_at"] = last.created_at
    if isinstance(operation, Delete):
        return Told(content=None, metadata=None, vector=None, **common)
    return Told(
        content=last.content if operation.content is None else operation.content,
        metadata=last.metadata if operation.metadata is None else dict(operation.metadata),
        vector=last.vector if operation.vector is None else tuple(operation.vector),
        **common,
    )


# -- random histories ---------------------------------------------------------------------------------------

MEMORY_IDS = ("a", "b", "c")
ACTORS = (None, "ann", "bob")
VECTORS = ((1.0, 0.0), (0.5, -2.0), (3.0, 4.0))
STEPS = (timedelta(0), MICROSECOND, timedelta(seconds=1), timedelta(days=1), -timedelta(hours=1), -timedelta(days=3))

metadatas = st.sampled_from([{}, {"user": "x"}, {"user": "y", "n": 1}, {"n": 2.5}, {"tags": ["x", "y"], "user": None}])
contents = st.sampled_from(["tea", "coffee", "", "tee ☕"])


@dataclass(frozen=True)
class Appended:
    """One append of a random history: how far the clock moves before it, what is asked, and how it ends."""

    step: timedelta
    operations: tuple[Operation, ...]
    error: type[AsofError] | None


@st.composite
def histories(draw: st.DrawFn, *, most: int = 8, failing: bool = True) -> list[Appended]:
    """Up to `most` appends on three memories, most of them valid, with a clock that jumps."""
    model, now, appends = Model(), START, []
    for _ in range(draw(st.integers(1, most))):
        step = draw(st.sampled_from(STEPS))
        now += step
        trial, operations = replace(model, events=list(model.events)), []
        error: type[AsofError] | None = None
        for _ in range(draw(st.integers(1, 4))):
            operation = draw(_operations(trial, failing))
            operations.append(operation)
            try:
                trial.append([operation], now)
            except AsofError as fault:
                error = type(fault)
                break
        if error is None:
            model.append(operations, now)
        appends.append(Appended(step, tuple(operations), error))
    return appends


@st.composite
def _operations(draw: st.DrawFn, model: Model, failing: bool) -> Operation:
    memory_id = draw(st.sampled_from(MEMORY_IDS))
    live = memory_id in model.state(len(model.events))
    wrong = failing and draw(st.integers(0, 19)) == 0
    context: dict[str, Any] = {
        "memory_id": memory_id,
        "actor_id": draw(st.sampled_from(ACTORS)),
        "role": draw(st.sampled_from([None, "user", "assistant"])),
        "correlation_id": draw(st.sampled_from([None, "chat-1", "chat-2"])),
    }
    if live == wrong:
        return Add(
            content=draw(contents),
            vector=draw(st.sampled_from(VECTORS)),
            metadata=draw(st.none() | metadatas),
            **context,
        )
    version = len(model.chosen(memory_id=memory_id)) + (failing and draw(st.integers(0, 19)) == 0)
    context["expected_version"] = draw(st.sampled_from([None, version])) if version else None
    if draw(st.integers(0, 3)) == 0:
        return Delete(**context)
    given: dict[str, Any] = {
        "content": draw(contents),
        "vector": draw(st.sampled_from(VECTORS)),
        "metadata": draw(metadatas),
    }
    # New content without a vector would need an embedder.
    kept = draw(st.sampled_from([["content", "vector"], ["vector"], ["metadata"], ["vector", "metadata"], list(given)]))
    return Update(**{name: given[name] for name in kept}, **context)


@contextlib.contextmanager
def told_to(appends: Sequence[Appended], path: str = ":memory:") -> Iterator[tuple[EventStore, Model, Clock]]:
    """A store and a model that were both told the same history; where an append fails, it failed in both."""
    clock, model = Clock(), Model()
    with EventStore(path, clock=clock) as store:
        for append in appends:
            clock.now += append.step
            tell(store, model, append, clock.now)
        yield store, model, clock


def tell(store: EventStore, model: Model, append: Appended, now: datetime) -> None:
    """Tell both one append; where it fails, nothing was written."""
    if append.error is None:
        store.append(append.operations)
        model.append(append.operations, now)
        return
    before = store.head
    with pytest.raises(append.error) as raised:
        store.append(append.operations)
    assert type(raised.value) is append.error
    assert raised.value.operation == len(append.operations) - 1
    assert store.head == before


def as_told(vector: Any) -> tuple[float, ...] | None:
    """A read vector in the model's form."""
    return None if vector is None else tuple(np.asarray(vector).tolist())
