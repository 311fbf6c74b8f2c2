"""Appends of several operations: all or none, at one instant, each building on those before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import (
    Add,
    AsofError,
    Delete,
    EventStore,
    InvalidMetadata,
    InvalidOperation,
    InvalidVector,
    MemoryExists,
    MemoryNotFound,
    Operation,
    StorageError,
    Update,
    VersionConflict,
)
from tests.profiles import scaled
from tests.store_support import START, Clock, dump, vector


@pytest.fixture
def store() -> Iterator[EventStore]:
    with EventStore(clock=Clock()) as opened:
        yield opened


def test_operations_build_on_each_other(store: EventStore) -> None:
    """Add, update, delete and add again one memory in one append."""
    events = store.append(
        [
            Add(content="x", vector=[1, 2], memory_id="m", metadata={"a": 1}),
            Update(memory_id="m", content="y", vector=[1, 2], expected_version=1),
            Update(memory_id="m", vector=[3, 4], expected_version=2),
            Update(memory_id="m", metadata={"b": 2}),
            Delete(memory_id="m", expected_version=4),
            Add(content="z", vector=[5, 6], memory_id="m"),
        ]
    )
    assert [event.version for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event.prev_seq for event in events] == [None, 1, 2, 3, 4, 5]
    assert [event.add_seq for event in events] == [1, 1, 1, 1, 1, 6]
    assert [event.embedding_seq for event in events] == [1, 1, 3, 3, None, 6]
    assert [event.content for event in events] == ["x", "y", "y", "y", None, "z"]
    assert [event.metadata for event in events] == [{"a": 1}] * 3 + [{"b": 2}, None, {}]
    assert list(store.events()) == events


def test_an_append_is_one_instant(store: EventStore) -> None:
    """All its events share recorded_at, so no instant cuts it in two."""
    store.append([Add(content="x", vector=vector()) for _ in range(3)])
    store.add_many(["x"] * 3, vectors=[vector()] * 3)
    times = [event.recorded_at for event in store.events()]
    assert (len(set(times[:3])), len(set(times[3:]))) == (1, 1)
    assert times[0] < times[3]


BAD: list[tuple[Operation, type[AsofError]]] = [
    (Add(content="x", vector=[1, 2], memory_id="live"), MemoryExists),
    (Update(memory_id="nobody", metadata={}), MemoryNotFound),
    (Delete(memory_id="nobody"), MemoryNotFound),
    (Update(memory_id="live", metadata={}, expected_version=7), VersionConflict),
    (Update(memory_id="live"), InvalidOperation),
    (Add(content="x", vector=[1, float("nan")]), InvalidVector),
    (Add(content="x", vector=[1, 2], metadata={"a": object()}), InvalidMetadata),
]


@pytest.mark.parametrize(("bad", "error"), BAD)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_operation_undoes_all(store: EventStore, bad: Operation, error: type[AsofError], place: int) -> None:
    """Wherever it stands. The error says which one it was, counted from 0."""
    store.add("x", vector=[1, 2], memory_id="live")
    before = dump(store)
    operations: list[Operation] = [Add(content="x", vector=[1, 2], memory_id=str(n)) for n in range(2)]
    operations.insert(place, bad)
    with pytest.raises(error) as raised:
        store.append(operations)
    assert raised.value.operation == place
    assert dump(store) == before
    assert store.append(operations[:place] + operations[place + 1 :])[0].position == 2


def test_a_full_disk_undoes_all(tmp_path: Path) -> None:
    """Half of the rows were written when it filled up. Once there is room again, the store works on."""
    with EventStore(tmp_path / "a.db") as store:
        store.add("x", vector=[1.0] * 1000)
        before = dump(store)
        pages = store._connections.fetch("PRAGMA page_count")[0][0]
        store._connections._writer.execute(f"PRAGMA max_page_count = {pages + 20}")
        with pytest.raises(StorageError, match="no space left"):
            store.add_many(["x"] * 200, vectors=np.ones((200, 1000)))
        assert dump(store) == before
        store._connections._writer.execute("PRAGMA max_page_count = 1000000")
        assert store.add_many(["x"] * 200, vectors=np.ones((200, 1000)))[-1].position == 201


def test_the_appends_keywords_are_for_operations_that_say_nothing_else(store: EventStore) -> None:
    """An operation's own value goes before."""
    shared: dict[str, Any] = {
        "actor_id": "ann",
        "role": "user",
        "reason": "why",
        "occurred_at": START,
        "correlation_id": "chat",
        "causation_id": "cause",
    }
    own: dict[str, Any] = {
        "actor_id": "bob",
        "role": "tool",
        "reason": "",
        "occurred_at": "2020-01-01T00:00:00Z",
        "correlation_id": "other",
        "causation_id": "another",
    }
    first, second = store.append([Add(content="x", vector=[1]), Add(content="y", vector=[1], **own)], **shared)
    assert {name: getattr(first, name) for name in shared} == shared
    assert {name: getattr(second, name) for name in own if name != "occurred_at"} == {
        name: value for name, value in own.items() if name != "occurred_at"
    }
    assert second.occurred_at is not None
    assert second.occurred_at.year == 2020


