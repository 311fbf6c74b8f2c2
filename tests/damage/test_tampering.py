"""What somebody does who can write to the file and knows SQL: reads, verify or a head kept elsewhere find it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventstore import CorruptHistory, EventStore
from eventstore.events import EventRow
from eventstore.hashing import event_hash, payload_digest
from projections import VectorIndex
from replay import verify
from tests.cli_support import call
from tests.damage.subject import Refused, Subject, answers, database, deadline, make, run_noting
from tests.replay_support import tamper

SQL = str | tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Forgery:
    """Statements, run with the triggers out of the way; and which positions verify has to name, and how."""

    statements: tuple[SQL, ...]
    kinds: set[str]
    positions: set[int] = frozenset()  # type: ignore[assignment]
    good: list[tuple[int, int]] | None = None


def _swapped(table: str, columns: tuple[str, ...], one: int, other: int) -> tuple[SQL, ...]:
    """Exchange the values of columns of two rows, where they are unique by way of a third value."""
    copies = f"CREATE TEMP TABLE held AS SELECT * FROM {table} WHERE seq IN ({one}, {other})"
    parked = f"UPDATE {table} SET seq = -seq WHERE seq IN ({one}, {other})"
    back = f"UPDATE {table} SET seq = CASE seq WHEN -{one} THEN {other} ELSE {one} END WHERE seq < 0"
    if columns == ("seq",):
        return (parked, back)
    take = ", ".join(f"{name} = (SELECT {name} FROM held WHERE seq = {one + other} - {table}.seq)" for name in columns)
    return (copies, f"UPDATE {table} SET {take} WHERE seq IN ({one}, {other})", "DROP TABLE held")


def _digest(seq: int, content: str) -> tuple[SQL, ...]:
    """A payload's new content with its digest recomputed in the header: what the chain is there for."""
    return (
        (f"UPDATE payloads SET content = ? WHERE seq = {seq}", (content,)),
        f"UPDATE events SET payload_digest = (SELECT digest_of(salt, content, metadata, embedding) FROM payloads"
        f" WHERE seq = {seq}) WHERE seq = {seq}",
    )


def _without(seq: int) -> tuple[SQL, ...]:
    return (f"DELETE FROM events WHERE seq = {seq}", f"DELETE FROM payloads WHERE seq = {seq}")


