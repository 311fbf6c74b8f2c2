"""`ReadsContract`: what every store must answer about its history, now and as of any past moment.

It is the part of `EventStoreContract` that reads; the numbers are those of the invariants in docs/reference/testing.md.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import Add, InvalidInstant, MemoryNotFound
from eventstore.testing.clocks import MICROSECOND, START, ManualClock, jumps
from eventstore.testing.filters import filters
from eventstore.testing.instants import instants
from eventstore.testing.model import ModelEvent, json_of
from eventstore.testing.operations import History, histories
from eventstore.testing.telling import OpenStore, contract_property, event_form, memory_form, told
from eventstore.testing.values import IDS, vectors

__all__ = ["ReadsContract"]

_ORDERS = ("position", "updated_at", "created_at", "memory_id")


class ReadsContract:
    """The reads of `EventStoreContract`."""

    @pytest.fixture
    def open_store(self) -> OpenStore:
        """The factory: to be overridden."""
        raise NotImplementedError(f"{type(self).__name__} has to define the fixture open_store")

    # 3: the state at any position is the fold of the events up to it

    @contract_property
    @given(history=histories(), data=st.data())
    def test_the_state_at_a_position_is_the_fold_up_to_it(
        self, open_store: OpenStore, history: History, data: st.DataObject
    ) -> None:
        """Invariant 3: memories, count and get as of any position or instant are the naive fold up to there."""
        store, model = told(open_store, history)
        for moment in (None, data.draw(instants(store)), data.draw(instants(store))):
            expected = model.state(moment)
            found = [memory_form(memory) for memory in store.memories(as_of=moment)]
            assert found == [memory_form(memory) for memory in expected.values()]
            assert store.count(as_of=moment) == len(expected)
            for memory_id in {event.memory_id for event in model.events}:
                memory, right = store.get(memory_id, as_of=moment), expected.get(memory_id)
                assert (memory and memory_form(memory)) == (right and memory_form(right))

    @contract_property
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

    @contract_property
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

    @contract_property
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

    @contract_property
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

    @contract_property
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

    @contract_property
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

    @contract_property
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

    # Who, when, and which

    @contract_property
    @given(history=histories(1, context=True))
    def test_who_and_why_are_recorded(self, open_store: OpenStore, history: History) -> None:
        """Invariant 3: an event has the actor, role, reason, causes and time in the world that were given."""
        store, model = told(open_store, history)
        assert [event_form(event) for event in store.events()] == [event_form(event) for event in model.events]
        assert [memory_form(memory) for memory in store.memories()] == [
            memory_form(memory) for memory in model.state().values()
        ]
        said = [(event.actor_id, event.role, event.reason) for event in model.events]
        assert [(each.actor_id, each.role, each.reason) for each in store.history()] == said

    def test_what_an_append_says_holds_for_its_operations(self, open_store: OpenStore) -> None:
        """Invariant 3: the keywords of an append are those of each operation that does not say its own."""
        store = open_store(clock=ManualClock())
        shared = {"actor_id": "ann", "role": "user", "reason": "r", "correlation_id": "c", "causation_id": "d"}
        operations = [Add(content="x", vector=[1.0]), Add(content="y", vector=[1.0], actor_id="bob", role="tool")]
        store.append(operations, **shared, occurred_at=START)
        first, second = store.events()
        assert {name: getattr(first, name) for name in shared} == shared
        assert {name: getattr(second, name) for name in shared} == {**shared, "actor_id": "bob", "role": "tool"}
        assert first.occurred_at == second.occurred_at == START

    @contract_property
    @given(history=histories(1, context=True), data=st.data())
    def test_events_are_chosen_by_all_that_is_asked(
        self, open_store: OpenStore, history: History, data: st.DataObject
    ) -> None:
        """Invariant 3: `events` and `history` give those that match every condition, in order, and no other."""
        store, model = told(open_store, history)
        asked = data.draw(_selections(model.events))
        expected = [event.position for event in _chosen(model.events, **asked)]
        assert [event.position for event in store.events(**asked)] == expected
        assert [each.position for each in store.history(**asked)] == expected

    def test_a_reading_ends_where_the_history_ended(self, open_store: OpenStore) -> None:
        """Invariant 3: what is recorded while events are read does not appear among them."""
        store = open_store(clock=ManualClock())
        store.append([Add(memory_id=name, content="", vector=[1.0]) for name in "ab"])
        reading = store.events()
        store.add("", vector=[1.0], memory_id="c")
        assert next(reading).memory_id == "a"
        store.add("", vector=[1.0], memory_id="d")
        assert [event.memory_id for event in reading] == ["b"]

    @contract_property
    @given(history=histories(1), data=st.data())
    def test_memories_come_in_the_order_asked_for(
        self, open_store: OpenStore, history: History, data: st.DataObject
    ) -> None:
        """Invariant 3: by position, age or id, from either end, and of those the first `limit`."""
        store, model = told(open_store, history)
        moment, order = data.draw(instants(store)), data.draw(st.sampled_from(_ORDERS))
        limit = data.draw(st.none() | st.integers(1, 4))
        then = model.events[: model.position_at(moment)]
        born = {event.memory_id: event.position for event in then if event.type == "ADD"}  # of several lives the last
        keys = {"created_at": lambda each: born[each.memory_id], "memory_id": lambda each: each.memory_id}
        right = sorted(model.state(moment).values(), key=keys.get(order, lambda each: each.position))
        for name, expected in ((order, right), (f"-{order}", right[::-1])):
            found = store.memories(as_of=moment, order=name, limit=limit)
            assert [memory.memory_id for memory in found] == [each.memory_id for each in expected[:limit]]

    @contract_property
    @given(history=histories(1), data=st.data())
    def test_a_moment_can_be_said_in_any_zone(
        self, open_store: OpenStore, history: History, data: st.DataObject
    ) -> None:
        """Invariant 3: an instant in another zone, or as ISO 8601, is the same instant."""
        store, model = told(open_store, history)
        moment = data.draw(instants(store).filter(lambda each: isinstance(each, datetime)))
        assert isinstance(moment, datetime)
        there = moment.astimezone(timezone(timedelta(hours=5, minutes=30)))
        for said in (there, there.isoformat(), moment.isoformat().replace("+00:00", "Z")):
            assert store.position_at(said) == model.position_at(moment)
            assert [memory.memory_id for memory in store.memories(as_of=said)] == list(model.state(moment))

    @contract_property
    @given(history=histories(1), data=st.data())
    def test_vectors_come_in_the_order_of_the_ids(
        self, open_store: OpenStore, history: History, data: st.DataObject
    ) -> None:
        """Invariant 3: `vectors(ids)` has a row for each id, as of the moment; an id that was not live is named."""
        store, model = told(open_store, history)
        moment = data.draw(instants(store))
        state = model.state(moment)
        ids = data.draw(st.permutations(sorted(state)))
        found, matrix = store.vectors(ids, as_of=moment)
        assert found == ids
        assert [row.tobytes() for row in matrix] == [state[memory_id].embedding for memory_id in ids]
        for memory_id in {*IDS, "never added"} - set(state):
            with pytest.raises(MemoryNotFound):
                store.vectors([*ids, memory_id], as_of=moment)

    @contract_property
    @given(history=histories(), data=st.data())
    def test_the_head_of_a_moment_is_its_last_event(
        self, open_store: OpenStore, history: History, data: st.DataObject
    ) -> None:
        """Invariant 3: `head_at` gives the position, instant and hash that the history ended with then."""
        store, model = told(open_store, history)
        moment = data.draw(instants(store))
        head, position = store.head_at(moment), model.position_at(moment)
        last = model.events[position - 1].recorded_at if position else None
        assert (head.position, head.recorded_at, head.hash) == (position, last, store.hash_at(position))

    @contract_property
    @given(history=histories(1), data=st.data())
    def test_a_projection_can_read_by_position(
        self, open_store: OpenStore, history: History, data: st.DataObject
    ) -> None:
        """Invariant 3: ranges of events, and states, metadata and embeddings at positions, are those of the fold."""
        store, model = told(open_store, history)
        first, last = sorted(data.draw(st.lists(st.integers(0, model.position), min_size=2, max_size=2)))
        given = store.event_range(first, last)
        assert len(given) == last - first
        assert [event_form(event) for event in given] == [event_form(event) for event in model.events[first:last]]
        now = [each.position for each in model.state(last).values()]
        assert [int(each) for each in store.current_positions(as_of=last)] == now
        left = [event for event in model.events if event.type != "DELETE"]
        at = [event.position for event in left]
        assert [memory_form(memory) for memory in store.states(at[::-1])] == [memory_form(each) for each in left[::-1]]
        texts = [json_of(json.loads(text)) for _, text in store.metadata_json(at)]
        assert texts == [json_of(event.metadata) for event in left]
        rows = store.embeddings(at[::-1])
        assert [row.tobytes() for row in rows] == [event.embedding for event in left[::-1]]


def _selections(events: list[ModelEvent]) -> st.SearchStrategy[dict[str, Any]]:
    """Conditions on events as `events` takes them, each of which some event meets and most have one that does not."""
    positions, times = st.integers(0, len(events)), st.sampled_from([event.recorded_at for event in events])
    conditions: dict[str, st.SearchStrategy[Any]] = {
        "after": positions,
        "upto": positions,
        "memory_id": st.sampled_from([*IDS, "never added"]),
        "actor_id": st.sampled_from(["ann", "bob"]),
        "role": st.sampled_from(["user", "assistant"]),
        "type": st.sampled_from(["ADD", "UPDATE", "DELETE"]),
        "since": times | times.map(lambda time: time - MICROSECOND),
        "until": times | times.map(lambda time: time - MICROSECOND),
        "correlation_id": st.sampled_from(["chat-1", "chat-2"]),
        "reverse": st.booleans(),
        "limit": st.integers(1, 3),
    }
    return st.lists(st.sampled_from(sorted(conditions)), max_size=3, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: conditions[name] for name in names})
    )


def _chosen(events: list[ModelEvent], **asked: Any) -> list[ModelEvent]:
    """The naive reading of `events(...)`."""
    after, upto, limit = asked.pop("after", 0), asked.pop("upto", None), asked.pop("limit", None)
    since, until, reverse = asked.pop("since", None), asked.pop("until", None), asked.pop("reverse", False)
    found = [
        event
        for event in events
        if event.position > after
        and (upto is None or event.position <= upto)
        and (since is None or event.recorded_at >= since)
        and (until is None or event.recorded_at <= until)
        and all(getattr(event, name) == value for name, value in asked.items())
    ]
    return (found[::-1] if reverse else found)[:limit]