@pytest.mark.parametrize(
    "operations",
    [
        [],
        (),
        "text",
        {"type": "ADD"},
        Add(content="x", vector=[1]),
        (Add(content="x", vector=[1]) for _ in range(1)),
        None,
        [{"type": "ADD", "content": "x"}],
        [None],
    ],
)
def test_an_append_takes_a_list_of_operations(store: EventStore, operations: Any) -> None:
    """Empty, a lone operation, a generator, or something else in the list is refused."""
    with pytest.raises(InvalidOperation):
        store.append(operations)
    assert store.position == 0


# -- the sequence of events that comes back -----------------------------------------------------------------


def test_the_events_of_an_append_are_a_sequence(store: EventStore) -> None:
    """Length, index from either end, slice, equality with a list, and a repr that stays short."""
    events = store.append([Add(content=str(n), vector=[1]) for n in range(5)])
    alone = list(events)
    assert (len(events), events[0], events[-1]) == (5, alone[0], alone[4])
    assert events[1:3] == alone[1:3]
    assert events == alone
    assert events != alone[:4]
    assert alone[2] in events
    assert repr(events).endswith("... 5 events]")
    with pytest.raises(IndexError):
        events[5]


# -- add_many -----------------------------------------------------------------------------------------------


def test_add_many_is_adds_in_one_append() -> None:
    """The same events as `append` of the same adds, but for what is generated."""
    metadatas, ids = [{"n": 1}, None, {}], ["a", "b", "c"]
    vectors, context = [[1, 2], [3, 4], [5, 6]], {"actor_id": "ann", "reason": "why"}
    with EventStore(clock=Clock()) as one, EventStore(clock=Clock()) as other:
        many = one.add_many(
            ["x", "y", "z"], vectors=vectors, memory_ids=ids, metadatas=metadatas, event_ids=ids, **context
        )
        singles = other.append(
            [
                Add(content=content, vector=vector, memory_id=memory_id, metadata=metadata, event_id=memory_id)
                for content, vector, memory_id, metadata in zip("xyz", vectors, ids, metadatas)
            ],
            **context,
        )
        assert [_but_salted(event) for event in many] == [_but_salted(event) for event in singles]


def _but_salted(event: Any) -> dict[str, Any]:
    return {name: getattr(event, name) for name in event.__slots__ if name not in ("payload_digest", "hash")}


def test_add_many_generates_what_is_left_out(store: EventStore) -> None:
    """None in a column is absent."""
    events = store.add_many(["x", "y"], vectors=[[1], [2]], memory_ids=["m", None], event_ids=[None, "e"])
    assert (events[0].memory_id, events[1].event_id) == ("m", "e")
    assert len({events[1].memory_id, events[0].event_id, "m", "e"}) == 4


def test_add_many_of_one_is_one(store: EventStore) -> None:
    """One text, one row."""
    assert [event.content for event in store.add_many(["x"], vectors=[[1, 2]])] == ["x"]


