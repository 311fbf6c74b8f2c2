"""Verify: what it finds in a history that was tampered with, and that it finds nothing in one that was not."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventstore.testing as kit
from eventstore import Add, Closed, CorruptHistory, Delete, EventStore, Head, InvalidOperation, Operation, Update
from eventstore.checks import metadata_json
from eventstore.events import EventRow, PayloadRow
from eventstore.hashing import GENESIS, event_hash, payload_digest
from projections import CheckpointWarning, VectorIndex
from replay import Fault, Report, verify
from replay.checks import HistoryCheck, is_recorded_form
from tests.profiles import scaled
from tests.replay_support import histories, tamper, told

verification = importlib.import_module("replay.verify")  # of that name, replay has the function

HISTORY: list[list[Operation]] = [
    [Add(memory_id="a", content="tea", vector=[1, 2], metadata={"n": 1}, actor_id="ann")],  # 1
    [Add(memory_id="b", content="coffee", vector=[3, 4])],  # 2
    [Update(memory_id="a", metadata={"k": [1, 2], "n": 2}, occurred_at="2020-01-01T00:00:00Z")],  # 3, keeps the vector
    [Update(memory_id="b", content="milk", vector=[5, 6], correlation_id="chat")],  # 4
    [Delete(memory_id="a")],  # 5
    [Add(memory_id="a", content="water", vector=[7, 8]), Add(memory_id="c", content="juice", vector=[9, 1])],  # 6, 7
    [Update(memory_id="c", content="wine", vector=[2, 2])],  # 8
]
END = 8


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed history of eight events."""
    told(HISTORY, tmp_path / "a.db").close()
    return tmp_path / "a.db"


def found(report: Report) -> list[tuple[str, int | None]]:
    """Kinds and positions."""
    return [(fault.kind, fault.position) for fault in report.faults]


def blob(*numbers: float) -> bytes:
    """An embedding."""
    return np.array(numbers, dtype="<f4").tobytes()


# -- sound histories ----------------------------------------------------------------------------------------


@given(histories())
@settings(max_examples=scaled(100))
def test_no_fault_is_found_in_what_was_recorded(appends: list[list[Operation]]) -> None:
    """Whatever the history, every event is checked and the head is the store's."""
    with told(appends) as store:
        report = verify(store, against=[store.head_at(position) for position in range(store.position + 1)])
        assert report.faults == []
        assert report.ok
        assert report.head == store.head
        assert (report.events, report.payloads, report.checked) == (store.position,) * 3


def test_a_path_and_a_store_are_verified_alike(path: Path) -> None:
    """Closed, open, with a log that is not in the file yet, and by another name."""
    closed = verify(path)
    assert (closed.ok, closed.checked, closed.path) == (True, END, str(path))
    link = path.with_name("link.db")
    link.symlink_to(path)
    with EventStore(path) as store:
        store.add("new", vector=[1, 1])
        assert os.path.getsize(f"{path}-wal")
        for each in (path, str(path), store, link):
            report = verify(each)
            assert (report.faults, report.head, report.checked) == ([], store.head, END + 1)


def test_verifying_leaves_no_trace(path: Path) -> None:
    """The file's bytes and its directory are as before, for sound files and damaged ones."""
    tamper(path, "UPDATE events SET reason = 'x' WHERE seq = 3")
    for content in (path.read_bytes(), path.read_bytes()[:30000], b"text", b""):
        path.write_bytes(content)
        assert not verify(path).ok
        assert os.listdir(path.parent) == [path.name]
        assert path.read_bytes() == content


def test_a_file_in_use_is_verified_as_it_grows(path: Path) -> None:
    """Each verification sees one moment, in which all is well."""
    with EventStore(path) as store:
        for number in range(300):
            store.add("x", vector=[number, 1])
            if number % 30 == 0:
                report = verify(path, progress=lambda done, total: store.add("meanwhile", vector=[1, 1]) and None)
                assert report.faults == []
        store.close()
    assert verify(path).ok


