"""What the store's tests share: histories that fail now and then, told to a store and to the kit's model of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

import eventstore.testing as kit
from eventstore import AsofError, EventStore, Operation
from eventstore.group import AppendGroup, Job
from eventstore.testing import MICROSECOND, START, ModelEvent, ModelStore
from eventstore.testing import ManualClock as Clock

__all__ = ["MICROSECOND", "START", "Clock", "ModelEvent", "ModelStore"]


def vector(*numbers: float) -> list[float]:
    """A vector of this store's tests: three numbers unless told otherwise."""
    return list(numbers or (1.0, 2.0, 3.0))


def dump(store: EventStore) -> tuple[Any, ...]:
    """Every row of every table, to say that nothing was written."""
    tables = ("events", "payloads", "settings")
    return tuple(tuple(store._connections.fetch(f"SELECT * FROM {table} ORDER BY 1")) for table in tables)


# -- random histories ---------------------------------------------------------------------------------------

MEMORY_IDS = ("a", "b", "c")
ACTORS = (None, "ann", "bob")
STEPS = (timedelta(0), MICROSECOND, timedelta(seconds=1), timedelta(days=1), -timedelta(hours=1), -timedelta(days=3))

metadatas = st.sampled_from([{}, {"user": "x"}, {"user": "y", "n": 1}, {"n": 2.5}, {"tags": ["x", "y"], "user": None}])


@dataclass(frozen=True)
class Appended:
    """One append of a random history: how far the clock moves before it, what is asked, and how it ends."""

    step: timedelta
    operations: tuple[Operation, ...]
    error: type[AsofError] | None


@st.composite
def histories(draw: st.DrawFn, *, most: int = 8, failing: bool = True) -> list[Appended]:
    """Up to `most` appends on three memories and, now and then, one that fails at its last operation."""
    model, appends = ModelStore(), []
    drawn = kit.histories(1, most, dim=2, ids=MEMORY_IDS, batch=4, context=True, metadata=metadatas)
    for operations in draw(drawn):
        model.append(operations)
        if failing and draw(st.integers(0, 4)) == 4:
            refused = draw(kit.invalid_operations(model.state(), dim=2, ids=MEMORY_IDS))
            appends.append(Appended(draw(kit.jumps()), (*operations, refused.operation), refused.error))
        appends.append(Appended(draw(kit.jumps()), tuple(operations), None))
    return appends


@contextlib.contextmanager
def told_to(appends: Sequence[Appended], path: str = ":memory:") -> Iterator[tuple[EventStore, ModelStore, Clock]]:
    """A store and a model that were both told the same history; where an append fails, it failed in both."""
    clock, model = Clock(), ModelStore()
    with EventStore(path, clock=clock) as store:
        for append in appends:
            clock.now += append.step
            tell(store, model, append, clock.now)
        yield store, model, clock


def tell(store: EventStore, model: ModelStore, append: Appended, now: datetime) -> None:
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


def as_told(vector: Any) -> list[float] | None:
    """A read vector in the model's form."""
    return None if vector is None else np.asarray(vector).tolist()  # type: ignore[no-any-return]


@contextlib.contextmanager
def lead_of(group: AppendGroup) -> Iterator[None]:
    """Until the end of the block appends gather: this thread leads them, and then hands over."""
    this = Job([], None)
    with group._gate:
        assert group._leader is None
        group._leader = this
    try:
        yield
    finally:
        group._leave(this)
