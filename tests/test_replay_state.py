"""The whole state at an instant."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from eventstore import CorruptHistory, EventStore, InvalidInstant, Operation
from replay import state
from tests.profiles import scaled
from tests.replay_support import folded_to, histories, seen, tamper, told


@given(histories())
@settings(max_examples=scaled(60))
def test_the_state_is_the_fold_of_the_events_so_far(appends: list[list[Operation]]) -> None:
    """At every position: the same memories, metadata and vectors bit for bit, in the order of positions."""
    with told(appends) as store:
        for position in range(store.position + 1):
            found, expected = state(store, position), folded_to(store, position)
            assert seen(found) == expected
            assert list(found.memories) == list(found.vectors) == list(expected)


@given(histories(most=3))
@settings(max_examples=scaled(30))
def test_the_memories_are_those_that_the_store_reads(appends: list[list[Operation]]) -> None:
    """Versions, times and actors too are as `memories` has them."""
    with told(appends) as store:
        assert list(state(store).memories.values()) == store.memories()


def test_a_state_says_where_it_is() -> None:
    """An instant is resolved to a position, which can be asked again."""
    with EventStore() as store:
        first = store.add("tea", vector=[1, 2], memory_id="a")
        store.add("coffee", vector=[3, 4], memory_id="b")
        at = state(store, first.recorded_at)
        assert (at.position, at.recorded_at, list(at.memories)) == (1, first.recorded_at, ["a"])
        before = state(store, first.recorded_at - timedelta(seconds=1))
        assert (before.position, before.recorded_at, before.memories, before.vectors) == (0, None, {}, {})
        with pytest.raises(InvalidInstant):
            state(store, 3)


def test_an_empty_store_has_an_empty_state() -> None:
    """There is a state before there is a dimension."""
    with EventStore() as store:
        assert (state(store).position, state(store).memories, state(store).vectors) == (0, {}, {})


def test_vectors_are_rows_of_one_matrix_that_nobody_can_change() -> None:
    """float32, not copied for each memory, read-only."""
    with EventStore() as store:
        store.add_many(["x", "y"], vectors=[[1, 2], [3, 4]])
        first, second = state(store).vectors.values()
        assert first.dtype == np.float32
        assert first.base is not None
        assert first.base is second.base
        with pytest.raises(ValueError, match="read-only"):
            first[0] = 5


@pytest.mark.parametrize("position", [1, 2])
def test_a_changed_vector_is_not_handed_out(tmp_path: Path, position: int) -> None:
    """Whether an event holds it itself or points at the event that does."""
    path = tmp_path / "a.db"
    with EventStore(path) as store:
        store.add("tea", vector=[1, 2], memory_id="a")
        store.update("a", metadata={"n": 1})
    tamper(path, ("UPDATE payloads SET embedding = ? WHERE seq = 1", (np.float32([1, 3]).tobytes(),)))
    with EventStore(path) as store, pytest.raises(CorruptHistory, match="replay verify"):
        state(store, position)
