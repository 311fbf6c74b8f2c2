"""Retries: an event_id makes an operation safe to repeat, and only the same operation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventstore import Add, Delete, EventConflict, EventStore, InvalidOperation, Operation, Update
from tests.store_support import START, Clock, dump, vector


@pytest.fixture
def store() -> Iterator[EventStore]:
    with EventStore(clock=Clock()) as opened:
        yield opened


ADD: dict[str, Any] = {
    "content": "tea",
    "vector": [1, 2],
    "memory_id": "m",
    "metadata": {"a": 1, "b": [2.5]},
    "actor_id": "ann",
    "role": "user",
    "reason": "said so",
    "occurred_at": START,
    "event_id": "e",
    "correlation_id": "chat",
    "causation_id": "cause",
}


def test_the_same_event_again_is_the_one_recorded(store: EventStore) -> None:
    """The event comes back as it stands, and nothing is written."""
    first = store.add(**ADD)
    before = dump(store)
    assert store.add(**ADD) == first
    assert store.append([Add(**ADD)]) == [first]
    assert dump(store) == before


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("content", "coffee"),
        ("vector", [1, 3]),
        ("memory_id", "n"),
        ("metadata", {"a": 1}),
        ("metadata", None),
        ("actor_id", "bob"),
        ("actor_id", None),
        ("role", "tool"),
        ("reason", "other"),
        ("occurred_at", "2026-01-01T00:00:00.000001Z"),
        ("correlation_id", None),
        ("causation_id", "other"),
    ],
)
def test_the_same_event_id_with_other_content_is_a_conflict(store: EventStore, name: str, other: Any) -> None:
    """EventConflict names the id and the first thing that differs; nothing is written."""
    store.add(**ADD)
    before = dump(store)
    with pytest.raises(EventConflict, match=f"'e' is recorded already at position 1 with another {name}"):
        store.add(**{**ADD, name: other})
    assert dump(store) == before


@pytest.mark.parametrize("operation", [Update(memory_id="m", content="x", vector=[1, 2]), Delete(memory_id="m")])
def test_another_type_is_a_conflict(store: EventStore, operation: Operation) -> None:
    """An event is of one type."""
    store.add("x", vector=[1, 2], memory_id="m", event_id="e")
    with pytest.raises(EventConflict, match="another type"):
        store.append([operation.model_copy(update={"event_id": "e"})])


def test_a_retried_add_keeps_the_id_that_was_generated(store: EventStore) -> None:
    """The caller who never got the answer gets it now."""
    first = store.add("x", vector=vector(), event_id="e")
    assert store.add("x", vector=vector(), event_id="e").memory_id == first.memory_id
    assert store.count() == 1


def test_an_update_can_be_retried(store: EventStore) -> None:
    """Also with the version that it expected, which the first try moved on."""
    store.add("x", vector=[1, 2], memory_id="m")
    first = store.update("m", metadata={"n": 1}, expected_version=1, event_id="e")
    assert store.update("m", metadata={"n": 1}, expected_version=1, event_id="e") == first
    assert store.position == 2


def test_a_retried_update_comes_back_with_the_state_it_left(store: EventStore) -> None:
    """What it kept is that of then, not of now."""
    store.add("x", vector=[1, 2], memory_id="m")
    first = store.update("m", metadata={"n": 1}, event_id="e")
    store.update("m", "y", vector=[3, 4])
    again = store.update("m", metadata={"n": 1}, event_id="e")
    assert again == first
    assert (again.content, again.embedding) == ("x", np.array([1, 2], "<f4").tobytes())


def test_a_delete_can_be_retried(store: EventStore) -> None:
    """Although the memory is not live any more, or lives again."""
    store.add("x", vector=vector(), memory_id="m")
    first = store.delete("m", event_id="e")
    assert store.delete("m", event_id="e") == first
    store.add("y", vector=vector(), memory_id="m")
    assert store.delete("m", event_id="e") == first
    assert store.count() == 1


def test_an_add_can_be_retried_after_the_memory_has_moved_on(store: EventStore) -> None:
    """Updated, deleted: the event is there all the same."""
    first = store.add(**ADD)
    store.update("m", metadata={})
    assert store.add(**ADD) == first
    store.delete("m")
    assert store.add(**ADD) == first
    assert store.position == 3


def test_a_retry_needs_no_embedder_that_repeats_itself() -> None:
    """What an embedder made is not compared; what the caller gave is."""
    calls = iter(range(1, 100))
    with EventStore(embedder=lambda texts: np.full((len(texts), 2), next(calls))) as store:
        first = store.add("x", event_id="e")
        assert store.add("x", event_id="e") == first
        assert store.add("x", vector=[1, 1], event_id="e") == first
        with pytest.raises(EventConflict, match="another vector"):
            store.add("x", vector=[9, 9], event_id="e")


def test_an_append_can_be_retried(store: EventStore) -> None:
    """The whole of it, though its operations build on each other."""
    operations = [
        Add(content="x", vector=[1, 2], memory_id="m", event_id="1"),
        Update(memory_id="m", metadata={"n": 1}, event_id="2"),
        Delete(memory_id="m", event_id="3"),
    ]
    first = store.append(operations, actor_id="ann")
    assert store.append(operations, actor_id="ann") == first
    assert store.position == 3


def test_what_an_append_shares_is_compared_too(store: EventStore) -> None:
    """Its keywords are the operations' own where they say nothing else."""
    store.append([Add(content="x", vector=[1, 2], event_id="1")], actor_id="ann")
    with pytest.raises(EventConflict, match="another actor_id"):
        store.append([Add(content="x", vector=[1, 2], event_id="1")], actor_id="bob")


