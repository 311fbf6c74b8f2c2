"""Verify on files that are damaged, cut off, or something else: whatever can be read is checked, nothing is raised."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import Add, AsofError, EventStore, NotAStore, StorageError, StoreBusy
from eventstore.schema import PAGE_SIZE
from replay import Report, verify
from replay.report import Ranges
from tests.profiles import scaled
from tests.replay_support import Sound, large_history, sound, tamper, told


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """A history of 600 events on some thirty pages."""
    return large_history(tmp_path_factory.mktemp("large") / "a.db")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """A history of six events, with something in every column."""
    path = tmp_path_factory.mktemp("tiny") / "a.db"
    with EventStore(path) as store:
        store.add("Alice likes tea", vector=[1, 2], memory_id="a", metadata={"k": 1}, actor_id="ann", role="user")
        store.add("Bob likes coffee", vector=[3, 4], memory_id="b", occurred_at="2020-01-01T00:00:00Z")
        store.update("a", "Alice likes coffee", vector=[5, 6], reason="she said so", correlation_id="chat")
        store.update("b", metadata={"z": [1, None, "x"]})
        store.delete("a")
        store.add("Alice again", vector=[0, 1], memory_id="a")
        return sound(store, path)


def written(path: Path, content: bytes) -> Path:
    """A file of these bytes."""
    path.write_bytes(content)
    return path


def kinds(report: Report) -> set[str]:
    """Which kinds of fault there are."""
    return {fault.kind for fault in report.faults}


# -- bytes --------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(0, 7))
@settings(max_examples=scaled(300))
def test_a_flipped_bit_is_found_or_means_nothing(
    tmp_path_factory: pytest.TempPathFactory, tiny: Sound, seed: int, bit: int
) -> None:
    """Any bit of the file, those of what is in use above all: verify reports it, or all events read as before."""
    content, events = tiny.content, tiny.events
    used = [at for at, byte in enumerate(content) if byte]
    at = random.Random(seed).choice(used if seed % 8 else range(len(content)))
    flipped = bytearray(content)
    flipped[at] ^= 1 << bit
    path = written(tmp_path_factory.mktemp("flip") / "a.db", bytes(flipped))
    report = verify(path)
    assert os.listdir(path.parent) == ["a.db"]
    if report.ok:
        with EventStore(path) as store:
            assert list(store.events()) == events
            assert store.dimension == 2


@pytest.mark.slow
def test_every_byte_that_is_in_use_is_flipped(tmp_path: Path, tiny: Sound) -> None:
    """One after the other: one bit or another, those that change the case or end a text, and all of them."""
    content, events = tiny.content, tiny.events
    for at in (at for at, byte in enumerate(content) if byte):
        for mask in (1 << at % 8, 32, 128, 255):
            flipped = bytearray(content)
            flipped[at] ^= mask
            if verify(written(tmp_path / "a.db", bytes(flipped))).ok:
                with EventStore(tmp_path / "a.db") as store:
                    assert list(store.events()) == events, at


def test_a_file_is_cut_at_any_length(tmp_path: Path, large: Sound) -> None:
    """It says so, and checks what is left."""
    content, head = large.content, large.head
    lengths = {0, 1, 15, 16, 99, 100, 101, 512, 4096, len(content) - 1}
    lengths |= {page + more for page in range(0, len(content), PAGE_SIZE) for more in (0, 1)}
    checked = []
    for length in sorted(each for each in lengths if each < len(content)):
        report = verify(written(tmp_path / "a.db", content[:length]), against=[head])
        assert "file" in kinds(report)
        assert report.events <= 600
        checked.append(report.checked)
    assert checked[0] == 0
    assert checked[-1] > 500
    assert 0 < checked[len(checked) * 2 // 3] < 600


def test_what_was_added_to_the_end_is_found(tmp_path: Path, large: Sound) -> None:
    """Whole pages or not."""
    for more in (1, PAGE_SIZE):
        report = verify(written(tmp_path / "a.db", large.content + bytes(more)))
        assert not report.ok
        assert report.checked == 600


def test_a_page_that_is_lost_takes_its_own_rows_only(tmp_path: Path, large: Sound) -> None:
    """Each page in turn overwritten: reported, its rows named as unreadable, all the others checked."""
    content = large.content
    noise = random.Random(1).randbytes(PAGE_SIZE)
    leaves = 0
    for start in range(0, len(content), PAGE_SIZE):
        broken = content[:start] + noise + content[start + PAGE_SIZE :]
        report = verify(written(tmp_path / "a.db", broken))
        assert not report.ok, start
        unreadable = Ranges()
        for fault in report.faults:
            if fault.kind == "unreadable" and fault.position is not None:
                unreadable.add(fault.position, fault.last or fault.position)
        lost = sum(last - first + 1 for first, last in unreadable)
        if start:
            assert report.checked + lost == 600
            assert kinds(report) <= {"sqlite", "unreadable", "schema", "settings"}
        leaves += 0 < lost < 600
    assert leaves > 10


def test_damage_in_several_places_is_reported_in_each(tmp_path: Path, large: Sound) -> None:
    """Two pages lost and a byte changed in a third."""
    content = large.content
    with closing(sqlite3.connect(written(tmp_path / "b.db", content))) as connection:
        pages = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = 'payloads' AND pagetype = 'leaf' ORDER BY path"
        ).fetchall()
    first, second, third = (pages[place][0] - 1 for place in (1, 3, 5))
    broken = bytearray(content)
    for page in (first, second):
        broken[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = bytes(PAGE_SIZE)
    at = content.index(b"text text", third * PAGE_SIZE)
    broken[at] ^= 1
    report = verify(written(tmp_path / "a.db", bytes(broken)))
    ranges = [(fault.position, fault.last) for fault in report.faults if fault.kind == "unreadable"]
    assert len(ranges) == 2
    assert sum(fault.kind == "digest" for fault in report.faults) == 1
    assert report.events == 600
    assert 0 < report.payloads < 600


def test_text_that_is_no_text_is_found(tmp_path: Path, tiny: Sound) -> None:
    """A byte that UTF-8 cannot have: that row is unreadable, the others are checked."""
    content = tiny.content.replace(b"Alice likes tea", b"Alice l\xffkes tea")
    report = verify(written(tmp_path / "a.db", content))
    assert [(fault.kind, fault.position) for fault in report.faults] == [("unreadable", 1)]
    assert report.checked == 5
    assert report.faults[0].message.isprintable()


# -- what is still good ---------------------------------------------------------------------------------------


def test_the_events_that_are_still_good_are_named(tmp_path: Path, large: Sound) -> None:
    """In runs: not those that are lost, changed, without their payload, nor the one whose hash cannot be computed."""
    path = written(tmp_path / "a.db", large.content)
    assert verify(path).good == [(1, 600)]
    tamper(
        path,
        "DELETE FROM events WHERE seq BETWEEN 100 AND 109",
        "UPDATE payloads SET content = 'x' WHERE seq = 200",
        "UPDATE events SET reason = 'x' WHERE seq = 300",
        "DELETE FROM payloads WHERE seq IN (1, 400, 401)",
    )
    report = verify(path)
    assert report.good == [(2, 99), (111, 199), (201, 299), (301, 399), (402, 600)]
    assert report.checked == 587


@pytest.mark.parametrize("start", [0, 16, 100], ids=["the first page", "the header", "the schema"])
def test_a_file_that_sqlite_does_not_read_is_checked_page_by_page(tmp_path: Path, large: Sound, start: int) -> None:
    """The rows are in their own pages: all of them are good, heads are found, and what is wrong with a row is too."""
    end = {0: PAGE_SIZE, 16: 100, 100: PAGE_SIZE}[start]
    content = large.content[:start] + b"\xa5" * (end - start) + large.content[end:]
    path = written(tmp_path / "a.db", content)
    report = verify(path, against=[large.head, (300, large.events[299].hash)])
    assert (report.events, report.checked, report.head, report.good) == (600, 600, large.head, [(1, 600)])
    assert kinds(report) <= {"file", "schema", "settings", "sqlite", "unreadable"}
    assert any("read out of the pages" in fault.message for fault in report.faults)
    assert os.listdir(tmp_path) == ["a.db"]

    at = content.index(b"text text", PAGE_SIZE * 20)
    written(path, content[:at] + b"T" + content[at + 1 :])
    report = verify(path, against=[(300, "0" * 64)])
    (changed,) = [fault.position for fault in report.faults if fault.kind == "digest"]
    assert changed is not None
    assert report.good == [(1, changed - 1), (changed + 1, 600)]
    assert "against" in kinds(report)


def test_pages_that_are_lost_besides_are_named(tmp_path: Path, large: Sound) -> None:
    """The first page and one of the events: those are missing, and the counter says how many there were."""
    with closing(sqlite3.connect(written(tmp_path / "b.db", large.content))) as connection:
        sql = "SELECT pgoffset FROM dbstat WHERE name = 'events' AND pagetype = 'leaf' ORDER BY path"
        leaves = [offset for (offset,) in connection.execute(sql)]
    for leaf in (leaves[1], leaves[-1]):
        content = (
            bytes(PAGE_SIZE) + large.content[PAGE_SIZE:leaf] + bytes(PAGE_SIZE) + large.content[leaf + PAGE_SIZE :]
        )
        report = verify(written(tmp_path / "a.db", content))
        (missing,) = [fault for fault in report.faults if fault.kind == "position" and "missing" in fault.message]
        assert missing.position is not None
        assert missing.last is not None
        assert report.events == 600 - (missing.last - missing.position + 1)
        assert report.good[0] == (1, missing.position - 1)
        if leaf != leaves[-1]:
            assert report.good[1:] == [(missing.last + 2, 600)]


def test_a_file_that_is_open_here_is_not_read_as_bytes(tmp_path: Path, tiny: Sound) -> None:
    """That would cost its store the locks: what SQLite says is all that is reported."""
    path = written(tmp_path / "a.db", bytes(PAGE_SIZE) + tiny.content[PAGE_SIZE:])
    with path.open("rb"):
        assert (verify(path).events, kinds(verify(path))) == (0, {"file"})
    assert verify(path).events == 6


# -- other files --------------------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_reported(tmp_path: Path) -> None:
    """Text, noise, nothing."""
    for content in (b"hello\n" * 1000, random.Random(2).randbytes(50_000), b"SQLite format 3\0"):
        report = verify(written(tmp_path / "a.db", content))
        assert (kinds(report), report.events, report.head) == ({"file"}, 0, None)
    assert "is empty" in verify(written(tmp_path / "a.db", b"")).faults[0].message


def test_another_applications_database_is_reported(tmp_path: Path) -> None:
    """By its application id, and by what is not in it."""
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("CREATE TABLE notes (x)")
    report = verify(tmp_path / "a.db")
    assert {"file", "schema"} <= kinds(report)
    assert report.events == 0


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    """That is a mistake in the path, not damage."""
    with pytest.raises(NotAStore, match="directory"):
        verify(tmp_path)
    with pytest.raises(StorageError, match="does not exist"):
        verify(tmp_path / "missing.db")
    assert os.listdir(tmp_path) == []
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotAStore, match="regular file"):
        verify(tmp_path / "pipe")


def test_a_file_without_permission_is_an_error(tmp_path: Path, tiny: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be said whether it is damaged."""
    written(tmp_path / "a.db", tiny.content)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StorageError, match="permission"):
        verify(tmp_path / "a.db")


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE VIEW {} AS WITH RECURSIVE n(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM n) SELECT seq FROM n",
        "CREATE TABLE {} (seq INTEGER PRIMARY KEY, x AS (zeroblob(900000000)))",
        "CREATE VIRTUAL TABLE {} USING rtree(seq, salt, content, metadata, embedding)",
    ],
)
@pytest.mark.parametrize("table", ["events", "payloads"])
def test_what_is_written_in_a_hostile_file_is_not_run(tmp_path: Path, tiny: Sound, table: str, sql: str) -> None:
    """A view without end, columns that are computed, a virtual table in place of a table: not read."""
    path = written(tmp_path / "a.db", tiny.content)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type IN ('trigger', 'view')"
        ).fetchall():
            connection.execute(f"DROP {'VIEW' if name == 'history' else 'TRIGGER'} {name}")
        connection.execute(f"DROP TABLE {table}")
        connection.execute(sql.format(table))
    report = verify(path)
    assert {"schema", "unreadable"} <= kinds(report)
    assert report.checked == 0
    assert report.payloads == 0


