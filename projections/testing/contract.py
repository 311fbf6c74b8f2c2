"""`ProjectionContract`: what every projection must do.

Each requirement is a test that says which invariant it states, by the numbers of docs/reference/testing.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import Add, Delete, Event, EventStore
from eventstore.testing import History, ManualClock, ModelStore, histories
from eventstore.testing.telling import contract_property, new_name
from projections.projection import project

__all__ = ["Breaking", "Broken", "OpenProjection", "ProjectionContract", "add_of", "told"]

OpenProjection: TypeAlias = Callable[..., Any]


class ProjectionContract:
    """What a projection must do. Derive a test class from it and provide the fixture `open_projection`.

    `open_projection(store, name=None)` opens the projection of that name over an `EventStore`, a `Projection`.
    The same name opened again, though the first was never closed, is what was kept of the same projection;
    without a name it is a new one. What is opened is the fixture's to close. For a projection that keeps nothing
    set `durable = False`.

    `contents` and `expected` say what a projection holds and what it should hold for a history. As they are they
    suit a projection with `contents()`, such as `VectorIndex`; override both for another.
    """

    durable = True

    @pytest.fixture
    def open_projection(self) -> OpenProjection:
        """The factory: to be overridden."""
        raise NotImplementedError(f"{type(self).__name__} has to define the fixture open_projection")

    def contents(self, projection: Any) -> Any:
        """What the projection holds at its position, as a value that can be compared."""
        positions, rows = projection.contents(projection.position)
        return [(int(at), row.tobytes()) for at, row in zip(positions, rows, strict=True)]

    def expected(self, model: ModelStore) -> Any:
        """What `contents` should give for a projection that has taken the model's events."""
        return [(memory.position, memory.embedding) for memory in model.state().values()]

    def _assert_holds(self, projection: Any, store: EventStore, position: int) -> None:
        assert projection.position == position
        assert self.contents(projection) == self.expected(ModelStore.of(store.events(upto=position)))

    @contract_property
    @given(history=histories(1))
    def test_it_holds_what_the_history_says(self, open_projection: OpenProjection, history: History) -> None:
        """Invariant 3: after each event, taken alone, the projection is the naive fold of the events so far."""
        with told(history) as store:
            projection = open_projection(store)
            self._assert_holds(projection, store, 0)
            for event in store.events():
                projection.apply([event])
                self._assert_holds(projection, store, event.position)

    @contract_property
    @given(history=histories(1), at_once=st.integers(1, 5))
    def test_it_does_not_matter_how_events_are_cut(
        self, open_projection: OpenProjection, history: History, at_once: int
    ) -> None:
        """Invariant 3: event by event, in ranges of any length or in one go, the projection comes out the same."""
        with told(history) as store:
            cut, whole = open_projection(store), open_projection(store)
            assert project(cut, store, events_at_once=at_once) == store.position
            whole.apply(list(store.events()))
            self._assert_holds(cut, store, store.position)
            self._assert_holds(whole, store, store.position)

    @contract_property
    @given(history=histories(1), data=st.data())
    def test_applying_an_event_again_changes_nothing(
        self, open_projection: OpenProjection, history: History, data: st.DataObject
    ) -> None:
        """Invariant 3: events at or before its position are passed over, alone or before new ones."""
        with told(history) as store:
            projection, events = open_projection(store), list(store.events())
            taken = data.draw(st.integers(1, len(events)))
            again = data.draw(st.integers(0, taken - 1))
            projection.apply(events[:taken])
            projection.apply(events[again:taken])
            self._assert_holds(projection, store, taken)
            projection.apply(events[again:])
            self._assert_holds(projection, store, len(events))

    def test_a_gap_is_refused(self, open_projection: OpenProjection) -> None:
        """Invariant 5: events that do not follow on its position are an error, not a projection with a hole."""
        history: History = [[add_of("a")], [add_of("b")], [Delete(memory_id="a")], [add_of("c")]]
        with told(history) as store:
            projection, events = open_projection(store), list(store.events())
            projection.apply(events[:1])
            with pytest.raises(Exception):  # noqa: B017 -- which one is the projection's affair
                projection.apply(events[2:])
            self._assert_holds(projection, store, 1)
            projection.apply(events[1:])
            self._assert_holds(projection, store, 4)

    @contract_property
    @given(history=histories(1), data=st.data())
    def test_a_reset_starts_from_nothing(
        self, open_projection: OpenProjection, history: History, data: st.DataObject
    ) -> None:
        """Invariant 5: a projection that was thrown away comes back from the history, the same."""
        with told(history) as store:
            projection = open_projection(store)
            project(projection, store)
            projection.reset()
            self._assert_holds(projection, store, 0)
            project(projection, store, upto=data.draw(st.integers(0, store.position)))
            project(projection, store)
            self._assert_holds(projection, store, store.position)

    @contract_property
    @given(history=histories(1), data=st.data())
    def test_what_fails_half_way_is_finished_later(
        self, open_projection: OpenProjection, history: History, data: st.DataObject
    ) -> None:
        """Invariant 5: where the events fail to arrive, position and contents still belong together."""
        with told(history) as store:
            projection, events = open_projection(store), list(store.events())
            before = data.draw(st.integers(0, len(events) - 1))
            projection.apply(events[:before])
            breaks = data.draw(st.integers(0, len(events) - before - 1))
            with suppress(Broken):
                projection.apply(Breaking(events[before:], breaks))
            self._assert_holds(projection, store, projection.position)
            project(projection, store)
            self._assert_holds(projection, store, store.position)

    @contract_property
    @given(history=histories(1), data=st.data())
    def test_position_and_contents_are_kept_together(
        self, open_projection: OpenProjection, history: History, data: st.DataObject
    ) -> None:
        """Invariant 5: opened again it is at some position, a checkpoint's or later, holds its state, and goes on."""
        if not self.durable:
            pytest.skip("the projection keeps nothing")
        with told(history) as store:
            name = new_name()
            projection = open_projection(store, name)
            project(projection, store, upto=data.draw(st.integers(0, store.position)))
            kept = 0
            if hasattr(projection, "checkpoint"):
                projection.checkpoint()
                kept = projection.position
            again = open_projection(store, name)
            assert kept <= again.position <= projection.position
            self._assert_holds(again, store, again.position)
            project(again, store)
            self._assert_holds(again, store, store.position)


class Broken(Exception):
    """The events stopped coming."""


class Breaking(Sequence[Event]):
    """Events that fail to arrive after the first few."""

    def __init__(self, events: list[Event], breaks: int) -> None:
        self._events = events
        self._breaks = breaks

    def __len__(self) -> int:
        return len(self._events)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Breaking(self._events[index], self._breaks)
        if index >= self._breaks:
            raise Broken
        return self._events[index]

    def __iter__(self) -> Iterator[Event]:
        for number in range(len(self._events)):
            yield self[number]


def told(history: History) -> EventStore:
    """A store in memory that was told a history."""
    store = EventStore(clock=ManualClock())
    for operations in history:
        store.append(operations)
    return store


def add_of(memory_id: str, vector: list[float] | None = None) -> Add:
    """A memory whose content names it."""
    return Add(memory_id=memory_id, content=f"of {memory_id}", vector=vector or [1.0, 2.0])