def test_a_writer_that_came_meanwhile_does_not_matter(path: Path) -> None:
    """A file that nobody has open is read as such; if somebody opens it then, it is read again."""
    writers: list[EventStore] = []

    def write(done: int, total: int) -> None:
        if not writers:
            writers.append(EventStore(path))
            writers[0].add("x", vector=[1, 1])

    report = verify(path, progress=write)
    assert (report.faults, report.checked) == ([], END + 1)
    writers[0].close()


def test_progress_counts_events(path: Path) -> None:
    """Up to all of them."""
    seen: list[tuple[int, int]] = []
    with EventStore(path) as store:
        store.add_many(["x"] * 1000, vectors=[[1, 2]] * 1000)
        verify(store, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert len(seen) > 2
    assert seen[-1] == (END + 1000, END + 1000)


def test_a_closed_store_is_refused(path: Path) -> None:
    """Like any other use of it."""
    store = EventStore(path)
    store.close()
    with pytest.raises(Closed):
        verify(store)


# -- tampering that the chain shows -------------------------------------------------------------------------

CHANGES: list[tuple[str, list[tuple[str, int]]]] = [
    ("UPDATE events SET reason = 'because' WHERE seq = 3", [("hash", 3)]),
    ("UPDATE events SET actor_id = NULL WHERE seq = 1", [("hash", 1)]),
    ("UPDATE events SET occurred_at = occurred_at + 1 WHERE seq = 3", [("hash", 3)]),
    ("UPDATE events SET event_id = 'x' WHERE seq = 8", [("hash", 8)]),
    ("UPDATE events SET hash = randomblob(32) WHERE seq = 4", [("hash", 4)]),
    ("UPDATE events SET hash = x'' WHERE seq = 4", [("hash", 4)]),
    ("UPDATE events SET payload_digest = randomblob(32) WHERE seq = 4", [("digest", 4), ("hash", 4)]),
    ("UPDATE events SET hash = randomblob(32) WHERE seq IN (2, 4, 5)", [("hash", 2), ("hash", 4), ("hash", 5)]),
    ("UPDATE events SET hash = (SELECT hash FROM events WHERE seq = 1)", [("hash", each) for each in range(2, 9)]),
    ("UPDATE payloads SET content = 'whisky' WHERE seq = 4", [("digest", 4)]),
    ("UPDATE payloads SET salt = randomblob(16) WHERE seq = 1", [("digest", 1)]),
    ("UPDATE payloads SET salt = randomblob(16)", [("digest", each) for each in range(1, 9)]),
    ("UPDATE payloads SET metadata = '{\"n\":2}' WHERE seq = 1", [("digest", 1)]),
    ("UPDATE payloads SET embedding = x'0000803f00004040' WHERE seq = 1", [("digest", 1)]),
    ("UPDATE payloads SET seq = -seq WHERE seq IN (2, 4)", [("payload", 2), ("payload", 4)]),
    ("DELETE FROM payloads WHERE seq BETWEEN 3 AND 5", [("payload", 3)]),
    ("DELETE FROM payloads", [("payload", 1)]),
    ("DELETE FROM events WHERE seq = 5", [("payload", 5), ("position", 5)]),
    ("DELETE FROM events WHERE seq BETWEEN 2 AND 6", [("payload", 2), ("position", 2)]),
    ("DELETE FROM events WHERE seq = 1", [("payload", 1), ("position", 1)]),
    ("DELETE FROM events WHERE seq = 8", [("payload", 8), ("position", 8)]),
]


@pytest.mark.parametrize(("sql", "expected"), CHANGES, ids=[sql for sql, _ in CHANGES])
def test_a_change_is_found_where_it_is(path: Path, sql: str, expected: list[tuple[str, int]]) -> None:
    """Each fault once, at its position, and no other for it."""
    tamper(path, sql)
    assert sorted(found(verify(path))) == expected


def swapped(table: str, columns: Sequence[str], a: int, b: int) -> list[str]:
    """SQL that gives two rows each other's values."""
    names, rows = ", ".join(columns), f"WHERE seq IN ({a}, {b})"
    return [
        f"CREATE TEMP TABLE other AS SELECT {a} + {b} - seq AS seq, {names} FROM {table} {rows}",
        *(
            f"UPDATE {table} SET {name} = (SELECT {name} FROM other WHERE other.seq = {table}.seq) {rows}"
            for name in columns
        ),
    ]


@pytest.mark.parametrize(
    ("statements", "kind", "positions"),
    [
        (swapped("payloads", PayloadRow._fields[1:], 1, 2), "digest", [1, 2]),
        (swapped("payloads", ["embedding"], 1, 4), "digest", [1, 4]),
        (swapped("payloads", ["content"], 6, 7), "digest", [6, 7]),
        (swapped("events", ["hash"], 3, 6), "hash", [3, 6]),
        (swapped("events", ["actor_id", "reason", "recorded_at"], 6, 7), "hash", []),  # which are equal
        (swapped("events", ["actor_id", "correlation_id"], 1, 4), "hash", [1, 4]),
    ],
)
def test_values_that_changed_places_are_found(
    path: Path, statements: list[str], kind: str, positions: list[int]
) -> None:
    """Whole payloads, embeddings, contents, hashes, parts of events."""
    tamper(path, *statements)
    assert found(verify(path)) == [(kind, position) for position in positions]


def test_events_that_changed_places_are_found(path: Path) -> None:
    """Whole events with their payloads."""
    for table in ("events", "payloads"):
        tamper(path, *(f"UPDATE {table} SET seq = {b} WHERE seq = {a}" for a, b in ((2, 99), (4, 2), (99, 4))))
    assert {("hash", 2), ("hash", 4)} <= set(found(verify(path)))
    assert {fault.position for fault in verify(path).faults} <= {2, 3, 4, 5}


def test_a_run_of_lost_events_is_one_fault(path: Path) -> None:
    """It says from where to where, and what is left is checked all the same."""
    tamper(
        path,
        "DELETE FROM events WHERE seq BETWEEN 2 AND 5",
        "DELETE FROM payloads WHERE seq BETWEEN 2 AND 5",
        "UPDATE payloads SET content = 'x' WHERE seq = 7",
    )
    report = verify(path)
    assert [(fault.kind, fault.position, fault.last) for fault in report.faults] == [
        ("position", 2, 5),
        ("digest", 7, None),
    ]
    assert "events 2 to 5" in report.faults[0].message
    assert (report.events, report.payloads, report.checked) == (4, 4, 4)
    assert report.head is not None
    assert report.head.position == END


def test_a_gap_of_billions_takes_no_time(path: Path) -> None:
    """An event far beyond the others."""
    far = 2**50
    tamper(path, f"UPDATE events SET seq = {far} WHERE seq = 8", f"UPDATE payloads SET seq = {far} WHERE seq = 8")
    faults = verify(path).faults
    assert ("position", 8, far - 1) in [(fault.kind, fault.position, fault.last) for fault in faults]
    assert any(fault.position == far for fault in faults)


@pytest.mark.parametrize("seq", [0, -5])
def test_an_event_before_the_first_is_found(path: Path, seq: int) -> None:
    """Positions begin at 1."""
    columns = ", ".join(f"'{seq}' || event_id" if name == "event_id" else name for name in EventRow._fields[1:])
    columns = columns.replace("version", "version + 50")
    tamper(path, f"INSERT INTO events SELECT {seq}, {columns} FROM events WHERE seq = 1")
    assert found(verify(path)) == [("position", seq)]


COLUMNS = [("events", name) for name in EventRow._fields[1:]] + [("payloads", name) for name in PayloadRow._fields[1:]]


@given(st.sampled_from(COLUMNS), st.integers(1, END), st.data())
@settings(max_examples=scaled(60))
def test_no_value_can_be_changed_unseen(
    tmp_path_factory: pytest.TempPathFactory, column: tuple[str, str], seq: int, data: st.DataObject
) -> None:
    """Any column of any event, to any other value that the column can hold: verify names the event."""
    path = tmp_path_factory.mktemp("verify") / "a.db"
    told(HISTORY, path).close()
    table, name = column
    values: dict[str, st.SearchStrategy[Any]] = {
        "INTEGER": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9),
        "TEXT": st.text(max_size=5),
        "BLOB": st.binary(max_size=32),
    }
    with closing(sqlite3.connect(path)) as connection:
        _, _, kind, required, _, _ = next(
            row for row in connection.execute(f"PRAGMA table_info({table})") if row[1] == name
        )
        [(before,)] = connection.execute(f"SELECT {name} FROM {table} WHERE seq = ?", (seq,))
    value = data.draw((values[kind] if required else values[kind] | st.none()).filter(lambda each: each != before))
    try:
        tamper(path, (f"UPDATE {table} SET {name} = ? WHERE seq = ?", (value, seq)))
    except sqlite3.IntegrityError:
        return  # a key that is taken
    assert seq in {fault.position for fault in verify(path).faults}


