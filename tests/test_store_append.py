"""Writing: what each operation records, and the rules that refuse one."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings

from eventstore import (
    Add,
    Delete,
    DimensionMismatch,
    EmbedderMissing,
    EventStore,
    InvalidOperation,
    InvalidVector,
    MemoryExists,
    MemoryNotFound,
    PositionConflict,
    Update,
    VersionConflict,
)
from tests.profiles import scaled
from tests.store_support import START, Appended, Clock, dump, histories, told_to, vector


@pytest.fixture
def store() -> Iterator[EventStore]:
    with EventStore(clock=Clock()) as opened:
        yield opened


# -- add ----------------------------------------------------------------------------------------------------


def test_add_records_all_that_it_is_told(store: EventStore) -> None:
    """Every argument is in the event that comes back, and in the one that is read."""
    event = store.add(
        "tea",
        vector=[1, 2],
        memory_id="m",
        metadata={"user_id": "alice"},
        actor_id="assistant",
        role="tool",
        reason="said so",
        occurred_at=START - timedelta(days=1),
        event_id="e",
        correlation_id="chat",
        causation_id="other",
    )
    told = {
        "position": 1,
        "event_id": "e",
        "memory_id": "m",
        "version": 1,
        "prev_seq": None,
        "add_seq": 1,
        "embedding_seq": 1,
        "type": "ADD",
        "recorded_at": START,
        "occurred_at": START - timedelta(days=1),
        "actor_id": "assistant",
        "role": "tool",
        "reason": "said so",
        "correlation_id": "chat",
        "causation_id": "other",
        "source": None,
        "content": "tea",
        "metadata": {"user_id": "alice"},
        "embedding": np.array([1, 2], "<f4").tobytes(),
    }
    assert {name: getattr(event, name) for name in told} == told
    assert list(store.events()) == [event]


def test_what_add_is_not_told_is_absent(store: EventStore) -> None:
    """No metadata is an empty object; the rest is None."""
    event = store.add("tea", vector=vector())
    assert event.metadata == {}
    assert [event.actor_id, event.role, event.reason, event.occurred_at] == [None] * 4
    assert [event.correlation_id, event.causation_id, event.source] == [None] * 3


def test_generated_ids_are_time_ordered_uuids(store: EventStore) -> None:
    """Version 7, so that an index on them grows at its end."""
    events = [store.add("x", vector=vector()) for _ in range(3)]
    ids = [event.memory_id for event in events]
    assert ids == sorted(set(ids))
    assert {UUID(one).version for event in events for one in (event.memory_id, event.event_id)} == {7}


def test_adding_a_live_memory_is_refused(store: EventStore) -> None:
    """MemoryExists names it and its version; nothing is written."""
    store.add("x", vector=vector(), memory_id="m")
    before = dump(store)
    with pytest.raises(MemoryExists, match="'m' exists at version 1"):
        store.add("y", vector=vector(), memory_id="m")
    assert dump(store) == before


def test_adding_again_after_a_delete_continues_the_version_count(store: EventStore) -> None:
    """A new life of the memory, linked to the old one's end."""
    store.add("x", vector=vector(), memory_id="m")
    store.delete("m")
    again = store.add("y", vector=vector(), memory_id="m")
    assert (again.version, again.prev_seq, again.add_seq, again.embedding_seq) == (3, 2, 3, 3)


def test_what_is_added_again_keeps_nothing_of_its_former_life(store: EventStore) -> None:
    """Neither metadata nor the time of creation."""
    store.add("x", vector=vector(), memory_id="m", metadata={"old": True})
    store.delete("m")
    again = store.add("y", vector=vector(), memory_id="m")
    memory = store.get("m")
    assert memory is not None
    assert (memory.metadata, memory.created_at, memory.updated_at) == ({}, again.recorded_at, None)


# -- update -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "content", "metadata", "numbers"),
    [
        ({"metadata": {"b": 2}}, "x", {"b": 2}, [1, 2]),
        ({"metadata": {}}, "x", {}, [1, 2]),
        ({"vector": [5, 6]}, "x", {"a": 1}, [5, 6]),
        ({"content": "y", "vector": [5, 6]}, "y", {"a": 1}, [5, 6]),
        ({"content": "", "vector": [1, 2]}, "", {"a": 1}, [1, 2]),
    ],
)
def test_update_changes_what_is_given_and_keeps_the_rest(
    store: EventStore, given: dict[str, Any], content: str, metadata: dict[str, Any], numbers: list[float]
) -> None:
    """Each of content, vector and metadata by itself; an empty one is given, not absent."""
    store.add("x", vector=[1, 2], memory_id="m", metadata={"a": 1})
    event = store.update("m", **given)
    assert (event.type, event.version, event.prev_seq, event.add_seq) == ("UPDATE", 2, 1, 1)
    assert (event.content, event.metadata) == (content, metadata)
    assert event.vector is not None
    assert event.vector.tolist() == numbers
    assert list(store.events(after=1)) == [event]


