"""Recover: a new database file that is the history up to an instant."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import (
    Add,
    AsofError,
    CorruptHistory,
    EventStore,
    Head,
    InvalidInstant,
    InvalidOperation,
    Operation,
    StorageError,
)
from eventstore.hashing import GENESIS
from replay import recover, verify
from tests.profiles import scaled
from tests.replay_support import folded_to, histories, tamper, told

MODULE = import_module("replay.recover")  # the package's attribute of that name is the function
NEW_FILE = import_module("replay.newfile")


def small(path: str | Path = ":memory:") -> EventStore:
    """A store of five events."""
    return told([[Add(memory_id=each, content=each, vector=[1, 2])] for each in "abcde"], path)


@given(histories(most=4), st.data())
@settings(max_examples=scaled(25))
def test_a_recovered_history_is_the_beginning_of_the_other(
    tmp_path_factory: pytest.TempPathFactory, appends: list[list[Operation]], data: st.DataObject
) -> None:
    """The same events, hashes and head; it verifies, and can be added to."""
    to = tmp_path_factory.mktemp("recover") / "b.db"
    with told(appends) as store:
        position = data.draw(st.integers(0, store.position))
        head = recover(store, position, to)
        assert head == store.head_at(position)
        with EventStore(to) as copy:
            assert copy.head == head
            assert copy.dimension == (store.dimension if position else None)
            assert list(copy.events()) == list(store.events(upto=position))
            assert folded_to(copy, position) == folded_to(store, position)
            copy.add("more", vector=[1, 2])
            assert copy.position == position + 1
            assert verify(copy, against=[head]).faults == []


def test_an_instant_is_resolved_by_the_store(tmp_path: Path) -> None:
    """The events recorded no later than it."""
    with small() as store:
        third = list(store.events())[2]
        assert recover(store, third.recorded_at, tmp_path / "b.db").position == 3
        with pytest.raises(InvalidInstant):
            recover(store, 6, tmp_path / "c.db")


def test_the_file_is_like_any_other(tmp_path: Path) -> None:
    """In its header too: page size, write-ahead logging, application id."""
    with small(tmp_path / "a.db") as store:
        recover(store, None, tmp_path / "b.db")
    a, b = ((tmp_path / name).read_bytes() for name in ("a.db", "b.db"))
    assert a[:24] == b[:24]
    assert a[40:92] == b[40:92]


def test_the_embedder_is_carried_over(tmp_path: Path) -> None:
    """So that opening with another one is refused as before."""
    with EventStore(embedder=Embedder()) as store:
        store.add("tea")
        recover(store, None, tmp_path / "b.db")
    with EventStore(tmp_path / "b.db") as copy:
        assert (copy.embedder_name, copy.dimension) == ("test:two", 2)


class Embedder:
    """Gives every text the same vector."""

    name = "test:two"

    def __call__(self, texts: list[str]) -> list[list[float]]:
        """One row a text."""
        return [[1.0, 2.0] for _ in texts]


def test_position_0_gives_an_empty_store(tmp_path: Path) -> None:
    """Which takes vectors of any dimension."""
    with small() as store:
        assert recover(store, 0, tmp_path / "b.db") == Head(0, None, GENESIS.hex())
    with EventStore(tmp_path / "b.db") as copy:
        assert copy.add("x", vector=[1, 2, 3]).position == 1


def test_a_store_that_can_only_be_read_is_recovered_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is another file."""
    small(tmp_path / "a.db").close()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    with EventStore(tmp_path / "a.db") as store:
        assert store.read_only
        assert recover(store, 3, tmp_path / "b.db").position == 3


def test_many_pages_are_copied(tmp_path: Path) -> None:
    """Beyond one page of rows, with vectors large enough that a page holds few."""
    with EventStore() as store:
        store.add_many([f"text {number}" for number in range(2500)], vectors=[[1.0] * 600] * 2500)
        head = recover(store, 2345, tmp_path / "b.db")
    with EventStore(tmp_path / "b.db") as copy:
        assert copy.head == head
        assert copy.count() == 2345


