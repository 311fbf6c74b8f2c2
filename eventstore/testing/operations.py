"""Strategies for operations: histories that a store must take, and operations that it must refuse.

A failing example prints as code: an operation's repr is the call that makes it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from eventstore import (
    Add,
    AsofError,
    Delete,
    DimensionMismatch,
    InvalidInstant,
    InvalidMetadata,
    InvalidOperation,
    InvalidVector,
    MemoryExists,
    MemoryNotFound,
    Operation,
    Update,
    VersionConflict,
)
from eventstore.testing.clocks import START
from eventstore.testing.model import ModelEvent
from eventstore.testing.values import IDS, contents, memory_ids, vectors
from eventstore.testing.values import metadata as metadatas

__all__ = ["History", "Refused", "histories", "invalid_operations", "operations"]

History = list[list[Operation]]
"""Appends, in order, each a list of operations: `for operations in history: store.append(operations)`."""

_CONTEXT = {
    "actor_id": st.sampled_from(["ann", "bob"]),
    "role": st.sampled_from(["user", "assistant"]),
    "reason": st.sampled_from(["said so", ""]),
    "correlation_id": st.sampled_from(["chat-1", "chat-2"]),
    "causation_id": st.just("a message"),
    "occurred_at": st.sampled_from([START - timedelta(days=1), START + timedelta(days=400, microseconds=1)]),
}


@dataclass(frozen=True)
class _Wish:
    """What somebody would like to happen to a memory. What it comes to depends on whether the memory is live.

    One that is not `there` is left out: so that a single choice, and no other, takes an operation out of a history,
    and shrinking finds the few that matter. Deleting it from the list would move all that was drawn after it.
    """

    there: bool
    memory_id: str
    ends: bool
    content: str
    vector: list[float] | None
    metadata: dict[str, Any] | None
    changes: tuple[bool, bool, bool]
    says_version: bool
    context: dict[str, Any]

    def operation(self, version: int, live: bool) -> Operation:
        """A valid operation. `version` is the number of the memory's events so far."""
        if not live:
            return Add(memory_id=self.memory_id, **self._given(True, True, self.metadata is not None), **self.context)
        expected: dict[str, Any] = {"expected_version": version} if self.says_version else {}
        if self.ends:
            return Delete(memory_id=self.memory_id, **expected, **self.context)
        content, vector, metadata = self.changes
        if not (content or vector or metadata):
            content = True
        # New content takes a vector with it: without one it would be embedded, and keeping one is tried by the rest.
        given = self._given(content, content or vector, metadata)
        if not given:
            given = {"metadata": {}}
        return Update(memory_id=self.memory_id, **given, **expected, **self.context)

    def _given(self, content: bool, vector: bool, metadata: bool) -> dict[str, Any]:
        given: dict[str, Any] = {"content": self.content} if content else {}
        if vector and self.vector is not None:
            given["vector"] = self.vector
        if metadata:
            given["metadata"] = self.metadata or {}
        return given


@functools.lru_cache(maxsize=64)  # a strategy is checked when it is first drawn from: for a machine at every step
def _wishes(
    dim: int, ids: tuple[str, ...], text_only: bool, context: bool, metadata: st.SearchStrategy[Any] | None = None
) -> st.SearchStrategy[_Wish]:
    drawn = vectors(dim)
    return st.builds(
        _Wish,
        there=st.booleans(),
        memory_id=memory_ids(ids),
        ends=st.sampled_from([False, False, True]),
        content=contents(),
        vector=st.none() | drawn if text_only else drawn,
        metadata=st.none() | (metadatas() if metadata is None else metadata),
        changes=st.tuples(st.booleans(), st.booleans(), st.booleans()),
        says_version=st.booleans(),
        context=st.fixed_dictionaries({}, optional=_CONTEXT) if context else st.just({}),
    )


def histories(
    min_size: int = 0,
    max_size: int = 6,
    *,
    dim: int = 4,
    ids: tuple[str, ...] = IDS,
    batch: int = 3,
    text_only: bool = False,
    context: bool = False,
    metadata: st.SearchStrategy[dict[str, Any]] | None = None,
) -> st.SearchStrategy[History]:
    """Valid histories: between `min_size` and `max_size` appends of 1 to `batch` operations on few memories.

    They add, update what is given and keep the rest, delete, add again, and build on themselves within an append.
    Every append succeeds on an empty store that sees the ones before it. `text_only` leaves vectors out now and
    then, for stores with an embedder of `dim` numbers; `context` says who, why and when in the world;
    `metadata` draws other ones than the kit's. Shrinks to few, small operations, whatever is left out of the middle.
    """
    wishes = st.lists(_wishes(dim, ids, text_only, context, metadata), min_size=1, max_size=batch)
    return st.lists(wishes, min_size=min_size, max_size=max_size).map(lambda drawn: _granted(drawn, min_size))


