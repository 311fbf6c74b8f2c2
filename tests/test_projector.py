"""The projector: any projection, exactly once, in bounded memory, going on where it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from eventstore import Event, EventRange, EventStore, InvalidOperation
from projections import Projection, VectorIndex, project


class Counts:
    """A projection of one's own: how many events each actor caused, kept in a file with its position."""

    name = "counts"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batches: list[int] = []

    def _load(self) -> tuple[int, dict[str, int]]:
        if not self.path.exists():
            return 0, {}
        kept = json.loads(self.path.read_text())
        return kept["position"], kept["counts"]

    @property
    def position(self) -> int:
        return self._load()[0]

    @property
    def counts(self) -> dict[str, int]:
        return self._load()[1]

    def apply(self, events: Sequence[Event]) -> None:
        position, counts = self._load()
        self.batches.append(len(events))
        for event in events:
            if event.position > position:
                counts[str(event.actor_id)] = counts.get(str(event.actor_id), 0) + 1
                position = event.position
        self.path.write_text(json.dumps({"position": position, "counts": counts}))

    def reset(self) -> None:
        self.path.unlink(missing_ok=True)


@pytest.fixture
def store() -> EventStore:
    store = EventStore()
    for number in range(25):
        store.add(f"text {number}", vector=[1.0, float(number)], actor_id=f"actor {number % 3}", memory_id=str(number))
    return store


def test_a_projection_is_brought_to_the_head_in_bounded_steps(store: EventStore, tmp_path: Path) -> None:
    """No step is larger than asked for, and progress says how far it is."""
    counts = Counts(tmp_path / "counts.json")
    assert isinstance(counts, Projection)
    seen: list[tuple[int, int]] = []
    assert project(counts, store, events_at_once=10, progress=lambda done, total: seen.append((done, total))) == 25
    assert counts.batches == [10, 10, 5]
    assert seen == [(10, 25), (20, 25), (25, 25)]
    assert counts.counts == {"actor 0": 9, "actor 1": 8, "actor 2": 8}


def test_a_projection_that_failed_goes_on_where_it_was(store: EventStore, tmp_path: Path) -> None:
    """Exactly once, whatever moment it was killed at."""
    counts = Counts(tmp_path / "counts.json")

    def killed(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        project(counts, store, events_at_once=7, progress=killed)
    assert counts.position == 7
    project(Counts(tmp_path / "counts.json"), store, events_at_once=7)
    assert counts.counts == {"actor 0": 9, "actor 1": 8, "actor 2": 8}


def test_a_projection_stops_where_it_is_told(store: EventStore, tmp_path: Path) -> None:
    """`upto` a position; what is past it already stays."""
    counts = Counts(tmp_path / "counts.json")
    assert project(counts, store, upto=5) == 5
    assert project(counts, store, upto=3) == 5


def test_a_projection_ahead_of_the_history_is_refused(store: EventStore, tmp_path: Path) -> None:
    """It belongs to another history."""
    counts = Counts(tmp_path / "counts.json")
    project(counts, store)
    with EventStore() as other, pytest.raises(InvalidOperation, match=r"counts.*another history"):
        project(counts, other)


def test_a_failing_projection_cannot_fail_a_write(store: EventStore) -> None:
    """The store knows no projection: it goes on recording."""

    class Broken(Counts):
        def apply(self, events: Sequence[Event]) -> None:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        project(Broken(Path("/nonexistent/x")), store)
    assert store.add("more", vector=[1.0, 1.0]).position == 26


def test_the_vector_index_is_a_projection_and_takes_events_twice(store: EventStore) -> None:
    """Applying an event again changes nothing; a range, a list and a list by halves give the same index."""
    store.update("3", metadata={"x": 1})
    store.delete("4")
    ranged, listed, halved = (VectorIndex(store) for _ in range(3))
    assert isinstance(ranged, Projection)
    events = list(store.events())
    ranged.apply(store.event_range(0, 27))
    ranged.apply(store.event_range(0, 27))
    listed.apply(events)
    listed.apply(events)
    halved.apply(events[:26])
    halved.apply(events[10:])
    halved.apply(store.event_range(5, 27))
    for index in (ranged, listed, halved):
        assert index.position == 27
        assert index.faults() == []
        positions, vectors = index.contents()
        assert positions.tolist() == ranged.contents()[0].tolist()
        assert np.array_equal(vectors, ranged.contents()[1])


def test_the_vector_index_refuses_a_gap(store: EventStore) -> None:
    """Events that do not follow on its position are not applied."""
    index = VectorIndex(store)
    with pytest.raises(InvalidOperation, match=r"position 0.*begin at 3"):
        index.apply(list(store.events())[2:])
    assert index.position == 0


def test_an_event_range_is_a_sequence(store: EventStore) -> None:
    """Length, indexing, slicing and iterating, all the same events."""
    events = list(store.events())
    found = store.event_range(4, 9)
    assert isinstance(found, EventRange)
    assert len(found) == 5
    assert list(found) == events[4:9]
    assert found[0] == events[4]
    assert found[-1] == events[8]
    assert found[1:3] == events[5:7]
    with pytest.raises(IndexError):
        found[5]


def test_an_index_interrupted_while_adding_starts_over(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two halves of a row nothing can be trusted; the history has everything."""
    from projections.segments import Segments

    index = VectorIndex(store)
    index.catch_up(10)
    expected = VectorIndex(store).search([1.0, 2.0], 30)
    monkeypatch.setattr(Segments, "add", lambda self, vectors: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        index.catch_up()
    monkeypatch.undo()
    assert index.search([1.0, 2.0], 30) == expected
    assert index.faults() == []


def test_a_progress_callback_may_search(store: EventStore) -> None:
    """It is called between two steps, with nothing locked against its own thread."""
    index = VectorIndex(store)
    found: list[int] = []
    index.catch_up(progress=lambda done, total: found.append(len(index.search([1.0, 1.0], 3))))
    assert found == [3]


def test_whole_events_without_an_embedding_of_their_own_are_taken(store: EventStore) -> None:
    """An update that keeps its vector, handed over by itself, points at one that is indexed already."""
    store.update("3", metadata={"x": 1})
    index = VectorIndex(store)
    for event in store.events():
        index.apply([event])
    assert index.position == 26
    assert index.faults() == []
