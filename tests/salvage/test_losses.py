"""What becomes of a memory whose events, payloads or vectors are lost or were changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from eventstore import (
    Add,
    CorruptHistory,
    Delete,
    Event,
    EventStore,
    Head,
    Operation,
    Update,
)
from eventstore.events import EventRow
from eventstore.hashing import event_hash
from projections import VectorIndex
from replay import MemoryGap, Moved, SalvageReport
from tests.replay_support import Sound, sound, tamper, told
from tests.salvage.support import (
    CAT,
    SIX,
    TEA,
    check,
    kinds,
    kinds_at,
    pages_of,
    salvaged,
    tampered,
    zeroed,
)

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
