"""The kit's strategies: what they draw is valid, meets the hard cases, shrinks small, and prints as code."""

from __future__ import annotations

import datetime
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

import eventstore
from eventstore import Add, Delete, EventStore, InvalidMetadata, InvalidVector, Update, VersionConflict, parse_filter
from eventstore.testing import (
    MICROSECOND,
    START,
    CheckedFilter,
    History,
    ManualClock,
    ModelStore,
    Refused,
    clocks,
    contents,
    filters,
    histories,
    instants,
    invalid_operations,
    metadata,
    operations,
    vectors,
)

NAMES: dict[str, Any] = {**vars(eventstore), "datetime": datetime, "ManualClock": ManualClock, "Refused": Refused}
NAMES["CheckedFilter"] = CheckedFilter
SEARCH = settings(max_examples=3000, database=None, deadline=None, phases=[Phase.generate, Phase.shrink])


def smallest(strategy: st.SearchStrategy[Any], condition: Any) -> Any:
    return find(strategy, condition, settings=SEARCH)


# Printed as code


@given(history=histories(1, context=True), clock=clocks(), query=vectors(3))
def test_what_is_drawn_prints_as_code(history: History, clock: ManualClock, query: list[float]) -> None:
    """Evaluated again, a history, a clock and a vector are what they were."""
    again = eval(repr(history), NAMES)
    assert again == history
    assert [type(each) for each in again[0]] == [type(each) for each in history[0]]
    assert eval(repr(query), {}) == query
    assert [eval(repr(clock), NAMES)() for _ in range(3)][:1] == [clock()]


@given(data=st.data())
def test_what_is_refused_prints_as_code(data: st.DataObject) -> None:
    """Also with numbers that have no literal."""
    refused = data.draw(invalid_operations(dim=3))
    assert repr(eval(repr(refused), NAMES)) == repr(refused)


def test_an_operation_prints_as_it_was_written() -> None:
    """What was not given is left out; arrays are lists; NaN and infinity are calls."""
    operation = Add(memory_id="a", content="x", vector=np.array([1, 0.5], dtype=np.float32))
    assert repr(operation) == "Add(memory_id='a', content='x', vector=[1.0, 0.5])"
    odd = Update(memory_id="a", vector=[float("nan"), float("-inf")], metadata={"n": {"deep": [float("inf")]}})
    assert repr(odd) == (
        "Update(memory_id='a', metadata={'n': {'deep': [float('inf')]}}, vector=[float('nan'), float('-inf')])"
    )
    assert repr(Delete(memory_id="a", expected_version=2)) == "Delete(memory_id='a', expected_version=2)"


# Valid, and meeting the hard cases


@given(histories(0, 8, dim=3, batch=4, context=True))
def test_a_history_is_valid(history: History) -> None:
    """Every append succeeds, on a store as on the model."""
    model = ModelStore()
    with EventStore(clock=ManualClock()) as store:
        for appended in history:
            store.append(appended)
            model.append(appended)
        assert store.position == model.position == sum(map(len, history))


@pytest.mark.parametrize(
    "met",
    [
        lambda kinds, history: ["ADD", "DELETE", "ADD"] in kinds,
        lambda kinds, history: any({op.memory_id for op in one} != {one[0].memory_id} for one in history),
        lambda kinds, history: any([op.memory_id for op in one].count("a") > 1 for one in history),
        lambda kinds, history: any(op.type == "UPDATE" and op.vector is None for one in history for op in one),
    ],
    ids=["added again", "a batch of several memories", "a batch on itself", "a vector kept"],
)
def test_histories_meet(met: Any) -> None:
    """What a history has to have for a bug to show is drawn, and shrinks to a handful of operations."""

    def condition(history: History) -> bool:
        kinds = [[op.type for one in history for op in one if op.memory_id == name] for name in "abc"]
        return bool(met(kinds, history))

    history = smallest(histories(), condition)
    assert sum(map(len, history)) <= 3


def test_a_history_shrinks_to_what_matters() -> None:
    """Whatever stands before and between is left out, and values become the simplest; which memory it is, is open."""
    found = smallest(
        histories(max_size=8), lambda history: sum(op.type == "DELETE" for one in history for op in one) > 0
    )
    assert [op.type for one in found for op in one] == ["ADD", "DELETE"]
    assert found[0][0].memory_id == found[-1][-1].memory_id
    assert re.fullmatch(r"Add\(memory_id='[abc]', content='tea', vector=\[0.0, 0.0, 0.0, 1.0\]\)", repr(found[0][0]))