# -- tampering by somebody who computes the chain anew ------------------------------------------------------

RESEALED: list[tuple[str | tuple[str, Sequence[Any]], list[tuple[str, int]]]] = [
    ("UPDATE events SET version = 7 WHERE seq = 3", [("version", 3)]),
    ("UPDATE events SET version = 0 WHERE seq = 1", [("version", 1)]),
    ("UPDATE events SET prev_seq = 2 WHERE seq = 3", [("link", 3)]),
    ("UPDATE events SET prev_seq = NULL WHERE seq = 8", [("link", 8)]),
    ("UPDATE events SET prev_seq = 1 WHERE seq = 2", [("link", 2)]),
    ("UPDATE events SET add_seq = 2 WHERE seq = 3", [("link", 3)]),
    ("UPDATE events SET add_seq = 1 WHERE seq = 6", [("link", 6)]),
    ("UPDATE events SET embedding_seq = 2 WHERE seq = 3", [("link", 3)]),
    ("UPDATE events SET embedding_seq = 1 WHERE seq = 5", [("link", 5)]),
    ("UPDATE events SET embedding_seq = NULL WHERE seq = 3", [("link", 3)]),
    ("UPDATE events SET embedding_seq = 4 WHERE seq = 7", [("embedding", 7), ("link", 7)]),
    ("UPDATE events SET embedding_seq = 2 WHERE seq = 4", [("embedding", 4)]),
    ("UPDATE events SET type = 'ADD', add_seq = seq WHERE seq = 4", [("transition", 4)]),
    ("UPDATE events SET type = 'UPDATE', add_seq = 1 WHERE seq = 6", [("transition", 6)]),
    ("UPDATE events SET type = 'add' WHERE seq = 2", [("transition", 2)]),
    ("UPDATE events SET recorded_at = recorded_at - 86400000000 WHERE seq = 4", [("time", 4)]),
    ("UPDATE events SET recorded_at = recorded_at + 86400000000 WHERE seq = 4", [("time", 5)]),
    ("UPDATE events SET recorded_at = 253402300800000000 WHERE seq = 8", [("time", 8)]),
    ("UPDATE events SET recorded_at = -9000000000000000000 WHERE seq = 1", [("time", 1)]),
    ("UPDATE events SET occurred_at = 9000000000000000000 WHERE seq = 3", [("time", 3)]),
    ("UPDATE payloads SET salt = x'00' WHERE seq = 2", [("event", 2)]),
    ("UPDATE payloads SET content = NULL WHERE seq = 2", [("content", 2)]),
    ("UPDATE payloads SET content = 'x' WHERE seq = 5", [("content", 5)]),
    ("UPDATE payloads SET metadata = NULL WHERE seq = 2", [("metadata", 2)]),
    ("UPDATE payloads SET metadata = '{}' WHERE seq = 5", [("metadata", 5)]),
    ("UPDATE payloads SET metadata = '[]' WHERE seq = 2", [("metadata", 2)]),
    ("UPDATE payloads SET metadata = '{\"n\":' WHERE seq = 2", [("metadata", 2)]),
    ("UPDATE payloads SET metadata = '{\"n\": 1}' WHERE seq = 2", [("metadata", 2)]),
    ('UPDATE payloads SET metadata = \'{"n":1,"k":2}\' WHERE seq = 2', [("metadata", 2)]),
    ('UPDATE payloads SET metadata = \'{"n":1,"n":2}\' WHERE seq = 2', [("metadata", 2)]),
    ("UPDATE payloads SET metadata = '{\"n\":NaN}' WHERE seq = 2", [("metadata", 2)]),
    ("UPDATE payloads SET embedding = NULL WHERE seq = 4", [("embedding", 4)]),
    ("UPDATE payloads SET embedding = x'0000803f0000803f' WHERE seq = 3", [("embedding", 3)]),
    ("UPDATE payloads SET embedding = x'0000803f0000803f' WHERE seq = 5", [("embedding", 5)]),
    ("UPDATE payloads SET embedding = x'0000803f' WHERE seq = 7", [("embedding", 7)]),
    ("UPDATE payloads SET embedding = x'' WHERE seq = 7", [("embedding", 7)]),
    (("UPDATE payloads SET embedding = ? WHERE seq = 7", (blob(float("nan"), 1),)), [("embedding", 7)]),
    (("UPDATE payloads SET embedding = ? WHERE seq = 8", (blob(1, float("-inf")),)), [("embedding", 8)]),
]