FORGERIES: dict[str, Forgery] = {
    "two events swapped": Forgery(_swapped("events", ("seq",), 1, 5), {"hash"}, {1, 2, 5, 6}),
    "two payloads swapped": Forgery(_swapped("payloads", ("seq",), 1, 2), {"digest"}, {1, 2}, [(3, 9)]),
    "two embeddings swapped": Forgery(_swapped("payloads", ("embedding",), 1, 2), {"digest"}, {1, 2}, [(3, 9)]),
    "two contents swapped": Forgery(_swapped("payloads", ("content",), 4, 5), {"digest"}, {4, 5}, [(1, 3), (6, 9)]),
    "a content changed": Forgery(
        ("UPDATE payloads SET content = 'forged' WHERE seq = 8",), {"digest"}, {8}, [(1, 7), (9, 9)]
    ),
    "a metadata changed": Forgery(
        ("""UPDATE payloads SET metadata = '{"n":3}' WHERE seq = 1""",), {"digest"}, {1}, [(2, 9)]
    ),
    "an embedding changed": Forgery(
        (("UPDATE payloads SET embedding = ? WHERE seq = 4", (np.array([9, 9], "<f4").tobytes(),)),), {"digest"}, {4}
    ),
    "a payload and its digest changed": Forgery(_digest(4, "forged"), {"hash"}, {4}, [(1, 3), (5, 9)]),
    "a middle event deleted": Forgery(_without(5), {"position"}, {5}, [(1, 4), (7, 9)]),
    "a middle event deleted, the rest moved up": Forgery(
        (
            *_without(5),
            "UPDATE events SET seq = seq - 1 WHERE seq > 5",
            "UPDATE payloads SET seq = seq - 1 WHERE seq > 5",
            "UPDATE sqlite_sequence SET seq = 8 WHERE name = 'events'",
        ),
        {"hash"},
        {5},
    ),
    "the last events deleted": Forgery(
        ("DELETE FROM events WHERE seq > 7", "DELETE FROM payloads WHERE seq > 7"), {"position"}, {8}, [(1, 7)]
    ),
    "a payload deleted": Forgery(("DELETE FROM payloads WHERE seq = 3",), {"payload"}, {3}, [(1, 2), (4, 9)]),
    "an event put in": Forgery(
        (
            "UPDATE events SET seq = -seq WHERE seq > 3",
            "UPDATE events SET seq = 1 - seq WHERE seq < 0",
            "UPDATE payloads SET seq = -seq WHERE seq > 3",
            "UPDATE payloads SET seq = 1 - seq WHERE seq < 0",
            "INSERT INTO events SELECT 4, 'new', 'eve', 1, NULL, 4, 4, 'ADD', recorded_at, occurred_at, actor_id, role,"
            " reason, correlation_id, causation_id, source, payload_digest, hash FROM events WHERE seq = 1",
            "INSERT INTO payloads SELECT 4, salt, content, metadata, embedding FROM payloads WHERE seq = 1",
        ),
        {"hash"},
        {4},
    ),
    "the dimension changed": Forgery(
        ("UPDATE settings SET value = '1' WHERE key = 'dimension'",), {"settings"}, set(), [(1, 9)]
    ),
    "the counter set back": Forgery(("UPDATE sqlite_sequence SET seq = 5 WHERE name = 'events'",), {"sqlite"}),
    "the counter set forward": Forgery(
        ("UPDATE sqlite_sequence SET seq = 50 WHERE name = 'events'",), {"position"}, {10}, [(1, 9)]
    ),
    "the counter removed": Forgery(("DELETE FROM sqlite_sequence",), {"sqlite"}, set(), [(1, 9)]),
    "the view changed": Forgery(
        ("DROP VIEW history", "CREATE VIEW history AS SELECT event_id AS id FROM events WHERE seq <> 3"), {"schema"}
    ),
    "an index dropped": Forgery(("DROP INDEX events_memory",), {"schema"}, set(), [(1, 9)]),
    "an index that leaves something out": Forgery(
        ("DROP INDEX events_actor", "CREATE INDEX events_actor ON events (actor_id) WHERE actor_id = 'bot'"),
        {"schema"},
    ),
    "a column added": Forgery(("ALTER TABLE events ADD COLUMN more TEXT",), {"schema"}),
    "a table added to": Forgery(("ALTER TABLE payloads ADD COLUMN more TEXT DEFAULT 'x'",), {"schema"}),
    "a schema step struck out": Forgery(("UPDATE _sqlite_migrations SET name = 'm999_later'",), {"schema"}),
}
# Header fields one by one: an integer made another, a text another, a null something.
_CHANGES = {
    "event_id": "'another'", "memory_id": "'nobody'", "version": "7", "prev_seq": "1", "add_seq": "1",
    "embedding_seq": "1", "type": "CASE type WHEN 'ADD' THEN 'DELETE' ELSE 'ADD' END",
    "recorded_at": "recorded_at + 1", "occurred_at": "5", "actor_id": "'eve'", "role": "'eve'",
    "reason": "'because'", "correlation_id": "'eve'", "causation_id": "'eve'", "source": "'eve'",
    "payload_digest": "zeroblob(32)", "hash": "zeroblob(32)",
}  # fmt: skip
for _column, _value in _CHANGES.items():
    for _seq in (5, 9):
        FORGERIES[f"{_column} of event {_seq} changed"] = Forgery(
            (f"UPDATE events SET {_column} = {_value} WHERE seq = {_seq}",), {"hash"}, {_seq}
        )


