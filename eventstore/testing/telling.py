"""What the contracts of stores share: a store that was told a history, and how it is compared with the model."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias

from hypothesis import HealthCheck, settings

from eventstore.testing.clocks import START, ManualClock
from eventstore.testing.model import CONTEXT, ModelEvent, ModelStore, json_of
from eventstore.testing.operations import History
from eventstore.testing.profiles import scaled

__all__ = ["OpenStore", "contract_property", "event_form", "everything", "memory_form", "new_name", "told"]

OpenStore: TypeAlias = Callable[..., Any]

# The fixture gives a factory: every derived class has its own, and every example opens a history of its own through it.
contract_property = settings(
    max_examples=scaled(15),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)

_names = iter(range(10**9))


def new_name() -> str:
    """A name that nothing has had in this process."""
    return f"kept-{next(_names)}"


def told(open_store: OpenStore, history: History, now: datetime = START) -> tuple[Any, ModelStore]:
    """A store and a model that were both told the same history, by a clock that stands still."""
    store, model = open_store(clock=ManualClock(now)), ModelStore()
    for operations in history:
        store.append(operations)
        model.append(operations, now)
    return store, model


def everything(store: Any) -> tuple[Any, ...]:
    """All that a store can be asked about its history."""
    return store.head, list(store.events()), store.memories()


def memory_form(memory: Any) -> tuple[Any, ...]:
    """What a memory and the model's event have in common."""
    if isinstance(memory, ModelEvent):
        updated = memory.recorded_at if memory.type == "UPDATE" else None
    else:
        updated = memory.updated_at
    fields = ("memory_id", "position", "version", "content", "created_at", "actor_id", "role")
    return (*(getattr(memory, name) for name in fields), json_of(memory.metadata), updated)


def event_form(event: Any) -> tuple[Any, ...]:
    """What an event and the model's have in common."""
    fields = ("position", "memory_id", "version", "prev_seq", "type", "recorded_at", "content", "embedding")
    said = (*CONTEXT, "occurred_at")
    return (*(getattr(event, name) for name in (*fields, *said)), json_of(event.metadata))
