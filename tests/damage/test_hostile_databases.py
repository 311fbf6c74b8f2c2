"""A database that somebody made to harm whoever opens it: nothing in it runs, and memory stays bounded."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from eventstore import AsofError, CorruptHistory, EventStore
from replay import verify
from tests.crash.lab import LONG
from tests.damage.hostile import MIB, limited_memory
from tests.damage.subject import Subject, database, deadline, make, run_noting
from tests.replay_support import tamper

VAST = 500_000_000 if LONG else 200_000_000
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS seq, x AS name FROM n"

# Run by SQLite as written: in a plain connection, schema writable.
SCHEMAS = {
    "events is a view without end": f"DROP TABLE events; CREATE VIEW events AS {ENDLESS}",
    "payloads is a view without end": f"DROP TABLE payloads; CREATE VIEW payloads AS {ENDLESS}",
    "settings is a view without end": f"DROP TABLE settings; CREATE VIEW settings AS {ENDLESS}",
    "the record of steps is a view without end": (
        f"DROP TABLE _sqlite_migrations; CREATE VIEW _sqlite_migrations AS {ENDLESS}"
    ),
    "the counter is a view without end": (
        f"UPDATE sqlite_master SET type = 'view', rootpage = 0, sql = 'CREATE VIEW sqlite_sequence AS {ENDLESS}'"
        " WHERE name = 'sqlite_sequence'"
    ),
    "events is a virtual table": "DROP TABLE events; CREATE VIRTUAL TABLE events USING rtree(seq, a, b)",
    "settings is a full-text table": "DROP TABLE settings; CREATE VIRTUAL TABLE settings USING fts5(key, value)",
    "a trigger that loads code": (
        "CREATE TRIGGER load AFTER INSERT ON events BEGIN SELECT load_extension('/tmp/evil.so'); END"
    ),
    "a trigger that writes a file": (
        "CREATE TRIGGER load AFTER INSERT ON payloads BEGIN SELECT writefile('/tmp/evil', 'x'); END"
    ),
    "an index that computes": (
        "CREATE INDEX vast ON events (hex(zeroblob(1)));"
        " UPDATE sqlite_master SET sql = replace(sql, '(1)', '(900000000)') WHERE name = 'vast'"
    ),
    "a partial index that computes": "CREATE INDEX vast ON events (seq) WHERE length(zeroblob(900000000)) > 5",
    "a computed column": "ALTER TABLE payloads ADD COLUMN x AS (zeroblob(900000000))",
    "a check that computes": (
        "UPDATE sqlite_master SET sql = replace(sql, 'salt BLOB NOT NULL',"
        " 'salt BLOB NOT NULL CHECK (length(zeroblob(900000000)) > 5)') WHERE name = 'payloads'"
    ),
    "a table's pages are another's": (
        "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'payloads')"
        " WHERE name = 'events'"
    ),
    "a table's pages are the catalogue": "UPDATE sqlite_master SET rootpage = 1 WHERE name = 'payloads'",
    "a table's pages are beyond the file": "UPDATE sqlite_master SET rootpage = 2000000000 WHERE name = 'events'",
    "SQL that is none": "UPDATE sqlite_master SET sql = 'CREATE TABLE events (((((' WHERE name = 'events'",
    "vast SQL": "UPDATE sqlite_master SET sql = printf('%.*c', 50000000, 'x') WHERE name = 'history'",
    "deep SQL": (
        "UPDATE sqlite_master SET sql = 'CREATE VIEW history AS SELECT ' || printf('%.*c', 100000, '(') WHERE"
        " name = 'history'"
    ),
    "a catalogue of numbers": "UPDATE sqlite_master SET name = 5, tbl_name = 6 WHERE name = 'history'",
    "a catalogue of bytes": "UPDATE sqlite_master SET sql = x'ff00ff' WHERE name = 'events_actor'",
    "a file of another encoding": "PRAGMA user_version = 7",
}
# These are nobody's business: what is recorded is read, and nothing of them runs.
HARMLESS = {
    "the view history is without end": f"DROP VIEW history; CREATE VIEW history AS {ENDLESS}",
    "another table computes": "CREATE TABLE notes (x, y AS (zeroblob(900000000))); INSERT INTO notes VALUES (1)",
    "another table checks": "CREATE TABLE notes (x CHECK (length(zeroblob(900000000)) > x))",
}


def test_hostile_schemas(tmp_path: Path) -> None:
    """Each: verify reports it, and opening or reading refuses; in 300 MiB and in time."""
    assert run_noting(open_schemas, tmp_path) == len(SCHEMAS) + len(HARMLESS)


def open_schemas(directory: Path) -> int:
    """In the lab."""
    subject = Subject.made(directory)
    for name, script in {**SCHEMAS, **HARMLESS}.items():
        (directory / "doing").write_text(name)
        subject.restore()
        with closing(sqlite3.connect(database(subject.work), isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.executescript(script)
        if name == "a file of another encoding":
            content = bytearray(database(subject.work).read_bytes())
            content[59] = 2
            database(subject.work).write_bytes(content)
        with deadline(), limited_memory(300):
            outcome = subject.examine()
        assert not outcome.wrong, (name, outcome.wrong)
        if name in HARMLESS:
            assert not outcome.differing, (name, outcome.found["open"])
        else:
            assert not outcome.report.ok, name
    return len(SCHEMAS) + len(HARMLESS)


def test_logs_that_somebody_put_beside_it(tmp_path: Path) -> None:
    """Noise, a log cut short, another history's: refused or as recorded, and verify says what cannot be."""
    assert run_noting(open_logs, tmp_path) >= 20


