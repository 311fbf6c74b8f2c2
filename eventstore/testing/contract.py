"""`EventStoreContract`: what every store must do, each requirement a test that says which invariant it states.

The numbers are those of the invariants in docs/reference/testing.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import (
    Add,
    AsofError,
    Delete,
    EventConflict,
    InvalidInstant,
    MemoryExists,
    PositionConflict,
    Update,
    VersionConflict,
)
from eventstore.testing.clocks import MICROSECOND, START, ManualClock, jumps
from eventstore.testing.filters import filters
from eventstore.testing.instants import instants
from eventstore.testing.model import ModelEvent, ModelStore, json_of
from eventstore.testing.operations import History, histories, invalid_operations
from eventstore.testing.profiles import scaled
from eventstore.testing.values import vectors

__all__ = ["EventStoreContract", "OpenStore"]

OpenStore: TypeAlias = Callable[..., Any]

# The fixture gives a factory: every derived class has its own, and every example opens a history of its own through it.
_property = settings(
    max_examples=scaled(15),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


class EventStoreContract:
    """What a store of histories must do. Derive a test class from it and provide the fixture `open_store`.

    `open_store(name=None, *, clock)` opens the history of that name as a store with the methods of
    `EventStore`, by the clock given, without an embedder. The same name opened again, while the first is still
    open or after it was closed, is the same history; without a name it is a new one. What is opened is the
    fixture's to close. For a store that keeps nothing when it is closed set `durable = False`: the tests that
    open a history twice are passed over.
    """

    durable = True

    @pytest.fixture
    def open_store(self) -> OpenStore:
        """The factory: to be overridden."""
        raise NotImplementedError(f"{type(self).__name__} has to define the fixture open_store")

    def _needs_durability(self) -> None:
        if not self.durable:
            pytest.skip("the store keeps nothing when it is closed")

    # 1: an acknowledged append is on disk, all of it or nothing

    @_property
    @given(history=histories(1))
    def test_an_acknowledged_append_survives_closing(self, open_store: OpenStore, history: History) -> None:
        """Invariant 1: what was acknowledged is there when the history is opened again, to the last event."""
        self._needs_durability()
        clock = ManualClock()
        name = new_name()
        store = open_store(name, clock=clock)
        recorded = [event for operations in history for event in store.append(operations)]
        store.close()
        again = open_store(name, clock=clock)
        assert again.position == len(recorded)
        assert list(again.events()) == recorded

    @_property
    @given(history=histories(1, 4), data=st.data())
    def test_an_append_is_all_there_or_not_at_all(
        self, open_store: OpenStore, history: History, data: st.DataObject
    ) -> None:
        """Invariants 1 and 6: where the last operation of an append is refused, none of it is recorded."""
        store, model = told(open_store, history)
        last = data.draw(st.sampled_from(["exists", "version", "missing"]))
        whole = [Add(memory_id="fresh", content="x", vector=[1.0] * 4), Update(memory_id="fresh", metadata={"n": 1})]
        refused = {
            "exists": Add(memory_id="fresh", content="x", vector=[1.0] * 4),
            "version": Delete(memory_id="fresh", expected_version=7),
            "missing": Delete(memory_id="never added"),
        }[last]
        before = everything(store)
        with pytest.raises(AsofError):
            store.append([*whole, refused])
        assert everything(store) == before
        assert [event.version for event in store.append(whole)] == [1, 2]
        assert store.position == model.position + 2

    def test_another_reader_sees_an_append_once_it_is_acknowledged(self, open_store: OpenStore) -> None:
        """Invariant 1: a store opened beside sees what was recorded through the first, and the other way round."""
        self._needs_durability()
        clock = ManualClock()
        name = new_name()
        one, other = open_store(name, clock=clock), open_store(name, clock=clock)
        first = one.add("x", vector=[1.0], memory_id="a")
        assert list(other.events()) == [first]
        second = other.update("a", metadata={"n": 1}, expected_version=1)
        assert list(one.events()) == [first, second]
        assert one.get("a").metadata == {"n": 1}

    # 2: positions, times, versions, links and the chain

    @_property
    @given(history=histories(1))
    def test_positions_have_no_gaps(self, open_store: OpenStore, history: History) -> None:
        """Invariant 2: positions are 1, 2, 3 ... in the order of the appends and of the operations in them."""
        store, _ = told(open_store, history)
        events = list(store.events())
        operations = [operation for appended in history for operation in appended]
        assert [event.position for event in events] == list(range(1, len(operations) + 1))
        assert [(event.type, event.memory_id) for event in events] == [
            (each.type, each.memory_id) for each in operations
        ]
        assert store.position == store.head.position == len(operations)

    @_property
    @given(history=histories(1), steps=st.lists(jumps(), min_size=8, max_size=8))
    def test_an_append_is_one_instant(self, open_store: OpenStore, history: History, steps: list[timedelta]) -> None:
        """Invariant 2: the events of an append share `recorded_at`, so that no instant cuts it in two."""
        clock = ManualClock(jumps=steps)
        store = open_store(clock=clock)
        for operations in history:
            assert len({event.recorded_at for event in store.append(operations)}) == 1
        for batch in ModelStore.of(store.events()).batches():
            assert store.position_at(batch[0].recorded_at) == batch[-1].position
            assert store.position_at(batch[0].recorded_at - MICROSECOND) == batch[0].position - 1

    @_property
    @given(history=histories(2), steps=st.lists(jumps(), min_size=8, max_size=8))
    def test_the_next_append_is_strictly_later(
        self, open_store: OpenStore, history: History, steps: list[timedelta]
    ) -> None:
        """Invariant 2: whatever the clock does, stand still or go back, no two appends share an instant."""
        store = open_store(clock=ManualClock(jumps=steps))
        instants = [store.append(operations)[0].recorded_at for operations in history]
        assert all(before < after for before, after in pairwise(instants))
        assert [event.recorded_at for event in store.events()] == sorted(event.recorded_at for event in store.events())

    @_property
    @given(history=histories(1))
    def test_versions_count_by_one_and_link_back(self, open_store: OpenStore, history: History) -> None:
        """Invariant 2: a memory's versions are 1, 2, 3 ..., also past a DELETE; `prev_seq` is its event before."""
        store, model = told(open_store, history)
        events = list(store.events())
        assert [(e.version, e.prev_seq) for e in events] == [(e.version, e.prev_seq) for e in model.events]

    @_property
    @given(history=histories(1))
    def test_the_head_commits_to_everything_before_it(self, open_store: OpenStore, history: History) -> None:
        """Invariant 2: each event has its own hash in the chain, and what is appended later changes none."""
        store = open_store(clock=ManualClock())
        heads = [store.head.hash]
        for operations in history:
            for event in store.append(operations):
                heads.append(event.hash)
            assert store.head.hash == heads[-1]
        assert len(set(heads)) == len(heads)
        assert [store.hash_at(position) for position in range(len(heads))] == heads
        assert store.hash_at(len(heads)) is None

    # 3: the state at any position is the fold of the events up to it

    @_property
    @given(history=histories(), data=st.data())
    def test_the_state_at_a_position_is_the_fold_up_to_it(
        self, open_store: OpenStore, history: History, data: st.DataObject
    ) -> None:
        """Invariant 3: memories, count and get as of any position or instant are the naive fold up to there."""
        store, model = told(open_store, history)
        for moment in (None, data.draw(instants(store)), data.draw(instants(store))):
            expected = model.state(moment)
            assert [told_form(memory) for memory in store.memories(as_of=moment)] == [
                told_form(memory) for memory in expected.values()
            ]
            assert store.count(as_of=moment) == len(expected)
            for memory_id in {event.memory_id for event in model.events}:
                found = store.get(memory_id, as_of=moment)
                assert (None if found is None else told_form(found)) == (
                    told_form(expected[memory_id]) if memory_id in expected else None
                )

    @_property
    @given(history=histories(1), data=st.data())
    def test_events_are_read_back_as_they_were_recorded(
        self, open_store: OpenStore, history: History, data: st.DataObject
    ) -> None:
        """Invariant 3: `events` gives all of them in order, with the state after each; bounds are `(after, upto]`."""
        store, model = told(open_store, history)
        first, last = sorted(data.draw(st.lists(st.integers(0, model.position), min_size=2, max_size=2)))
        expected = [event_form(event) for event in model.events]
        assert [event_form(event) for event in store.events()] == expected
        assert [event_form(event) for event in store.events(after=first, upto=last)] == expected[first:last]
        assert [event_form(event) for event in store.events(reverse=True)] == expected[::-1]

    @_property
    @given(history=histories(1))
    def test_an_update_keeps_what_it_does_not_give(self, open_store: OpenStore, history: History) -> None:
        """Invariant 3: an update changes content, vector and metadata one by one; what is not given stays."""
        store, model = told(open_store, history)
        for event, before in zip(store.events(), model.events, strict=True):
            assert event_form(event) == event_form(before)
        memory = store.add("old", vector=[1.0, 2.0, 3.0, 4.0], memory_id="kept", metadata={"n": 1})
        assert store.update("kept", metadata={}).content == "old"
        vector = store.update("kept", "new", vector=[4.0, 3.0, 2.0, 1.0]).vector
        found = store.get("kept")
        assert (found.content, found.metadata, found.created_at) == ("new", {}, memory.recorded_at)
        assert vector.tolist() == store.vectors(["kept"])[1][0].tolist() == [4.0, 3.0, 2.0, 1.0]

    @_property
    @given(numbers=st.lists(vectors(5), min_size=1, max_size=6))
    def test_vectors_are_bit_for_bit(self, open_store: OpenStore, numbers: list[list[float]]) -> None:
        """Invariant 3: a vector is read back as the float32 numbers that were given, -0.0 and denormals too."""
        store = open_store(clock=ManualClock())
        store.append([Add(memory_id=str(at), content="", vector=each) for at, each in enumerate(numbers)])
        expected = np.array(numbers, dtype="<f4")
        ids, matrix = store.vectors()
        assert (ids, matrix.dtype) == ([str(at) for at in range(len(numbers))], np.float32)
        assert matrix.tobytes() == expected.tobytes()
        assert b"".join(event.embedding for event in store.events()) == expected.tobytes()

    @_property
    @given(history=histories(1), data=st.data())
    def test_the_past_does_not_change(self, open_store: OpenStore, history: History, data: st.DataObject) -> None:
        """Invariant 3: what a position or an instant answered it answers for ever, whatever is recorded later."""
        clock = ManualClock()
        store = open_store(clock=clock)
        answers: list[tuple[Any, list[Any]]] = []
        for operations in history:
            clock.now += data.draw(jumps())
            store.append(operations)
            for moment in (store.position, data.draw(instants(store).filter(lambda moment: moment is not None))):
                answers.append((moment, store.memories(as_of=moment)))
        for moment, answer in answers:
            assert store.memories(as_of=moment) == answer

    def test_an_instant_that_was_answered_is_closed(self, open_store: OpenStore) -> None:
        """Invariant 3: nothing is recorded at or before an instant that was answered, though the clock be set back."""
        clock = ManualClock()
        store = open_store(clock=clock)
        store.add("x", vector=[1.0], memory_id="a")
        clock.move(seconds=10)
        asked = clock.now
        assert store.count(as_of=asked) == 1
        clock.move(seconds=-9)
        assert store.add("y", vector=[1.0], memory_id="b").recorded_at > asked
        assert store.count(as_of=asked) == 1

    def test_an_instant_to_come_is_refused(self, open_store: OpenStore) -> None:
        """Invariant 3: an instant later than clock and head, or without a zone, or no position, has no answer yet."""
        clock = ManualClock()
        store = open_store(clock=clock)
        store.add("x", vector=[1.0], memory_id="a")
        clock.move(hours=-1)
        head = store.head.recorded_at
        assert store.count(as_of=head) == 1
        for moment in (head + MICROSECOND, START.replace(tzinfo=None), store.position + 1, -1, "yesterday"):
            with pytest.raises(InvalidInstant):
                store.memories(as_of=moment)

    @_property
    @given(history=histories(1))
    def test_a_deleted_memory_is_gone_from_every_read(self, open_store: OpenStore, history: History) -> None:
        """Invariant 3: no read of the present has a deleted memory, its content or its vector; the past has."""
        store, model = told(open_store, history)
        state = model.state()
        if not state:
            store.add("x", vector=[1.0] * 4, memory_id="a")
        ended = next(iter(state), "a")
        before = store.position
        event = store.delete(ended)
        assert (event.content, event.metadata, event.embedding) == (None, None, None)
        assert store.get(ended) is None
        assert ended not in {memory.memory_id for memory in store.memories()}
        assert ended not in store.vectors()[0]
        assert store.count() == max(len(state), 1) - 1
        assert store.get(ended, as_of=before) is not None

    def test_a_deleted_memory_can_be_added_again(self, open_store: OpenStore) -> None:
        """Invariant 3: a new life has nothing of the one before but its id and its history."""
        clock = ManualClock()
        store = open_store(clock=clock)
        store.add("old", vector=[1.0, 2.0], memory_id="a", metadata={"n": 1})
        store.delete("a")
        clock.move(seconds=1)
        event = store.add("new", vector=[3.0, 4.0], memory_id="a")
        found = store.get("a")
        assert (found.version, found.content, found.metadata) == (3, "new", {})
        assert (found.created_at, found.updated_at) == (event.recorded_at, None)
        assert store.vectors(["a"])[1][0].tolist() == [3.0, 4.0]

    @_property
    @given(history=histories(1), data=st.data())
    def test_a_filter_sees_the_metadata_of_then(
        self, open_store: OpenStore, history: History, data: st.DataObject
    ) -> None:
        """Invariant 3: a filter as of a moment looks at the metadata that were in force at that moment."""
        store, model = told(open_store, history)
        position = data.draw(st.integers(0, model.position))
        chosen = data.draw(filters([event.metadata for event in model.events if event.metadata is not None]))
        expected = [event.memory_id for event in model.state(position).values() if chosen.matches(event.metadata or {})]
        assert [memory.memory_id for memory in store.memories(chosen.filter, as_of=position)] == expected
        assert store.count(chosen.filter, as_of=position) == len(expected)
        assert store.vectors(filter=chosen.filter, as_of=position)[0] == expected

    @_property
    @given(history=histories(1))
    def test_the_history_says_before_and_after(self, open_store: OpenStore, history: History) -> None:
        """Invariant 3: a memory's history has each of its events, with the content before and after it."""
        store, model = told(open_store, history)
        for memory_id in {event.memory_id for event in model.events}:
            expected = [
                (event.position, event.type, event.before, event.content, event.version)
                for event in model.chosen(memory_id=memory_id)
            ]
            assert [
                (each.position, each.event, each.old_memory, each.new_memory, each.version)
                for each in store.history(memory_id)
            ] == expected

    @_property
    @given(history=histories(1), data=st.data())
    def test_delete_where_deletes_what_matches(
        self, open_store: OpenStore, history: History, data: st.DataObject
    ) -> None:
        """Invariant 3: all that matches a filter now ends in one append, and nothing else does."""
        store, model = told(open_store, history)
        metadata = [event.metadata or {} for event in model.state().values()]
        chosen = data.draw(filters(metadata).filter(lambda found: not found.everything))
        doomed = [event.memory_id for event in model.state().values() if chosen.matches(event.metadata or {})]
        events = store.delete_where(chosen.filter)
        assert [(event.type, event.memory_id) for event in events] == [("DELETE", each) for each in doomed]
        assert len({event.recorded_at for event in events}) <= 1
        assert [each.memory_id for each in store.memories()] == [each for each in model.state() if each not in doomed]

    # 6: what fails changes nothing; what is tried again happens once

    @_property
    @given(history=histories(1), data=st.data())
    def test_a_refused_operation_changes_nothing(
        self, open_store: OpenStore, history: History, data: st.DataObject
    ) -> None:
        """Invariant 6: each invalid operation raises its own error, and the history is as it was."""
        store, model = told(open_store, history)
        before = everything(store)
        for _ in range(4):
            refused = data.draw(invalid_operations(model.state(), dim=4))
            with pytest.raises(refused.error):
                store.append([refused.operation])
            assert everything(store) == before

    def test_an_empty_append_is_refused(self, open_store: OpenStore) -> None:
        """Invariant 6: an append has at least one operation."""
        store = open_store(clock=ManualClock())
        with pytest.raises(AsofError):
            store.append([])
        assert store.position == 0

    def test_a_retry_with_the_same_event_id_is_recorded_once(self, open_store: OpenStore) -> None:
        """Invariant 6: the same event again returns the one recorded; another under its id is refused."""
        store = open_store(clock=ManualClock())
        first = store.add("x", vector=[1.0], memory_id="a", event_id="e1")
        assert store.add("x", vector=[1.0], memory_id="a", event_id="e1") == first
        with pytest.raises(EventConflict):
            store.add("y", vector=[1.0], memory_id="a", event_id="e1")
        ended = store.delete("a", event_id="e2")
        assert store.delete("a", event_id="e2") == ended
        assert store.add("x", vector=[1.0], memory_id="a", event_id="e1") == first
        assert store.position == 2

    def test_of_two_who_expect_a_version_one_wins(self, open_store: OpenStore) -> None:
        """Invariant 6: an operation that expects another version or position than there is is refused."""
        store = open_store(clock=ManualClock())
        store.add("x", vector=[1.0], memory_id="a")
        store.update("a", metadata={"n": 1}, expected_version=1)
        for operation in (
            Update(memory_id="a", metadata={}, expected_version=1),
            Delete(memory_id="a", expected_version=1),
        ):
            with pytest.raises(VersionConflict):
                store.append([operation])
        with pytest.raises(MemoryExists):
            store.add("x", vector=[1.0], memory_id="a")
        with pytest.raises(PositionConflict):
            store.append([Delete(memory_id="a")], expected_position=1)
        assert store.position == 2
        assert store.append([Delete(memory_id="a", expected_version=2)], expected_position=2)[0].version == 3


