"""A history in a directory that takes no files is read without locks, and a writer that comes along is noticed."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventstore import CorruptHistory, EventStore, StorageError, StoreBusy
from eventstore.connections import Connections
from tests.store_support import vector


class Refusing:
    """A connection as SQLite gives where it cannot make the files beside the database that it needs."""

    def execute(self, sql: str) -> Any:
        raise sqlite3.OperationalError("unable to open database file")

    def close(self) -> None:
        pass


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A history that stores open for reading only, unless `writing` says otherwise; its log cannot be made by them."""
    path = tmp_path / "a.db"
    with EventStore(path) as store:
        store.add("text 0", vector=vector())
    really = Connections._connect

    def connect(self: Connections, query: str) -> Any:
        if query == "mode=ro" and not os.path.exists(f"{self.file}-wal"):
            return Refusing()
        return really(self, query)

    monkeypatch.setattr(Connections, "_connect", connect)
    monkeypatch.setattr(Connections, "_writable", lambda self: False)
    return path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[EventStore]:
    """A store of another user, who may write."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connections, "_writable", lambda self: True)
        other = EventStore(path)
    with other:
        yield other


def texts(store: EventStore) -> list[str | None]:
    return [event.content for event in store.events()]


def meanwhile(monkeypatch: pytest.MonkeyPatch, *happens: Callable[[], object]) -> None:
    """In the midst of the next reads of a store that can only read, one thing after the other happens."""
    really, left = Connections._reading, list(happens)

    @contextlib.contextmanager
    def reading(self: Connections) -> Iterator[Any]:
        with really(self) as connection:
            if self.read_only and left:
                left.pop(0)()
            yield connection

    monkeypatch.setattr(Connections, "_reading", reading)


def test_what_was_written_since_is_read(path: Path) -> None:
    """By a process that has come and gone: the file is another one than was opened."""
    with EventStore(path) as store:
        assert texts(store) == ["text 0"]
        assert store._connections._unlocked is not None
        for number in range(1, 4):
            with writing(path) as other:
                other.add(f"text {number}", vector=vector())
            assert store.position == number + 1
            assert texts(store) == [f"text {each}" for each in range(number + 1)]


def test_while_another_writes_it_is_read_with_locks(path: Path) -> None:
    """There is a log then, and shared memory to lock."""
    with EventStore(path) as store:
        assert store.position == 1
        with writing(path) as other:
            other.add("text 1", vector=vector())
            assert texts(store) == ["text 0", "text 1"]
            assert store._connections._unlocked is None
            other.add("text 2", vector=vector())
            assert texts(store) == ["text 0", "text 1", "text 2"]


def test_a_read_during_which_the_file_changes_is_made_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it saw may be half of one state and half of another."""

    def write() -> None:
        with writing(path) as other:
            other.add("more", vector=vector())

    with EventStore(path) as store:
        meanwhile(monkeypatch, write, write)
        assert store.position == 3


def test_a_connection_without_locks_is_not_used_once_there_are_locks(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was reading while another thread noticed the writer."""
    with contextlib.ExitStack() as stack, EventStore(path) as store:

        def another_thread_notices() -> None:
            stack.enter_context(writing(path)).add("more", vector=vector())
            assert store.position == 2
            assert store._connections._unlocked is None

        meanwhile(monkeypatch, another_thread_notices)
        assert store.position == 2
        assert texts(store) == ["text 0", "more"]


def test_an_error_while_the_file_changes_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of two states look like damage. Where nothing changed, it is."""

    def fail(changing: bool) -> None:
        if changing:
            os.utime(path, ns=(0, os.stat(path).st_mtime_ns + 1))
        raise CorruptHistory("pages that do not fit")

    with EventStore(path) as store:
        meanwhile(monkeypatch, lambda: fail(True), lambda: fail(False))
        with pytest.raises(CorruptHistory):
            store.head  # noqa: B018
        assert store.position == 1
        meanwhile(monkeypatch, lambda: fail(True))
        assert store.position == 1


def test_a_file_that_changes_all_the_time_is_busy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the store's timeout."""

    def change() -> None:
        os.utime(path, ns=(0, os.stat(path).st_mtime_ns + 1))

    with EventStore(path, timeout=0.05) as store:
        meanwhile(monkeypatch, *[change] * 100_000)
        with pytest.raises(StoreBusy, match="written to all the time"):
            store.head  # noqa: B018


def test_a_file_that_was_taken_away_is_said_and_found_again(path: Path) -> None:
    """Reading goes on when it is back."""
    with EventStore(path) as store:
        path.rename(path.with_name("away.db"))
        for _ in range(2):
            with pytest.raises(StorageError):
                store.head  # noqa: B018
        path.with_name("away.db").rename(path)
        assert texts(store) == ["text 0"]


def _replaced(path: Path, made: Path) -> None:
    copy = path.with_name("copy.db")
    shutil.copy(made, copy)
    copy.replace(path)


def test_another_history_in_the_files_place_is_refused(path: Path, tmp_path: Path) -> None:
    """Nothing that is known of the old one is said of the new one; the old one is read again when it is back."""
    with writing(path) as other:
        other.add("text 1", vector=vector(), memory_id="one")
    shutil.copy(path, tmp_path / "old.db")
    with writing(tmp_path / "new.db") as other:
        for number in range(3):
            other.add(f"another {number}", vector=vector(), memory_id="one" if number == 1 else None)
    with EventStore(path) as store:
        memory = store.get("one")
        assert memory is not None
        assert memory.content == "text 1"
        _replaced(path, tmp_path / "new.db")
        for read in (lambda: store.head, lambda: store.get("one"), store.memories, lambda: texts(store), store.count):
            with pytest.raises(StorageError, match="up to position 2 that it held: they were changed, or another file"):
                read()
        _replaced(path, tmp_path / "old.db")
        assert store.get("one") == memory
    with EventStore(path) as store:
        assert texts(store) == ["text 0", "text 1"]


def test_an_older_copy_in_the_files_place_is_refused(path: Path, tmp_path: Path) -> None:
    """What was read from the newer one may have been acted on."""
    shutil.copy(path, tmp_path / "old.db")
    with writing(path) as other:
        other.add("text 1", vector=vector())
    with EventStore(path) as store:
        assert store.position == 2
        _replaced(path, tmp_path / "old.db")
        with pytest.raises(StorageError, match="an older copy"):
            store.count()


def test_it_closes(path: Path) -> None:
    """With connections of both kinds behind it."""
    store = EventStore(path)
    with writing(path) as other:
        other.add("more", vector=vector())
        assert store.position == 2
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.head  # noqa: B018


def test_brief_reads_look_whether_a_writer_has_come_along(path: Path) -> None:
    """The connection that a store was opened with knows nothing of it; each read by another asks."""
    with EventStore(path) as store:
        assert store.read_only
        assert store._connections.fetch("SELECT max(seq) FROM events", brief=True) == [(1,)]
        with writing(path) as other:
            other.add("text 1", vector=vector())
        assert store._connections.fetch("SELECT max(seq) FROM events", brief=True) == [(2,)]