@pytest.mark.parametrize(("statement", "expected"), RESEALED, ids=[str(statement) for statement, _ in RESEALED])
def test_what_no_append_can_write_is_found_without_the_chain(
    path: Path, statement: str | tuple[str, Sequence[Any]], expected: list[tuple[str, int]]
) -> None:
    """Versions, links, transitions, times, payloads: each fault once, at its position, though every hash is right."""
    tamper(path, statement, reseal=True)
    assert sorted(found(verify(path))) == expected


def test_one_event_id_twice_is_found(path: Path) -> None:
    """Though the index that forbids it was dropped."""
    tamper(
        path,
        "DROP INDEX events_event_id",
        "UPDATE events SET event_id = (SELECT event_id FROM events WHERE seq = 2) WHERE seq = 7",
        reseal=True,
    )
    assert ("id", 7) in found(verify(path))


def test_values_of_the_wrong_type_are_found() -> None:
    """What a strict table cannot hold, a damaged page can. The events around are still checked."""
    with told(HISTORY) as store:
        headers = store._connections.fetch("SELECT * FROM events ORDER BY seq")
        payloads = store._connections.fetch("SELECT * FROM payloads ORDER BY seq")
    assert faults_of(headers, payloads) == []
    for column in range(1, len(EventRow._fields)):
        for value in (5, 5.5, "text", b"blob"):
            wrong = list(headers)
            wrong[3] = (*wrong[3][:column], value, *wrong[3][column + 1 :])
            assert {fault.position for fault in faults_of(wrong, payloads)} == {4}
    for column in range(1, len(PayloadRow._fields)):
        for value in (5, 5.5, "text", b"blob"):
            wrong = list(payloads)
            wrong[3] = (*wrong[3][:column], value, *wrong[3][column + 1 :])
            assert {fault.position for fault in faults_of(headers, wrong)} == {4}


