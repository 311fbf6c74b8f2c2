"""`EventStoreContract`: what every store must do, each requirement a test that says which invariant it states.

The numbers are those of the invariants in docs/reference/testing.md.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import (
    Add,
    AsofError,
    Closed,
    Delete,
    EventConflict,
    InvalidOperation,
    MemoryExists,
    PositionConflict,
    Update,
    VersionConflict,
)
from eventstore.testing.clocks import MICROSECOND, START, ManualClock, jumps
from eventstore.testing.contract_reads import ReadsContract
from eventstore.testing.filters import filters
from eventstore.testing.model import ModelStore
from eventstore.testing.operations import History, histories, invalid_operations
from eventstore.testing.telling import OpenStore, contract_property, everything, new_name, told

__all__ = ["EventStoreContract", "OpenStore"]


class EventStoreContract(ReadsContract):
    """What a store of histories must do. Derive a test class from it and provide the fixture `open_store`.

    `open_store(name=None, *, clock)` opens the history of that name as a store with the methods of
    `EventStore`, by the clock given, without an embedder. The same name opened again, while the first is still
    open or after it was closed, is the same history; without a name it is a new one. What is opened is the
    fixture's to close. For a store that keeps nothing when it is closed set `durable = False`: the tests that
    open a history twice are passed over.
    """

    durable = True

    def _needs_durability(self) -> None:
        if not self.durable:
            pytest.skip("the store keeps nothing when it is closed")

    # 1: an acknowledged append is on disk, all of it or nothing

    @contract_property
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

    @contract_property
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

    @contract_property
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

    @contract_property
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

    @contract_property
    @given(history=histories(2), steps=st.lists(jumps(), min_size=8, max_size=8))
    def test_the_next_append_is_strictly_later(
        self, open_store: OpenStore, history: History, steps: list[timedelta]
    ) -> None:
        """Invariant 2: whatever the clock does, stand still or go back, no two appends share an instant."""
        store = open_store(clock=ManualClock(jumps=steps))
        instants = [store.append(operations)[0].recorded_at for operations in history]
        assert all(before < after for before, after in pairwise(instants))
        assert [event.recorded_at for event in store.events()] == sorted(event.recorded_at for event in store.events())

    def test_an_append_is_recorded_at_the_time_of_the_clock(self, open_store: OpenStore) -> None:
        """Invariant 2: `recorded_at` is the clock's time, or where that is later a microsecond past the one before."""
        clock = ManualClock()
        store = open_store(clock=clock)
        recorded = []
        for seconds in (0, 5, -1, 0, 86400):
            clock.move(seconds=seconds)
            recorded.append(store.append([Add(content="x", vector=[1.0])])[0].recorded_at)
        later = [timedelta(), timedelta(seconds=5), timedelta(seconds=5, microseconds=1)]
        later += [timedelta(seconds=5, microseconds=2), timedelta(seconds=86404)]
        assert recorded == [START + each for each in later]

    @contract_property
    @given(history=histories(1))
    def test_versions_count_by_one_and_link_back(self, open_store: OpenStore, history: History) -> None:
        """Invariant 2: a memory's versions are 1, 2, 3 ..., also past a DELETE; `prev_seq` is its event before."""
        store, model = told(open_store, history)
        events = list(store.events())
        assert [(e.version, e.prev_seq) for e in events] == [(e.version, e.prev_seq) for e in model.events]

    @contract_property
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
        assert [store.head_at(position).hash for position in range(len(heads))] == heads
        assert store.hash_at(len(heads)) is None

    @contract_property
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

    def test_delete_where_needs_to_be_told_what(self, open_store: OpenStore) -> None:
        """Invariant 6: without a filter nothing is deleted, unless everything is to be."""
        store, _ = told(open_store, [[Add(memory_id=name, content="x", vector=[1.0]) for name in "ab"]])
        for call in (store.delete_where, lambda: store.delete_where(None), lambda: store.delete_where({})):
            with pytest.raises(InvalidOperation):
                call()
        assert store.count() == 2
        assert [event.memory_id for event in store.delete_where(everything=True)] == ["a", "b"]
        assert store.count() == 0

    def test_many_memories_are_added_in_one_append(self, open_store: OpenStore) -> None:
        """Invariants 1 and 6: `add_many` adds all, in order and at one instant, or where one is refused none."""
        store = open_store(clock=ManualClock())
        numbers, metadatas = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [{"n": 1}, None, {}]
        events = store.add_many(
            ["x", "y", "z"], vectors=numbers, memory_ids=["a", None, "c"], metadatas=metadatas, actor_id="ann"
        )
        assert list(store.events()) == list(events)
        assert [(event.type, event.content, event.actor_id) for event in events] == [
            ("ADD", one, "ann") for one in "xyz"
        ]
        assert [event.vector.tolist() for event in events] == numbers
        assert [event.metadata for event in events] == [{"n": 1}, {}, {}]
        assert (events[0].memory_id, events[2].memory_id) == ("a", "c")
        assert len({event.recorded_at for event in events}) == 1
        with pytest.raises(MemoryExists):
            store.add_many(["new", "old"], vectors=numbers[:2], memory_ids=["d", "a"])
        assert store.position == 3

    def test_what_has_no_name_gets_one_of_its_own(self, open_store: OpenStore) -> None:
        """Invariant 6: memories and events that are given no id have one that no other has."""
        store = open_store(clock=ManualClock())
        events = [store.add("x", vector=[1.0]) for _ in range(3)]
        events += store.append([Add(content="x", vector=[1.0])] * 3)
        events += store.add_many(["x"] * 3, vectors=[[1.0]] * 3)
        assert len({event.memory_id for event in events}) == len({event.event_id for event in events}) == 9
        assert store.count() == 9

    # 6: what fails changes nothing; what is tried again happens once

    @contract_property
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

    def test_an_append_that_is_tried_again_is_recorded_once(self, open_store: OpenStore) -> None:
        """Invariant 6: its events come back as they were, though the memory has moved on; what is new is recorded."""
        store = open_store(clock=ManualClock())
        whole = [
            Add(memory_id="a", content="x", vector=[1.0], event_id="e1"),
            Update(memory_id="a", metadata={"n": 1}, expected_version=1, event_id="e2"),
        ]
        first = list(store.append(whole))
        ended = store.delete("a")
        assert list(store.append(whole)) == first
        assert store.update("a", metadata={"n": 1}, expected_version=1, event_id="e2") == first[1]
        again = store.append([*whole, Add(memory_id="b", content="y", vector=[2.0])])
        assert [event.position for event in again] == [1, 2, 4]
        assert list(store.events()) == [*first, ended, again[2]]

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

    def test_a_closed_store_says_so(self, open_store: OpenStore) -> None:
        """Invariant 6: what is asked of a closed store raises `Closed`; closing it again does nothing."""
        store = open_store(clock=ManualClock())
        store.add("x", vector=[1.0], memory_id="a")
        assert not store.closed
        store.close()
        store.close()
        assert store.closed
        for asked in (lambda: store.delete("a"), lambda: store.get("a"), lambda: list(store.events())):
            with pytest.raises(Closed):
                asked()
