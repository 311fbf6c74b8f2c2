"""Salvage of a file with its log, and of what is no history; what stops it, and what it never touches."""

from __future__ import annotations

import os
import random
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventstore import (
    CorruptHistory,
    EventStore,
    Head,
    InvalidOperation,
    NotAStore,
    StorageError,
)
from eventstore.schema import PAGE_SIZE
from replay import Gap, salvage
from tests.replay_support import Sound
from tests.salvage.support import (
    Logged,
    check,
    kinds,
    only_read,
    salvaged,
    tampered,
)

# -- the log beside the file --------------------------------------------------------------------------------


def test_what_is_in_the_log_comes_back(tmp_path: Path, logged: Logged) -> None:
    """And the log stays as it is, with nothing beside it."""
    content, log, events, _ = logged
    report, found = salvaged(tmp_path, content, log)
    assert (report.gaps, found) == ([], events)


def test_a_log_that_is_missing(tmp_path: Path, logged: Logged) -> None:
    """Nothing in the file says that there was one: what was folded into it comes back."""
    content, _, events, _ = logged
    report, found = salvaged(tmp_path, content)
    assert found == events[:10]
    assert report.ok


def test_a_log_that_is_cut(tmp_path: Path, logged: Logged) -> None:
    """At any length: whole appends only, as many as SQLite finds in it."""
    content, log, events, ends = logged
    lengths = random.Random(1).sample(range(len(log)), 10)
    for length in [0, 10, 32, 40, *lengths]:
        _, found = salvaged(tmp_path, content, log[:length])
        assert len(found) in ends
        assert found == events[: len(found)]
        (tmp_path / "c.db").write_bytes(content)
        (tmp_path / "c.db-wal").write_bytes(log[:length])
        with EventStore(tmp_path / "c.db") as store:
            assert store.position == len(found)
        for path in tmp_path.glob("c.db*"):
            path.unlink()


def test_a_damaged_frame_does_not_cost_those_after_it(tmp_path: Path, logged: Logged) -> None:
    """SQLite forgets the log from there on. Each later page holds what the damaged one held."""
    content, log, events, _ = logged
    for at in (5, 40, 32 + 24 + 5000, len(log) // 2):  # its header, a frame's header, pages
        broken = bytearray(log)
        broken[at] ^= 0x40
        report, found = salvaged(tmp_path, content, bytes(broken))
        check(report, found, Sound(content, events, Head(46, events[-1].recorded_at, events[-1].hash)))
        assert len(found) > 40


def test_a_log_over_a_damaged_file(tmp_path: Path, logged: Logged) -> None:
    """The log has newer images of most pages."""
    content, log, events, _ = logged
    report, found = salvaged(tmp_path, bytes(len(content)), log)
    check(report, found, Sound(content, events, Head(46, events[-1].recorded_at, events[-1].hash)))
    assert len(found) == 46


def test_an_append_that_was_not_committed_is_not_taken(tmp_path: Path, logged: Logged) -> None:
    """Without its last frame, which says so, an append is none: it was never acknowledged."""
    content, log, events, ends = logged
    frame = 24 + PAGE_SIZE
    report, found = salvaged(tmp_path, content, log[:-frame])
    assert found == events[: ends[-2]]
    assert report.ok
    report, _ = salvaged(tmp_path, content, log[:-5])
    assert kinds(report) == {"end"}


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"hello\n" * 1000, random.Random(2).randbytes(50_000), b"SQLite format 3\0" + bytes(2000), b"", b"x"]
)
def test_a_file_without_a_history_is_refused(tmp_path: Path, content: bytes) -> None:
    """And nothing is written."""
    (tmp_path / "a.db").write_bytes(content)
    with only_read(tmp_path), pytest.raises(CorruptHistory, match="nothing of a history"):
        salvage(tmp_path / "a.db", to=tmp_path / "new.db")
    assert os.listdir(tmp_path) == ["a.db"]


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    """That is a mistake in the path."""
    with pytest.raises(NotAStore, match="directory"):
        salvage(tmp_path, to=tmp_path / "new.db")
    with pytest.raises(StorageError, match="does not exist"):
        salvage(tmp_path / "none.db", to=tmp_path / "new.db")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_nothing_is_overwritten(tmp_path: Path, small: Sound, suffix: str) -> None:
    """Neither the new file's path, nor a log beside it, nor the damaged file itself."""
    (tmp_path / "a.db").write_bytes(small.content)
    (tmp_path / f"new.db{suffix}").write_bytes(b"precious")
    with only_read(tmp_path, new="none"), pytest.raises(InvalidOperation, match="exists already"):
        salvage(tmp_path / "a.db", to=tmp_path / "new.db")
    with only_read(tmp_path, new="none"), pytest.raises(InvalidOperation, match="exists already"):
        salvage(tmp_path / "a.db", to=tmp_path / "a.db")


