"""Approximate kinds: what they find, that they say so, and that how they came to be makes no difference to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import EventStore, InvalidOperation
from eventstore.testing import vectors
from projections import VectorIndex, approximate
from projections.codes import Codes
from projections.grid import Grid, unpacked
from projections.hnsw import Graph
from projections.scoring import exact_scores, norms_of, quick_norms
from projections.segments import Segments
from projections.testing import brute_force_search
from tests.approximate_support import (
    KINDS,
    METRICS,
    QUERIES,
    SEGMENT,
    answers,
    clustered,
    exact,
    fill,
    made,
    open_index,
    recall,
)
from tests.profiles import scaled

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes of a few rows are searched approximately too."""
    monkeypatch.setattr(approximate, "FEW_ROWS", 0)


pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    with EventStore(tmp_path / "agent.db", durability="normal") as store:
        fill(store)
        yield store


# What is found


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_most_of_the_nearest_are_found_and_scored_exactly(store: EventStore, kind: Any, metric: Any) -> None:
    """Among clustered vectors: 95 of 100, now, filtered and in the past; each with its exact score."""
    with open_index(store, kind, metric=metric) as index, exact(store, metric) as flat:
        for asked in ({}, {"as_of": 700}, {"filter": {"n": {"lt": 2}}}):
            found, right = index.search_many(QUERIES, 10, **asked), flat.search_many(QUERIES, 10, **asked)
            assert {hits.kind for hits in found} == {"flat" if (kind, asked) == ("hnsw", {"as_of": 700}) else kind}
            assert recall(found, right) >= 0.95
            for hits, query in zip(found, QUERIES, strict=True):
                recorded = store.embeddings([hit.position for hit in hits])
                assert [hit.score for hit in hits] == exact_scores(metric, query, recorded).tolist()
                order = [(-hit.score, hit.position) for hit in hits]
                assert order == sorted(order)


