"""Reads: every one is exact at any past position, compared with a fold of the operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eventstore import Add, Event, EventStore, Memory, MemoryNotFound, Update
from tests.profiles import scaled
from tests.store_support import (
    MEMORY_IDS,
    Appended,
    Clock,
    ModelEvent,
    ModelStore,
    as_told,
    histories,
    told_to,
    vector,
)

FILTERS: list[dict[str, Any]] = [
    {"user": "x"},
    {"user": {"ne": "x"}},
    {"n": {"gt": 1}},
    {"tags": {"contains": "x"}},
    {"user": {"exists": False}},
    {"OR": [{"n": 1}, {"user": None}]},
    {"NOT": {"user": "x"}},
]


def passes(filter: dict[str, Any] | None, metadata: dict[str, Any]) -> bool:
    """The filters above, written out."""
    if filter is None:
        return True
    return [
        metadata.get("user") == "x",
        "user" in metadata and metadata["user"] != "x",
        metadata.get("n", 0) > 1,
        "x" in metadata.get("tags", []),
        "user" not in metadata,
        metadata.get("n") == 1 or ("user" in metadata and metadata["user"] is None),
        metadata.get("user") != "x",
    ][FILTERS.index(filter)]


def as_memory(told: ModelEvent) -> dict[str, Any]:
    return {
        "memory_id": told.memory_id,
        "content": told.content,
        "metadata": told.metadata,
        "version": told.version,
        "position": told.position,
        "created_at": told.created_at,
        "updated_at": told.recorded_at if told.type == "UPDATE" else None,
        "actor_id": told.actor_id,
        "role": told.role,
    }


def fields(memory: Memory | None) -> dict[str, Any] | None:
    return None if memory is None else {name: getattr(memory, name) for name in memory.__slots__}


def as_event(told: ModelEvent) -> dict[str, Any]:
    return {
        "position": told.position,
        "memory_id": told.memory_id,
        "version": told.version,
        "type": told.type,
        "recorded_at": told.recorded_at,
        "content": told.content,
        "metadata": told.metadata,
        "vector": told.vector,
        "actor_id": told.actor_id,
        "role": told.role,
        "correlation_id": told.correlation_id,
    }


def event_fields(event: Event) -> dict[str, Any]:
    context = ("actor_id", "role", "correlation_id")
    names = ("position", "memory_id", "version", "type", "recorded_at", "content", "metadata", *context)
    return {**{name: getattr(event, name) for name in names}, "vector": as_told(event.vector)}


@settings(max_examples=scaled(50))
@given(history=histories())
def test_get_is_the_fold_up_to_the_position(history: list[Appended]) -> None:
    """A memory at any position is what the events up to it left of it."""
    with told_to(history) as (store, model, _):
        for position in range(len(model.events) + 1):
            live = model.state(position)
            for memory_id in MEMORY_IDS:
                expected = as_memory(live[memory_id]) if memory_id in live else None
                assert fields(store.get(memory_id, as_of=position)) == expected


@settings(max_examples=scaled(50))
@given(history=histories(), filter=st.sampled_from([None, *FILTERS]))
def test_memories_are_those_live_at_the_position_that_match(
    history: list[Appended], filter: dict[str, Any] | None
) -> None:
    """All that were live and match, in the order in which each got its state; at any position."""
    with told_to(history) as (store, model, _):
        for position in range(len(model.events) + 1):
            live = [told for told in model.state(position).values() if passes(filter, told.metadata or {})]
            assert [fields(memory) for memory in store.memories(filter, as_of=position)] == list(map(as_memory, live))


@settings(max_examples=scaled(60))
@given(
    history=histories(failing=False),
    order=st.sampled_from(["position", "updated_at", "created_at", "memory_id"]),
    backward=st.booleans(),
    limit=st.none() | st.integers(1, 4),
    filter=st.none() | st.sampled_from(FILTERS),
)
def test_memories_come_in_the_order_asked_for(
    history: list[Appended], order: str, backward: bool, limit: int | None, filter: dict[str, Any] | None
) -> None:
    """By position, time of adding or id, either way, and the limit cuts what comes last."""
    with told_to(history) as (store, model, _):
        added = {told.memory_id: told.position for told in model.events if told.type == "ADD"}
        keys = {
            "position": lambda told: told.position,
            "updated_at": lambda told: told.position,
            "created_at": lambda told: added[told.memory_id],
            "memory_id": lambda told: told.memory_id,
        }
        live = [told for told in model.state(len(model.events)).values() if passes(filter, told.metadata or {})]
        expected = [told.memory_id for told in sorted(live, key=keys[order], reverse=backward)][:limit]
        found = store.memories(filter, order=f"-{order}" if backward else order, limit=limit)
        assert [memory.memory_id for memory in found] == expected


@settings(max_examples=scaled(50))
@given(history=histories(), filter=st.none() | st.sampled_from(FILTERS))
def test_count_is_the_number_of_memories(history: list[Appended], filter: dict[str, Any] | None) -> None:
    """The count at any position is how many were live there and match."""
    with told_to(history) as (store, model, _):
        for position in range(len(model.events) + 1):
            live = model.state(position).values()
            assert store.count(filter, as_of=position) == sum(passes(filter, told.metadata or {}) for told in live)


@settings(max_examples=scaled(50))
@given(history=histories(), filter=st.none() | st.sampled_from(FILTERS))
def test_vectors_are_those_in_force_at_the_position(history: list[Appended], filter: dict[str, Any] | None) -> None:
    """Ids and embeddings, row for row, whichever event holds the embedding; at any position."""
    with told_to(history) as (store, model, _):
        for position in range(len(model.events) + 1):
            live = [told for told in model.state(position).values() if passes(filter, told.metadata or {})]
            ids, vectors = store.vectors(filter=filter, as_of=position)
            assert (ids, [as_told(row) for row in vectors]) == ([t.memory_id for t in live], [t.vector for t in live])


def test_between_a_delete_and_the_next_add_a_memory_is_not_there() -> None:
    """Also once the history has gone on past both."""
    with EventStore() as store:
        store.add("x", vector=vector(), memory_id="m")
        store.delete("m")
        store.add("y", vector=vector(), memory_id="n")
        store.add("z", vector=vector(), memory_id="m")
        assert [store.count(as_of=position) for position in range(5)] == [0, 1, 0, 1, 2]
        assert [memory.memory_id for memory in store.memories(as_of=3)] == ["n"]


@settings(max_examples=scaled(50))
@given(history=histories(failing=False), data=st.data())
def test_vectors_of_named_memories_come_in_their_order(history: list[Appended], data: st.DataObject) -> None:
    """Asked for by id, also twice, the rows follow the ids."""
    with told_to(history) as (store, model, _):
        live = model.state(len(model.events))
        assume(live)
        asked = data.draw(st.lists(st.sampled_from(sorted(live)), max_size=5))
        ids, vectors = store.vectors(asked)
        assert (ids, [as_told(row) for row in vectors]) == (asked, [live[one].vector for one in asked])


def optional(values: Any) -> st.SearchStrategy[Any]:
    return st.none() | st.sampled_from(values)


@st.composite
def selections(draw: st.DrawFn, model: ModelStore) -> dict[str, Any]:
    """Arguments of `events`, any combination."""
    last = len(model.events)
    instants = [told.recorded_at for told in model.events]
    chosen = {
        "after": draw(st.integers(0, last)),
        "upto": draw(st.none() | st.integers(0, last)),
        "memory_id": draw(optional(MEMORY_IDS)),
        "actor_id": draw(optional(["ann", "bob", "nobody"])),
        "role": draw(optional(["user", "assistant"])),
        "type": draw(optional(["ADD", "UPDATE", "DELETE"])),
        "correlation_id": draw(optional(["chat-1", "chat-2"])),
        "since": draw(optional(instants)) if instants else None,
        "until": draw(optional(instants)) if instants else None,
        "reverse": draw(st.booleans()),
        "limit": draw(st.none() | st.integers(1, 5)),
    }
    return {name: value for name, value in chosen.items() if value is not None}


def selected(model: ModelStore, chosen: dict[str, Any]) -> list[ModelEvent]:
    """What `events` should give for them."""
    upto = chosen.get("upto", len(model.events))
    found = [
        told
        for told in model.events
        if chosen["after"] < told.position <= upto
        and ("since" not in chosen or told.recorded_at >= chosen["since"])
        and ("until" not in chosen or told.recorded_at <= chosen["until"])
        and all(
            getattr(told, name) == chosen[name]
            for name in ("memory_id", "actor_id", "role", "type", "correlation_id")
            if name in chosen
        )
    ]
    return (found[::-1] if chosen["reverse"] else found)[: chosen.get("limit")]


@settings(max_examples=scaled(150))
@given(history=histories(), data=st.data())
def test_events_are_those_that_match_all_that_is_asked(history: list[Appended], data: st.DataObject) -> None:
    """Every filter, bound and order of `events`, in any combination."""
    with told_to(history) as (store, model, _):
        chosen = data.draw(selections(model))
        expected = [as_event(told) for told in selected(model, chosen)]
        assert [event_fields(event) for event in store.events(**chosen)] == expected


@settings(max_examples=scaled(50))
@given(history=histories(), data=st.data())
def test_history_selects_as_events_does(history: list[Appended], data: st.DataObject) -> None:
    """The history's records are those of the same events, by the same arguments."""
    with told_to(history) as (store, model, _):
        chosen = data.draw(selections(model))
        assert [record.position for record in store.history(**chosen)] == [e.position for e in store.events(**chosen)]


