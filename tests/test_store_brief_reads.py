"""Brief reads are asked of the connection that writes while it is idle: what they see is what any other sees."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventstore import CorruptHistory, EventStore
from eventstore.connections import Connections


def statements(connection: Any) -> list[str]:
    """The list of what a connection is asked from now on."""
    asked: list[str] = []
    connection.set_trace_callback(asked.append)
    return asked


def test_an_idle_writer_answers(tmp_path: Path) -> None:
    """The head, an instant, a memory: no other connection is opened for them. Long reads leave the writer alone."""
    with EventStore(tmp_path / "m.db") as store:
        tea = store.add("tea", vector=[1.0], memory_id="tea")
        store.get("tea")  # the first selection compares indexes, by another connection
        store._connections._idle.clear()
        asked = statements(store._connections._writer)
        found = store.get("tea", as_of=tea.recorded_at)
        assert found is not None
        assert found.content == "tea"
        assert store._connections._idle == []
        assert len(asked) >= 3
        store.add_many([""] * 200, vectors=[[1.0]] * 200)
        asked.clear()
        assert len(store.memories()) == 201
        assert len(list(store.history())) == 201
        assert all("max(seq)" in sql for sql in asked)
        assert len(store._connections._idle) == 1


def test_a_writer_that_rolled_back_answers_again(tmp_path: Path) -> None:
    """It is idle, though nothing was committed."""
    with EventStore(tmp_path / "m.db") as store:
        store.add("tea", vector=[1.0], memory_id="tea")
        with pytest.raises(ValueError, match="no more"), store._connections.writing():
            raise ValueError("no more")
        asked = statements(store._connections._writer)
        assert store.position == 1
        assert asked


def test_a_busy_writer_is_not_waited_for(tmp_path: Path) -> None:
    """Another thread is in the middle of a write: what is committed is read beside it, and nothing else."""
    with EventStore(tmp_path / "m.db") as store:
        store.add("tea", vector=[1.0], memory_id="tea")
        store.get("tea")
        inside, done = threading.Event(), threading.Event()

        def write() -> None:
            with store._connections.writing() as connection:
                connection.execute("INSERT INTO settings VALUES ('half', 'done')")
                inside.set()
                done.wait(30)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert inside.wait(30)
            assert store.position == 1
            assert store.get("tea") is not None
            assert store._connections.fetch("SELECT key FROM settings WHERE key = 'half'", brief=True) == []
        finally:
            done.set()
            writer.join()
        assert store._connections.fetch("SELECT key FROM settings WHERE key = 'half'", brief=True) == [("half",)]


def test_a_writer_that_waits_for_another_process_is_not_waited_for(tmp_path: Path) -> None:
    """A thread reads on and on while another's append begins, which has to wait: it goes on reading."""
    with EventStore(tmp_path / "m.db", timeout=60) as store:
        store.add("tea", vector=[1.0], memory_id="tea")
        connections, reads, done = store._connections, [0], threading.Event()
        other = sqlite3.connect(tmp_path / "m.db", isolation_level=None)

        def read() -> None:
            while not done.is_set():
                assert store.position in (1, 2)
                reads[0] += 1

        def soon(condition: Callable[[], bool]) -> bool:
            end = time.monotonic() + 20
            while not (held := condition()) and time.monotonic() < end:
                time.sleep(0.001)
            return held

        reader = threading.Thread(target=read)
        appender = threading.Thread(target=lambda: store.add("milk", vector=[1.0]))
        try:
            other.execute("BEGIN IMMEDIATE")
            reader.start()
            assert soon(lambda: reads[0] > 10)
            appender.start()
            assert soon(lambda: connections._writing_thread is not None)
            before = reads[0]
            assert soon(lambda: reads[0] > before + 100), "the read waits for the append"
            assert appender.is_alive()
        finally:
            done.set()
            other.execute("ROLLBACK")
            other.close()
            reader.join()
            appender.join()
        assert store.position == 2


def test_a_write_waits_for_a_brief_read_that_is_under_way(tmp_path: Path) -> None:
    """Both use one connection, one after the other; so does closing."""
    with EventStore(tmp_path / "m.db") as store:
        store.add("tea", vector=[1.0], memory_id="tea")
        connections = store._connections
        inside, go_on = threading.Event(), threading.Event()

        def reading(*_: Any) -> int:
            inside.set()
            go_on.wait(30)
            return 0

        connections._writer.create_function("pause", 0, reading)
        found: list[Any] = []
        for write in (lambda: store.add("milk", vector=[1.0]), store.close):
            inside.clear()
            go_on.clear()
            reader = threading.Thread(target=lambda: found.append(connections.fetch("SELECT pause()", brief=True)))
            reader.start()
            assert inside.wait(30)
            writer = threading.Thread(target=write)
            writer.start()
            writer.join(0.05)
            assert writer.is_alive()
            go_on.set()
            reader.join(30)
            writer.join(30)
        assert found == [[(0,)], [(0,)]]
    with EventStore(tmp_path / "m.db") as store:
        assert store.position == 2


def test_inside_a_write_what_is_committed_is_read(tmp_path: Path) -> None:
    """By the thread that writes, which has the lock: not what it may yet roll back."""
    with EventStore(tmp_path / "m.db") as store, store._connections.writing() as connection:
        connection.execute("INSERT INTO settings VALUES ('half', 'done')")
        assert store._connections.fetch("SELECT key FROM settings WHERE key = 'half'", brief=True) == []


def test_what_another_process_has_committed_is_seen(tmp_path: Path) -> None:
    """The writer's pages are no older than anybody's."""
    with EventStore(tmp_path / "m.db") as ours, EventStore(tmp_path / "m.db") as theirs:
        for number in range(1, 20):
            (ours if number % 3 else theirs).add(str(number), vector=[1.0], memory_id=str(number))
            assert ours.position == theirs.position == number
            for store in (ours, theirs):
                found = store.get(str(number))
                assert found is not None
                assert found.content == str(number)


def test_where_the_writer_cannot_read_another_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for no lock, others do; and what is really wrong is said by them."""
    with EventStore(tmp_path / "m.db") as store:
        store.add("tea", vector=[1.0], memory_id="tea")

        class Refusing:
            in_transaction = False

            def execute(self, sql: str, parameters: Any) -> Any:
                raise sqlite3.OperationalError("database is locked")

        writer = store._connections._writer
        monkeypatch.setattr(store._connections, "_writer", Refusing())
        assert store.position == 1
        monkeypatch.setattr(store._connections, "_writer", writer)


def test_a_failed_store_reads_by_others(tmp_path: Path) -> None:
    """After an I/O error the connection that wrote is not trusted with anything."""
    with EventStore(tmp_path / "m.db") as store:
        store.add("tea", vector=[1.0])
        asked = statements(store._connections._writer)
        store._connections._failure = "disk I/O error"
        assert store.position == 1
        assert asked == []
        store._connections._failure = None


def test_the_lock_is_given_back_whatever_happens(tmp_path: Path) -> None:
    """A read that fails does not keep other threads from writing."""
    with EventStore(tmp_path / "m.db") as store:
        connections: Connections = store._connections
        with pytest.raises(CorruptHistory, match="no such table"):
            connections.fetch("SELECT * FROM nowhere", brief=True)
        adding = threading.Thread(target=lambda: store.add("tea", vector=[1.0]))
        adding.start()
        adding.join(30)
        assert store.position == 1