def test_an_append_may_hold_old_and_new(store: EventStore) -> None:
    """What is there is passed over, what is new is recorded, and the events come in the order asked."""
    old = store.add("x", vector=[1, 2], memory_id="m", event_id="1")
    events = store.append(
        [
            Update(memory_id="m", metadata={"n": 1}, event_id="2"),
            Add(content="x", vector=[1, 2], memory_id="m", event_id="1"),
            Add(content="y", vector=[1, 2], event_id="3"),
        ]
    )
    assert [event.position for event in events] == [2, 1, 3]
    assert events[1] == old


def test_a_conflict_undoes_the_append_it_is_in(store: EventStore) -> None:
    """And says which operation it was."""
    store.add("x", vector=[1, 2], event_id="1")
    before = dump(store)
    with pytest.raises(EventConflict) as raised:
        store.append([Add(content="new", vector=[1, 2]), Add(content="other", vector=[1, 2], event_id="1")])
    assert raised.value.operation == 1
    assert dump(store) == before


def test_an_event_id_twice_in_one_append_is_refused(store: EventStore) -> None:
    """Even with the same content: one event is one event."""
    same = Add(content="x", vector=[1, 2], event_id="1")
    before = dump(store)
    with pytest.raises(InvalidOperation, match="event_id is given twice"):
        store.append([same, same])
    with pytest.raises(InvalidOperation, match="event_id is given twice"):
        store.add_many(["x", "y"], vectors=[[1, 2], [1, 2]], event_ids=["1", "1"])
    assert dump(store) == before


def test_add_many_can_be_retried(store: EventStore) -> None:
    """More events than SQL takes parameters, in part and in whole."""
    rows = 33_000
    ids = [f"e{n}" for n in range(rows)]
    vectors = np.arange(2 * rows).reshape(rows, 2) + 1
    first = store.add_many(["x"] * 100, vectors=vectors[:100], event_ids=ids[:100])
    whole = store.add_many(["x"] * rows, vectors=vectors, event_ids=ids)
    again = store.add_many(["x"] * rows, vectors=vectors, event_ids=ids)
    assert store.position == rows
    assert whole[:100] == first
    assert [event.position for event in again] == list(range(1, rows + 1))


def test_add_many_with_other_content_is_a_conflict(store: EventStore) -> None:
    """It names the row, and nothing of the rest is written."""
    store.add_many(["x", "y"], vectors=[[1, 2], [3, 4]], event_ids=["1", "2"])
    before = dump(store)
    with pytest.raises(EventConflict, match=r"'2' .* another content") as raised:
        store.add_many(["new", "z"], vectors=[[1, 2], [3, 4]], event_ids=["3", "2"])
    assert raised.value.operation == 1
    assert dump(store) == before


def test_a_retry_after_reopening_is_one(tmp_path: Path) -> None:
    """As after a crash between the write and the answer."""
    with EventStore(tmp_path / "a.db") as store:
        first = store.add(**ADD)
    with EventStore(tmp_path / "a.db") as store:
        assert store.add(**ADD) == first
        assert store.position == 1
