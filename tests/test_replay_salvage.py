"""Salvage: what can still be read of a damaged file becomes a sound history, and every gap is in the report."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import (
    Add,
    CorruptHistory,
    Delete,
    Event,
    EventStore,
    HashingEmbedder,
    Head,
    InvalidOperation,
    NotAStore,
    Operation,
    StorageError,
    Update,
)
from eventstore.events import EventRow
from eventstore.hashing import event_hash
from eventstore.schema import PAGE_SIZE
from projections import VectorIndex
from replay import Gap, MemoryGap, Moved, SalvageReport, salvage, verify
from tests.cli_support import files
from tests.profiles import scaled
from tests.replay_support import histories, tamper, told

KEPT = ("memory_id", "recorded_at", "occurred_at", "actor_id", "role", "reason", "correlation_id", "causation_id")
"""What an event keeps in any case, beside source, content and metadata."""


@dataclass(frozen=True)
class Sound:
    """A sound history: the bytes of its file, its events and its head."""

    content: bytes = field(repr=False)
    events: list[Event] = field(repr=False)
    head: Head

    def at(self, position: int) -> Event:
        """The event at a position."""
        return self.events[position - 1]


def sound(store: EventStore, path: Path) -> Sound:
    """Close a store and take what it held."""
    events, head = list(store.events()), store.head
    store.close()
    return Sound(path.read_bytes(), events, head)


def varied(path: Path, count: int = 60, dimension: int = 200) -> Sound:
    """Adds, updates of one thing and of all, deletes, and adds again, on a few memories; some rows are long."""
    drawn = random.Random(count)
    live: set[str] = set()
    with EventStore(path, embedder=HashingEmbedder(dimension)) as store:
        for number in range(count):
            memory_id, choice = f"memory {drawn.randrange(7)}", drawn.random()
            text, why = f"text {number} " * drawn.choice([1, 9, 90]), f"because of {number} " * 15
            vector = [drawn.random() for _ in range(dimension)]
            if memory_id not in live:
                store.add(text, memory_id=memory_id, vector=vector, reason=why, metadata={"n": number})
                live.add(memory_id)
            elif choice < 0.2:
                store.delete(memory_id, reason=why, actor_id="ann")
                live.remove(memory_id)
            elif choice < 0.6:
                store.update(memory_id, metadata={"n": number}, reason=why, correlation_id="chat")
            else:
                store.update(
                    memory_id, text, vector=vector, reason=why, role="user", occurred_at="2020-01-01T00:00:00Z"
                )
        return sound(store, path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """Sixty events on some fifteen pages, two of them of headers."""
    return varied(tmp_path_factory.mktemp("small") / "a.db")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """A history of 600 events of as many memories, on some thirty pages, in a tree of two levels."""
    path = tmp_path_factory.mktemp("large") / "a.db"
    with EventStore(path) as store:
        for start in range(0, 600, 50):
            ids = [f"{number:04d}" for number in range(start, start + 50)]
            store.add_many(["text " * 30] * 50, vectors=[[float(start), 2.0] * 16] * 50, memory_ids=ids)
        return sound(store, path)


@contextmanager
def only_read(folder: Path, new: str = "new.db") -> Iterator[None]:
    """The block must leave every file in the folder as it was, bytes and times, and add none but `new`."""

    def seen() -> dict[str, tuple[int, int]]:
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}

    before, stats = files(folder), seen()
    yield
    after, stats_after = files(folder), seen()
    after.pop(new, None)
    stats_after.pop(new, None)
    assert after == before
    assert stats_after == stats


def salvaged(folder: Path, content: bytes, log: bytes | None = None) -> tuple[SalvageReport, list[Event]]:
    """Write a damaged file, salvage it, and look at the new one: it is sound, and the old one is as it was."""
    for path in folder.glob("new.db*"):
        path.unlink()
    (folder / "damaged.db").write_bytes(content)
    if log is not None:
        (folder / "damaged.db-wal").write_bytes(log)
    with only_read(folder):
        report = salvage(folder / "damaged.db", to=folder / "new.db")
    found = verify(folder / "new.db")
    assert (found.faults, found.head) == ([], report.head)
    with EventStore(folder / "new.db") as store:
        events = list(store.events())
        assert (store.head, len(events)) == (report.head, report.events)
    return report, events


def kinds_at(report: SalvageReport) -> dict[int, set[str]]:
    """Position -> the kinds of gap that it is in."""
    kinds: dict[int, set[str]] = {}
    for gap in report.gaps:
        if gap.position is not None:
            for position in range(gap.position, (gap.last or gap.position) + 1):
                kinds.setdefault(position, set()).add(gap.kind)
    return kinds


def kinds(report: SalvageReport) -> set[str]:
    """The kinds of gap that there are."""
    return {gap.kind for gap in report.gaps}


def check(report: SalvageReport, events: Sequence[Event], original: Sound) -> None:
    """Every event of the new history is one of the original's, and each of those that is not there is reported."""
    there, said = {event.event_id: event for event in original.events}, kinds_at(report)
    order = [there[event.event_id].position for event in events]
    assert order == sorted(set(order))
    for event in events:
        before = there[event.event_id]
        gaps = said.get(before.position, set())
        assert gaps <= {"changed", "unproven"}
        if "unproven" not in gaps:
            for name in (*KEPT, "source", "content", "metadata"):
                assert getattr(event, name) == getattr(before, name), name
        if not gaps:
            assert (event.type, event.embedding) == (before.type, before.embedding)
            assert event.payload_digest == before.payload_digest
    for before in original.events:
        if before.position not in order:
            left_out = said.get(before.position, set()) & {"lost", "refused", "payload", "memory"}
            assert left_out or "end" in kinds(report), before.position
    assert list(events[: report.kept]) == original.events[: report.kept]
    check_moved(report, order)
    check_memories(report, original, order)
    if report.ok:
        assert (report.head, report.events, report.kept) == (original.head, len(original.events), len(original.events))