@pytest.fixture(scope="module")
def forged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each forgery, all of them in one process."""
    return run_noting(forge, tmp_path_factory.mktemp("forged"))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found_and_gives_no_wrong_answer(forged: dict[str, Any], name: str) -> None:
    """Verify names what was done and to which events, and what is still good; no read or search is fooled."""
    forgery, found = FORGERIES[name], forged[name]
    assert found["wrong"] == []
    kinds, positions = {kind for kind, _ in found["faults"]}, {at for _, at in found["faults"] if at is not None}
    assert forgery.kinds <= kinds
    assert forgery.positions <= positions
    if forgery.good is not None:
        assert [tuple(each) for each in found["good"]] == forgery.good
    for at in forgery.positions:
        assert not any(first <= at <= last for first, last in found["good"])


def forge(directory: Path) -> dict[str, Any]:
    """In the lab: each forgery in turn; what verify says of it, and which answers were wrong."""
    subject, found = Subject.made(directory), {}
    for name, forgery in FORGERIES.items():
        (directory / "doing").write_text(name)
        subject.restore()
        _tamper(database(subject.work), forgery.statements)
        with deadline():
            outcome = subject.examine()
        found[name] = {
            "faults": [(fault.kind, fault.position) for fault in outcome.report.faults],
            "good": outcome.report.good,
            "wrong": [f"{name}: {outcome.found[name]}" for name in outcome.wrong],
        }
    return found


def _tamper(path: Path, statements: tuple[SQL, ...]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_function("digest_of", 4, payload_digest)
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for trigger, _ in triggers:
            connection.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            sql, parameters = (statement, ()) if isinstance(statement, str) else statement
            connection.execute(sql, parameters)
        for _, sql in triggers:
            connection.execute(sql)


# -- what stands in the schema ------------------------------------------------------------------------------

TRIGGERS = [
    "CREATE TRIGGER sly AFTER INSERT ON events BEGIN SELECT 1; END",
    "CREATE TRIGGER sly AFTER INSERT ON payloads BEGIN INSERT INTO settings VALUES (NEW.seq, 'x'); END",
    "DROP TRIGGER events_no_update; CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN SELECT 1; END",
    "CREATE TRIGGER sly AFTER UPDATE ON _sqlite_migrations BEGIN SELECT 1; END",
]


@pytest.mark.parametrize("script", TRIGGERS)
def test_a_store_does_not_open_where_a_foreign_trigger_would_run(tmp_path: Path, script: str) -> None:
    """It could change what is recorded; verify names it, and a file without it opens again."""
    make(tmp_path)
    with closing(sqlite3.connect(database(tmp_path))) as connection:
        connection.executescript(script)
    with pytest.raises(CorruptHistory, match="trigger"):
        EventStore(database(tmp_path))
    database(tmp_path).chmod(0o444)
    with pytest.raises(CorruptHistory, match="trigger"):
        EventStore(database(tmp_path))
    assert "schema" in {fault.kind for fault in verify(database(tmp_path)).faults}


def test_other_tables_and_their_triggers_are_nobodys_business(tmp_path: Path) -> None:
    """A file may hold more than the history; verify names the trigger, and the store opens."""
    make(tmp_path)
    with closing(sqlite3.connect(database(tmp_path))) as connection:
        connection.executescript("CREATE TABLE notes (x); CREATE TRIGGER own AFTER INSERT ON notes BEGIN SELECT 1; END")
    with EventStore(database(tmp_path)) as store:
        assert store.count() == 4


@pytest.mark.parametrize("dropped", ["events_no_update", "payloads_no_delete", "events_only_append"])
def test_a_missing_trigger_is_reported(tmp_path: Path, dropped: str) -> None:
    """What protects is gone, and nothing is wrong yet: the store opens, verify says so and names it."""
    make(tmp_path)
    with closing(sqlite3.connect(database(tmp_path))) as connection:
        connection.execute(f"DROP TRIGGER {dropped}")
    report = verify(database(tmp_path))
    assert [fault.kind for fault in report.faults] == ["schema"]
    assert dropped in report.faults[0].message
    assert report.good == [(1, 9)]


# -- what cannot be seen from inside ------------------------------------------------------------------------


def _cut(path: Path, head: int) -> None:
    _tamper(
        path,
        (
            f"DELETE FROM events WHERE seq > {head - 2}",
            f"DELETE FROM payloads WHERE seq > {head - 2}",
            f"UPDATE sqlite_sequence SET seq = {head - 2} WHERE name = 'events'",
        ),
    )


def _rewrite(path: Path, head: int) -> None:
    tamper(path, "UPDATE payloads SET content = 'forged' WHERE seq = 2", reseal=True)


def _rewrite_the_end(path: Path, head: int) -> None:
    tamper(path, f"UPDATE events SET reason = 'forged' WHERE seq = {head}", reseal=True)


@pytest.mark.parametrize("attack", [_cut, _rewrite, _rewrite_the_end])
def test_a_head_kept_elsewhere_shows_a_cut_tail_and_a_rewrite(
    tmp_path: Path, attack: Callable[[Path, int], None]
) -> None:
    """`replay head --json`, kept, and `replay verify --against` it. From inside nothing is to be seen."""
    head = make(tmp_path, later=True)
    db, kept = database(tmp_path), tmp_path / "head.json"
    done = call("head", db, "--json")
    kept.write_text(done.stdout)
    assert json.loads(done.stdout)["hash"] == head.hash
    assert call("verify", db, "--no-index", "--against", kept).exit_code == 0
    attack(db, head.position)
    assert call("verify", db, "--no-index").exit_code == 0, "from inside it is a sound history"
    found = call("verify", db, "--no-index", "--json", "--against", kept)
    assert found.exit_code == 1
    faults = json.loads(found.stdout)["faults"]
    assert [(fault["kind"], fault["position"]) for fault in faults] == [("against", head.position)]


@pytest.mark.parametrize("attack", [_rewrite, _rewrite_the_end])
def test_a_checkpoint_is_a_head_kept_beside(tmp_path: Path, attack: Callable[[Path, int], None]) -> None:
    """A rewrite of what an index has seen is refused by the index, unless its directory goes as well."""
    make(tmp_path, later=False)
    attack(database(tmp_path), 7)
    searched = [answer for name, answer in answers(tmp_path).items() if name.startswith("checkpoint: ")]
    assert searched
    assert {type(answer) for answer in searched} == {Refused}


# -- an index of SQLite's that lies ---------------------------------------------------------------------------


@pytest.mark.parametrize("to", [1, 3, 67, 0x83])
def test_an_index_of_times_that_lies(tmp_path: Path, to: int) -> None:
    """An entry that names another event, one that is there or not: no instant means another position."""
    make(tmp_path)
    path = database(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events_recorded_at'").fetchone()[0]
        when = connection.execute("SELECT recorded_at FROM events WHERE seq = 2").fetchone()[0]
    content = bytearray(path.read_bytes())
    # Events 2 and 3 have this time; the entry of an index is the time, then the event.
    at = content.index(when.to_bytes(8, "big")[-6:] + b"\x03", (root - 1) * 512) + 6
    content[at] = to
    path.write_bytes(content)
    instant = "2026-05-01T12:02:30Z"
    with EventStore(path) as store:
        for read in (
            lambda: store.position_at(instant),
            lambda: store.memories(as_of=instant),
            lambda: list(store.events(since=instant)),
            lambda: list(store.events(until=instant)),
        ):
            if to == 3:
                read()
            else:
                with pytest.raises(CorruptHistory):
                    read()


@pytest.mark.parametrize("value", ["1", "3", "02", "two", "٢", "", "9" * 5000, None])
def test_a_dimension_that_was_changed_is_refused(tmp_path: Path, value: str | None) -> None:
    """No hash covers it, and the first embedding says what it is."""
    make(tmp_path)
    change = ("DELETE FROM settings", ()) if value is None else ("UPDATE settings SET value = ?", (value,))
    _tamper(database(tmp_path), (change,))
    assert {fault.kind for fault in verify(database(tmp_path)).faults} == {"settings"}
    with EventStore(database(tmp_path)) as store:
        with pytest.raises(CorruptHistory, match="dimension"):
            store.dimension  # noqa: B018
        with pytest.raises(CorruptHistory, match="dimension"):
            store.add("x", vector=[1, 2])
        assert len(list(store.events())) == 9


def test_a_dimension_of_no_numbers_is_refused(tmp_path: Path) -> None:
    """Though the first embedding has none either."""
    make(tmp_path)
    changes = ("UPDATE settings SET value = '0'", ()), ("UPDATE payloads SET embedding = x'' WHERE seq = 1", ())
    _tamper(database(tmp_path), changes)
    with EventStore(database(tmp_path)) as store:
        with pytest.raises(CorruptHistory, match="dimension"):
            store.add("x", vector=np.empty(0, dtype=np.float32))


@pytest.mark.parametrize(("before", "serial_type"), [(-7, 0x80), (1, 0), (1, 8), (1, 0x4B), (1, 0x4D)])
def test_a_hash_that_is_no_hash(tmp_path: Path, before: int, serial_type: int) -> None:
    """The type of a column changed in the row itself, where no constraint looks: absent, null, a number, text."""
    make(tmp_path)
    path = database(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        event_id = connection.execute("SELECT event_id FROM events WHERE seq = 7").fetchone()[0]
    content = bytearray(path.read_bytes())
    # 0x4C: a blob of 32 bytes. The types of digest and hash are the last of the row's header; then its columns begin.
    # With 0x80 two types before them become one, and the row is a column short.
    content[content.index(b"\x4c\x4c" + event_id.encode()) + before] = serial_type
    path.write_bytes(content)
    assert 7 in {fault.position for fault in verify(path).faults}
    with EventStore(path) as store:
        for read in (lambda: store.hash_at(7), lambda: store.head_at(7), lambda: VectorIndex(store).search([1, 1])):
            with pytest.raises(CorruptHistory):
                read()
        assert store.hash_at(5) is not None
        assert (store.hash_at(0), store.hash_at(10), store.hash_at(-1)) == ("0" * 64, None, None)


# -- a single row sealed anew -------------------------------------------------------------------------------


def test_an_append_does_not_seal_what_was_changed(tmp_path: Path) -> None:
    """An update that keeps a forged content, a retry that returns one, an append after a forged end: all refused."""
    make(tmp_path)
    forged = tmp_path / "forged.db"
    for statement, write in (
        (
            "UPDATE payloads SET content = 'forged' WHERE seq = 5",
            lambda store, first: store.update("bob", metadata={"n": 9}),
        ),
        (
            "UPDATE payloads SET embedding = zeroblob(8) WHERE seq = 2",
            lambda store, first: store.update("bob", "new", vector=[1, 2]) and store.update("bob", metadata={}),
        ),
        ("UPDATE events SET version = 8 WHERE seq = 5", lambda store, first: store.delete("bob")),
        ("UPDATE events SET actor_id = 'eve' WHERE seq = 9", lambda store, first: store.add("x", vector=[1, 1])),
        ("DELETE FROM events WHERE seq = 9", lambda store, first: store.add("x", vector=[1, 1])),
        (
            "UPDATE payloads SET content = 'forged' WHERE seq = 1",
            lambda store, first: store.add(
                "forged", vector=[1, 0], memory_id="alice", metadata={"n": 1}, actor_id="ann", event_id=first
            ),
        ),
    ):
        shutil.copy(database(tmp_path), forged)
        with closing(sqlite3.connect(forged)) as connection:
            first = connection.execute("SELECT event_id FROM events WHERE seq = 1").fetchone()[0]
        _tamper(forged, (statement,))
        before = forged.read_bytes()
        with EventStore(forged) as store, pytest.raises(CorruptHistory):
            write(store, first)
        assert len(before) == forged.stat().st_size


def test_a_row_that_is_sealed_by_itself_does_not_fit_the_next(tmp_path: Path) -> None:
    """A header changed and its own hash recomputed: whatever reads past it says so, and verify names the next one."""
    make(tmp_path)
    path = database(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        header = EventRow(*connection.execute("SELECT * FROM events WHERE seq = 5").fetchone())
        before = connection.execute("SELECT hash FROM events WHERE seq = 4").fetchone()[0]
    header = header._replace(reason="forged")
    sealed = event_hash(before, *header[:-1])
    _tamper(path, (("UPDATE events SET reason = 'forged', hash = ? WHERE seq = 5", (sealed,)),))
    report = verify(path)
    assert {(fault.kind, fault.position) for fault in report.faults} == {("hash", 6)}
    with EventStore(path) as store:
        for read in (lambda: list(store.events()), lambda: store.get("bob"), lambda: store.memories()):
            with pytest.raises(CorruptHistory):
                read()