# -- other processes ----------------------------------------------------------------------------------------


def test_a_log_left_by_a_crash_is_read(tmp_path: Path) -> None:
    """What a process that died had committed is part of the history, and the log stays as it is."""
    with told([[Add(memory_id=each, content=each, vector=[1, 2])] for each in "abc"], tmp_path / "a.db") as store:
        head = store.head
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"a.db{suffix}", tmp_path / f"b.db{suffix}")
    log = (tmp_path / "b.db-wal").read_bytes()
    report = verify(tmp_path / "b.db")
    assert (report.faults, report.head) == ([], head)
    assert (tmp_path / "b.db-wal").read_bytes() == log


def test_a_lock_held_too_long_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not damage."""
    with told([[Add(memory_id="a", content="a", vector=[1, 2])]], tmp_path / "a.db"):
        pass
    monkeypatch.setattr("replay.damaged._TIMEOUT", 0.1)
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("INSERT INTO settings VALUES ('x', 'y')")
        (tmp_path / "a.db-shm").touch()
        with pytest.raises(StoreBusy):
            verify(tmp_path / "a.db")


def test_verifying_does_not_cost_the_process_its_locks(tmp_path: Path) -> None:
    """Closing a file drops every lock of the process on it, and then another process may delete its log.

    POSIX says so; https://sqlite.org/howtocorrupt.html, 2.2. The last append was acknowledged: it must be there.
    """
    path = tmp_path / "a.db"
    script = "import sys; from eventstore import EventStore; s = EventStore(sys.argv[1]); s.count(); s.close()"

    def elsewhere() -> None:
        subprocess.run([sys.executable, "-c", script, str(path)], check=True, cwd=Path(__file__).parent.parent)

    store = EventStore(path)
    store.add("one", vector=[1, 2])
    assert verify(path).ok
    assert verify(store).ok
    elsewhere()
    store.add("two", vector=[1, 2])
    shutil.copy(path, tmp_path / "b.db")
    shutil.copy(f"{path}-wal", tmp_path / "b.db-wal")
    store.close()
    report = verify(tmp_path / "b.db")
    assert (report.faults, report.events) == ([], 2)


def test_ranges_that_touch_are_one() -> None:
    """And can be asked for any position."""
    ranges = Ranges()
    for first, last in ((1, 3), (4, 4), (6, 9), (8, 12)):
        ranges.add(first, last)
    assert list(ranges) == [(1, 4), (6, 12)]
    assert [position for position in range(15) if position in ranges] == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]


@given(st.sets(st.integers(1, 30)), st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9)), max_size=6))
def test_ranges_without_others_are_what_is_left(there: set[int], taken: list[tuple[int, int]]) -> None:
    """As sets of positions would say it."""
    ranges = Ranges()
    for position in sorted(there):
        ranges.add(position, position)
    gone = {position for first, more in taken for position in range(first, first + more + 1)}
    holes = Ranges()
    for position in sorted(gone):
        holes.add(position, position)
    left = ranges.without(holes)
    expected = there - gone
    assert {position for first, last in left for position in range(first, last + 1)} == expected
    assert all(first <= last for first, last in left)


def test_damage_is_never_raised_by_the_store_as_anything_else(tmp_path: Path, tiny: Sound) -> None:
    """What verify calls unreadable the store refuses with an error of its own."""
    content = tiny.content.replace(b"Alice likes tea", b"Alice l\xffkes tea")
    with EventStore(written(tmp_path / "a.db", content)) as store, pytest.raises(AsofError):
        list(store.events())