def test_add_many_embeds_all_texts_in_one_call() -> None:
    """The embedder sees the list, before the lock is taken."""
    calls: list[list[str]] = []

    def embed(texts: list[str]) -> Any:
        calls.append(texts)
        return [[len(text), 1] for text in texts]

    with EventStore(embedder=embed) as store:
        store.add_many(["a", "bb", ""])
        assert calls == [["a", "bb", ""]]
        assert store.vectors()[1].tolist() == [[1, 1], [2, 1], [0, 1]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"contents": []}, "contents is empty"),
        ({"contents": "xy"}, "contents is of type str"),
        ({"contents": {"x": 1, "y": 2}}, "contents is of type dict"),
        ({"contents": (c for c in "xy")}, "contents is of type generator"),
        ({"contents": ["x", 5]}, "content is of type int"),
        ({"contents": ["x", "\ud800"]}, "lone surrogate"),
        ({"contents": ["x", "y", "z"]}, "2 rows for 3 texts"),
        ({"vectors": [[1, 2]]}, "1 rows for 2 texts"),
        ({"vectors": [1, 2]}, "one vector a row"),
        ({"vectors": []}, "vectors is empty"),
        ({"vectors": [[1, 2], [3]]}, "vectors is not an array"),
        ({"vectors": [[1, 2], None]}, "vectors is not an array|object values"),
        ({"vectors": [[1, 2], [0, 0]]}, "row 1 of vectors is all zeros"),
        ({"vectors": [[1, 2], [float("inf"), 0]]}, "row 1 of vectors holds"),
        ({"vectors": [[1, 2], [1e39, 0]]}, "row 1 of vectors holds"),
        ({"memory_ids": ["a"]}, "memory_ids has 1 values for 2 contents"),
        ({"memory_ids": "ab"}, "memory_ids is of type str"),
        ({"memory_ids": ["a", ""]}, "memory_id is empty"),
        ({"memory_ids": ["a", "a"]}, "'a' exists"),
        ({"memory_ids": ["a", 1]}, "memory_id is of type int"),
        ({"metadatas": [{}]}, "metadatas has 1 values for 2 contents"),
        ({"metadatas": [{}, []]}, "metadata is of type list"),
        ({"metadatas": {"a": 1}}, "metadatas is of type dict"),
        ({"event_ids": ["a", "b", "c"]}, "event_ids has 3 values for 2 contents"),
        ({"event_ids": ["a", "x" * 513]}, "event_id has 513 characters"),
        ({"actor_id": ""}, "actor_id is empty"),
        ({"occurred_at": "yesterday"}, "occurred_at 'yesterday' is not an instant"),
    ],
)
def test_a_bad_column_is_refused_by_name(store: EventStore, change: dict[str, Any], says: str) -> None:
    """And nothing of the good rows is written."""
    good: dict[str, Any] = {"contents": ["x", "y"], "vectors": [[1, 2], [3, 4]]}
    before = dump(store)
    with pytest.raises(AsofError, match=says):
        store.add_many(**{**good, **change})
    assert dump(store) == before


@pytest.mark.parametrize(
    "change",
    [{"contents": ["x", 5]}, {"memory_ids": ["a", ""]}, {"memory_ids": ["a", "a"]}, {"metadatas": [{}, {"a": object}]}],
)
def test_a_bad_row_is_counted(store: EventStore, change: dict[str, Any]) -> None:
    """The error's `operation` is the row, from 0."""
    good: dict[str, Any] = {"contents": ["x", "y"], "vectors": [[1, 2], [3, 4]]}
    with pytest.raises(AsofError) as raised:
        store.add_many(**{**good, **change})
    assert raised.value.operation == 1


@pytest.mark.parametrize("place", [0, 3, 520, 1199])
def test_a_memory_that_exists_is_found_among_many_new_ones(store: EventStore, place: int) -> None:
    """Wherever the look-up of so many is divided; deleted, it can be added again, as its next version."""
    store.add("x", vector=[1, 2], memory_id="there", metadata={"a": 1})
    before = dump(store)
    ids = [f"new {n}" for n in range(1200)]
    ids[place] = "there"
    with pytest.raises(MemoryExists, match="'there' exists at version 1") as raised:
        store.add_many(["y"] * 1200, vectors=np.ones((1200, 2)), memory_ids=ids)
    assert raised.value.operation == place
    assert dump(store) == before
    store.delete("there")
    events = store.add_many(["y"] * 1200, vectors=np.ones((1200, 2)), memory_ids=ids)
    assert [event.version for event in events] == [3 if memory_id == "there" else 1 for memory_id in ids]
    assert [event.prev_seq for event in events if event.prev_seq is not None] == [2]


def test_what_an_append_knows_of_its_memories_moves_on_with_it(store: EventStore) -> None:
    """New ones that are looked up together, changed, ended and added again in the same append."""
    store.add("x", vector=[1, 2], memory_id="there", metadata={"a": 1})
    events = store.append(
        [
            Add(content="a", vector=[1, 2], memory_id="a"),
            Delete(memory_id="there"),
            Add(content="b", vector=[3, 4], memory_id="b"),
            Update(memory_id="a", metadata={"n": 1}),
            Delete(memory_id="b"),
            Add(content="c", vector=[5, 6], memory_id="there"),
            Add(content="d", vector=[7, 8], memory_id="b"),
            Update(memory_id="there", content="e", vector=[5, 6]),
        ]
    )
    assert [event.version for event in events] == [1, 2, 1, 2, 2, 3, 3, 4]
    assert [event.prev_seq for event in events] == [None, 1, None, 2, 4, 3, 6, 7]
    assert [event.add_seq for event in events] == [2, 1, 4, 2, 4, 7, 8, 7]
    assert [event.embedding_seq for event in events] == [2, None, 4, 2, None, 7, 8, 7]
    assert [event.content for event in events] == ["a", None, "b", "a", None, "c", "d", "e"]
    assert list(store.events())[1:] == events