def faults_of(headers: list[tuple[Any, ...]], payloads: list[tuple[Any, ...]]) -> list[Fault]:
    """What is wrong with these rows."""
    check = HistoryCheck(2)
    for header, payload in zip(headers, payloads, strict=True):
        check.take(header)
        check.take_payload(header, payload)
    check.flush()
    assert HistoryCheck(2).take_whole(headers, payloads) == (not check.faults)
    return check.faults


# -- many events at once ------------------------------------------------------------------------------------


@given(
    history=histories(),
    column=st.sampled_from(COLUMNS),
    seq=st.integers(1, 6),
    value=st.none() | st.integers(0, 9) | st.sampled_from(["", "{}", "ADD", "DELETE", "x", b"", bytes(8), bytes(32)]),
    reseal=st.booleans(),
    block=st.integers(1, 4),
)
@settings(max_examples=scaled(60))
def test_events_are_verified_at_once_as_one_by_one(
    tmp_path_factory: pytest.TempPathFactory,
    history: list[list[Operation]],
    column: tuple[str, str],
    seq: int,
    value: Any,
    reseal: bool,
    block: int,
) -> None:
    """The same report, wherever a range of them ends, and whatever one of them holds."""
    path = tmp_path_factory.mktemp("verify") / "a.db"
    told(history, path).close()
    with contextlib.suppress(sqlite3.IntegrityError):  # what the column cannot hold, or a key that is taken
        tamper(path, (f"UPDATE {column[0]} SET {column[1]} = ? WHERE seq = ?", (value, seq)), reseal=reseal)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "_EVENTS_AT_ONCE", block)
        at_once = verify(path)
        patch.setattr(HistoryCheck, "take_whole", lambda *_: False)
        assert at_once == verify(path)