def test_an_update_that_changes_no_embedding_points_at_the_event_that_holds_it(store: EventStore) -> None:
    """Through any number of updates, and an equal vector given is no change."""
    store.add("x", vector=[1, 2], memory_id="m")
    store.update("m", metadata={"n": 1})
    store.update("m", "y", vector=[1.0, 2.0])
    store.update("m", vector=np.array([1, 2], ">f8"))
    store.update("m", vector=[3, 4])
    last = store.update("m", metadata={})
    assert [event.embedding_seq for event in store.events()] == [1, 1, 1, 1, 5, 5]
    assert last.embedding == np.array([3, 4], "<f4").tobytes()


def test_an_embedding_is_stored_once(store: EventStore) -> None:
    """Only the events that hold one have the bytes."""
    store.add("x", vector=[1, 2], memory_id="m")
    store.update("m", "y", vector=[1, 2])
    store.delete("m")
    rows = store._connections.fetch("SELECT embedding IS NOT NULL FROM payloads ORDER BY seq")
    assert rows == [(1,), (0,), (0,)]


def test_zero_and_minus_zero_are_different_embeddings(store: EventStore) -> None:
    """Embeddings are compared by their bits: what was given is what is read."""
    store.add("x", vector=[1, 0.0], memory_id="m")
    event = store.update("m", vector=[1, -0.0])
    assert event.embedding_seq == 2


def test_an_update_may_repeat_what_is_there(store: EventStore) -> None:
    """It is an event all the same: somebody said it again."""
    store.add("x", vector=[1, 2], memory_id="m", metadata={"a": 1})
    event = store.update("m", "x", vector=[1, 2], metadata={"a": 1})
    assert (event.version, store.position) == (2, 2)


@pytest.mark.parametrize("change", [lambda s: s.update("m", metadata={}), lambda s: s.delete("m")])
@pytest.mark.parametrize("deleted", [False, True])
def test_changing_what_is_not_live_is_refused(
    store: EventStore, change: Callable[[EventStore], Any], deleted: bool
) -> None:
    """Never added, or deleted: MemoryNotFound names the memory; nothing is written."""
    if deleted:
        store.add("x", vector=vector(), memory_id="m")
        store.delete("m")
    before = dump(store)
    with pytest.raises(MemoryNotFound, match="'m' does not exist") as raised:
        change(store)
    assert ("deleted at position 2" in str(raised.value)) is deleted
    assert dump(store) == before


# -- delete -------------------------------------------------------------------------------------------------


def test_a_delete_carries_no_state(store: EventStore) -> None:
    """Its history stays, itself it holds nothing."""
    store.add("x", vector=vector(), memory_id="m", metadata={"a": 1})
    event = store.delete("m", reason="asked to", actor_id="alice")
    assert (event.type, event.version, event.prev_seq, event.add_seq) == ("DELETE", 2, 1, 1)
    assert [event.content, event.metadata, event.vector, event.embedding_seq] == [None] * 4
    assert (event.reason, event.actor_id) == ("asked to", "alice")
    assert list(store.events(after=1)) == [event]


# -- expected_version and expected_position ------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [lambda s, v: s.update("m", metadata={}, expected_version=v), lambda s, v: s.delete("m", expected_version=v)],
)
def test_a_change_of_another_version_is_refused(store: EventStore, change: Callable[..., Any]) -> None:
    """VersionConflict has both numbers; nothing is written; the right number goes through."""
    store.add("x", vector=vector(), memory_id="m")
    store.update("m", metadata={"n": 1})
    before = dump(store)
    with pytest.raises(VersionConflict, match="at version 2, not 1") as raised:
        change(store, 1)
    assert (raised.value.memory_id, raised.value.expected, raised.value.actual) == ("m", 1, 2)
    assert dump(store) == before
    assert change(store, np.int64(2)).version == 3


def test_what_is_deleted_is_not_found_whatever_version_is_expected(store: EventStore) -> None:
    """There is no version to conflict with."""
    store.add("x", vector=vector(), memory_id="m")
    store.delete("m")
    with pytest.raises(MemoryNotFound):
        store.update("m", metadata={}, expected_version=2)