def test_progress_runs_to_its_end(tmp_path: Path) -> None:
    """Events copied, then checked."""
    seen: list[tuple[int, int]] = []
    with EventStore() as store:
        store.add_many(["x"] * 2500, vectors=[[1, 2]] * 2500)
        recover(store, None, tmp_path / "b.db", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (5000, 5000)
    assert {total for _, total in seen} == {5000}


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_who_may_not_read_the_history_may_not_read_the_copy(tmp_path: Path, mode: int) -> None:
    """The permissions are those of the original."""
    with small(tmp_path / "a.db") as store:
        os.chmod(tmp_path / "a.db", mode)
        recover(store, None, tmp_path / "b.db")
    assert stat.S_IMODE(os.stat(tmp_path / "b.db").st_mode) == mode


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_nothing_is_overwritten(tmp_path: Path, suffix: str) -> None:
    """Nor is a log left by another database adopted."""
    there = tmp_path / f"b.db{suffix}"
    there.write_bytes(b"precious")
    with small() as store, pytest.raises(InvalidOperation, match=f"b.db{suffix} exists already"):
        recover(store, None, tmp_path / "b.db")
    assert os.listdir(tmp_path) == [there.name]
    assert there.read_bytes() == b"precious"


def test_a_dangling_link_is_something_too(tmp_path: Path) -> None:
    """The file is not made where somebody's link points."""
    (tmp_path / "b.db").symlink_to(tmp_path / "elsewhere")
    with small() as store, pytest.raises(InvalidOperation, match="exists already"):
        recover(store, None, tmp_path / "b.db")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_file_made_meanwhile_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """On a file system without links too."""
    to = tmp_path / "b.db"
    if not links:
        monkeypatch.setattr(os, "link", fail(OSError(1, "not permitted")))
    with small() as store, pytest.raises(InvalidOperation, match="exists already"):
        recover(store, None, to, progress=lambda done, total: to.write_bytes(b"precious"))
    assert os.listdir(tmp_path) == ["b.db"]
    assert to.read_bytes() == b"precious"


def test_a_file_system_without_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is renamed then."""
    monkeypatch.setattr(os, "link", fail(OSError(1, "not permitted")))
    with small() as store:
        head = recover(store, None, tmp_path / "b.db")
    assert os.listdir(tmp_path) == ["b.db"]
    assert verify(tmp_path / "b.db", against=[head]).ok


@pytest.mark.parametrize(
    ("to", "error"),
    [(":memory:", InvalidOperation), ("", InvalidOperation), ("missing/b.db", StorageError), (".", InvalidOperation)],
)
def test_a_path_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, error: type[AsofError]
) -> None:
    """With one error, and nothing written."""
    monkeypatch.chdir(tmp_path)
    with small() as store, pytest.raises(error):
        recover(store, None, to)
    assert os.listdir(tmp_path) == []


# -- what goes wrong ----------------------------------------------------------------------------------------


def fail(error: BaseException, calls: int = 0) -> Callable[..., Any]:
    """A function that raises from the call after `calls` on."""
    count = iter(range(calls + 1))

    def function(*args: Any, **kwargs: Any) -> None:
        if next(count, calls) >= calls:
            raise error

    return function


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize(
    "where",
    ["new_part", "_copy", "insert_rows", "verify", "sync_file", "_publish", "sync_directory", "apply_migrations"],
)
def test_what_stops_it_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    """Ctrl-C or an error at any stage: no file by the final name, no other either, and the store as it was."""
    monkeypatch.setattr(MODULE if hasattr(MODULE, where) else NEW_FILE, where, fail(error))
    with small() as store:
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else StorageError):
            recover(store, None, tmp_path / "b.db")
        assert os.listdir(tmp_path) == []
        assert store.position == 5


@pytest.mark.parametrize("call", range(6))
def test_ctrl_c_between_pages_leaves_nothing(tmp_path: Path, call: int) -> None:
    """While rows are copied, and while they are checked."""
    with EventStore() as store:
        store.add_many(["x"] * 2500, vectors=[[1, 2]] * 2500)
        with pytest.raises(KeyboardInterrupt):
            recover(store, None, tmp_path / "b.db", progress=fail(KeyboardInterrupt(), call))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE payloads SET content = 'x' WHERE seq = 2",
        "UPDATE events SET reason = 'x' WHERE seq = 2",
        "DELETE FROM payloads WHERE seq = 2",
    ],
)
def test_a_damaged_history_is_not_copied(tmp_path: Path, statement: str) -> None:
    """What is recovered is sound, or an error says that the original is not. What lies before the damage can be."""
    small(tmp_path / "a.db").close()
    tamper(tmp_path / "a.db", statement)
    with EventStore(tmp_path / "a.db") as store:
        with pytest.raises(CorruptHistory, match="replay verify"):
            recover(store, None, tmp_path / "b.db")
        assert not any(name.startswith(("b.db", ".b.db")) for name in os.listdir(tmp_path))
        assert recover(store, 1, tmp_path / "b.db").position == 1


def test_a_lost_event_is_not_passed_over(tmp_path: Path) -> None:
    """A gap is damage, though the rows on both sides are sound."""
    small(tmp_path / "a.db").close()
    tamper(tmp_path / "a.db", "DELETE FROM events WHERE seq = 2", "DELETE FROM payloads WHERE seq = 2")
    with EventStore(tmp_path / "a.db") as store, pytest.raises(CorruptHistory, match=r"a\.db lacks events"):
        recover(store, None, tmp_path / "b.db")
    assert not any(name.startswith(("b.db", ".b.db")) for name in os.listdir(tmp_path))