@pytest.mark.skipif(not DATA.exists(), reason="needs real embeddings")
@pytest.mark.parametrize("kind", KINDS)
def test_most_of_the_nearest_are_found_among_sentence_embeddings(kind: Any) -> None:
    """Turns of conversations, and questions about them: 95 of 100."""
    matrix, questions = np.load(DATA / "locomo-turns.npy"), np.load(DATA / "locomo-questions.npy")[:300]
    with EventStore() as store:
        store.add_many([""] * len(matrix), vectors=matrix)
        with VectorIndex(store, kind="flat") as flat, VectorIndex(store, kind=kind, segment_rows=512) as index:
            found = index.search_many(questions, 10)
            right = flat.search_many(questions, 10)
    assert {hits.kind for hits in found} == {kind}
    assert recall(found, right) >= 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_just_added_is_found_at_once(store: EventStore, kind: Any) -> None:
    """The newest rows are in no structure and gone through as they are."""
    with open_index(store, kind) as index:
        for number, query in enumerate(clustered(150, seed=5)):
            added = store.add("", vector=query, memory_id=f"late{number}")
            hits = index.search(query, 3)
            assert (hits[0].memory_id, hits.kind) == (added.memory_id, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_updates_and_deletes_take_effect_at_once(store: EventStore, kind: Any) -> None:
    """Also where the old row is deep in a structure; as of before, it still answers."""
    with open_index(store, kind) as index:
        query = store.vectors()[1][200]
        (name,) = [hit.memory_id for hit in index.search(query, 1)]
        before = store.position
        store.update(name, "moved", vector=-query)
        assert index.search(query, 1)[0].memory_id != name
        store.delete(name)
        assert index.search(-query, 1)[0].memory_id != name
        assert index.search(query, 1, as_of=before)[0].memory_id == name


@pytest.mark.parametrize("kind", KINDS)
def test_few_selected_rows_are_searched_exactly(store: EventStore, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a filter or an instant, by share or by number; and the hits say so."""
    with open_index(store, kind) as index:
        for asked in ({"filter": {"rare": 7}}, {"as_of": 60}):
            for query in QUERIES:
                hits = index.search(query, 10, **asked)
                assert hits.exact
                expected = brute_force_search(store, query, 10, filter=asked.get("filter"), as_of=asked.get("as_of"))
                assert [(hit.memory_id, hit.score, hit.position) for hit in hits] == expected
        assert not index.search(QUERIES[0], 10).exact
        assert index.search(QUERIES[0], 1, filter={"rare": {"lt": 4}}).exact
        assert not index.search(QUERIES[0], 1, filter={"rare": {"lt": 8}}).exact
        monkeypatch.setattr(approximate, "FEW_ROWS", 20_000)
        assert index.search(QUERIES[0], 10).exact


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_hits_come_back_as_there_are(store: EventStore, kind: Any) -> None:
    """Where a structure finds fewer than k, and where k is everything."""
    with open_index(store, kind, effort=1e-9) as index:
        for k in (1, 10, 300, 450, store.count(), 5000):
            for filter in (None, {"n": {"lt": 2}}):
                there = len(brute_force_search(store, QUERIES[0], 10**6, filter=filter))
                assert len(index.search(QUERIES[0], k, filter=filter)) == min(k, there)


def test_fewer_candidates_than_k_are_made_up_for_by_searching_exactly(store: EventStore) -> None:
    """One list of many, and more wanted than it has."""
    with open_index(store, effort=1e-9) as index:
        hits = index.search(QUERIES[0], 250)
        assert hits.exact
        assert [hit.memory_id for hit in hits] == [one.memory_id for one in brute_force_search(store, QUERIES[0], 250)]
        assert not index.search(QUERIES[0], 3).exact


@pytest.mark.parametrize("kind", KINDS)
def test_where_a_structure_proposes_nothing_rows_are_searched_exactly(kind: Any) -> None:
    """Those that pass the filter are all far from the query, and no other segment has any."""
    matrix = np.random.default_rng(0).normal(scale=0.05, size=(6 * 1024, 8)).astype(np.float32)
    left = np.arange(len(matrix)) % 2 == 0
    matrix[:, 0] += np.where(left, 1, -1)
    query = np.array([-1, *[0] * 7], dtype=np.float32)
    sides = [{"side": "a" if left[n] and n < 4 * 1024 else "b"} for n in range(len(matrix))]
    with EventStore() as store, VectorIndex(store, kind=kind, segment_rows=1024, effort=0.1) as index:
        store.add_many([""] * len(matrix), vectors=matrix, metadatas=sides)
        hits = index.search(query, 10, filter={"side": "a"})
        expected = brute_force_search(store, query, 10, filter={"side": "a"})
        assert [(hit.memory_id, hit.score, hit.position) for hit in hits] == expected


def test_rows_of_a_graph_have_as_many_links_as_there_is_room_for() -> None:
    """Also when it was read back: without, a million rows are hardly ever all reached."""

    def links(graph: Graph) -> float:
        size = graph._index.hnsw.nb_neighbors(0)
        neighbors = faiss.vector_to_array(graph._index.hnsw.neighbors)
        starts = faiss.vector_to_array(graph._index.hnsw.offsets)[:-1]
        return float(np.mean([(neighbors[start : start + size] >= 0).sum() / size for start in starts]))

    segments = Segments("ip", 16, 512)
    segments.add(clustered(1536, dimension=16))
    graph, again = Graph("ip", 512), Graph("ip", 512)
    graph.fold(segments.coded[:2])
    assert links(graph) > 0.95
    again.restore(segments.coded[:2], graph.taken, graph.packed())
    for one in (graph, again):
        one.fold(segments.coded)
    assert links(graph) > 0.95
    assert again.packed() == graph.packed()


def test_more_effort_finds_more(store: EventStore) -> None:
    """Up to everything."""
    with exact(store) as flat:
        right = flat.search_many(QUERIES, 10)
    found = []
    for effort in (0.01, 1.0, 100.0):
        with open_index(store, effort=effort) as index:
            found.append(recall(index.search_many(QUERIES, 10), right))
    assert found[0] < found[1] <= found[2] == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_do_not_fit_the_scale_are_searched_as_they_are(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inner products of rows that grow a hundredfold: none of those is lost to a scale that was made for small ones."""
    monkeypatch.setattr(approximate, "SPARE", 0)
    matrix = clustered(640) * np.repeat([1.0, 100.0, 1e-3, 1.0], 160)[:, None].astype(np.float32)
    with EventStore() as store:
        store.add_many([""] * len(matrix), vectors=matrix)
        with open_index(store, kind, metric="ip") as index:
            found = index.search_many(QUERIES, 10)
            assert {hits.kind for hits in found} == {kind}
            with exact(store, "ip") as flat:
                assert recall(found, flat.search_many(QUERIES, 10)) >= 0.95


def test_a_query_that_is_far_out_is_searched_for_exactly(store: EventStore) -> None:
    """A graph's distances end where its numbers do; from further away other rows are the nearest."""
    with open_index(store, "hnsw", metric="l2") as index, exact(store, "l2") as flat:
        for factor, far in ((1.0, False), (100.0, True), (1e6, True)):
            for query in QUERIES * np.float32(factor):
                found = index.search(query, 10)
                assert found.exact == far
                assert not far or list(found) == list(flat.search(query, 10))


# Which kind


def test_an_index_that_chooses_is_exact_until_there_are_many_rows(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the past, when there were fewer."""
    monkeypatch.setattr(approximate, "AUTO_ROWS", 500)
    with VectorIndex(store, segment_rows=SEGMENT) as index:
        assert index.kind == "auto"
        assert index.search(QUERIES[0], as_of=store.position).kind == "ivf"
        kinds = [index.search(QUERIES[0], as_of=at).kind for at in range(400, 700, 4)]
        assert kinds == sorted(kinds)
        rows = 1 + kinds.index("ivf") * 4 + 400
        assert 512 <= rows <= 540


def test_a_flat_index_is_exact_at_any_size(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows there are."""
    monkeypatch.setattr(approximate, "AUTO_ROWS", 1)
    with open_index(store, "flat") as index:
        assert {kind for _, kind in answers(index)} == {"flat"}


@pytest.mark.parametrize("kind", ["IVF", "", None, 3, "exact"])
def test_an_unknown_kind_is_refused(store: EventStore, kind: Any) -> None:
    """And the ones there are are named."""
    with pytest.raises(InvalidOperation, match=r"kind is .*'auto', 'flat', 'ivf' or 'hnsw'"):
        open_index(store, kind)


@pytest.mark.parametrize("effort", [0, -1.0, float("nan"), float("inf"), "much", True, None])
def test_an_effort_that_makes_no_sense_is_refused(store: EventStore, effort: Any) -> None:
    """And the usual one is named."""
    with pytest.raises(InvalidOperation, match=r"effort is .*1 is the usual"):
        open_index(store, effort=effort)


# However it came to be


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_grown_reopened_and_rebuilt_indexes_answer_the_same(tmp_path: Path, kind: Any, metric: Any) -> None:
    """Grown event by event and by batches, reopened at every stage, made anew: the same hits, scores and kinds."""
    with EventStore(tmp_path / "agent.db", durability="normal") as store:
        grown = open_index(store, kind, metric=metric, directory=tmp_path / "grown")
        single = open_index(store, kind, metric=metric, directory=tmp_path / "single")
        for step, rows in enumerate((30, 100, 200, 40, 300, 330)):
            fill(store, rows, at_once=rows, seed=step)
            grown.catch_up()
            for event in store.events(after=single.position):
                single.apply([event])
            reopened = open_index(store, kind, metric=metric, directory=tmp_path / "stages")
            reopened.catch_up()
            reopened.checkpoint()
            again = open_index(store, kind, metric=metric, directory=tmp_path / "stages", vector_memory=0)
            assert again.position == store.position
            fresh = open_index(store, kind, metric=metric, directory=tmp_path / "none")
            moments = [None, *(at for at in (1000, 500, 300, 150, 90) if at <= store.position)]
            expected = answers(fresh, moments)
            for index in (grown, single, reopened, again):
                assert answers(index, moments) == expected
                assert made(index) == made(fresh)
        grown.rebuild()
        assert answers(grown) == expected
        assert made(grown) == made(fresh)
        assert kind in {kind for _, kind in expected}


@pytest.mark.parametrize("metric", METRICS)
def test_inverted_lists_answer_for_the_past_as_they_did_then(store: EventStore, metric: Any, tmp_path: Path) -> None:
    """Invariant 4, to the last bit: what came later moves nothing."""
    index = open_index(store, metric=metric)
    index.catch_up()
    kinds = set()
    for at in range(70, store.position, 53):
        then = open_index(store, metric=metric, directory=tmp_path / "none")
        then.catch_up(at)
        for query in QUERIES[:3]:
            for filter in (None, {"n": {"lt": 3}}):
                now, expected = (one.search(query, 5, as_of=at, filter=filter) for one in (index, then))
                assert (list(now), now.kind) == (list(expected), expected.kind)
                kinds.add(now.kind)
    assert "ivf" in kinds


def test_a_graph_answers_for_the_past_as_it_did_then_or_exactly(store: EventStore, tmp_path: Path) -> None:
    """It has grown: only where it has not since then does it answer."""
    index = open_index(store, "hnsw")
    index.catch_up()
    kinds = []
    for at in range(200, store.position, 53):
        then = open_index(store, "hnsw", directory=tmp_path / "none")
        then.catch_up(at)
        now = index.search(QUERIES[0], 5, as_of=at)
        kinds.append(now.kind)
        if now.exact:
            expected = brute_force_search(store, QUERIES[0], 5, as_of=at)
            assert [(hit.memory_id, hit.score, hit.position) for hit in now] == expected
        else:
            assert list(now) == list(then.search(QUERIES[0], 5, as_of=at))
    assert set(kinds[:-1]) == {"flat"}
    assert index.search(QUERIES[0], 5, as_of=store.position - 1).kind == "hnsw"


def test_equal_rows_are_in_the_order_of_positions(tmp_path: Path) -> None:
    """More duplicates than candidates: which of them come does not depend on what came later."""
    with EventStore(tmp_path / "agent.db") as store:
        store.add_many([""] * 600, vectors=np.repeat(clustered(6), 100, axis=0))
        index = open_index(store)
        index.catch_up()
        for at in (300, 400, 600):
            then = open_index(store, directory=tmp_path / "none")
            then.catch_up(at)
            now = index.search(QUERIES[0], 8, as_of=at)
            assert list(now) == list(then.search(QUERIES[0], 8, as_of=at))
            assert [hit.position for hit in now] == sorted(hit.position for hit in now)


def test_threads_make_no_difference(store: EventStore, tmp_path: Path) -> None:
    """To training, to assignment, or to a graph."""
    import faiss

    threads = faiss.omp_get_max_threads()
    try:
        found = []
        for count in (1, 4):
            faiss.omp_set_num_threads(count)
            indexes = [open_index(store, kind, directory=tmp_path / f"{count}") for kind in KINDS]
            found.append([(answers(index), made(index)) for index in indexes])
            assert faiss.omp_get_max_threads() == count
    finally:
        faiss.omp_set_num_threads(threads)
    assert found[0] == found[1]


def test_a_graph_is_made_by_one_thread(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several would race for the same links."""
    import faiss

    seen: list[int] = []
    original = Graph._add
    monkeypatch.setattr(Graph, "_add", lambda *given: (seen.append(faiss.omp_get_max_threads()), original(*given))[1])
    threads = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(3)
        open_index(store, "hnsw").catch_up()
    finally:
        faiss.omp_set_num_threads(threads)
    assert set(seen) == {1}


def test_codes_of_a_full_segment_are_the_same_in_any_batches() -> None:
    """To the last bit, norms too: what is made out of them is."""
    matrix = clustered(64, dimension=384)
    codes = []
    for batch in (1, 7, 64):
        segments = Segments("cosine", 384, 64)
        for start in range(0, 64, batch):
            segments.add(matrix[start : start + batch])
        codes.append((segments.parts[0].norms.tobytes(), segments.coded[0].codes.tobytes()))
    assert codes[0] == codes[1] == codes[2]
    assert codes[0][0] == norms_of(matrix).tobytes()


@settings(max_examples=scaled(50), deadline=None)
@given(rows=st.lists(vectors(4), min_size=1, max_size=12), seed=st.integers(0, 9), metric=st.sampled_from(METRICS))
def test_products_on_a_grid_are_exact(rows: list[list[float]], seed: int, metric: Any) -> None:
    """Whatever the sizes of the numbers: the float32 product of whole numbers is the one of Python's."""
    matrix = np.array([*rows, *np.random.default_rng(seed).normal(size=(4, 4))], dtype=np.float32)
    codes = Codes.of(metric, matrix, quick_norms(matrix))
    grid = Grid.of(metric, [codes])
    recoded, fits = grid.recoded(codes)
    assert fits
    assert (recoded == codes.codes).all()
    weights, _ = grid.weights(matrix.astype(np.float64))
    products = unpacked(recoded) @ weights.T
    exact = [[sum(int(a) * int(b) for a, b in zip(x, w)) for w in weights.tolist()] for x in unpacked(recoded).tolist()]
    assert products.astype(object).tolist() == exact
    asked, _ = grid.asked(matrix[0].astype(np.float64))
    assert np.abs(asked).max() <= 127