def _granted(wishes: list[list[_Wish]], min_size: int) -> History:
    versions: dict[str, int] = {}
    live: set[str] = set()
    history: History = []
    for number, some in enumerate(wishes):
        appended: list[Operation] = []
        needed = min_size - len(history) >= len(wishes) - number
        for wish in [wish for wish in some if wish.there] or some[: int(needed)]:
            operation = wish.operation(versions.get(wish.memory_id, 0), wish.memory_id in live)
            versions[wish.memory_id] = versions.get(wish.memory_id, 0) + 1
            (live.discard if isinstance(operation, Delete) else live.add)(wish.memory_id)
            appended.append(operation)
        if appended:
            history.append(appended)
    return history


def operations(
    state: Mapping[str, ModelEvent] | None = None,
    *,
    dim: int = 4,
    ids: tuple[str, ...] = IDS,
    text_only: bool = False,
    context: bool = False,
    metadata: st.SearchStrategy[dict[str, Any]] | None = None,
) -> st.SearchStrategy[Operation]:
    """Operations that are valid in a state: `ModelStore.state()`. Without one nothing is live, and all are adds."""
    live = {} if state is None else dict(state)

    def granted(wish: _Wish) -> Operation:
        before = live.get(wish.memory_id)
        return wish.operation(0 if before is None else before.version, before is not None)

    return _wishes(dim, ids, text_only, context, metadata).map(granted)


@dataclass(frozen=True)
class Refused:
    """An operation that a store must refuse, and the error, or a base of it, that it must raise."""

    operation: Operation
    error: type[AsofError]

    def __repr__(self) -> str:
        return f"Refused({self.operation!r}, {self.error.__name__})"


def invalid_operations(
    state: Mapping[str, ModelEvent] | None = None, *, dim: int | None = None, ids: tuple[str, ...] = IDS
) -> st.SearchStrategy[Refused]:
    """Operations that must be refused in a state (`ModelStore.state()`), each with the error to expect.

    `dim` is the store's dimension: give it where vectors of another length must be refused, which a store without
    events need not do. Vectors of zeros are among them: leave those out (`.filter`) for a store that allows them.
    """
    live = {} if state is None else dict(state)
    size = dim or 2
    good = [1.0] * size
    bad_vectors: list[tuple[Any, type[AsofError]]] = [
        ([float("nan")] * size, InvalidVector),
        ([float("inf")] * size, InvalidVector),
        ([1e39] * size, InvalidVector),
        ([0.0] * size, InvalidVector),
        ([], InvalidVector),
        ([good], InvalidVector),
        ("vector", InvalidVector),
    ]
    if dim is not None:
        bad_vectors += [([1.0] * (dim + 1), DimensionMismatch)]
        bad_vectors += [([1.0] * (dim - 1), DimensionMismatch)] if dim > 1 else []
    bad_ids = ["", "x" * 513, "nul\0", "\ud800"]
    bad_metadata: list[Any] = [
        {"n": float("nan")},
        {"n": {1, 2}},
        {"n": b"x"},
        {"n": 2**70},
        {1: "x"},
        ["x"],
        {"n": (1,)},
    ]
    fresh: dict[str, Any] = {"memory_id": "never added", "content": "x", "vector": good}
    found = [Refused(Add(**{**fresh, "vector": vector}), error) for vector, error in bad_vectors]
    found += [Refused(Add(**{**fresh, "memory_id": name}), InvalidOperation) for name in bad_ids]
    found += [Refused(Add(**{**fresh, "content": "\ud800"}), InvalidOperation)]
    found += [Refused(Add(**{**fresh, "metadata": wrong}), InvalidMetadata) for wrong in bad_metadata]
    found += [Refused(Add(**fresh, occurred_at=datetime(2020, 1, 1)), InvalidInstant)]
    found += [Refused(Add(**fresh, occurred_at="yesterday"), InvalidInstant)]
    for name in ids:
        before = live.get(name)
        if before is None:
            found += [
                Refused(Delete(memory_id=name), MemoryNotFound),
                Refused(Update(memory_id=name, metadata={}), MemoryNotFound),
                Refused(Update(memory_id=name, content="x", vector=good), MemoryNotFound),
            ]
            continue
        wrong, stale = before.version + 1, before.version - 1
        if stale:  # what it was when somebody read it, and is not any more
            found += [
                Refused(Delete(memory_id=name, expected_version=stale), VersionConflict),
                Refused(Update(memory_id=name, metadata={}, expected_version=stale), VersionConflict),
            ]
        found += [
            Refused(Add(memory_id=name, content="x", vector=good), MemoryExists),
            Refused(Delete(memory_id=name, expected_version=wrong), VersionConflict),
            Refused(Update(memory_id=name, metadata={}, expected_version=wrong), VersionConflict),
            Refused(Update(memory_id=name), InvalidOperation),
            Refused(Delete(memory_id=name, expected_version=0), InvalidOperation),
            *(Refused(Update(memory_id=name, vector=vector), error) for vector, error in bad_vectors),
        ]
    return st.sampled_from(found)