def check_moved(report: SalvageReport, order: Sequence[int]) -> None:
    """The report says where each event went that is not where it was."""
    moved = {run.first + at: run.to + at for run in report.moved for at in range(run.last - run.first + 1)}
    assert moved == {old: new for new, old in enumerate(order, 1) if old != new}


def check_memories(report: SalvageReport, original: Sound, order: Sequence[int]) -> None:
    """A memory whose last event is known to be lost is said to be outdated, unless that only ended nothing."""
    if kinds(report) & {"end", "unproven"}:
        return
    said = kinds_at(report)
    latest = {event.memory_id: event.position for event in original.events}
    nameless = {position for position, found in said.items() if found & {"lost", "refused"}}
    left_out = {name for name, last in latest.items() if last not in order and "memory" not in said[last]}
    outdated = {gap.memory_id for gap in report.memories if gap.outdated}
    assert outdated <= left_out
    assert {name for name in left_out if latest[name] not in nameless} <= outdated


# -- nothing is missing -------------------------------------------------------------------------------------


@given(histories(most=4))
@settings(max_examples=scaled(15))
def test_a_sound_history_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, appends: list[list[Operation]]
) -> None:
    """The same events, hashes and head, also of one in which there is nothing."""
    folder = tmp_path_factory.mktemp("sound")
    original = sound(told(appends, folder / "damaged.db"), folder / "damaged.db")
    report, events = salvaged(folder, original.content)
    assert (report.gaps, report.memories, report.moved) == ([], [], [])
    assert events == original.events
    assert report.head == original.head
    assert report.last == (original.head if original.events else None)


def test_the_settings_are_carried_over(tmp_path: Path, small: Sound) -> None:
    """Read by SQLite, or out of the page that holds them."""
    for content in (small.content, bytes(100) + small.content[100:]):
        salvaged(tmp_path, content)
        with EventStore(tmp_path / "new.db") as store:
            assert (store.embedder_name, store.dimension) == (HashingEmbedder(200).name, 200)


def test_the_new_file_goes_on_like_any_other(tmp_path: Path, small: Sound) -> None:
    """It takes events, and those may read it who might read the damaged one."""
    (tmp_path / "damaged.db").write_bytes(small.content)
    os.chmod(tmp_path / "damaged.db", 0o640)
    salvage(tmp_path / "damaged.db", to=tmp_path / "new.db")
    assert os.stat(tmp_path / "new.db").st_mode & 0o777 == 0o640
    with EventStore(tmp_path / "new.db") as store:
        assert store.add("more", vector=[1.0] * 200).position == 61


