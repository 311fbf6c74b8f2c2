"""What the tests of salvage share: damaged files, and what must be true of what comes of them."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from eventstore import (
    Add,
    Delete,
    Event,
    EventStore,
    HashingEmbedder,
    Operation,
    Update,
)
from eventstore.schema import PAGE_SIZE
from replay import SalvageReport, salvage, verify
from tests.cli_support import files
from tests.replay_support import Sound, sound, tamper, told

KEPT = ("memory_id", "recorded_at", "occurred_at", "actor_id", "role", "reason", "correlation_id", "causation_id")
"""What an event keeps in any case, beside source, content and metadata."""


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


Logged = tuple[bytes, bytes, list[Event], list[int]]


TEA = Add(memory_id="tea", content="likes tea", vector=[1, 0], metadata={"v": 1})
CAT = Add(memory_id="cat", content="has a cat", vector=[0, 1])
SIX: list[Operation] = [
    TEA,
    CAT,
    Update(memory_id="tea", content="likes coffee", vector=[1, 1], actor_id="ann"),
    Update(memory_id="cat", metadata={"age": 3}),
    Delete(memory_id="tea"),
    Add(memory_id="sun", content="the sun shines", vector=[3, 3]),
]


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


def tampered(folder: Path, *statements: str) -> tuple[SalvageReport, list[Event], Sound]:
    """Salvage six events of which somebody changed some."""
    original = sound(told([[each] for each in SIX], folder / "a.db"), folder / "a.db")
    tamper(folder / "a.db", *statements)
    report, found = salvaged(folder, (folder / "a.db").read_bytes())
    check(report, found, original)
    return report, found, original