@settings(max_examples=scaled(50))
@given(history=histories())
def test_events_link_to_their_memory_and_its_embedding(history: list[Appended]) -> None:
    """prev_seq, add_seq and embedding_seq name the events that a walk through the history finds."""
    with told_to(history) as (store, _, _):
        last: dict[str, Event] = {}
        for event in store.events():
            before = last.get(event.memory_id)
            assert event.prev_seq == (before.position if before else None)
            if event.type == "ADD" or before is None:
                assert event.add_seq == event.embedding_seq == event.position
            else:
                assert event.add_seq == before.add_seq
                kept = event.embedding == before.embedding
                expected = before.embedding_seq if kept else event.position
                assert event.embedding_seq == (None if event.type == "DELETE" else expected)
            last[event.memory_id] = event


@settings(max_examples=scaled(50))
@given(history=histories())
def test_the_instants_of_a_store_resolve_to_its_positions(history: list[Appended]) -> None:
    """Reading as of an event's instant and as of the position it resolves to is the same."""
    with told_to(history) as (store, model, _):
        for told in model.events:
            position = store.position_at(told.recorded_at)
            assert store.memories(as_of=told.recorded_at) == store.memories(as_of=position)


@settings(max_examples=scaled(20))
@given(history=histories())
def test_a_file_read_by_another_store_says_the_same(
    history: list[Appended], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What a second store reads of the file is what the writer reads, as it grows."""
    path = str(tmp_path_factory.mktemp("reads") / "a.db")
    with EventStore(path) as other:
        other.count()  # what it knows now is extended later
        with told_to(history, path) as (store, _, _):
            assert list(other.events()) == list(store.events())
            assert other.memories() == store.memories()


def test_a_memory_carries_the_hash_of_its_content() -> None:
    """SHA-256 of the text's UTF-8 bytes."""
    with EventStore() as store:
        store.add("grün", vector=vector(), memory_id="m")
        memory = store.get("m")
        assert memory is not None
        assert memory.hash == "fe263064ba02eaeac482aaf1309553779bdb78e385cb1374654de293e191d785"


def test_get_of_what_never_was_is_none() -> None:
    """Not an error: to be absent is an answer."""
    with EventStore() as store:
        assert store.get("nobody") is None


def test_vectors_of_a_memory_that_was_not_live_is_an_error() -> None:
    """It names the memory and the position."""
    with EventStore() as store:
        store.add("x", vector=vector(), memory_id="m")
        with pytest.raises(MemoryNotFound, match="'other' was not live at position 1"):
            store.vectors(["m", "other"])


def test_vectors_of_an_empty_store_have_no_rows() -> None:
    """Before the first vector there is no dimension either."""
    with EventStore() as store:
        ids, vectors = store.vectors()
    assert (ids, vectors.shape, vectors.dtype) == ([], (0, 0), np.float32)


def test_events_stream_page_by_page() -> None:
    """More events than a page holds come without gaps or repeats, both ways and up to a limit between pages."""
    with EventStore() as store:
        store.add_many(["x"] * 2500, vectors=np.ones((2500, 2)))
        assert [event.position for event in store.events()] == list(range(1, 2501))
        assert [event.position for event in store.events(reverse=True, limit=2000)] == list(range(2500, 500, -1))
        assert [event.position for event in store.events(type="ADD", after=3, limit=1001)] == list(range(4, 1005))


def test_a_memorys_events_stream_page_by_page() -> None:
    """Its versions too, both ways."""
    with EventStore() as store:
        store.add("x", vector=vector(), memory_id="m")
        store.append([Update(memory_id="m", metadata={"n": n}) for n in range(1200)])
        assert [event.version for event in store.events(memory_id="m")] == list(range(1, 1202))
        assert [record.version for record in store.history("m", reverse=True)] == list(range(1201, 0, -1))


def test_memories_and_vectors_of_many_come_whole() -> None:
    """More than one query's worth."""
    rows = 1203
    with EventStore() as store:
        numbers = np.arange(2 * rows).reshape(rows, 2) + 1
        store.add_many([str(n) for n in range(rows)], vectors=numbers, metadatas=[{"n": n % 2} for n in range(rows)])
        assert [memory.content for memory in store.memories(order="-created_at")] == [str(n) for n in range(rows)][::-1]
        assert np.array_equal(store.vectors(filter={"n": 1})[1], numbers[1::2])


def test_an_iterator_keeps_the_end_it_was_made_with() -> None:
    """Events recorded after the call do not appear, whether it was begun or not."""
    with EventStore() as store:
        store.add_many(["x"] * 1500, vectors=np.ones((1500, 2)))
        begun, fresh = store.events(), store.events()
        first = next(begun)
        store.add("later", vector=[1, 1])
        assert [first.position, *(event.position for event in begun)] == list(range(1, 1501))
        assert len(list(fresh)) == 1500


def test_a_half_read_iterator_does_not_hold_up_writes(tmp_path: Any) -> None:
    """No transaction is kept open by it."""
    with EventStore(tmp_path / "a.db", timeout=0) as store, EventStore(tmp_path / "a.db", timeout=0) as other:
        store.add_many(["x"] * 1500, vectors=np.ones((1500, 2)))
        events = store.events()
        next(events)
        assert other.add("y", vector=[1, 1]).position == 1501
        assert store.add("z", vector=[1, 1]).position == 1502


def test_what_is_read_is_the_readers_own() -> None:
    """Changing the metadata of an answer changes no later answer."""
    with EventStore() as store:
        event = store.add("x", vector=vector(), memory_id="m", metadata={"tags": ["a"]})
        memory = store.get("m")
        assert memory is not None
        assert event.metadata is not None
        memory.metadata["tags"].append("b")
        event.metadata["tags"].append("c")
        assert [m.metadata for m in store.memories()] == [{"tags": ["a"]}]


def test_a_read_vector_cannot_be_written_to() -> None:
    """It shares the event's bytes."""
    with EventStore() as store:
        event = store.add("x", vector=vector())
    assert event.vector is not None
    with pytest.raises(ValueError, match="read-only"):
        event.vector[0] = 5


def test_an_event_range_reads_what_is_asked() -> None:
    """A projector's slice: iterated, indexed from either end, and by column."""
    with EventStore(clock=Clock()) as store:
        store.append(
            [
                Add(content="a", vector=[1, 1], memory_id="a"),
                Add(content="b", vector=[2, 2], memory_id="b"),
                Update(memory_id="a", metadata={"n": 1}),
                Update(memory_id="b", vector=[3, 3]),
            ]
        )
        store.delete("a")
        some = store.event_range(1, 5)
        assert [event.position for event in some] == [2, 3, 4, 5]
        assert (len(some), some[0].position, some[-1].position) == (4, 2, 5)
        columns = some.columns()
        assert columns.seqs.tolist() == [2, 3, 4, 5]
        assert columns.prev_seqs.tolist() == [0, 1, 2, 3]
        assert columns.embedding_seqs.tolist() == [2, 1, 4, 0]
        assert columns.is_delete.tolist() == [False, False, False, True]
        assert columns.embedding_at.tolist() == [2, 4]
        assert columns.embeddings.tolist() == [[2, 2], [3, 3]]