def test_sound_events_are_not_looked_at_one_by_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where something is wrong, the events about it."""
    taken: list[int] = []
    original = HistoryCheck.take
    monkeypatch.setattr(HistoryCheck, "take", lambda self, row: (taken.append(row[0]), original(self, row))[1])
    monkeypatch.setattr(verification, "_EVENTS_AT_ONCE", 2)
    assert verify(path).ok
    assert taken == []
    tamper(path, "UPDATE payloads SET content = 'x' WHERE seq = 4")
    assert found(verify(path)) == [("digest", 4)]
    assert taken == [3, 4]


@given(
    metadata=kit.metadata(),
    changed=st.sampled_from(
        [lambda text: text, lambda text: text.replace(",", ", "), lambda text: text[:-1], str.upper]
    ),
)
@settings(max_examples=scaled(100))
def test_the_recorded_form_of_metadata_is_known(metadata: dict[str, Any], changed: Callable[[str], str]) -> None:
    """It is what an append writes, and no other text of the same."""
    text = changed(metadata_json(metadata))
    try:
        expected = metadata_json(json.loads(text)) == text
    except ValueError:
        expected = False
    assert is_recorded_form(text) == expected


@pytest.mark.parametrize(
    "text", ["", "1", "[]", "null", '{"a":1,"a":1}', '{"b":1,"a":1}', '{"a":1.0e0}', '{"a":"\\u00e9"}']
)
def test_other_forms_of_metadata_are_known(text: str) -> None:
    """No object, or one that is written otherwise."""
    assert not is_recorded_form(text)


# -- what a chain cannot show, and heads kept elsewhere -----------------------------------------------------


def test_a_clumsy_cut_shows_in_sqlites_own_count(path: Path) -> None:
    """The last events removed, and nothing else."""
    tamper(path, "DELETE FROM events WHERE seq > 6", "DELETE FROM payloads WHERE seq > 6")
    [fault] = verify(path).faults
    assert (fault.kind, fault.position, fault.last) == ("position", 7, 8)


def test_a_careful_cut_shows_against_a_head_that_was_kept(path: Path) -> None:
    """And only so."""
    with EventStore(path) as store:
        heads = [store.head_at(position) for position in range(END + 1)]
    tamper(
        path,
        "DELETE FROM events WHERE seq > 6",
        "DELETE FROM payloads WHERE seq > 6",
        "UPDATE sqlite_sequence SET seq = 6",
    )
    assert verify(path).ok
    assert found(verify(path, against=heads)) == [("against", 7), ("against", 8)]


def test_a_history_written_anew_shows_against_a_head_that_was_kept(path: Path) -> None:
    """From the event on that was changed."""
    with EventStore(path) as store:
        heads = [store.head_at(position) for position in range(END + 1)]
    tamper(path, "UPDATE payloads SET content = 'whisky' WHERE seq = 4", reseal=True)
    assert verify(path).ok
    assert found(verify(path, against=heads)) == [("against", position) for position in range(4, END + 1)]


def test_heads_are_given_as_heads_or_as_position_and_hash() -> None:
    """In either case of the letters."""
    with told(HISTORY) as store:
        head = store.head_at(3)
        assert verify(store, against=[head, (3, head.hash), (3, head.hash.upper()), (0, GENESIS.hex())]).ok
        wrong = verify(store, against=[(2, head.hash), (0, head.hash), Head(99, None, head.hash)])
        assert found(wrong) == [("against", 0), ("against", 2), ("against", 99)]


@pytest.mark.parametrize(
    "head", [(3, "ab"), (3, "x" * 64), (3, None), (-1, "0" * 64), ("3", "0" * 64), (True, "0" * 64)]
)
def test_what_is_no_head_is_refused(head: Any) -> None:
    """Rather than never found."""
    with told(HISTORY) as store, pytest.raises(InvalidOperation):
        verify(store, against=[head])


# -- schema and settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("DROP TRIGGER events_no_delete", "trigger events_no_delete is missing"),
        ("DROP VIEW history", "view history is missing"),
        ("DROP INDEX events_actor", "index events_actor is missing"),
        ("CREATE TRIGGER mine AFTER INSERT ON events BEGIN DELETE FROM payloads; END", "trigger mine is not"),
        ("DELETE FROM _sqlite_migrations", "m001_history is missing"),
        ("INSERT INTO _sqlite_migrations (migration_set, name) VALUES ('eventstore', 'm999')", "m999"),
    ],
)
def test_a_schema_that_is_not_as_it_was_made_is_found(path: Path, statement: str, named: str) -> None:
    """A trigger that is gone lets rows be changed; one that was put in changes what is recorded."""
    execute(path, statement)
    [fault] = verify(path).faults
    assert (fault.kind, fault.position) == ("schema", None)
    assert named in fault.message


def test_an_object_that_was_replaced_is_found(path: Path) -> None:
    """By the same name, with another meaning."""
    for kind, name, sql in (
        ("TRIGGER", "events_no_update", "BEFORE UPDATE ON events BEGIN SELECT 1; END"),
        ("INDEX", "events_actor", "ON events (role) WHERE actor_id IS NOT NULL"),
        ("VIEW", "history", "AS SELECT 1 AS id"),
    ):
        execute(path, f"DROP {kind} {name}", f"CREATE {kind} {name} {sql}")
    assert [fault.message.split(";")[0] for fault in verify(path).faults] == [
        "the index events_actor is not as it was made",
        "the trigger events_no_update is not as it was made",
        "the view history is not as it was made",
    ]


def test_an_index_that_is_said_to_be_another_tables_is_found(path: Path) -> None:
    """Each column of the schema is compared."""
    execute(
        path,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET tbl_name = 'payloads' WHERE name = 'history'",
    )
    assert ("schema", None) in found(verify(path))


def execute(path: Path, *statements: str) -> None:
    """Run SQL as it is."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_what_a_user_adds_beside_is_no_fault(path: Path) -> None:
    """An index, a table, a view, statistics: they change nothing that is recorded."""
    execute(
        path, "CREATE INDEX mine ON events (role)", "CREATE TABLE notes (x)", "CREATE VIEW v AS SELECT 1", "ANALYZE"
    )
    assert verify(path).faults == []


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE settings SET value = '3' WHERE key = 'dimension'", "dimension is 3"),
        ("UPDATE settings SET value = 'two' WHERE key = 'dimension'", "'two'"),
        ("UPDATE settings SET value = '0' WHERE key = 'dimension'", "'0'"),
        ("DELETE FROM settings", "dimension is missing"),
        ("INSERT INTO settings VALUES ('colour', 'red')", "'colour'"),
    ],
)
def test_settings_that_do_not_fit_are_found(path: Path, statement: str, named: str) -> None:
    """Once, not with every vector."""
    execute(path, statement)
    [fault] = verify(path).faults
    assert (fault.kind, fault.position) == ("settings", None)
    assert named in fault.message