def test_an_append_at_another_position_is_refused(store: EventStore) -> None:
    """expected_position: PositionConflict has both numbers; nothing is written; the right one goes through."""
    store.append([Add(content="x", vector=vector())], expected_position=0)
    before = dump(store)
    with pytest.raises(PositionConflict, match="at position 1, not 0"):
        store.append([Add(content="y", vector=vector())], expected_position=0)
    assert dump(store) == before
    assert store.append([Add(content="y", vector=vector())], expected_position=1)[0].position == 2


# -- vectors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        [1, 0.1, -2],
        (1, 0.1, -2),
        np.array([1, 0.1, -2]),
        np.array([1, 0.1, -2], np.float32),
        np.array([1, 0.1, -2], ">f8"),
        np.array([1, 0.1, -2], ">f4"),
        np.array([1, 9, 0.1, 9, -2, 9])[::2],
        np.array([1, 9, 0.1, 9, -2, 9], np.float32)[::2],
        [np.float64(1), np.float32(0.1), np.int8(-2)],
    ],
    ids=lambda given: type(given).__name__,
)
def test_any_array_of_numbers_is_recorded_as_float32(store: EventStore, given: Any) -> None:
    """Lists, tuples, arrays of any type, byte order and stride: little-endian float32, rounded to nearest."""
    first, second = store.add("x", vector=given), store.add("y", vector=given)
    assert first.embedding == second.embedding == np.array([1, 0.1, -2], "<f4").tobytes()


def test_a_vector_may_begin_with_zero(store: EventStore) -> None:
    """It has a direction all the same."""
    given = np.array([0, 0, 3], "<f4")
    assert [store.add("x", vector=given).embedding for _ in range(2)] == [given.tobytes()] * 2


def test_the_callers_array_is_its_own(store: EventStore) -> None:
    """Changing it after the call changes nothing recorded."""
    given = np.ones(3, np.float32)
    store.add("x", vector=given, memory_id="m")
    given[:] = 7
    assert store.vectors(["m"])[1].tolist() == [[1, 1, 1]]


def test_the_first_vector_fixes_the_dimension(store: EventStore) -> None:
    """Then one of another length is refused, with both lengths; nothing is written."""
    assert store.dimension is None
    store.add("x", vector=[1, 2], memory_id="m")
    assert store.dimension == 2
    before = dump(store)
    with pytest.raises(DimensionMismatch, match="3 numbers, and this store's vectors have 2"):
        store.add("y", vector=[1, 2, 3])
    with pytest.raises(DimensionMismatch):
        store.update("m", vector=[1])
    with pytest.raises(DimensionMismatch):
        store.add_many(["y"], vectors=[[1, 2, 3]])
    assert dump(store) == before


def test_a_failed_append_fixes_no_dimension(store: EventStore) -> None:
    """Its vectors were never recorded."""
    with pytest.raises(MemoryNotFound):
        store.append([Add(content="x", vector=[1, 2]), Delete(memory_id="nobody")])
    assert store.dimension is None
    store.add("x", vector=[1, 2, 3])
    assert store.dimension == 3


def test_the_vectors_of_a_first_append_agree(store: EventStore) -> None:
    """Before any dimension is fixed the first vector of the append is the measure."""
    before = dump(store)
    with pytest.raises(DimensionMismatch, match="vector has 3 numbers") as raised:
        store.append([Add(content="x", vector=[1, 2]), Add(content="y", vector=[1, 2, 3])])
    assert raised.value.operation == 1
    assert dump(store) == before


def test_the_dimension_that_another_store_fixed_holds(tmp_path: Path) -> None:
    """Also for a store that was open before there was any vector."""
    with EventStore(tmp_path / "a.db") as first, EventStore(tmp_path / "a.db") as second:
        assert second.dimension is None
        first.add("x", vector=[1, 2])
        with pytest.raises(DimensionMismatch):
            second.add("y", vector=[1, 2, 3])
        assert second.dimension == 2


def test_a_dimension_fixed_between_check_and_write_holds(tmp_path: Path) -> None:
    """The vector was checked before the lock was taken; it is checked against the file again under it."""
    with EventStore(tmp_path / "a.db") as first:

        def embed(texts: list[str]) -> Any:  # called after the check, before the lock
            first.add("x", vector=[1, 2])
            return np.ones((len(texts), 3))

        with EventStore(tmp_path / "a.db", embedder=embed) as second:
            with pytest.raises(DimensionMismatch):
                second.add("y")
        assert first.position == 1


def test_the_dimension_survives_reopening(tmp_path: Path) -> None:
    """It is recorded in the file."""
    with EventStore(tmp_path / "a.db") as store:
        store.add("x", vector=[1, 2])
    with EventStore(tmp_path / "a.db") as store:
        assert store.dimension == 2


