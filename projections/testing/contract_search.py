"""`SearchContract`: what every projection that is searched must do.

Each requirement is a test that says which invariant it states, by the numbers of docs/reference/testing.md.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import Add, Delete, EventStore, Operation, Update
from eventstore.testing import (
    CheckedFilter,
    History,
    ModelStore,
    filters,
    histories,
    instants,
    vectors,
)
from eventstore.testing.telling import contract_property
from projections.projection import project
from projections.testing.contract import OpenProjection, ProjectionContract, add_of, told
from projections.testing.search import brute_force_search, difference

__all__ = ["SearchContract"]

# Of the metrics cosine has its scores about these; most scores of the others are past them, on either side.
_BOUNDS = st.none() | st.sampled_from([-1.0, 0.0, 0.5])


class SearchContract(ProjectionContract):
    """What a projection that is searched must do, beside `ProjectionContract`.

    The projection has `metric` and `search(query, k, *, filter, as_of, min_score)`, which catches up by itself and
    returns hits with `memory_id`, `score`, `version` and `position`; where they also have `content`, `metadata`,
    `created_at` or `updated_at`, these are compared too, and so is `search_many(queries, k, ...)` where the projection
    has it. Where scores are not computed in float64 set `tolerance` to how far they may be off: hits are then compared
    by their true scores within it.
    """

    tolerance = 0.0

    def _assert_found(self, projection: Any, store: EventStore, query: list[float], k: int, **asked: Any) -> None:
        chosen = asked.get("filter")
        keywords = {**asked, "filter": chosen.filter if isinstance(chosen, CheckedFilter) else chosen}
        hits = projection.search(query, k, **keywords)
        self._assert_right(hits, projection.metric, store, query, k, **asked)

    def _assert_right(
        self, hits: Any, metric: str, store: EventStore, query: list[float], k: int, **asked: Any
    ) -> None:
        model = ModelStore.of(store.events())
        for hit in hits:
            assert difference(hit, model.events[hit.position - 1]) is None
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

    @contract_property
    @given(history=histories(1), query=vectors(4), k=st.integers(1, 8))
    def test_a_search_is_brute_force(
        self, open_projection: OpenProjection, history: History, query: list[float], k: int
    ) -> None:
        """Invariant 4: ids, scores and order are those of scoring every live memory."""
        with told(history) as store:
            self._assert_found(open_projection(store), store, query, k)

    @contract_property
    @given(history=histories(2), query=vectors(4), data=st.data())
    def test_a_search_of_the_past_is_a_search_then(
        self, open_projection: OpenProjection, history: History, query: list[float], data: st.DataObject
    ) -> None:
        """Invariant 4: as of any position or instant, however it is said, the answer is the one that was given then."""
        with told(history) as store:
            projection = open_projection(store)
            for moment in (data.draw(instants(store)), data.draw(instants(store))):
                self._assert_found(projection, store, query, 3, as_of=moment)
                if isinstance(moment, datetime):
                    self._assert_found(projection, store, query, 3, as_of=moment.isoformat())

    def test_a_hit_says_what_the_memory_was_then(self, open_projection: OpenProjection) -> None:
        """Invariant 4: a hit has the version, and what else it says of the memory, of the moment that is searched."""
        history: History = [
            [Add(memory_id="a", content="old", vector=[1.0, 0.0], metadata={"user": "alice"})],
            [Update(memory_id="a", content="new", vector=[1.0, 1.0], metadata={"user": "bob"})],
            [Delete(memory_id="a")],
            [Add(memory_id="a", content="again", vector=[1.0, 0.0])],
        ]
        with told(history) as store:
            projection = open_projection(store)
            for moment, version in ((1, 1), (2, 2), (4, 4), (None, 4)):
                (hit,) = projection.search([1.0, 0.0], 2, as_of=moment)
                assert hit.version == version
                self._assert_found(projection, store, [1.0, 0.0], 2, as_of=moment)

    @contract_property
    @given(history=histories(2), queries=st.lists(vectors(4), max_size=3), k=st.integers(1, 4), data=st.data())
    def test_many_searches_are_each_a_search(
        self, open_projection: OpenProjection, history: History, queries: list[list[float]], k: int, data: st.DataObject
    ) -> None:
        """Invariant 4: where there is `search_many`, each of its answers is that of its query asked alone."""
        with told(history) as store:
            projection = open_projection(store)
            if not hasattr(projection, "search_many"):
                pytest.skip("the projection has no search_many")
            chosen = data.draw(filters([event.metadata for event in store.events() if event.metadata is not None]))
            asked = {"filter": chosen, "as_of": data.draw(instants(store)), "min_score": data.draw(_BOUNDS)}
            found = projection.search_many(queries, k, **{**asked, "filter": chosen.filter})
            assert len(found) == len(queries)
            for query, hits in zip(queries, found, strict=True):
                self._assert_right(hits, projection.metric, store, query, k, **asked)

    def test_the_vector_before_an_update_is_found_as_of_then(self, open_projection: OpenProjection) -> None:
        """Invariant 4: an update's old vector answers for the time before it, and not after."""
        history: History = [
            [add_of("a", [1.0, 0.0]), add_of("b", [0.6, 0.8])],
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
            [add_of("b", [0.0, 1.0])],
            [add_of("a", [1.0, 0.0])],
            [Delete(memory_id="a")],
            [add_of("a", [-1.0, 0.0])],
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

    @contract_property
    @given(history=histories(1), query=vectors(4), k=st.integers(1, 8), data=st.data())
    def test_a_filter_as_of_sees_the_metadata_of_then(
        self, open_projection: OpenProjection, history: History, query: list[float], k: int, data: st.DataObject
    ) -> None:
        """Invariant 4: a filter looks at the metadata in force at the moment that is searched, not at today's."""
        with told(history) as store:
            chosen = data.draw(filters([event.metadata for event in store.events() if event.metadata is not None]))
            projection = open_projection(store)
            bound = data.draw(_BOUNDS)
            for moment in (data.draw(st.integers(0, store.position)), None):
                self._assert_found(projection, store, query, k, filter=chosen, as_of=moment, min_score=bound)

    def test_yesterdays_search_is_not_filtered_by_todays_metadata(self, open_projection: OpenProjection) -> None:
        """Invariant 4: a memory that changed hands is found under whom it belonged to then."""
        history: History = [
            [Add(memory_id="a", content="", vector=[1.0, 0.0], metadata={"user": "alice"}), add_of("b", [0.0, 1.0])],
            [Update(memory_id="a", metadata={"user": "bob"})],
        ]
        with told(history) as store:
            projection = open_projection(store)
            for user in ("alice", "bob"):
                for moment in (2, 3, None):
                    self._assert_found(projection, store, [1.0, 1.0], 2, filter={"user": user}, as_of=moment)

    def test_equal_scores_are_in_the_order_of_positions(self, open_projection: OpenProjection) -> None:
        """Invariant 4: ties are broken by position, so that an answer is the same wherever it is computed."""
        history: History = [[add_of(name, [1.0, 1.0])] for name in ("d", "b", "a", "c", "e")]
        history += [[Update(memory_id="b", metadata={"n": 1})]]
        with told(history) as store:
            projection = open_projection(store)
            hits = projection.search([1.0, 0.0], 4)
            assert [hit.memory_id for hit in hits] == ["d", "a", "c", "e"]
            assert [hit.position for hit in hits] == [1, 3, 4, 5]

    @contract_property
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
        with told([[add_of("a", [1.0, 0.0])]]) as store:
            projection = open_projection(store)
            assert projection.search([1.0, 0.0], 5).position == 1
            store.add("", vector=[1.0, 0.1], memory_id="b")
            hits = projection.search([1.0, 0.0], 5)
            assert ([hit.memory_id for hit in hits], hits.position) == (["a", "b"], 2)
            assert projection.search([1.0, 0.0], 5, as_of=1).position == 1

    def test_min_score_leaves_out_what_scores_lower(self, open_projection: OpenProjection) -> None:
        """Invariant 4: now and as of then; the bound itself is in."""
        added: list[Operation] = [add_of("a", [1.0, 0.0]), add_of("b", [1.0, 1.0]), add_of("c", [0.0, 1.0])]
        with told([added, [Delete(memory_id="c")]]) as store:
            projection = open_projection(store)
            best, second, _ = projection.search([1.0, 0.0], 3, as_of=3)
            for bound in (best.score, second.score, second.score - 1e-6, 1e9):
                for moment in (3, None):
                    self._assert_found(projection, store, [1.0, 0.0], 3, min_score=bound, as_of=moment)