# -- the index ----------------------------------------------------------------------------------------------


class Index:
    """Says what it is told to say."""

    def __init__(self, *faults: str, error: Exception | None = None) -> None:
        self._faults = faults
        self._error = error

    def faults(self) -> Sequence[str]:
        """What differs."""
        if self._error is not None:
            raise self._error
        return self._faults


def test_what_an_index_says_becomes_faults() -> None:
    """Each thing one; and that it cannot be compared is a fault too."""
    with told(HISTORY) as store:
        assert verify(store, Index()).ok
        assert verify(store, Index("x", "y")).faults == [Fault("index", None, "x"), Fault("index", None, "y")]
        [fault] = verify(store, Index(error=CorruptHistory("bad"))).faults
        assert fault.kind == "index"
        assert "bad" in fault.message


def test_an_index_is_compared_with_the_history(path: Path) -> None:
    """The real one, before and after a vector of the history is changed; that one gets no checkpoint."""
    with EventStore(path) as store:
        index = VectorIndex(store)
        index.catch_up()
        assert verify(store, index).faults == []
        tamper(path, ("UPDATE payloads SET embedding = ? WHERE seq = 6", (blob(7, 9),)), reseal=True)
        [fault] = verify(store, index).faults
        assert fault.kind == "index"
        assert "position 6" in fault.message
        with pytest.warns(CheckpointWarning, match="no longer holds the events up to position 8 that it held"):
            index.close()


