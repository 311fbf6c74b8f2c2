"""Salvage: what can still be read of a damaged file becomes a sound history, and every gap is in the report."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import (
    CorruptHistory,
    EventStore,
    HashingEmbedder,
    Operation,
)
from eventstore.schema import PAGE_SIZE
from replay import MemoryGap, Moved, salvage
from tests.profiles import scaled
from tests.replay_support import Sound, histories, sound, tamper, told
from tests.salvage.support import (
    check,
    kinds,
    pages_of,
    salvaged,
    varied,
    zeroed,
)

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
