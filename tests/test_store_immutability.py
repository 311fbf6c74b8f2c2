"""Immutability: no SQLite client can change or remove what was recorded, and none can put a row in its place."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from eventstore import EventStore
from eventstore.schema import EVENT_COLUMNS

EVENTS = ", ".join(EVENT_COLUMNS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A history of three events, closed."""
    path = tmp_path / "a.db"
    with EventStore(path) as store:
        store.add("x", vector=[1, 2], memory_id="m", event_id="e1", actor_id="ann")
        store.update("m", "y", vector=[3, 4], event_id="e2")
        store.add("z", vector=[5, 6], memory_id="n", event_id="e3")
    return path


@pytest.fixture(params=["OFF", "ON"])
def client(request: pytest.FixtureRequest, path: Path) -> Iterator[sqlite3.Connection]:
    """A plain client. recursive_triggers decides whether a REPLACE fires the triggers of a DELETE."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA recursive_triggers = {request.param}")
        yield connection


def row(**changes: object) -> tuple[str, dict[str, object]]:
    """Values for a row of events that differs from event 2 in `changes`."""
    columns = [f":{name}" if name in changes else name for name in EVENT_COLUMNS]
    return f"SELECT {', '.join(columns)} FROM events WHERE seq = 2", changes


def state(connection: sqlite3.Connection) -> list[object]:
    return [
        connection.execute("SELECT * FROM events ORDER BY seq").fetchall(),
        connection.execute("SELECT * FROM payloads ORDER BY seq").fetchall(),
    ]


# Each of these would replace event 2, or what it holds, by one of the table's unique keys.
ROWS = {
    "by position": row(event_id="new", memory_id="new"),
    "by event_id": row(seq=4, memory_id="new"),
    "by memory and version": row(seq=4, event_id="new"),
    "by all": row(reason="forged"),
    "in a gap": row(seq=9, event_id="new", memory_id="new"),
    "before the first": row(seq=0, event_id="new", memory_id="new"),
    "at a negative position": row(seq=-1, event_id="new", memory_id="new"),
    "at no position": row(seq=None, event_id="new", memory_id="new"),
}
VERBS = ["INSERT", "INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE", "INSERT OR FAIL", "INSERT OR ROLLBACK"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("which", ROWS)
def test_no_insert_takes_the_place_of_an_event(client: sqlite3.Connection, verb: str, which: str) -> None:
    """Whatever key it goes by: only the next position of a new event is taken."""
    before = state(client)
    select, values = ROWS[which]
    with pytest.raises(sqlite3.IntegrityError, match="can only be appended to"):
        client.execute(f"{verb} INTO events ({EVENTS}) {select}", values)
    assert state(client) == before


@pytest.mark.parametrize("conflict", ["seq", "event_id", "memory_id, version"])
@pytest.mark.parametrize("action", ["DO UPDATE SET reason = 'forged'", "DO NOTHING"])
def test_no_upsert_changes_an_event(client: sqlite3.Connection, conflict: str, action: str) -> None:
    """ON CONFLICT by each unique key."""
    before = state(client)
    with pytest.raises(sqlite3.IntegrityError, match="can only be appended to"):
        client.execute(
            f"INSERT INTO events ({EVENTS}) SELECT {EVENTS} FROM events WHERE seq = 2 ON CONFLICT ({conflict}) {action}"
        )
    assert state(client) == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET reason = 'forged'",
        "UPDATE events SET seq = 9 WHERE seq = 3",
        "UPDATE OR REPLACE events SET seq = 2 WHERE seq = 3",
        "UPDATE OR IGNORE events SET event_id = 'e1' WHERE seq = 3",
        "UPDATE OR REPLACE events SET memory_id = 'm', version = 1 WHERE seq = 3",
        "DELETE FROM events",
        "DELETE FROM events WHERE seq = 3",
        "UPDATE payloads SET content = 'forged'",
        "UPDATE OR REPLACE payloads SET seq = 2 WHERE seq = 3",
        "DELETE FROM payloads",
        "DELETE FROM payloads WHERE seq = 3",
    ],
)
def test_no_update_or_delete_is_taken(client: sqlite3.Connection, statement: str) -> None:
    """Of one row or of all, of events or of what they hold."""
    before = state(client)
    with pytest.raises(sqlite3.IntegrityError, match="cannot be changed"):
        client.execute(statement)
    assert state(client) == before


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("seq", [2, 3, 0, 9, None])
def test_no_insert_takes_the_place_of_a_payload(client: sqlite3.Connection, verb: str, seq: int | None) -> None:
    """Payloads can only be appended to either."""
    before = state(client)
    with pytest.raises(sqlite3.IntegrityError, match="can only be appended to"):
        client.execute(f"{verb} INTO payloads VALUES (?, x'00', 'forged', '{{}}', NULL)", [seq])
    assert state(client) == before


def test_an_upsert_of_a_payload_changes_nothing(client: sqlite3.Connection) -> None:
    """By its one key."""
    before = state(client)
    with pytest.raises(sqlite3.IntegrityError, match="can only be appended to"):
        client.execute(
            "INSERT INTO payloads SELECT * FROM payloads WHERE seq = 2"
            " ON CONFLICT (seq) DO UPDATE SET content = 'forged'"
        )
    assert state(client) == before


def test_a_position_is_not_used_again(path: Path) -> None:
    """Not even where someone went round the triggers and cut the tail off: the gap stays to be seen."""
    with closing(sqlite3.connect(path, isolation_level=None)) as client:
        client.execute("DROP TRIGGER events_no_delete")
        client.execute("DELETE FROM events WHERE seq = 3")
        assert client.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchall() == [(3,)]


def test_columns_hold_one_type(client: sqlite3.Connection) -> None:
    """The tables are STRICT: a number is no text, text no blob."""
    with pytest.raises(sqlite3.IntegrityError, match="cannot store TEXT value"):
        client.execute("INSERT INTO payloads VALUES (4, 'text', 'x', '{}', NULL)")


def test_the_store_reads_on_after_the_attempts(path: Path) -> None:
    """What a client tried leaves the store as it was, and it can be appended to."""
    with EventStore(path) as store:
        expected = list(store.events())
        with closing(sqlite3.connect(path)) as client, pytest.raises(sqlite3.IntegrityError):
            client.execute("DELETE FROM events")
        assert list(store.events()) == expected
        assert store.add("new", vector=[7, 8]).position == 4