_names = iter(range(10**9))


def new_name() -> str:
    """A name that no history has had in this process."""
    return f"history-{next(_names)}"


def told(open_store: OpenStore, history: History) -> tuple[Any, ModelStore]:
    """A store and a model that were both told the same history."""
    store, model = open_store(clock=ManualClock()), ModelStore()
    for operations in history:
        store.append(operations)
        model.append(operations, START)
    return store, model


def everything(store: Any) -> tuple[Any, ...]:
    """All that a store can be asked about its history."""
    return store.head, list(store.events()), store.memories()


def told_form(memory: Any) -> tuple[Any, ...]:
    """What a memory and the model's event have in common."""
    updated = memory.recorded_at if isinstance(memory, ModelEvent) and memory.type == "UPDATE" else None
    if not isinstance(memory, ModelEvent):
        updated = memory.updated_at
    return (
        memory.memory_id,
        memory.position,
        memory.version,
        memory.content,
        json_of(memory.metadata),
        memory.created_at,
        updated,
    )


def event_form(event: Any) -> tuple[Any, ...]:
    """What an event and the model's have in common."""
    fields: Sequence[str] = ("position", "memory_id", "version", "prev_seq", "type", "content", "embedding")
    return (*(getattr(event, name) for name in fields), json_of(event.metadata))
