"""The write-ahead log is folded into the file by the store itself, and a disk that fails at that is not unnoticed."""

from __future__ import annotations

import errno
import itertools
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from eventstore import EventStore, StorageError
from eventstore.connections import Durability
from eventstore.write_ahead import WriteAheadLog
from replay import verify
from tests.store_support import vector

LIMIT = 20 * 16384
DURABILITIES: list[Durability] = ["full", "normal"]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def small_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is long at twenty pages."""
    monkeypatch.setattr("eventstore.connections.LOG_LIMIT", LIMIT)


def add(store: EventStore, times: int = 1) -> None:
    """Single appends, each of a few pages."""
    for _ in range(times):
        store.add("text", vector=vector())


def folds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the position at each fold."""
    seen: list[int] = []
    really = WriteAheadLog.fold

    def fold(self: WriteAheadLog, connection: sqlite3.Connection) -> None:
        seen.append(connection.execute("SELECT max(seq) FROM events").fetchone()[0] or 0)
        really(self, connection)

    monkeypatch.setattr(WriteAheadLog, "fold", fold)
    return seen


def failing(message: str) -> Callable[..., Any]:
    """A fold that fails as SQLite does."""

    def fold(*arguments: Any) -> None:
        raise sqlite3.OperationalError(message)

    return fold


def wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def failed(path: Path) -> Path:
    return path.with_name(f"{path.name}-failed")


@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_log_that_is_long_is_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability) -> None:
    """Not at each append, but each time that it has grown past the limit; its file stays about that long."""
    seen = folds(monkeypatch)
    with EventStore(tmp_path / "a.db", durability=durability) as store:
        add(store, 60)
        assert 3 <= len(seen) <= 20
        assert max(after - before for before, after in itertools.pairwise(seen)) > 2
        assert LIMIT < wal(tmp_path / "a.db").stat().st_size < 2 * LIMIT
        assert store.count() == 60
    assert os.listdir(tmp_path) == ["a.db"]
    assert verify(tmp_path / "a.db").ok


def test_what_another_process_wrote_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is one for all who write."""
    seen = folds(monkeypatch)
    with EventStore(tmp_path / "a.db") as store:
        with mock.patch("eventstore.connections.LOG_LIMIT", 2**30):
            with EventStore(tmp_path / "a.db") as other:
                add(other, 20)
                assert seen == []
                with mock.patch("eventstore.connections.LOG_LIMIT", LIMIT):
                    add(store)
                assert seen == [21]


def test_a_reader_is_not_waited_for(tmp_path: Path) -> None:
    """One that looks at an old state keeps the log from being begun anew, and nobody from appending."""
    with EventStore(tmp_path / "a.db", timeout=0.5) as store:
        add(store)
        with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
            add(store, 30)
            assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
            assert wal(tmp_path / "a.db").stat().st_size > 3 * LIMIT
            reader.execute("COMMIT")
        add(store, 30)
        assert store.count() == 61


@pytest.mark.parametrize("durability", DURABILITIES)
def test_an_io_error_while_folding_ends_writing_not_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    """The append before it is acknowledged and there; the next is refused; the next process writes the log again."""
    path = tmp_path / "a.db"
    with EventStore(path, durability=durability) as store:
        with monkeypatch.context() as patch:
            patch.setattr(WriteAheadLog, "fold", failing("disk I/O error"))
            with pytest.raises(StorageError, match=r"no more writes after a failed one.*open the store again"):
                add(store, 30)
        count = store.count()
        assert 0 < count < 30
        assert failed(path).exists()
        with pytest.raises(StorageError, match="open the store again"):
            add(store)
        before = path.stat().st_size
    # Nor is it folded by SQLite when it is closed.
    assert wal(path).stat().st_size > LIMIT
    assert path.stat().st_size == before
    with EventStore(path) as store:
        assert not failed(path).exists()
        assert store.count() == count
        add(store)
    assert verify(path).events == count + 1


def test_a_log_that_cannot_be_read_ends_writing_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long it is is not known then."""
    with EventStore(tmp_path / "a.db") as store:
        with monkeypatch.context() as patch:
            patch.setattr(WriteAheadLog, "is_past", mock.Mock(side_effect=OSError(errno.EIO, "Input/output error")))
            add(store)
        with pytest.raises(StorageError, match="Input/output error"):
            add(store)
        assert store.count() == 1


def test_no_space_in_the_file_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log holds what the file has no room for."""
    with EventStore(tmp_path / "a.db") as store:
        with monkeypatch.context() as patch:
            patch.setattr(WriteAheadLog, "fold", failing("database or disk is full"))
            add(store, 20)
        seen = folds(monkeypatch)
        add(store)
        assert seen == [21]
        assert not failed(tmp_path / "a.db").exists()


def test_an_io_error_while_closing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite would say nothing. The store is closed all the same, and what was acknowledged is in the log."""
    path = tmp_path / "a.db"
    store = EventStore(path, durability="normal")
    add(store, 2)
    with monkeypatch.context() as patch:
        patch.setattr(WriteAheadLog, "fold", failing("disk I/O error"))
        with pytest.raises(StorageError, match=r"I/O error while closing .*a\.db-wal.*open the store again"):
            store.close()
        assert store.closed
        store.close()
    assert wal(path).exists()
    assert failed(path).exists()
    with EventStore(path) as store:
        assert store.count() == 2
    assert os.listdir(tmp_path) == ["a.db"]


def test_a_process_that_goes_on_hears_of_anothers_failure(tmp_path: Path) -> None:
    """It writes the log again before it appends: what it acknowledges would stand behind a hole otherwise."""
    path = tmp_path / "a.db"
    with EventStore(path) as store:
        add(store)
        failed(path).touch()  # as the other does
        with mock.patch("os.fsync", side_effect=OSError(errno.EIO, "Input/output error")):
            with pytest.raises(StorageError, match="cannot be written again"):
                add(store)
        assert failed(path).exists()
        add(store)
        assert not failed(path).exists()
        assert store.count() == 2


KILLED = """
import os, signal, sys
from eventstore import EventStore
store = EventStore(sys.argv[1], durability="normal")
store.add("one", vector=[1, 2, 3])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_what_a_killed_process_left_is_folded_by_the_next_to_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that one has only read."""
    path = tmp_path / "a.db"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert wal(path).stat().st_size > 0
    seen = folds(monkeypatch)
    with EventStore(path) as store:
        assert store.count() == 1
    assert seen == [1]
    assert os.listdir(tmp_path) == ["a.db"]
