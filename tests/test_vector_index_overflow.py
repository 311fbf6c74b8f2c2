"""Vectors so long that float32 scores would overflow: still exact, as of then, and filtered."""

from __future__ import annotations

from typing import Any

import pytest

from eventstore import EventStore
from projections import VectorIndex
from projections.testing import assert_consistent, brute_force_search

# Of both kinds in every segment, and segments of one kind only.
LENGTHS = [1e37, 1.0, 1e38, 1e-3, 2e37, 3e38, 1e37, 1e38, 1.0, 2.0, 3.0, 4.0, 1e37]


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("query", [[1e37, -1e37], [1.0, 2.0], [-3e38, 1e38]], ids=["long", "short", "longest"])
def test_a_search_among_very_long_vectors_is_brute_force(metric: Any, query: list[float]) -> None:
    """Only what was live then and matches is a candidate, whatever float32 has to say."""
    with EventStore() as store, VectorIndex(store, metric=metric, segment_rows=3) as index:
        for number, length in enumerate(LENGTHS):
            vector = [length, -length / 2 if number % 3 else length]
            store.add("", vector=vector, memory_id=str(number), metadata={"n": number % 4})
        for number in (0, 5, 9):
            store.update(str(number), vector=[1.0, 1.0])
            store.delete(str(number + 1))
        for position in (3, 6, len(LENGTHS), len(LENGTHS) + 2, None):
            for k in (1, 2, 3):
                for chosen in (None, {"n": 1}, {"n": {"ne": 0}}):
                    hits = index.search(query, k, as_of=position, filter=chosen)
                    expected = brute_force_search(store, query, k, metric=metric, as_of=position, filter=chosen)
                    assert [(hit.memory_id, hit.score, hit.position) for hit in hits] == expected
        assert_consistent(store, index)