def test_a_file_that_is_open_here_is_refused(tmp_path: Path) -> None:
    """Reading it beside its store would take the store's locks away: POSIX drops them when any reader closes it."""
    with EventStore(tmp_path / "a.db") as store:
        store.add("tea", vector=[1, 2])
        with pytest.raises(InvalidOperation, match="close its store first"):
            salvage(tmp_path / "a.db", to=tmp_path / "new.db")
    assert salvage(tmp_path / "a.db", to=tmp_path / "new.db").ok


def test_a_file_that_is_written_to_meanwhile_is_refused(tmp_path: Path, small: Sound) -> None:
    """What was read is of no one moment."""
    (tmp_path / "a.db").write_bytes(small.content)

    def write(done: int, total: int) -> None:
        (tmp_path / "a.db").write_bytes(small.content)
        os.utime(tmp_path / "a.db", ns=(done, done))

    with pytest.raises(StorageError, match="stop whatever has it open"):
        salvage(tmp_path / "a.db", to=tmp_path / "new.db", progress=write)
    assert os.listdir(tmp_path) == ["a.db"]


def test_a_link_to_the_file_is_followed(tmp_path: Path, logged: Logged) -> None:
    """The log is beside the file itself."""
    content, log, events, _ = logged
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.db").write_bytes(content)
    (tmp_path / "real" / "a.db-wal").write_bytes(log)
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "a.db")
    with only_read(tmp_path / "real"):
        report = salvage(tmp_path / "link.db", to=tmp_path / "new.db")
    assert (report.events, report.gaps) == (len(events), [])


def test_progress_runs_to_its_end(tmp_path: Path, large: Sound) -> None:
    """Events gone through, then checked."""
    seen: list[tuple[int, int]] = []
    (tmp_path / "a.db").write_bytes(large.content)
    salvage(tmp_path / "a.db", to=tmp_path / "new.db", progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (1200, 1200)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("where", ["Evidence", "Rows", "NewHistory", "verify", "opened_pages"])
def test_what_stops_it_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Sound, where: str, error: BaseException
) -> None:
    """Ctrl-C or an error at any stage: no new file by any name, and the damaged one as it was."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    (tmp_path / "a.db").write_bytes(small.content)
    monkeypatch.setattr(import_module("replay.salvage"), where, fail)
    with only_read(tmp_path, new="none"):
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else StorageError):
            salvage(tmp_path / "a.db", to=tmp_path / "new.db")


def test_gaps_are_values(tmp_path: Path) -> None:
    """What is reported can be compared, and kept."""
    report, _, _ = tampered(tmp_path, "DELETE FROM payloads WHERE seq = 6")
    assert report.gaps == [Gap("payload", 6, "event 6: left out: its payload is lost or is not what was recorded")]
    assert not report.ok


def test_what_is_left_may_be_the_end_of_a_long_history(tmp_path: Path) -> None:
    """A log without its file, or the last pages of it: positions past what so few bytes could hold from 1 on."""
    path = tmp_path / "a.db"
    with EventStore(path, durability="normal") as store:
        for _ in range(20):
            store.add_many(["x"] * 1000, vectors=np.ones((1000, 2)))
    with EventStore(path) as store:
        for number in range(5):
            store.add(f"late {number}", vector=[1.0, 1.0], memory_id=f"late {number}")
        log = Path(f"{path}-wal").read_bytes()
    whole = path.read_bytes()
    for name, content, beside in (("log", b"", log), ("end", whole[-16 * 4096 :], b"")):
        (tmp_path / f"{name}.db").write_bytes(content)
        if beside:
            Path(f"{tmp_path / name}.db-wal").write_bytes(beside)
        report = salvage(tmp_path / f"{name}.db", to=tmp_path / f"{name}-new.db")
        assert not report.ok
        with EventStore(tmp_path / f"{name}-new.db") as found:
            assert [event.content for event in found.events(reverse=True, limit=5)] == [
                f"late {number}" for number in reversed(range(5))
            ]