def open_logs(directory: Path) -> int:
    """In the lab."""
    subject = Subject.made(directory)
    other = directory / "other"
    make(other, text="coffee")
    with EventStore(database(other)) as store:
        store.add("in the log", vector=[1, 1])
        log = Path(f"{database(other)}-wal").read_bytes()
    head = log[:32]
    rng = random.Random(4)
    logs = [b"", b"x", head, log[:-1], log[: len(log) // 2], rng.randbytes(9000), head + rng.randbytes(9000)]
    logs += [log[:at] + bytes([log[at] ^ 1 << rng.randrange(8)]) + log[at + 1 :] for at in range(0, 64, 4)]
    for number, content in enumerate([*logs, log]):
        for suffix in ("-wal", "-journal"):
            (directory / "doing").write_text(f"log {number} as {suffix}")
            subject.restore()
            Path(f"{database(subject.work)}{suffix}").write_bytes(content)
            Path(f"{database(subject.work)}-shm").write_bytes(rng.randbytes(32768))
            with deadline(), limited_memory(300):
                outcome = subject.examine()
            if content != log:
                outcome.require_nothing_wrong()
    return len(logs)


def test_an_embedding_of_many_megabytes_is_not_read(tmp_path: Path) -> None:
    """No embedding is so long; verify says how long it is."""
    said = run_noting(open_vast_embedding, tmp_path)
    assert said == f"has an embedding of {VAST} bytes, longer than any"


def open_vast_embedding(directory: Path) -> str:
    """In the lab."""
    subject = Subject.made(directory)
    tamper(database(subject.work), f"UPDATE payloads SET embedding = zeroblob({VAST}) WHERE seq = 8")
    # Less than it would take, and more than SQLite's cache of 64 MB.
    with deadline(), limited_memory(VAST // MIB // 2 + 80):
        outcome = subject.examine()
    outcome.require_nothing_wrong()
    assert outcome.differing
    (fault,) = [fault for fault in outcome.report.faults if fault.position == 8]
    os.unlink(database(subject.work))
    return fault.message.removeprefix("event 8 ")


def test_guards_of_every_connection(tmp_path: Path) -> None:
    """Of the writing one and of readers: no function with effects in a schema, cells checked, nothing mapped."""
    make(tmp_path)
    with EventStore(database(tmp_path)) as store:
        store.count()
        connections = [store._connections._writer, *store._connections._idle]
        assert len(connections) == 2
        for connection in connections:
            pragmas = {
                name: connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("trusted_schema", "cell_size_check", "mmap_size")
            }
            assert pragmas == {"trusted_schema": 0, "cell_size_check": 1, "mmap_size": 0}
            with pytest.raises(sqlite3.DatabaseError):
                connection.execute("SELECT load_extension('/tmp/evil.so')")


def test_metadata_that_no_append_records(tmp_path: Path) -> None:
    """Under a chain that was computed anew: no JSON, no object, nested deeper than can be compared."""
    deep = '{"a":' * 900 + "1" + "}" * 900
    for number, text in enumerate(("no JSON", "[1]", "3", deep, '{"a":NaN}', '{"a":"\\ud800"}', "")):
        path = tmp_path / f"{number}.db"
        make(tmp_path / str(number))
        shutil.copy(database(tmp_path / str(number)), path)
        tamper(path, ("UPDATE payloads SET metadata = ? WHERE seq = 8", (text,)), reseal=True)
        assert not verify(path).ok
        with EventStore(path) as store:
            for read in (
                lambda: store.get("carol"),
                lambda: list(store.events()),
                lambda: store.memories({"a": {"eq": [1]}}),
                lambda: store.count({"n": 1}),
            ):
                with pytest.raises(CorruptHistory):
                    read()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("recorded_at", 2**62),
        ("recorded_at", -(2**63)),
        ("occurred_at", 2**62),
        ("type", "DROP"),
        ("type", ""),
        ("prev_seq", -(2**63)),
        ("prev_seq", 2**62),
        ("add_seq", 2**62),
        ("embedding_seq", 2**62),
        ("version", -1),
        ("memory_id", "x" * 10_000),
    ],
)
def test_headers_that_no_append_records(tmp_path: Path, column: str, value: object) -> None:
    """Under a chain that was computed anew: only errors of ours, and verify names them."""
    make(tmp_path)
    path = database(tmp_path)
    tamper(path, (f"UPDATE events SET {column} = ? WHERE seq = 9", (value,)), reseal=True)
    assert 9 in {fault.position for fault in verify(path).faults} or column == "memory_id"
    with EventStore(path) as store:
        for read in (
            lambda: list(store.events()),
            lambda: store.history(),
            lambda: store.memories(),
            lambda: store.get("dave"),
            lambda: store.head,
            lambda: store.position_at("2026-05-01T12:02:30Z"),
            lambda: store.vectors(),
        ):
            with contextlib.suppress(AsofError):
                read()
        if column in ("recorded_at", "occurred_at", "type", "embedding_seq"):
            with pytest.raises(CorruptHistory, match=r"event (9|4611686018427387904) "):
                list(store.events())
