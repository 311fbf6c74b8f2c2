"""`ProjectionContract` and `SearchContract`: what every projection, and every one that is searched, must do.

Each requirement is a test that says which invariant it states, by the numbers of docs/reference/testing.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import Add, Delete, Event, EventStore, Operation, Update
from eventstore.testing import (
    CheckedFilter,
    History,
    ManualClock,
    ModelStore,
    filters,
    histories,
    instants,
    scaled,
    vectors,
)
from projections.projection import project
from projections.testing.search import brute_force_search

__all__ = ["OpenProjection", "ProjectionContract", "SearchContract"]

OpenProjection: TypeAlias = Callable[..., Any]

# The fixture gives a factory: every derived class has its own, and every example opens its own projection by it.
_property = settings(
    max_examples=scaled(15),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


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

    @_property
    @given(history=histories(1))
    def test_it_holds_what_the_history_says(self, open_projection: OpenProjection, history: History) -> None:
        """Invariant 3: after each event, taken alone, the projection is the naive fold of the events so far."""
        with told(history) as store:
            projection = open_projection(store)
            self._assert_holds(projection, store, 0)
            for event in store.events():
                projection.apply([event])
                self._assert_holds(projection, store, event.position)

    @_property
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

    @_property
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
        history: History = [[_add("a")], [_add("b")], [Delete(memory_id="a")], [_add("c")]]
        with told(history) as store:
            projection, events = open_projection(store), list(store.events())
            projection.apply(events[:1])
            with pytest.raises(Exception):  # noqa: B017 -- which one is the projection's affair
                projection.apply(events[2:])
            self._assert_holds(projection, store, 1)
            projection.apply(events[1:])
            self._assert_holds(projection, store, 4)

    @_property
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

    @_property
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
            with suppress(_Broken):
                projection.apply(_Breaking(events[before:], breaks))
            self._assert_holds(projection, store, projection.position)
            project(projection, store)
            self._assert_holds(projection, store, store.position)

    @_property
    @given(history=histories(1), data=st.data())
    def test_position_and_contents_are_kept_together(
        self, open_projection: OpenProjection, history: History, data: st.DataObject
    ) -> None:
        """Invariant 5: opened again, the projection is at some position, holds that position's state, and goes on."""
        if not self.durable:
            pytest.skip("the projection keeps nothing")
        with told(history) as store:
            name = new_name()
            projection = open_projection(store, name)
            project(projection, store, upto=data.draw(st.integers(0, store.position)))
            if hasattr(projection, "checkpoint"):
                projection.checkpoint()
            again = open_projection(store, name)
            assert again.position <= projection.position
            self._assert_holds(again, store, again.position)
            project(again, store)
            self._assert_holds(again, store, store.position)