def test_an_update_reads_what_it_keeps_once(store: EventStore) -> None:
    """Of a memory that was there before, and of one that the append itself has changed."""
    store.add("x", vector=[1, 2], memory_id="m", metadata={"a": 1})
    events = store.append(
        [Update(memory_id="m", content="y", vector=[3, 4]), Update(memory_id="m", metadata={"b": 2})]
        + [Add(content="z", vector=[5, 6], memory_id=name) for name in ("n", "o")]
        + [Update(memory_id="n", metadata={"c": 3})]
    )
    assert [(event.content, event.metadata) for event in events] == [
        ("y", {"a": 1}),
        ("y", {"b": 2}),
        ("z", {}),
        ("z", {}),
        ("z", {"c": 3}),
    ]


def test_new_memories_are_looked_for_together(store: EventStore) -> None:
    """Not one by one: an append of a thousand asks a few times."""
    asked: list[str] = []
    store._connections._writer.set_trace_callback(asked.append)
    store.add_many(["x"] * 1000, vectors=np.ones((1000, 2)), memory_ids=[f"m{n}" for n in range(1000)])
    assert len([sql for sql in asked if sql.startswith("SELECT")]) < 10


@settings(max_examples=scaled(20))
@given(rows=st.integers(1, 450), twice=st.booleans())
def test_any_number_of_rows_is_recorded_in_order(rows: int, twice: bool) -> None:
    """Wherever the rows are divided into statements."""
    numbers = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2) + 1
    contents = [str(n) for n in range(rows)]
    with EventStore() as store:
        for _ in range(1 + twice):
            store.add_many(contents, vectors=numbers)
        assert [event.content for event in store.events()] == contents * (1 + twice)
        assert store.vectors()[1].tolist() == numbers.tolist() * (1 + twice)


# -- delete_where -------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "file"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore]:
    """Four memories of two users, in memory and in a file: they read by different connections."""
    with EventStore(":memory:" if request.param == "memory" else tmp_path / "a.db") as store:
        for number in range(4):
            store.add(str(number), vector=[1], memory_id=str(number), metadata={"user": "ab"[number % 2], "n": number})
        yield store


def test_delete_where_deletes_what_matches_in_one_append(filled: EventStore) -> None:
    """At one instant, in the order of positions; history stays."""
    events = filled.delete_where({"user": "b"}, actor_id="ann", reason="asked to", correlation_id="c")
    assert [(event.memory_id, event.type, event.version) for event in events] == [
        ("1", "DELETE", 2),
        ("3", "DELETE", 2),
    ]
    assert len({event.recorded_at for event in events}) == 1
    assert {(event.actor_id, event.reason, event.correlation_id) for event in events} == {("ann", "asked to", "c")}
    assert [memory.memory_id for memory in filled.memories()] == ["0", "2"]
    assert [memory.memory_id for memory in filled.memories(as_of=4)] == ["0", "1", "2", "3"]


def test_delete_where_nothing_matches_writes_nothing(filled: EventStore) -> None:
    """An empty sequence, and no event."""
    before = dump(filled)
    assert list(filled.delete_where({"user": "c"})) == []
    assert dump(filled) == before


@pytest.mark.parametrize("nothing", [None, {}, {"AND": [{}]}, {"OR": [{}, {"user": "a"}]}])
def test_delete_where_without_a_filter_must_be_told(filled: EventStore, nothing: Any) -> None:
    """Also where a filter only looks like one; with everything=True it deletes all."""
    before = dump(filled)
    with pytest.raises(InvalidOperation, match="everything=True"):
        filled.delete_where(nothing)
    assert dump(filled) == before
    assert len(filled.delete_where(nothing, everything=True)) == 4
    assert filled.count() == 0


def test_delete_where_passes_over_what_is_deleted(filled: EventStore) -> None:
    """It ends what is live, once."""
    filled.delete("1")
    assert [event.memory_id for event in filled.delete_where({"user": "b"})] == ["3"]


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.delete_where({"n": {"above": 1}}),
        lambda store: store.delete_where([]),
        lambda store: store.delete_where({"n": 1}, actor_id=""),
        lambda store: store.delete_where({"n": 1}, occurred_at="soon"),
    ],
)
def test_delete_where_checks_before_it_writes(filled: EventStore, change: Callable[[EventStore], Any]) -> None:
    """A bad filter or argument deletes nothing."""
    before = dump(filled)
    with pytest.raises(AsofError):
        change(filled)
    assert dump(filled) == before
