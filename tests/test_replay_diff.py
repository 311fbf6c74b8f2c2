"""What differs between two instants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import Add, Delete, EventStore, InvalidInstant, Memory, Operation, Update
from replay import diff
from tests.profiles import scaled
from tests.replay_support import folded_to, histories, summary, told


@given(histories(), st.data())
@settings(max_examples=scaled(100))
def test_a_diff_compares_two_folds(appends: list[list[Operation]], data: st.DataObject) -> None:
    """Added, updated, deleted: what a comparison of the two states one by one says, in either direction."""
    with told(appends) as store:
        a, b = (data.draw(st.integers(0, store.position)) for _ in "ab")
        before, after = folded_to(store, a), folded_to(store, b)
        found = diff(store, a, b)
        assert (found.a, found.b) == (a, b)
        assert summary(found) == (
            [memory_id for memory_id in after if memory_id not in before],
            [memory_id for memory_id in after if memory_id in before and after[memory_id] != before[memory_id]],
            [memory_id for memory_id in before if memory_id not in after],
        )
        assert found.empty == (not found) == (before == after)


@given(histories(), st.data())
@settings(max_examples=scaled(50))
def test_a_diff_the_other_way_round_is_the_reverse(appends: list[list[Operation]], data: st.DataObject) -> None:
    """The same memories in the same states, added for deleted and before for after."""
    with told(appends) as store:
        a, b = (data.draw(st.integers(0, store.position)) for _ in "ab")
        there, back = diff(store, a, b), diff(store, b, a)
        assert (there.added, there.deleted) == (back.deleted, back.added)
        assert sorted((change.before.position, change.after.position) for change in there.updated) == sorted(
            (change.after.position, change.before.position) for change in back.updated
        )


def test_memories_carry_the_state_of_their_side() -> None:
    """`before` is as of the first instant, `after` as of the second."""
    with EventStore() as store:
        first = store.add("tea", vector=[1, 2], memory_id="a")
        store.add("milk", vector=[1, 2], memory_id="b")
        store.update("a", "coffee", vector=[1, 2])
        store.delete("b")
        store.add("sugar", vector=[1, 2], memory_id="c")
        found = diff(store, 2, None)
        assert found.b == 5
        [change] = found.updated
        assert (change.before, change.after) == (store.get("a", as_of=first.recorded_at), store.get("a"))
        assert (found.added, found.deleted) == ([store.get("c")], [store.get("b", as_of=2)])


@pytest.mark.parametrize(
    ("again", "expected"),
    [
        ({}, ([], [], [])),
        ({"content": "coffee"}, ([], ["a"], [])),
        ({"metadata": {"n": 2}}, ([], ["a"], [])),
        ({"metadata": {"n": True}}, ([], ["a"], [])),
        ({"metadata": {"n": 1.0}}, ([], ["a"], [])),
        ({"vector": [1, 3]}, ([], ["a"], [])),
        ({"vector": [-0.0, 2]}, ([], ["a"], [])),
    ],
)
def test_a_memory_added_again_is_an_update_if_it_differs(
    again: dict[str, object], expected: tuple[list[str], ...]
) -> None:
    """And nothing if it does not."""
    memory = {"memory_id": "a", "content": "tea", "metadata": {"n": 1}, "vector": [0.0, 2]}
    with told([[Add(**memory)], [Delete(memory_id="a")], [Add(**{**memory, **again})]]) as store:
        assert summary(diff(store, 1, None)) == expected


def test_what_has_not_changed_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of one memory among many reads two payloads."""
    with EventStore() as store:
        store.add_many(["x"] * 500, vectors=[[1, 2]] * 500, memory_ids=[str(number) for number in range(500)])
        store.update("7", "y", vector=[1, 2])
        read: list[int] = []
        states = store.states

        def spy(positions: Iterable[int]) -> Iterator[Memory]:
            chosen = list(positions)
            read.extend(chosen)
            return states(chosen)

        monkeypatch.setattr(store, "states", spy)
        assert summary(diff(store, 500, None)) == ([], ["7"], [])
        assert sorted(read) == [8, 501]


def test_many_updates_are_all_compared() -> None:
    """Beyond one page of comparisons, and in the order of positions."""
    ids = [f"{number:04d}" for number in range(1201)]
    with told(
        [
            [Add(memory_id=each, content="x", vector=[1, 2]) for each in ids],
            [Update(memory_id=each, vector=[1, 2 + number % 2]) for number, each in enumerate(ids)],
        ]
    ) as store:
        assert summary(diff(store, 1201, None)) == ([], ids[1::2], [])


def test_a_position_beyond_the_head_is_refused() -> None:
    """On either side."""
    with EventStore() as store:
        for a, b in ((0, 1), (1, 0)):
            with pytest.raises(InvalidInstant, match="position 1"):
                diff(store, a, b)