# -- faults do not hide each other --------------------------------------------------------------------------


def test_every_fault_is_reported(path: Path) -> None:
    """Many at once, in the order of positions, the general ones first."""
    tamper(
        path,
        "UPDATE payloads SET content = 'x' WHERE seq = 1",
        "UPDATE events SET reason = 'x' WHERE seq = 2",
        "DELETE FROM payloads WHERE seq = 4",
        "DELETE FROM events WHERE seq = 5",
        "DELETE FROM payloads WHERE seq = 5",
        "UPDATE events SET hash = x'00' WHERE seq = 8",
        "INSERT INTO settings VALUES ('colour', 'red')",
        "DROP VIEW history",
    )
    report = verify(path, Index("rows"), against=[(3, "0" * 64)])
    assert sorted(found(report)[:2]) == [("schema", None), ("settings", None)]
    assert found(report)[2:] == [
        ("digest", 1),
        ("hash", 2),
        ("against", 3),
        ("payload", 4),
        ("position", 5),
        ("hash", 8),
        ("index", None),
    ]
    assert report.ok is False


def test_the_checks_share_their_hashes_with_the_store() -> None:
    """A chain made by hand from the documented functions is sound."""
    digest = payload_digest(b"s" * 16, "tea", "{}", blob(1, 2))
    header = (1, "e", "a", 1, None, 1, 1, "ADD", 0, *[None] * 7, digest)
    row = (*header, event_hash(GENESIS, *header))
    assert faults_of([row], [(1, b"s" * 16, "tea", "{}", blob(1, 2))]) == []