def test_zeros_are_taken_only_where_they_are_asked_for() -> None:
    """A vector of zeros has no direction; for inner product and distance it may be what is meant."""
    with EventStore(allow_zero_vectors=True) as store:
        assert store.add("x", vector=[0, 0]).embedding == bytes(8)
    with EventStore() as store, pytest.raises(InvalidVector, match="all zeros"):
        store.add("x", vector=[0, 0])


def test_text_without_an_embedder_needs_its_vector(store: EventStore) -> None:
    """EmbedderMissing for new content; an update that changes metadata needs none."""
    with pytest.raises(EmbedderMissing, match="give a vector, or open the store with embedder"):
        store.add("x")
    store.add("x", vector=vector(), memory_id="m")
    with pytest.raises(EmbedderMissing):
        store.update("m", "y")
    with pytest.raises(EmbedderMissing):
        store.add_many(["y"])
    assert store.update("m", metadata={"n": 1}).version == 2


# -- values -------------------------------------------------------------------------------------------------


class Colour(str, enum.Enum):
    RED = "red"


class Text(str):
    def __str__(self) -> str:
        return "something else"


@pytest.mark.parametrize("given", [Colour.RED, Text("red"), np.str_("red")], ids=lambda given: type(given).__name__)
def test_a_kind_of_str_is_recorded_as_its_text(store: EventStore, given: str) -> None:
    """Also where its `str()` is something else, as that of an enumeration is."""
    event = store.add(given, vector=vector(), memory_id=given, actor_id=given)
    many = store.add_many([given], vectors=[vector()], event_ids=[given])[0]
    values = [event.content, event.memory_id, event.actor_id, many.content, many.event_id]
    assert [(type(value), value) for value in values] == [(str, "red")] * 5


@pytest.mark.parametrize("text", ["", "\0", "a\0b", "x" * 2_000_000, "🍵\u200d\u0301", "\ufffe", "line\r\n"])
def test_content_is_kept_to_the_character(store: EventStore, text: str) -> None:
    """Of any length, any Unicode, NUL characters too."""
    store.add(text, vector=vector(), memory_id="m")
    memory = store.get("m")
    assert memory is not None
    assert memory.content == text


@pytest.mark.parametrize("length", [1, 512])
def test_ids_of_1_to_512_characters_are_taken(store: EventStore, length: int) -> None:
    """Characters, not bytes."""
    one = "ü" * length
    event = store.add("x", vector=vector(), memory_id=one, event_id=one, actor_id=one, correlation_id=one)
    assert [e.event_id for e in store.events(memory_id=one, actor_id=one, correlation_id=one)] == [event.event_id]


def test_metadata_is_a_copy(store: EventStore) -> None:
    """Changing the caller's object after the call changes nothing recorded."""
    given = {"tags": ["a"]}
    store.add("x", vector=vector(), metadata=given)
    given["tags"].append("b")
    assert [memory.metadata for memory in store.memories()] == [{"tags": ["a"]}]


@pytest.mark.parametrize(
    "given",
    [
        "2026-01-01T03:00:00.25+01:00",
        "2026-01-01 02:00:00,250000999Z",
        datetime(2026, 1, 1, 3, 0, 0, 250000, tzinfo=timezone(timedelta(hours=1))),
    ],
)
def test_occurred_at_is_an_instant_in_any_zone(store: EventStore, given: Any) -> None:
    """Read back in UTC, cut to the microsecond."""
    event = store.add("x", vector=vector(), occurred_at=given)
    assert event.occurred_at == datetime(2026, 1, 1, 2, 0, 0, 250000, tzinfo=timezone.utc)
    assert event.occurred_at.tzinfo is timezone.utc


# -- all or nothing -----------------------------------------------------------------------------------------


@settings(max_examples=scaled(50))
@given(history=histories(most=5))
def test_an_operation_that_fails_writes_nothing(history: list[Appended]) -> None:
    """Whatever of an append came before it; `told_to` compares the head, this the rows."""
    with told_to(history) as (store, model, _):
        assert store.position == len(model.events)
        assert [len(rows) for rows in dump(store)] == [len(model.events)] * 2 + [int(bool(model.events))]


def test_an_update_of_nothing_is_refused(store: EventStore) -> None:
    """It is a slip, found before the memory is looked for."""
    with pytest.raises(InvalidOperation, match="update of 'm' changes nothing"):
        store.update("m")
    with pytest.raises(InvalidOperation, match="changes nothing"):
        store.append([Update(memory_id="m", expected_version=1, reason="because")])