class SearchContract(ProjectionContract):
    """What a projection that is searched must do, beside `ProjectionContract`.

    The projection has `metric` and `search(query, k, *, filter, as_of, min_score)`, which catches up by itself and
    returns hits with `memory_id`, `score`, `version` and `position`. Where scores are not computed in float64
    set `tolerance` to how far they may be off: hits are then compared by their true scores within it.
    """

    tolerance = 0.0

    def _assert_found(self, projection: Any, store: EventStore, query: list[float], k: int, **asked: Any) -> None:
        chosen = asked.get("filter")
        keywords = {**asked, "filter": chosen.filter if isinstance(chosen, CheckedFilter) else chosen}
        hits = projection.search(query, k, **keywords)
        metric = projection.metric
        expected = brute_force_search(store, query, k, metric=metric, **asked)
        if not self.tolerance:
            assert [(hit.memory_id, hit.score, hit.position) for hit in hits] == expected
            return
        everything = brute_force_search(store, query, 10**6, metric=metric, **asked)
        truth = {each.memory_id: each.score for each in everything}
        assert len(hits) == len(expected)
        for hit, right in zip(hits, expected, strict=True):
            assert truth[hit.memory_id] == pytest.approx(right.score, abs=self.tolerance)
            assert hit.score == pytest.approx(right.score, abs=self.tolerance)

    @_property
    @given(history=histories(1), query=vectors(4), k=st.integers(1, 8))
    def test_a_search_is_brute_force(
        self, open_projection: OpenProjection, history: History, query: list[float], k: int
    ) -> None:
        """Invariant 4: ids, scores and order are those of scoring every live memory."""
        with told(history) as store:
            self._assert_found(open_projection(store), store, query, k)

    @_property
    @given(history=histories(2), query=vectors(4), data=st.data())
    def test_a_search_of_the_past_is_a_search_then(
        self, open_projection: OpenProjection, history: History, query: list[float], data: st.DataObject
    ) -> None:
        """Invariant 4: as of any position or instant, the answer is the one that was given then."""
        with told(history) as store:
            projection = open_projection(store)
            for moment in (data.draw(instants(store)), data.draw(instants(store))):
                self._assert_found(projection, store, query, 3, as_of=moment)

    def test_the_vector_before_an_update_is_found_as_of_then(self, open_projection: OpenProjection) -> None:
        """Invariant 4: an update's old vector answers for the time before it, and not after."""
        history: History = [
            [_add("a", [1.0, 0.0]), _add("b", [0.6, 0.8])],
            [Update(memory_id="a", vector=[0.0, 1.0])],
            [Update(memory_id="a", metadata={"n": 1})],
        ]
        with told(history) as store:
            projection = open_projection(store)
            for moment in (2, 3, 4, None):
                self._assert_found(projection, store, [1.0, 0.0], 2, as_of=moment)

    def test_a_deleted_memory_is_not_found(self, open_projection: OpenProjection) -> None:
        """Invariant 4: neither now, nor before it was added; as of when it was live it is. Added again it is new."""
        history: History = [
            [_add("b", [0.0, 1.0])],
            [_add("a", [1.0, 0.0])],
            [Delete(memory_id="a")],
            [_add("a", [-1.0, 0.0])],
        ]
        with told(history) as store:
            projection = open_projection(store)
            for moment in (0, 1, 2, 3, 4, None):
                self._assert_found(projection, store, [1.0, 0.0], 2, as_of=moment)

    def test_the_filter_is_inside_the_search(self, open_projection: OpenProjection) -> None:
        """Invariant 4: `k` hits come back whenever `k` memories match, however near the others are."""
        crowd: list[Operation] = [Add(memory_id=f"crowd {n}", content="", vector=[1.0, n / 1000]) for n in range(30)]
        mine: list[Operation] = [
            Add(memory_id=f"mine {n}", content="", vector=[-1.0, float(n)], metadata={"u": 1}) for n in range(3)
        ]
        with told([[*crowd, *mine]]) as store:
            projection = open_projection(store)
            assert len(projection.search([1.0, 0.0], 3, filter={"u": 1})) == 3
            self._assert_found(projection, store, [1.0, 0.0], 3, filter={"u": 1})

    def test_as_of_is_inside_the_search(self, open_projection: OpenProjection) -> None:
        """Invariant 4: what came later takes no place among the `k` of an earlier moment."""
        first: list[Operation] = [Add(memory_id=f"first {n}", content="", vector=[-1.0, float(n)]) for n in range(3)]
        later: list[Operation] = [Add(memory_id=f"later {n}", content="", vector=[1.0, n / 1000]) for n in range(30)]
        moved: list[Operation] = [Update(memory_id=f"first {n}", vector=[1.0, 0.0]) for n in range(3)]
        with told([first, later, moved]) as store:
            projection = open_projection(store)
            for moment in (3, 10, 33, None):
                self._assert_found(projection, store, [1.0, 0.0], 3, as_of=moment)

    @_property
    @given(history=histories(1), query=vectors(4), k=st.integers(1, 8), data=st.data())
    def test_a_filter_as_of_sees_the_metadata_of_then(
        self, open_projection: OpenProjection, history: History, query: list[float], k: int, data: st.DataObject
    ) -> None:
        """Invariant 4: a filter looks at the metadata in force at the moment that is searched, not at today's."""
        with told(history) as store:
            chosen = data.draw(filters([event.metadata for event in store.events() if event.metadata is not None]))
            projection = open_projection(store)
            for moment in (data.draw(st.integers(0, store.position)), None):
                self._assert_found(projection, store, query, k, filter=chosen, as_of=moment)

    def test_yesterdays_search_is_not_filtered_by_todays_metadata(self, open_projection: OpenProjection) -> None:
        """Invariant 4: a memory that changed hands is found under whom it belonged to then."""
        history: History = [
            [Add(memory_id="a", content="", vector=[1.0, 0.0], metadata={"user": "alice"}), _add("b", [0.0, 1.0])],
            [Update(memory_id="a", metadata={"user": "bob"})],
        ]
        with told(history) as store:
            projection = open_projection(store)
            for user in ("alice", "bob"):
                for moment in (2, 3, None):
                    self._assert_found(projection, store, [1.0, 1.0], 2, filter={"user": user}, as_of=moment)

    def test_equal_scores_are_in_the_order_of_positions(self, open_projection: OpenProjection) -> None:
        """Invariant 4: ties are broken by position, so that an answer is the same wherever it is computed."""
        history: History = [[_add(name, [1.0, 1.0])] for name in ("d", "b", "a", "c", "e")]
        history += [[Update(memory_id="b", metadata={"n": 1})]]
        with told(history) as store:
            projection = open_projection(store)
            hits = projection.search([1.0, 0.0], 4)
            assert [hit.memory_id for hit in hits] == ["d", "a", "c", "e"]
            assert [hit.position for hit in hits] == [1, 3, 4, 5]

    @_property
    @given(history=histories(2), query=vectors(4), data=st.data())
    def test_a_grown_index_answers_as_a_rebuilt_one(
        self, open_projection: OpenProjection, history: History, query: list[float], data: st.DataObject
    ) -> None:
        """Invariant 4: whether it grew event by event or came from a rebuild, the same hits, to the last bit."""
        with told(history) as store:
            grown, rebuilt = open_projection(store), open_projection(store)
            for event in store.events():
                grown.apply([event])
            project(rebuilt, store)
            rebuilt.reset()
            project(rebuilt, store)
            moment = data.draw(st.integers(0, store.position))
            for asked in ({}, {"as_of": moment}):
                found = [list(each.search(query, 3, **asked)) for each in (grown, rebuilt)]
                assert found[0] == found[1]
            self._assert_found(grown, store, query, 3, as_of=moment)

    def test_a_search_sees_what_was_recorded_before_it(self, open_projection: OpenProjection) -> None:
        """Invariant 5: an index that is behind catches up before it answers; the answer names its position."""
        with told([[_add("a", [1.0, 0.0])]]) as store:
            projection = open_projection(store)
            assert projection.search([1.0, 0.0], 5).position == 1
            store.add("", vector=[1.0, 0.1], memory_id="b")
            hits = projection.search([1.0, 0.0], 5)
            assert ([hit.memory_id for hit in hits], hits.position) == (["a", "b"], 2)
            assert projection.search([1.0, 0.0], 5, as_of=1).position == 1

    def test_min_score_leaves_out_what_scores_lower(self, open_projection: OpenProjection) -> None:
        """Invariant 4: the bound itself is in."""
        with told([[_add("a", [1.0, 0.0]), _add("b", [1.0, 1.0]), _add("c", [0.0, 1.0])]]) as store:
            projection = open_projection(store)
            best, second, _ = projection.search([1.0, 0.0], 3)
            for bound in (best.score, second.score, second.score - 1e-6, 1e9):
                self._assert_found(projection, store, [1.0, 0.0], 3, min_score=bound)


class _Broken(Exception):
    """The events stopped coming."""


class _Breaking(Sequence[Event]):
    """Events that fail to arrive after the first few."""

    def __init__(self, events: list[Event], breaks: int) -> None:
        self._events = events
        self._breaks = breaks

    def __len__(self) -> int:
        return len(self._events)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Breaking(self._events[index], self._breaks)
        if index >= self._breaks:
            raise _Broken
        return self._events[index]

    def __iter__(self) -> Iterator[Event]:
        for number in range(len(self._events)):
            yield self[number]


_names = iter(range(10**9))


def new_name() -> str:
    """A name that no projection has had in this process."""
    return f"projection-{next(_names)}"


def told(history: History) -> EventStore:
    """A store in memory that was told a history."""
    store = EventStore(clock=ManualClock())
    for operations in history:
        store.append(operations)
    return store


def _add(memory_id: str, vector: list[float] | None = None) -> Add:
    return Add(memory_id=memory_id, content=f"of {memory_id}", vector=vector or [1.0, 2.0])