BROKEN_FIRST_PAGES: dict[str, Callable[[bytes], bytes]] = {
    "the file's magic": lambda content: b"x" * 16 + content[16:],
    "the page size": lambda content: content[:16] + b"\x33\x33" + content[18:],
    "another page size": lambda content: content[:16] + b"\x10\x00" + content[18:],
    "the header": lambda content: bytes(100) + content[100:],
    "the first page": lambda content: bytes(PAGE_SIZE) + content[PAGE_SIZE:],
    "noise in the first page": lambda content: random.Random(3).randbytes(PAGE_SIZE) + content[PAGE_SIZE:],
    "the schema": lambda content: content.replace(b"CREATE TABLE events", b"CREATE TABLE \xff\xfeents"),
    "the schema's root pages": lambda content: content[:100] + bytes(12) + content[112:],
    "the number of pages": lambda content: content[:28] + b"\0\0\0\2" + content[32:],
    "reserved bytes": lambda content: content[:20] + b"\x40" + content[21:],
}


@pytest.mark.parametrize("name", BROKEN_FIRST_PAGES)
def test_a_file_that_does_not_open_is_read(tmp_path: Path, small: Sound, large: Sound, name: str) -> None:
    """The rows are found in their pages, whatever became of the first one: nothing is missing."""
    for original in (small, large):
        report, events = salvaged(tmp_path, BROKEN_FIRST_PAGES[name](original.content))
        assert (report.gaps, events) == ([], original.events)


@pytest.mark.parametrize("page_size", [512, 1024, 4096, 65536])
def test_any_page_size_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page_size: int) -> None:
    """With the header that says it, and without."""
    monkeypatch.setattr("eventstore.connections.PAGE_SIZE", page_size)
    original = varied(tmp_path / "a.db", 25)
    assert int.from_bytes(original.content[16:18], "big") in (page_size, 1)
    for content in (original.content, bytes(100) + original.content[100:]):
        report, events = salvaged(tmp_path, content)
        assert (report.gaps, events) == ([], original.events)


@pytest.mark.parametrize("table", ["_sqlite_migrations", "settings"])
def test_a_table_that_is_gone(tmp_path: Path, small: Sound, table: str) -> None:
    """Without that of the schema's steps nothing is missing, without the settings the embedder's name."""
    (tmp_path / "damaged.db").write_bytes(small.content)
    tamper(tmp_path / "damaged.db", "PRAGMA secure_delete = ON", f"DROP TABLE {table}")
    report, events = salvaged(tmp_path, (tmp_path / "damaged.db").read_bytes())
    assert events == small.events
    assert kinds(report) == (set() if table == "_sqlite_migrations" else {"settings"})


def test_tables_that_were_dropped_are_found_in_free_pages(tmp_path: Path, small: Sound) -> None:
    """As long as nothing else was written there, and as long as they are proven."""
    (tmp_path / "damaged.db").write_bytes(small.content)
    with closing(sqlite3.connect(tmp_path / "damaged.db", isolation_level=None)) as connection:
        for statement in (
            "PRAGMA secure_delete = OFF",
            "DROP VIEW history",
            "DROP TABLE payloads",
            "DROP TABLE events",
        ):
            connection.execute(statement)
    report, events = salvaged(tmp_path, (tmp_path / "damaged.db").read_bytes())
    assert len(events) > 40
    check(report, events, small)


def pages_of(content: bytes, folder: Path, *names: str) -> list[int]:
    """Where in the file the pages of tables or indexes begin."""
    (folder / "pages.db").write_bytes(content)
    with closing(sqlite3.connect(folder / "pages.db")) as connection:
        marks = ",".join("?" * len(names))
        rows = connection.execute(f"SELECT pgoffset FROM dbstat WHERE name IN ({marks}) ORDER BY path", names)
        found = [offset for (offset,) in rows]
    (folder / "pages.db").unlink()
    return found


def zeroed(content: bytes, *starts: int, size: int = PAGE_SIZE) -> bytes:
    """The bytes with zeros in place of some pages."""
    for start in starts:
        content = content[:start] + bytes(size) + content[start + size :]
    return content


def test_damaged_indexes_cost_nothing(tmp_path: Path, large: Sound) -> None:
    """Every page of every index."""
    names = ("events_event_id", "events_memory", "events_recorded_at", "events_actor", "events_correlation")
    starts = pages_of(large.content, tmp_path, *names)
    assert len(starts) > 5
    report, events = salvaged(tmp_path, zeroed(large.content, *starts))
    assert (report.gaps, events) == ([], large.events)


# -- any damage ---------------------------------------------------------------------------------------------


