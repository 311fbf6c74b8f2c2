"""The kit's oracles: `assert_consistent` says in words what differs, brute force is brute force, the model models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from eventstore import Add, Delete, EventStore, HashingEmbedder, Memory, MemoryExists, Update
from eventstore.testing import START, CheckedFilter, ManualClock, ModelStore
from projections import VectorIndex
from projections.testing import assert_consistent, brute_force_search, score_of
from tests import broken_projections, broken_stores

HISTORY: list[list[Any]] = [
    [Add(memory_id="a", content="tea", vector=[1.0, 0.0], metadata={"n": 1})],
    [Add(memory_id="b", content="milk", vector=[0.0, 1.0]), Update(memory_id="a", content="coffee", vector=[1.0, 1.0])],
    [Delete(memory_id="b")],
]


def told(store_class: type[EventStore] = EventStore) -> EventStore:
    store = store_class(clock=ManualClock())
    for operations in HISTORY:
        store.append(operations)
    return store


@pytest.fixture
def store() -> Iterator[EventStore]:
    with told() as store:
        yield store


def test_what_agrees_is_consistent_at_any_moment(store: EventStore) -> None:
    """A store, an index, another's index, and the model that was asked for."""
    model = ModelStore()
    for operations in HISTORY:
        model.append(operations, START)
    for moment in (None, 0, 1, 2, 3, 4, START):
        assert_consistent(store, VectorIndex(store), broken_projections.ListIndex(store), as_of=moment, model=model)


class SaysAnotherContent(EventStore):
    def memories(self, *filter: Any, **asked: Any) -> list[Memory]:
        return [replace(memory, content="x") for memory in super().memories(*filter, **asked)]


class CountsWrong(EventStore):
    def count(self, *filter: Any, **asked: Any) -> int:
        return super().count(*filter, **asked) + 1


class HasItStill(EventStore):
    def memories(self, *filter: Any, **asked: Any) -> list[Memory]:
        return super().memories(*filter, as_of=min(asked["as_of"], 3))


class Forgets(EventStore):
    def memories(self, *filter: Any, **asked: Any) -> list[Memory]:
        return []


class MovesVectors(EventStore):
    def vectors(self, *ids: Any, **asked: Any) -> Any:
        names, matrix = super().vectors(*ids, **asked)
        return names, -matrix


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            SaysAnotherContent,
            "the store as of position 4 says that the content of memory 'a' is 'x'; by the history it is 'coffee'",
        ),
        (CountsWrong, "the store as of position 4 says that the count of memories is 2; by the history it is 1"),
        (HasItStill, "the store as of position 4 has memory 'b', which by the history is not live then"),
        (Forgets, "the store as of position 4 lacks memory 'a', which by the history is live then"),
        (
            MovesVectors,
            "the store as of position 4 says that the vector of memory 'a' is '[-1.0, -1.0]'; by the history it is "
            "'[1.0, 1.0]'",
        ),
        (broken_stores.SkipsAnEvent, "event 3 has position 3, and after those before it that is 2"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_first_difference_of_a_store_is_named(broken: type[EventStore], message: str) -> None:
    """Which read, which memory, what it says and what is right."""
    with told(broken) as store, pytest.raises(AssertionError) as caught:
        assert_consistent(store)
    assert str(caught.value) == message


class Halves(broken_projections.ListIndex):
    def contents(self, as_of: int) -> Any:
        positions, rows = super().contents(as_of)
        return positions, [row / np.float32(2) for row in rows]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (broken_projections.SkipsAnEvent, "projection 'list' as of position 3 has the event at position 1, which"),
        (broken_projections.LeaksADeletedMemory, None),
        (Halves, "says that the vector of memory 'b' is '[0.0, 0.5]'; by the history it is '[0.0, 1.0]'"),
        (broken_projections.ForgetsTheOldVector, None),
        (broken_projections.LosesAHit, "finds 1 memories of 2: memory 'a' is missing"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_first_difference_of_a_projection_is_named(broken: Any, message: str | None, store: EventStore) -> None:
    """Its name, the moment, and the row or the query."""

    def compare() -> None:
        for moment in (3, 1, 4):
            assert_consistent(store, broken(store), as_of=moment)

    with pytest.raises(AssertionError) as caught:
        compare()
    assert message is None or message in str(caught.value)


def test_what_nobody_asked_for_is_named(store: EventStore) -> None:
    """An event too many, and one that differs."""
    model = ModelStore()
    for operations in HISTORY[:2]:
        model.append(operations, START)
    with pytest.raises(AssertionError, match=r"an event at position 4 that nobody asked for: DELETE of 'b'"):
        assert_consistent(store, model=model)
    other = ModelStore()
    other.append([Add(memory_id="a", content="water", vector=[1.0, 0.0], metadata={"n": True})], START)
    with pytest.raises(
        AssertionError, match=r"position 1 \(ADD of 'a'\) has content 'tea'; what was asked for is 'water'"
    ):
        assert_consistent(store, as_of=1, model=other)
    other.events[0] = replace(other.events[0], content="tea")
    with pytest.raises(AssertionError, match=r"has metadata '\{\"n\": 1\}'; what was asked for is '\{\"n\": true\}'"):
        assert_consistent(store, as_of=1, model=other)


def test_brute_force_reads_a_store_and_a_model_alike(store: EventStore) -> None:
    """As of any moment, with a filter, a bound, and a limit."""
    model = ModelStore.of(store.events())
    for moment in range(5):
        for asked in (
            {},
            {"filter": {"n": 1}},
            {"filter": CheckedFilter({"n": 1})},
            {"min_score": 0.5},
            {"metric": "l2"},
        ):
            found = brute_force_search(store, [1.0, 0.5], 3, as_of=moment, **asked)  # type: ignore[arg-type]
            assert found == brute_force_search(model, [1.0, 0.5], 3, as_of=moment, **asked)  # type: ignore[arg-type]
    assert [each.memory_id for each in brute_force_search(model, [1.0, 0.5], 1, as_of=2)] == ["a"]
    assert brute_force_search(model, [1.0, 0.0], metric="ip")[0] == ("a", 1.0, 3)


def test_brute_force_embeds_text() -> None:
    """With the source's embedder."""
    with EventStore(embedder=HashingEmbedder(16)) as store:
        store.add("Alice prefers tea", memory_id="tea")
        store.add("the sky is grey", memory_id="sky")
        assert brute_force_search(store, "prefers tea", 1)[0].memory_id == "tea"


@pytest.mark.parametrize(
    ("metric", "score"), [("cosine", 3 / 5**0.5 / 2**0.5), ("ip", 3.0), ("l2", -1.0)], ids=["cosine", "ip", "l2"]
)
def test_scores_are_those_of_the_reference(metric: str, score: float) -> None:
    """Cosine, inner product, minus the squared distance."""
    assert score_of(metric, [1.0, 1.0], [1.0, 2.0]) == pytest.approx(score, rel=1e-15)


def test_a_model_refuses_what_a_store_refuses() -> None:
    """And takes nothing of an append that fails."""
    model = ModelStore()
    model.append(HISTORY[0])
    with pytest.raises(MemoryExists):
        model.append([Add(memory_id="new", content="", vector=[1.0]), *HISTORY[0]])
    assert model.position == 1
