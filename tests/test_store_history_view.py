"""The `history` view: the ten columns and meanings that existing tools know, for any SQLite client."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import EventStore
from tests.profiles import scaled
from tests.store_support import START, Appended, Clock, histories, told_to

COLUMNS = [
    "id",
    "memory_id",
    "old_memory",
    "new_memory",
    "event",
    "created_at",
    "updated_at",
    "is_deleted",
    "actor_id",
    "role",
]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[EventStore]:
    with EventStore(tmp_path / "a.db", clock=clock) as opened:
        yield opened


def rows(path: str, sql: str = "SELECT * FROM history", *parameters: Any) -> list[dict[str, Any]]:
    """What a client that knows nothing of asof reads."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(sql, parameters)]


def test_the_view_has_exactly_the_ten_columns(store: EventStore) -> None:
    """In the order of the schema that tools know."""
    with closing(sqlite3.connect(store.path)) as connection:
        cursor = connection.execute("SELECT * FROM history")
        assert [column[0] for column in cursor.description] == COLUMNS


def test_an_add_has_no_old_memory(store: EventStore) -> None:
    """Its content is the new memory; it was created then, and not updated."""
    event = store.add("tea", vector=[1], memory_id="m", actor_id="ann", role="user")
    assert rows(store.path) == [
        {
            "id": event.event_id,
            "memory_id": "m",
            "old_memory": None,
            "new_memory": "tea",
            "event": "ADD",
            "created_at": "2026-01-01T00:00:00.000000+00:00",
            "updated_at": None,
            "is_deleted": 0,
            "actor_id": "ann",
            "role": "user",
        }
    ]


def test_an_update_has_both_texts_and_both_times(store: EventStore, clock: Clock) -> None:
    """The memory's original creation, and its own time."""
    store.add("tea", vector=[1], memory_id="m")
    clock.move(hours=1, microseconds=5)
    store.update("m", "coffee", vector=[2])
    clock.move(hours=1)
    event = store.update("m", metadata={"n": 1}, actor_id="bob", role="tool")
    assert rows(store.path)[2] == {
        "id": event.event_id,
        "memory_id": "m",
        "old_memory": "coffee",
        "new_memory": "coffee",
        "event": "UPDATE",
        "created_at": "2026-01-01T00:00:00.000000+00:00",
        "updated_at": "2026-01-01T02:00:00.000005+00:00",
        "is_deleted": 0,
        "actor_id": "bob",
        "role": "tool",
    }


def test_a_delete_has_the_last_text_as_old_memory(store: EventStore, clock: Clock) -> None:
    """No new memory, marked as deleted, and both times."""
    store.add("tea", vector=[1], memory_id="m")
    clock.move(seconds=1)
    store.update("m", "coffee", vector=[2])
    clock.move(seconds=1)
    event = store.delete("m", actor_id="eve")
    assert rows(store.path)[2] == {
        "id": event.event_id,
        "memory_id": "m",
        "old_memory": "coffee",
        "new_memory": None,
        "event": "DELETE",
        "created_at": "2026-01-01T00:00:00.000000+00:00",
        "updated_at": "2026-01-01T00:00:02.000000+00:00",
        "is_deleted": 1,
        "actor_id": "eve",
        "role": None,
    }


def test_what_is_added_again_begins_anew(store: EventStore, clock: Clock) -> None:
    """No old memory, and its own time of creation, also for what follows."""
    store.add("tea", vector=[1], memory_id="m")
    store.delete("m")
    clock.move(days=1)
    store.add("coffee", vector=[1], memory_id="m")
    clock.move(days=1)
    store.update("m", "water", vector=[2])
    again, update = rows(store.path)[2:]
    assert (again["old_memory"], again["new_memory"], again["updated_at"]) == (None, "coffee", None)
    assert (update["old_memory"], update["new_memory"]) == ("coffee", "water")
    assert again["created_at"] == update["created_at"] == "2026-01-02T00:00:00.000000+00:00"