def test_each_page_in_turn(tmp_path: Path, small: Sound, large: Sound) -> None:
    """Zeros or noise in its place: what was on other pages comes back."""
    noise = random.Random(1).randbytes(PAGE_SIZE)
    for original in (small, large):
        for number, start in enumerate(range(0, len(original.content), PAGE_SIZE)):
            broken = zeroed(original.content, start)
            if number % 2:
                broken = broken[:start] + noise + broken[start + PAGE_SIZE :]
            report, events = salvaged(tmp_path, broken)
            check(report, events, original)
            assert len(events) > (360 if original is large else 0)


def test_cut_at_any_length(tmp_path: Path, large: Sound) -> None:
    """What was cut off is lost, the rest comes back; where there is nothing at all, that is said."""
    content = large.content
    counts = []
    for length in [*range(2 * PAGE_SIZE, len(content), 5 * PAGE_SIZE), *range(140_000, len(content), 99_991)]:
        try:
            report, events = salvaged(tmp_path, content[:length])
        except CorruptHistory:
            counts.append(0)
            continue
        check(report, events, large)
        assert not report.ok
        counts.append(len(events))
    assert 0 in counts
    assert max(counts) > 500
    assert len(set(counts)) > 5


def damaged(content: bytes, kind: str, seed: int) -> bytes:
    """Some bits, sectors or pages changed, or the end cut off."""
    drawn = random.Random(seed)
    broken = bytearray(content)
    for _ in range(drawn.choice([1, 1, 1, 2, 5])):
        if kind == "bits":
            used = [at for at in (drawn.randrange(len(broken)) for _ in range(20)) if broken[at]]
            broken[used[0] if used else 0] ^= 1 << drawn.randrange(8)
        elif kind == "cut":
            del broken[drawn.randrange(len(broken) // 2, len(broken)) :]
        else:
            size = 512 if kind == "sectors" else PAGE_SIZE
            at = drawn.randrange(len(broken)) // size * size
            broken[at : at + size] = drawn.choice([bytes(size), drawn.randbytes(size)])
    return bytes(broken)


@given(st.sampled_from(["bits", "sectors", "pages", "cut"]), st.integers(0, 2**32))
@settings(max_examples=scaled(40))
def test_nothing_is_made_up_and_nothing_passed_over(
    tmp_path_factory: pytest.TempPathFactory, small: Sound, kind: str, seed: int
) -> None:
    """Whatever is damaged: what is in the new history is what was recorded, and the report has the rest."""
    try:
        report, events = salvaged(tmp_path_factory.mktemp("damage"), damaged(small.content, kind, seed))
    except CorruptHistory:
        assert kind in ("cut", "pages")
        return
    check(report, events, small)


@given(histories(most=5), st.sampled_from(["bits", "sectors"]), st.integers(0, 2**32))
@settings(max_examples=scaled(20))
def test_any_history_with_any_damage(
    tmp_path_factory: pytest.TempPathFactory, appends: list[list[Operation]], kind: str, seed: int
) -> None:
    """The same of histories drawn at random: memories come and go, vectors are kept or not."""
    folder = tmp_path_factory.mktemp("any")
    original = sound(told(appends, folder / "damaged.db"), folder / "damaged.db")
    try:
        report, events = salvaged(folder, damaged(original.content, kind, seed))
    except CorruptHistory:
        assert len(original.events) < 30  # they may all be in the one sector that was damaged
        return
    check(report, events, original)


@pytest.mark.slow
def test_every_sector_in_turn(tmp_path: Path, small: Sound) -> None:
    """512 bytes of zeros, everywhere."""
    for start in range(0, len(small.content), 512):
        report, events = salvaged(tmp_path, zeroed(small.content, start, size=512))
        check(report, events, small)


def test_a_page_without_its_header_still_has_its_rows(tmp_path: Path, large: Sound) -> None:
    """Its pointers too are zeros: the rows are known by what they look like, and proven by what comes after them."""
    for table in ("events", "payloads"):
        start = pages_of(large.content, tmp_path, table)[3]
        report, events = salvaged(tmp_path, zeroed(large.content, start, size=240))
        assert (report.gaps, events) == ([], large.events)


def test_rows_that_nothing_after_them_confirms_are_taken_unproven(tmp_path: Path, large: Sound) -> None:
    """A page lost its header and its last rows: those left follow from the event before, and that is all there is."""
    start = pages_of(large.content, tmp_path, "events")[3]
    report, events = salvaged(tmp_path, zeroed(large.content, start, size=640))
    check(report, events, large)
    (lost,) = [gap for gap in report.gaps if gap.kind == "lost"]
    assert lost.position is not None
    assert (lost.last or 0) - lost.position < 4
    assert {gap.kind for gap in report.gaps} == {"lost", "unproven"}
    assert "no later event confirms" in report.gaps[0].message


def test_one_page_of_events_is_one_gap(tmp_path: Path, large: Sound) -> None:
    """The report names the positions, the event that cannot be proven after them, and where the others are now."""
    start = pages_of(large.content, tmp_path, "events")[2]
    report, _ = salvaged(tmp_path, zeroed(large.content, start))
    first, last = report.kept + 1, 600 - (report.events - report.kept)
    assert 1 < first < last < 600
    assert report.moved == [Moved(last + 1, 600, first)]
    assert report.last == large.head
    positions = [(gap.kind, gap.position, gap.last) for gap in report.gaps]
    assert positions == [("lost", first, last), ("unproven", last + 1, None)]
    assert "the payload" in report.gaps[0].message
    assert f"event {last + 1}: taken" in report.gaps[1].message
    # The index of memories says whose the lost events were.
    assert report.memories == [
        MemoryGap(large.at(position).memory_id, 1, 1, position, None) for position in range(first, last + 1)
    ]
    assert all(gap.outdated for gap in report.memories)


# -- the log beside the file --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, list[Event], list[int]]:
    """File and log of a store that a killed process had open, its events, and at which positions appends end."""
    folder = tmp_path_factory.mktemp("logged")
    with EventStore(folder / "a.db") as store:
        store.add_many(["folded into the file"] * 10, vectors=[[1.0] * 64] * 10)
    with EventStore(folder / "a.db") as store:
        for number in range(12):
            store.add_many([f"in the log {number}"] * 3, vectors=[[1.0] * 64] * 3)
        shutil.copy(folder / "a.db", folder / "b.db")
        shutil.copy(folder / "a.db-wal", folder / "b.db-wal")
        events = list(store.events())
    ends = [10 + 3 * number for number in range(13)]
    return (folder / "b.db").read_bytes(), (folder / "b.db-wal").read_bytes(), events, ends


Logged = tuple[bytes, bytes, list[Event], list[int]]


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


# -- tampering, and what is lost of a memory ----------------------------------------------------------------


def without(
    folder: Path, operations: Sequence[Operation], *, events: Sequence[int] = (), payloads: Sequence[int] = ()
) -> tuple[SalvageReport, list[Event], list[Event]]:
    """Salvage a history from which rows were removed: the report, the events found, and those that were recorded."""
    original = sound(told([[each] for each in operations], folder / "a.db"), folder / "a.db")
    removed = [f"DELETE FROM events WHERE seq = {seq}" for seq in events]
    removed += [f"DELETE FROM payloads WHERE seq = {seq}" for seq in payloads]
    tamper(folder / "a.db", "PRAGMA secure_delete = ON", *removed)
    report, found = salvaged(folder, (folder / "a.db").read_bytes())
    check(report, found, original)
    return report, found, original.events


TEA = Add(memory_id="tea", content="likes tea", vector=[1, 0], metadata={"v": 1})
CAT = Add(memory_id="cat", content="has a cat", vector=[0, 1])


def test_an_update_whose_add_is_lost_is_an_add(tmp_path: Path) -> None:
    """An UPDATE repeats all that the memory was."""
    update = Update(memory_id="tea", content="likes coffee", vector=[1, 1])
    report, found, _ = without(tmp_path, [CAT, TEA, CAT.model_copy(update={"memory_id": "x"}), update], events=[2])
    assert [(event.type, event.memory_id, event.version) for event in found] == [
        ("ADD", "cat", 1),
        ("ADD", "x", 1),
        ("ADD", "tea", 1),
    ]
    assert (found[2].content, found[2].metadata) == ("likes coffee", {"v": 1})
    assert kinds_at(report) == {2: {"lost"}, 3: {"unproven"}, 4: {"changed"}}
    assert report.memories == [MemoryGap("tea", 1, 1, 2, 4)]
    assert report.moved == [Moved(3, 4, 2)]


def test_an_add_whose_memory_was_not_ended_is_an_update(tmp_path: Path) -> None:
    """The DELETE before it is lost."""
    again = Add(memory_id="tea", content="likes milk", vector=[0, 2])
    report, found, _ = without(tmp_path, [TEA, Delete(memory_id="tea"), CAT, again], events=[2])
    assert [(event.type, event.memory_id, event.version) for event in found] == [
        ("ADD", "tea", 1),
        ("ADD", "cat", 1),
        ("UPDATE", "tea", 2),
    ]
    assert (found[2].content, found[2].metadata, found[2].vector.tolist()) == ("likes milk", {}, [0, 2])
    assert kinds_at(report) == {2: {"lost"}, 3: {"unproven"}, 4: {"changed"}}
    assert report.memories == [MemoryGap("tea", 2, 2, 2, 4)]


def test_a_delete_of_nothing_is_left_out(tmp_path: Path) -> None:
    """What it ended was never brought back, so nothing is outdated."""
    report, found, _ = without(tmp_path, [TEA, CAT, Delete(memory_id="tea")], payloads=[1])
    assert [event.memory_id for event in found] == ["cat"]
    assert kinds_at(report) == {1: {"payload"}, 3: {"memory"}}
    assert report.memories == [MemoryGap("tea", 1, 1, 1, 3)]


def test_a_lost_payload_leaves_the_memory_as_it_was(tmp_path: Path) -> None:
    """The report says since when it is outdated."""
    update = Update(memory_id="tea", content="likes coffee", vector=[1, 1])
    report, found, original = without(tmp_path, [TEA, CAT, update], payloads=[3])
    assert found == original[:2]
    assert (report.kept, report.last) == (2, Head(3, original[2].recorded_at, original[2].hash))
    assert kinds_at(report) == {3: {"payload"}}
    assert report.memories == [MemoryGap("tea", 2, 2, 3, None)]
    assert report.memories[0].outdated


def test_a_delete_needs_no_payload(tmp_path: Path) -> None:
    """It has none to lose: the memory stays deleted."""
    report, found, original = without(tmp_path, [TEA, Delete(memory_id="tea"), CAT], payloads=[2])
    assert [(event.type, event.event_id) for event in found] == [(event.type, event.event_id) for event in original]
    assert kinds_at(report) == {2: {"changed"}}
    assert (report.kept, report.moved, report.memories) == (1, [], [])


def test_a_vector_that_is_lost_is_zeros(tmp_path: Path) -> None:
    """Content and metadata are worth keeping. Cosine search finds no zeros, until the memory is embedded anew."""
    said = Update(memory_id="tea", metadata={"v": 2})
    again = Update(memory_id="tea", metadata={"v": 3})
    report, found, _ = without(tmp_path, [CAT, TEA, said, again], payloads=[2])
    assert [(event.type, event.content, event.metadata) for event in found[1:]] == [
        ("ADD", "likes tea", {"v": 2}),
        ("UPDATE", "likes tea", {"v": 3}),
    ]
    assert found[2].embedding_seq == 2
    assert not np.any(found[2].vector)
    assert kinds_at(report) == {2: {"payload"}, 3: {"changed"}, 4: {"changed"}}
    assert sum("zeros" in gap.message for gap in report.gaps) == 1  # of both events
    with EventStore(tmp_path / "new.db") as store, VectorIndex(store) as index:
        assert [hit.memory_id for hit in index.search([1.0, 0.1], 2, min_score=0.01)] == ["cat"]
        store.update("tea", vector=[1, 0])
        assert index.search([1.0, 0.1], 1)[0].memory_id == "tea"


def test_without_any_vector_nothing_can_be_recorded(tmp_path: Path) -> None:
    """A history has vectors of one dimension, and nothing says which."""
    with pytest.raises(CorruptHistory, match="nothing of a history"):
        without(tmp_path, [TEA, Update(memory_id="tea", metadata={})], payloads=[1])


def test_several_versions_lost_in_a_row_are_one_gap_of_the_memory(tmp_path: Path) -> None:
    """Headers and payloads, and what came between them of other memories."""
    updates = [Update(memory_id="tea", content=f"likes {number}", vector=[1, number]) for number in range(5)]
    report, found, _ = without(tmp_path, [TEA, *updates[:3], CAT, *updates[3:]], events=[2, 3], payloads=[4])
    assert [event.content for event in found] == ["likes tea", "has a cat", "likes 3", "likes 4"]
    assert report.memories == [MemoryGap("tea", 2, 4, 2, 6)]


def test_the_end_is_known_to_be_lost(tmp_path: Path) -> None:
    """SQLite counts what was recorded."""
    report, found, original = without(tmp_path, [TEA, CAT, Update(memory_id="tea", metadata={})], events=[2, 3])
    assert found == original[:1]
    assert kinds_at(report) == {2: {"lost"}, 3: {"lost"}}
    assert report.last == Head(1, original[0].recorded_at, original[0].hash)


def test_where_the_end_is_cannot_always_be_told(tmp_path: Path, large: Sound) -> None:
    """The page of SQLite's counter is lost: all events are there, and perhaps there were more."""
    (start,) = pages_of(large.content, tmp_path, "sqlite_sequence")
    report, events = salvaged(tmp_path, zeroed(large.content, start))
    assert (events, report.head, report.ok) == (large.events, large.head, False)
    assert [(gap.kind, gap.position) for gap in report.gaps] == [("end", None)]
    assert "after position 600 cannot be told" in report.gaps[0].message
    # The last page of events is lost too: then the index of memories knows how many there were.
    last = pages_of(large.content, tmp_path, "events")[-1]
    report, _ = salvaged(tmp_path, zeroed(large.content, start, last))
    assert [(gap.kind, gap.last) for gap in report.gaps if gap.position] == [("lost", 600)]


def test_a_counter_that_is_behind_is_not_believed(tmp_path: Path) -> None:
    """Somebody set it back."""
    report, found, original = tampered(tmp_path, "UPDATE sqlite_sequence SET seq = 3 WHERE name = 'events'")
    assert found == original.events
    assert kinds(report) == {"end"}


SIX: list[Operation] = [
    TEA,
    CAT,
    Update(memory_id="tea", content="likes coffee", vector=[1, 1], actor_id="ann"),
    Update(memory_id="cat", metadata={"age": 3}),
    Delete(memory_id="tea"),
    Add(memory_id="sun", content="the sun shines", vector=[3, 3]),
]


def tampered(folder: Path, *statements: str) -> tuple[SalvageReport, list[Event], Sound]:
    """Salvage six events of which somebody changed some."""
    original = sound(told([[each] for each in SIX], folder / "a.db"), folder / "a.db")
    tamper(folder / "a.db", *statements)
    report, found = salvaged(folder, (folder / "a.db").read_bytes())
    check(report, found, original)
    return report, found, original


def test_a_changed_payload_is_not_taken(tmp_path: Path) -> None:
    """Its digest says so."""
    report, found, _ = tampered(tmp_path, "UPDATE payloads SET content = 'likes poison' WHERE seq = 3")
    assert kinds_at(report) == {3: {"payload"}}
    assert "likes poison" not in {event.content for event in found}


def test_a_changed_header_is_not_taken(tmp_path: Path) -> None:
    """Its hash says so; the event after it is proven all the same, by the hash that it follows."""
    report, _, _ = tampered(tmp_path, "UPDATE events SET actor_id = 'bob' WHERE seq = 3")
    assert kinds_at(report) == {3: {"refused"}}
    assert "does not match its hash" in report.gaps[0].message


def test_a_changed_hash_is_put_right(tmp_path: Path) -> None:
    """The event after it follows the hash that it had: nothing is missing. At the end nothing says so."""
    report, found, original = tampered(tmp_path, "UPDATE events SET hash = zeroblob(32) WHERE seq = 3")
    assert (report.gaps, found) == ([], original.events)
    folder = tmp_path / "end"
    folder.mkdir()
    report, _, _ = tampered(folder, "UPDATE events SET hash = zeroblob(32) WHERE seq = 6")
    assert kinds_at(report) == {6: {"refused"}}


def test_rows_that_were_swapped_are_not_taken(tmp_path: Path) -> None:
    """Neither payloads nor headers."""
    swap = ("UPDATE {} SET seq = -1 WHERE seq = 2", "UPDATE {} SET seq = 2 WHERE seq = 3")
    for number, table in enumerate(("payloads", "events")):
        folder = tmp_path / table
        folder.mkdir()
        statements = [each.format(table) for each in (*swap, "UPDATE {} SET seq = 3 WHERE seq = -1")]
        report, _, _ = tampered(folder, *statements)
        assert kinds_at(report)[2] == ({"payload"}, {"refused"})[number]


def test_what_follows_a_gap_is_taken_unproven(tmp_path: Path) -> None:
    """The hash before it is lost, so a change of it cannot be seen: the report says that. The next one is proven."""
    statements = ("PRAGMA secure_delete = ON", "DELETE FROM events WHERE seq = 2")
    changed = "UPDATE events SET actor_id = 'bob' WHERE seq = 3"
    report, found, _ = tampered(tmp_path, *statements, changed)
    assert kinds_at(report) == {2: {"lost"}, 3: {"unproven"}, 4: {"changed"}}
    assert found[1].actor_id == "bob"


def test_an_instant_that_cannot_be_is_not_taken(tmp_path: Path) -> None:
    """After a gap, where the chain does not say so: it would put the events after it out of order."""
    statements = ("PRAGMA secure_delete = ON", "DELETE FROM events WHERE seq = 2")
    for number, instant in enumerate((5, 2**60, 9 * 10**15)):
        folder = tmp_path / str(number)
        folder.mkdir()
        report, _, _ = tampered(folder, *statements, f"UPDATE events SET recorded_at = {instant} WHERE seq = 3")
        assert kinds_at(report)[3] == {"refused"}


def test_a_history_with_a_chain_of_its_own_that_cannot_be_is_not_taken(tmp_path: Path) -> None:
    """Made by somebody who computed every hash: what no append can have written is left out all the same."""
    sound(told([[each] for each in SIX], tmp_path / "a.db"), tmp_path / "a.db")
    tamper(
        tmp_path / "a.db",
        "DROP INDEX events_event_id",
        "UPDATE events SET event_id = (SELECT event_id FROM events WHERE seq = 1) WHERE seq = 2",
        "UPDATE events SET type = 'OOPS' WHERE seq = 3",
        "UPDATE payloads SET metadata = '[1]' WHERE seq = 4",
        ("UPDATE payloads SET embedding = ? WHERE seq = 6", (np.array([np.nan, 1], "<f4").tobytes(),)),
        reseal=True,
    )
    report, found = salvaged(tmp_path, (tmp_path / "a.db").read_bytes())
    assert [event.position for event in found] == [1, 2]
    assert [event.type for event in found] == ["ADD", "DELETE"]
    assert {2, 3, 4, 6} <= {position for position, each in kinds_at(report).items() if each == {"refused"}}


def varint(number: int) -> bytes:
    """A number below 16384 in SQLite's form."""
    return bytes([number]) if number < 128 else bytes([number >> 7 | 128, number & 127])


def row_bytes(row: EventRow) -> bytes:
    """A row of `events` as a page holds it."""
    types, body = [0], b""
    for value in row[1:]:
        if value is None:
            types.append(0)
        elif isinstance(value, int):
            types.append(6)
            body += value.to_bytes(8, "big", signed=True)
        else:
            encoded = value.encode() if isinstance(value, str) else value
            types.append(2 * len(encoded) + (13 if isinstance(value, str) else 12))
            body += encoded
    header = b"".join(map(varint, types))
    record = varint(len(header) + 1) + header + body
    return varint(len(record)) + varint(row.seq) + record


@pytest.mark.parametrize("events_after", [1, 0])
def test_a_row_that_somebody_hid_in_an_embedding_is_not_believed(tmp_path: Path, events_after: int) -> None:
    """It follows from an event before it. That the event recorded next follows from it nobody can arrange.

    At the very end nothing contradicts it: it is not taken without its payload, and never without a word.
    """
    with EventStore(tmp_path / "a.db") as store:
        first = store.add("one", vector=[1.0] * 8192, memory_id="one")
        instant, previous = int(first.recorded_at.timestamp() * 1e6), bytes.fromhex(first.hash)
        for later in range(1, 10_000):
            forged = EventRow(
                *(2, "forged", "one", 2, 1, 1, None, "DELETE"),
                *(instant + later, None, "boss", None, None, None, None, None),
                *(bytes(32), b""),
            )
            forged = forged._replace(hash=event_hash(previous, *forged[:-1]))
            hidden = row_bytes(forged)
            hidden += bytes(-len(hidden) % 4)
            vector = np.frombuffer(hidden, "<f4")
            if np.isfinite(vector).all():  # not every hash is a vector
                break
        vector = np.concatenate([np.ones(8192 - len(vector), "<f4"), vector])  # its end is on a page of its own
        store.add("two", vector=vector, memory_id="two")
        for number in range(events_after):
            store.add("three", vector=[1.0] * 8192, memory_id=f"three {number}")
        original = sound(store, tmp_path / "a.db")
    assert hidden in original.content
    tamper(tmp_path / "a.db", "PRAGMA secure_delete = ON", "DELETE FROM events WHERE seq = 2")
    report, found = salvaged(tmp_path, (tmp_path / "a.db").read_bytes())
    forgeries = [event for event in found if event.event_id == "forged"]
    if events_after:
        assert not forgeries
        assert kinds_at(report)[2] == {"refused"}
    else:
        assert all("unproven" in kinds_at(report)[2] for _ in forgeries)
        assert kinds_at(report)[2]


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
