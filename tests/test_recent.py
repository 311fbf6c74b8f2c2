"""What was asked for last is kept, and Ctrl-C while keys are hashed and compared leaves it whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import EventStore
from eventstore import filters as filters_module
from projections import VectorIndex
from projections import metadata_index as metadata_module
from projections.recent import Recent
from projections.testing import brute_force_search


@given(most=st.integers(1, 4), asked=st.lists(st.integers(0, 6), max_size=40))
def test_the_last_few_are_kept(most: int, asked: list[int]) -> None:
    """Of those asked for again it counts when they were asked for last."""
    recent: Recent[int, list[int]] = Recent(most)
    for at, key in enumerate(asked):
        value = recent.get(key)
        kept = list(dict.fromkeys(reversed(asked[:at])))[:most]
        assert (value is not None) == (key in kept)
        recent.put(key, [key] if value is None else value)
        assert [each[0] for each in recent.values()] == list(dict.fromkeys(reversed(asked[: at + 1])))[:most][::-1]


def test_a_newer_value_takes_the_place_of_the_older() -> None:
    """The older is gone, and the key is not kept twice."""
    recent: Recent[str, int] = Recent(2)
    for value in (1000, 2000, 3000):
        recent.put("a", value)
    recent.put("b", 4000)
    assert (recent.get("a"), recent.values()) == (3000, [3000, 4000])


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Ctrl-C in the n-th time from now that filters are hashed or compared, for the number that the list is given."""
    left = [0]

    def counted(original: Any) -> Any:
        def method(*these: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return original(*these)

        return method

    for kind, name in itertools.product((filters_module.Everything, filters_module.Condition), ("__eq__", "__hash__")):
        monkeypatch.setattr(kind, name, counted(getattr(kind, name)))
    yield left
    left[0] = 0


@pytest.mark.parametrize("filtered", [False, True], ids=["instants", "filters"])
def test_searches_go_on_after_an_interrupt_among_what_is_kept(
    interrupted: list[int], filtered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it comes, as many searches as you like find what scoring every row finds, and adds find their way in."""
    monkeypatch.setattr(metadata_module, "_REMEMBERED_BITMAPS", 2)
    monkeypatch.setattr(metadata_module, "_REMEMBERED_ROWS", 4)
    rows = np.random.default_rng(41).normal(size=(60, 3)).astype(np.float32)
    for place in range(1, 30):
        with EventStore() as store, VectorIndex(store, segment_rows=16) as index:
            store.add_many([""] * 24, vectors=rows[:24], metadatas=[{"n": number % 5} for number in range(24)])
            index.search(rows[0], filter={"n": 0} if filtered else None)
            interrupted[0] = place
            met = 0
            for number in range(36):
                how = {"filter": {"n": number % 5}} if filtered else {"as_of": number % 20 + 1}
                try:
                    for _ in range(2):  # the second time there is one to be compared with
                        index.search(rows[number], 4, **how)
                    if number % 6 == 5:
                        store.add("", vector=rows[24 + number // 6], metadata={"n": 1})
                except KeyboardInterrupt:
                    met += 1
                hits = index.search(rows[number], 4, **how) if interrupted[0] <= 0 else ()
                if interrupted[0] <= 0:
                    expected = brute_force_search(store, rows[number], 4, **how)
                    assert [(hit.position, hit.score) for hit in hits] == [
                        (one.position, one.score) for one in expected
                    ]
            assert met == 1, "the interrupt never came"
            assert index.faults() == []