@settings(max_examples=scaled(20))
@given(history=histories())
def test_the_view_says_what_the_store_says(history: list[Appended], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Row for row the same values as `EventStore.history` and as the operations had."""
    path = str(tmp_path_factory.mktemp("view") / "a.db")
    with told_to(history, path) as (store, model, _):
        found = rows(path)
        assert found == [
            {
                "id": record.id,
                "memory_id": record.memory_id,
                "old_memory": record.old_memory,
                "new_memory": record.new_memory,
                "event": record.event,
                "created_at": record.created_at.isoformat(timespec="microseconds"),
                "updated_at": record.updated_at and record.updated_at.isoformat(timespec="microseconds"),
                "is_deleted": int(record.is_deleted),
                "actor_id": record.actor_id,
                "role": record.role,
            }
            for record in store.history()
        ]
        for row, told in zip(found, model.events, strict=True):
            assert (row["memory_id"], row["event"], row["new_memory"]) == (told.memory_id, told.type, told.content)
            assert row["old_memory"] == (None if told.type == "ADD" else told.before)
            assert datetime.fromisoformat(row["created_at"]) == told.created_at
            assert row["updated_at"] == (
                None if told.type == "ADD" else told.recorded_at.isoformat(timespec="microseconds")
            )
            assert (row["is_deleted"], row["actor_id"], row["role"]) == (
                int(told.type == "DELETE"),
                told.actor_id,
                told.role,
            )


@settings(max_examples=scaled(60))
@given(
    instant=st.datetimes(timezones=st.just(timezone.utc))
    | st.integers(-3_000_000, 3_000_000).map(
        lambda micro: datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=micro)
    )
)
def test_times_are_iso_8601_whenever_they_are(instant: datetime) -> None:
    """Six decimals and the zone, also before 1970 and at the ends of the calendar."""
    with EventStore(clock=Clock(instant)) as store:
        store.add("x", vector=[1])
        [(created,)] = store._connections.fetch("SELECT created_at FROM history")
        assert created == instant.isoformat(timespec="microseconds")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"memory_id": "b"}, [2, 4]),
        ({"since": START + timedelta(seconds=1), "until": START + timedelta(seconds=2)}, [2, 3]),
        ({"actor_id": "ann"}, [1, 3]),
        ({}, [1, 2, 3, 4]),
        ({"reverse": True}, [4, 3, 2, 1]),
        ({"actor_id": "ann", "since": START + timedelta(seconds=1)}, [3]),
        ({"memory_id": "b", "type": "DELETE", "limit": 1}, [4]),
        ({"role": "tool"}, [4]),
        ({"upto": 2}, [1, 2]),
    ],
)
def test_every_pattern_of_the_reference_is_one_call(
    store: EventStore, clock: Clock, asked: dict[str, Any], expected: list[int]
) -> None:
    """By memory, by date, by actor, all, in time order, and combined."""
    store.add("1", vector=[1], memory_id="a", actor_id="ann")
    clock.move(seconds=1)
    store.add("2", vector=[1], memory_id="b", actor_id="bob")
    clock.move(seconds=1)
    store.update("a", metadata={}, actor_id="ann")
    clock.move(seconds=1)
    store.delete("b", actor_id="bob", role="tool")
    assert [record.position for record in store.history(**asked)] == expected


def test_a_record_of_the_history_says_why(store: EventStore) -> None:
    """Beyond the ten columns: position, version and reason."""
    store.add("tea", vector=[1], memory_id="m")
    store.update("m", metadata={}, reason="corrected")
    record = store.history("m")[1]
    assert (record.position, record.version, record.reason) == (2, 2, "corrected")


def test_content_with_nul_characters_comes_whole(store: EventStore) -> None:
    """SQLite's text functions stop at them; the view uses none on content."""
    store.add("a\0b", vector=[1], memory_id="m")
    store.update("m", "c\0d", vector=[1])
    assert [(row["old_memory"], row["new_memory"]) for row in rows(store.path)] == [(None, "a\0b"), ("a\0b", "c\0d")]


def test_the_view_cannot_be_written_to(store: EventStore) -> None:
    """A view of ours has no triggers that would make it so."""
    store.add("tea", vector=[1], memory_id="m")
    with closing(sqlite3.connect(store.path)) as connection, pytest.raises(sqlite3.OperationalError, match="view"):
        connection.execute("UPDATE history SET new_memory = 'x'")