@pytest.mark.parametrize(
    "hard",
    [
        lambda v: any(0 < abs(x) < 2.0**-126 for x in v),
        lambda v: math.hypot(*v) > 1e19,
        lambda v: 0 < math.hypot(*v) < 1e-19,
        lambda v: any(0 < abs(x - 1) < 1e-6 for x in v),
        lambda v: any(x == 0 and math.copysign(1, x) < 0 for x in v),
        lambda v: all(x == int(x) for x in v),
    ],
    ids=["denormal", "very long", "very short", "a hair beside", "minus zero", "whole numbers"],
)
def test_vectors_meet_the_hard_cases(hard: Any) -> None:
    """Each of them is drawn."""
    smallest(vectors(3), hard)


def test_vectors_meet_each_other() -> None:
    """Duplicates, which tie in a search."""
    smallest(st.lists(vectors(4), min_size=2, max_size=6), lambda rows: rows[0] in rows[1:])


@given(vectors(5))
def test_vectors_are_exactly_float32(vector: list[float]) -> None:
    """What a store reads back is what was drawn; never all zeros unless that is allowed."""
    assert np.array(vector, dtype=np.float32).astype(float).tolist() == vector
    assert any(vector)


def test_vectors_of_zeros_are_drawn_where_they_are_allowed() -> None:
    """For stores that take them."""
    assert smallest(vectors(2, allow_zero=True), lambda found: True) == [0.0, 0.0]


@given(contents(), metadata())
def test_contents_and_metadata_are_taken(content: str, given: dict[str, Any]) -> None:
    """By the store, which gives them back as they are."""
    with EventStore() as store:
        event = store.add(content, metadata=given, vector=[1.0])
        assert (event.content, repr(event.metadata)) == (content, repr(dict(sorted(given.items()))))


@given(histories(1, 3), st.data())
def test_an_operation_of_a_state_is_valid_in_it(history: History, data: st.DataObject) -> None:
    """And an invalid one is refused with the error that it names, nothing recorded."""
    model = ModelStore()
    with EventStore() as store:
        for appended in history:
            store.append(appended)
            model.append(appended)
        refused = data.draw(invalid_operations(model.state(), dim=4))
        with pytest.raises(refused.error):
            store.append([refused.operation])
        assert store.position == model.position
        store.append([data.draw(operations(model.state()))])


@pytest.mark.parametrize("error", [InvalidVector, InvalidMetadata, VersionConflict])
def test_invalid_operations_are_of_many_kinds(error: type[Exception]) -> None:
    """Of each kind there are some."""
    model = ModelStore()
    model.append([Add(memory_id="a", content="x", vector=[1.0])])
    smallest(invalid_operations(model.state(), dim=1), lambda refused: refused.error is error)


# Moments


@given(histories(1, 4), clocks(), st.data())
def test_instants_are_answered(history: History, clock: ManualClock, data: st.DataObject) -> None:
    """By the store as by the model, whatever the clock does."""
    with EventStore(clock=clock) as store:
        for appended in history:
            store.append(appended)
        model = ModelStore.of(store.events())
        for _ in range(5):
            moment = data.draw(instants(store))
            assert store.position_at(moment) == model.position_at(moment)


@pytest.mark.parametrize(
    "moment",
    [None, 0, 2, 3, START - MICROSECOND, START, START + MICROSECOND, START + datetime.timedelta(seconds=1)],
    ids=["now", "the beginning", "inside an append", "the head", "before", "at", "between", "at the last"],
)
def test_instants_are_before_at_between_inside_and_after(moment: Any) -> None:
    """Of two appends, the first of two events."""
    clock = ManualClock()
    with EventStore(clock=clock) as store:
        store.append([Add(memory_id=name, content="", vector=[1.0]) for name in "abc"])
        clock.move(seconds=1)
        store.add("", vector=[1.0])
        assert smallest(instants(store), lambda found: found == moment and type(found) is type(moment)) == moment
        clock.move(seconds=1)
        after = store.head.recorded_at + MICROSECOND  # type: ignore[operator]
        assert smallest(instants(store), lambda found: found == after) == after


@given(clocks())
def test_a_clock_jumps_by_itself(clock: ManualClock) -> None:
    """As it says, and then stands still."""
    readings = [clock() for _ in range(12)]
    assert readings[-1] == readings[-2] == clock.now
    assert eval(repr(clock), NAMES)() == readings[0]


# Filters


@given(st.lists(metadata(), max_size=3), st.data())
def test_a_filter_means_what_its_oracle_says(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    """On the metadata that it was made for."""
    chosen = data.draw(filters(rows))
    tree = parse_filter(chosen.filter)
    for row in rows:
        assert tree.matches(row) == chosen.matches(row), (chosen, row)
    assert eval(repr(chosen), NAMES) == chosen


def test_filters_match_some_and_not_all() -> None:
    """A filter that matches everything or nothing says little; the simplest is the one without conditions."""
    rows = [{"user_id": "alice", "n": 1}, {"user_id": "bob", "n": 2.5}]
    found = smallest(filters(rows), lambda chosen: [chosen.matches(row) for row in rows] == [False, True])
    assert len(repr(found)) < 60
    assert smallest(filters(rows), lambda chosen: True) == CheckedFilter({})
