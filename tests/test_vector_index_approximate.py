"""Approximate kinds: what they find, that they say so, and that how they came to be makes no difference to them."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import EventStore, InvalidOperation
from eventstore.testing import vectors
from projections import CheckpointWarning, Hits, VectorIndex, approximate
from projections.codes import Codes
from projections.grid import Grid, unpacked
from projections.hnsw import Graph
from projections.ivf import InvertedLists
from projections.scoring import exact_scores, norms_of, quick_norms
from projections.segments import Segments
from projections.testing import brute_force_search
from tests.profiles import scaled

KINDS: tuple[Any, ...] = ("ivf", "hnsw")
METRICS: tuple[Any, ...] = ("cosine", "ip", "l2")
DIMENSION = 16
SEGMENT = 64
ROWS = 1000
DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes of a few rows are searched approximately too."""
    monkeypatch.setattr(approximate, "FEW_ROWS", 0)


pytestmark = pytest.mark.usefixtures("small")


def clustered(rows: int, seed: int = 0, dimension: int = DIMENSION) -> Any:
    """Rows around a few dozen centers, as memories are about a few dozen things."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(40, dimension))
    return (centers[rng.integers(0, 40, rows)] + rng.normal(scale=0.5, size=(rows, dimension))).astype(np.float32)


def fill(store: EventStore, rows: int = ROWS, at_once: int = 100, seed: int = 0) -> None:
    """Adds in batches, each followed by updates of both kinds, and deletes."""
    matrix, start = clustered(rows, seed), store.position
    for first in range(0, rows, at_once):
        some = matrix[first : first + at_once]
        names = [f"m{start + first + n}" for n in range(len(some))]
        metadatas = [{"n": n % 4, "rare": n % 50} for n in range(len(some))]
        store.add_many([""] * len(some), vectors=some, memory_ids=names, metadatas=metadatas)
        store.update(names[0], "changed", vector=some[-1])
        store.update(names[1], metadata={"n": 9})
        store.delete(names[2])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    with EventStore(tmp_path / "agent.db", durability="normal") as store:
        fill(store)
        yield store


def open_index(store: EventStore, kind: Any = "ivf", **keywords: Any) -> VectorIndex:
    return VectorIndex(store, kind=kind, segment_rows=SEGMENT, **keywords)


QUERIES = clustered(6, seed=1)


def answers(index: VectorIndex, moments: Sequence[int | None] = (None, 1000, 500, 300, 150, 90)) -> list[Any]:
    """Hits, scores, and how they were found; now and then, filtered and not."""
    asked = itertools.product(QUERIES, moments, (None, {"n": {"lt": 2}}))
    found = [index.search(query, 5, as_of=as_of, filter=filter) for query, as_of, filter in asked]
    return [(list(hits), hits.kind) for hits in found]


def exact(store: EventStore, metric: Any = "cosine") -> VectorIndex:
    """What an approximate index is measured by; that it is brute force is tested elsewhere."""
    directory = None if store.path == ":memory:" else Path(f"{store.path}.exact")
    return open_index(store, "flat", metric=metric, directory=directory)


def recall(found: Sequence[Hits], right: Sequence[Hits]) -> float:
    """The share of the hits that should be there."""
    same = [len({hit.position for hit in a} & {hit.position for hit in b}) for a, b in zip(found, right, strict=True)]
    return sum(same) / sum(map(len, right))


def made(index: VectorIndex) -> Any:
    """What an index was made into, to the last bit: answers alone hide what differs, since most are right."""
    structure = index._content.structure
    if isinstance(structure, Graph):
        return structure.taken, structure.packed() if any(structure.taken) else b""
    assert isinstance(structure, InvertedLists)
    lists = [None if some is None else some.tolist() for some in structure.lists]
    return lists, [block.centroids.middles.tobytes() for block in structure.blocks]


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


def test_a_segment_is_taken_some_rows_after_it_is_full() -> None:
    """One that a block begins with, when the next is full; how many are taken depends on the number of rows alone."""
    lists, size = InvertedLists("ip", 64, 3), 64
    taken = [lists.ready(rows) for rows in range(size * 14)]
    assert taken == sorted(taken)
    for number in range(12):
        begins = number in (2, 6)  # blocks are [0, 6) and [6, 12); the first is made of three segments
        assert taken.index(number + 1) == (number + 2) * size if begins else (number + 1) * size + size // 8
    assert Graph("ip", 64).ready(200) == 3


def test_what_a_segment_needs_is_made_before_it_is_taken(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever adds the row with which it is taken waits for no training; and the answers are the same."""
    late = open_index(store, directory=Path(f"{store.path}.late"))
    monkeypatch.setattr("projections.ahead.Ahead.begin", lambda *given: None)
    late.catch_up()
    monkeypatch.undo()
    index = open_index(store)
    structure = index._content.structure
    assert isinstance(structure, InvertedLists)
    made_by = []
    original = InvertedLists._step

    def step(*given: Any) -> Any:
        made_by.append(threading.current_thread().name)
        return original(*given)

    monkeypatch.setattr(InvertedLists, "_step", step)
    for event in store.events():
        index.apply([event])
        if (thread := index._ahead._thread) is not None:
            thread.join()
    assert len(structure.blocks) == 2
    assert set(made_by) == {"asof-ahead"}
    assert len(made_by) == len(structure.lists) + (structure._prepared is not None)
    assert made(index) == made(late)
    assert answers(index) == answers(late)


def full_segments(store: EventStore) -> list[Codes]:
    """The codes of the full segments of a history."""
    with open_index(store) as index:
        index.catch_up()
        assert index._content.segments is not None
        return index._content.segments.coded


def never() -> None:
    """What a thread that is not to end calls now and then."""


def test_what_was_made_too_late_is_not_used(store: EventStore) -> None:
    """A thread that comes when its segment has been taken makes nothing; nor does it try twice."""
    coded = full_segments(store)
    plain, late = InvertedLists("cosine", SEGMENT, 3), InvertedLists("cosine", SEGMENT, 3)
    plain.fold(coded[:9])
    late.fold(coded[:5])
    late.prepare(coded[:5], never)
    assert late._prepared is None
    late.prepare(coded[:7], never)
    assert late._prepared is not None
    assert late._prepared.number == 5
    assert not late.is_behind(7)
    late.fold(coded[:9])
    assert late._prepared is None
    assert [lists.tolist() for lists in late.lists if lists is not None] == [
        lists.tolist() for lists in plain.lists if lists is not None
    ]


@pytest.mark.parametrize(("taken", "least"), [(2, 4), (4, 1)])
def test_what_is_made_ahead_can_be_ended(store: EventStore, taken: int, least: int) -> None:
    """In training, and in the search for the lists of rows: it calls now and then what may end it."""
    coded, calls = full_segments(store), []
    lists = InvertedLists("cosine", SEGMENT, 3)
    lists.fold(coded[:taken])
    lists.prepare(coded[: taken + 1], lambda: calls.append(taken))
    assert len(calls) >= least

    def end() -> None:
        raise InterruptedError

    lists = InvertedLists("cosine", SEGMENT, 3)
    lists.fold(coded[:taken])
    with pytest.raises(InterruptedError):
        lists.prepare(coded[: taken + 1], end)
    assert lists._prepared is None
    assert not lists.is_behind(taken + 1)
    lists.fold(coded[: taken + 1])
    assert len(lists.lists) == taken + 1


def test_who_needs_what_is_being_made_waits_for_it(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not made twice."""
    coded, began, go_on = full_segments(store), threading.Event(), threading.Event()
    lists, steps = InvertedLists("cosine", SEGMENT, 3), []
    original = InvertedLists._step
    monkeypatch.setattr(InvertedLists, "_step", lambda *given: (steps.append(len(given[1])), original(*given))[1])

    def check() -> None:
        began.set()
        assert go_on.wait(30)

    lists.fold(coded[:2])
    maker = threading.Thread(target=lists.prepare, args=(coded[:3], check))
    maker.start()
    assert began.wait(30)
    taker = threading.Thread(target=lists.fold, args=(coded[:3],))
    taker.start()
    taker.join(0.05)
    assert taker.is_alive()
    assert len(lists.lists) == 2
    go_on.set()
    for thread in (maker, taker):
        thread.join(30)
    assert steps == [1, 2, 3]
    assert (len(lists.lists), len(lists.blocks)) == (3, 1)


def test_closing_ends_what_is_made_ahead(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so does beginning anew: nobody waits for what is wanted no more."""

    def endless(structure: Any, coded: Any, check: Any) -> None:
        while True:
            check()

    monkeypatch.setattr(InvertedLists, "prepare", endless)
    index = open_index(store)
    index.catch_up(455)  # a segment has just become full
    thread = index._ahead._thread
    assert thread is not None
    assert thread.is_alive()
    index.reset()
    thread.join(30)
    assert not thread.is_alive()
    index.catch_up(455)
    thread = index._ahead._thread
    assert thread.is_alive()
    index.close()
    thread.join(30)
    assert not thread.is_alive()


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


# Checkpoints


def files_of(directory: Path, pattern: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in directory.glob(pattern)}


def test_a_later_checkpoint_writes_only_what_is_new(store: EventStore) -> None:
    """Lists of full segments and centroids stay as they are on disk."""
    index = open_index(store)
    index.catch_up()
    index.checkpoint()
    assert index.directory is not None
    before = {**files_of(index.directory, "lists-*"), **files_of(index.directory, "middles-*")}
    structure = index._content.structure
    assert structure is not None
    assert len(files_of(index.directory, "lists-*")) == structure.ready(index._content.table.rows) > 10
    assert len(files_of(index.directory, "middles-*")) == 2
    fill(store, 100, seed=3)
    reopened = open_index(store)
    reopened.catch_up()
    reopened.checkpoint()
    after = {**files_of(index.directory, "lists-*"), **files_of(index.directory, "middles-*")}
    assert before.items() < after.items()


def test_a_graph_is_written_again_only_when_it_has_grown(store: EventStore) -> None:
    """Not for events that fill no segment; the graph before it goes when no generation names it."""
    index = open_index(store, "hnsw")
    index.catch_up()
    index.checkpoint()
    assert index.directory is not None
    before = files_of(index.directory, "graph-*")
    store.add("", vector=QUERIES[0])
    for reopened in (index, open_index(store, "hnsw")):
        reopened.catch_up()
        reopened.checkpoint()
        assert files_of(index.directory, "graph-*") == before
    for seed in range(3):
        fill(store, 100, seed=seed)
        index.catch_up()
        index.checkpoint()
    after = files_of(index.directory, "graph-*")
    assert len(after) == 2
    assert not set(after) & set(before)


def test_opening_makes_nothing_again(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a checkpoint holds is not trained, assigned or built once more."""
    for kind in KINDS:
        with open_index(store, kind, directory=Path(f"{store.path}.{kind}")) as index:
            expected = answers(index)
            index.checkpoint()
    monkeypatch.setattr("projections.ivf.Centroids.trained", None)
    monkeypatch.setattr("projections.ivf.Centroids.lists_of", None)
    monkeypatch.setattr("projections.hnsw.Graph._add", None)
    for kind in KINDS:
        reopened = open_index(store, kind, directory=Path(f"{store.path}.{kind}"))
        assert answers(reopened)[0][1] == kind
    assert answers(reopened) == expected


@pytest.mark.parametrize(("kind", "pattern"), [("ivf", "lists-000003-*"), ("ivf", "middles-*"), ("hnsw", "graph-*")])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "remove"])
def test_a_damaged_structure_is_made_again(store: EventStore, kind: Any, pattern: str, damage: str) -> None:
    """A warning, the same answers, and nothing else of the checkpoint is lost; the next checkpoint has it again."""
    with open_index(store, kind) as index:
        expected = answers(index)
        index.checkpoint()
        assert index.directory is not None
        path = min(index.directory.glob(pattern))
    whole = path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage == "flip":
        path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    else:
        path.write_bytes(whole[:-3] if damage == "truncate" else b"")
    with pytest.warns(CheckpointWarning, match="made again"):
        reopened = open_index(store, kind)
    assert reopened.position == store.position
    assert answers(reopened) == expected
    reopened.checkpoint()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answers(open_index(store, kind)) == expected
    assert path.read_bytes() == whole


def rewritten(directory: Path, change: Any) -> None:
    """The newest manifest after a change, with a digest that fits, and the older ones gone."""
    from projections.checkpoints import _digest_of

    newest, *others = sorted(directory.glob("generation-*.json"), reverse=True)
    for path in others:
        path.unlink()
    fields = json.loads(newest.read_text())
    fields.pop("sha256")
    change(fields)
    newest.write_text(json.dumps({**fields, "sha256": _digest_of(fields)}))


def data_file(directory: Path, name: str, content: bytes) -> dict[str, Any]:
    from projections.checkpoints import Checkpoints

    return Checkpoints(directory).write_data(name, content).model_dump()


@pytest.mark.parametrize(
    "lie", ["no middles", "one block", "too high a list", "short lists", "nan", "other dimension", "lists gone"]
)
def test_lists_that_cannot_be_are_not_believed(store: EventStore, lie: str) -> None:
    """Though every digest fits."""
    with open_index(store) as index:
        expected = answers(index)
        index.checkpoint()
        directory = index.directory
    assert directory is not None

    def change(fields: dict[str, Any]) -> None:
        structure, segment = fields["structure"], fields["segments"][3]
        if lie == "no middles":
            structure["middles"] = []
        elif lie == "one block":
            del structure["middles"][1]
        elif lie == "too high a list":
            segment["lists"] = data_file(directory, "lists-000003", np.full(SEGMENT, 999, dtype="<u2").tobytes())
        elif lie == "short lists":
            segment["lists"] = data_file(directory, "lists-000003", bytes(2))
        elif lie == "lists gone":
            segment["lists"] = None
        else:
            some = np.full((5, DIMENSION - (lie != "nan")), np.nan)
            structure["middles"][0] = data_file(directory, "middles", some.tobytes())

    rewritten(directory, change)
    with pytest.warns(CheckpointWarning, match="made again"):
        index = open_index(store)
    assert index.position == store.position
    assert answers(index) == expected


@pytest.mark.parametrize("lie", ["no graph", "another graph", "taken", "another faiss"])
def test_a_graph_that_cannot_be_is_not_believed(store: EventStore, lie: str) -> None:
    """Though every digest fits; nor one that another FAISS has written."""
    import faiss

    with open_index(store, "hnsw") as index:
        expected = answers(index)
        index.checkpoint()
        directory = index.directory
    assert directory is not None

    def change(fields: dict[str, Any]) -> None:
        structure = fields["structure"]
        if lie == "no graph":
            structure["graph"] = data_file(directory, "graph", b"IHNs" + bytes(400))
        elif lie == "another graph":
            flat = faiss.IndexFlat(DIMENSION)
            structure["graph"] = data_file(directory, "graph", faiss.serialize_index(flat).tobytes())
        elif lie == "taken":
            structure["taken"][0] = False
        else:
            fields["faiss_version"] = "1.0"

    rewritten(directory, change)
    if lie == "another faiss":
        index = open_index(store, "hnsw")
        structure = index._content.structure
        assert isinstance(structure, Graph)
        assert structure.written is None
    else:
        with pytest.warns(CheckpointWarning, match="made again"):
            index = open_index(store, "hnsw")
    assert index.position == store.position
    assert answers(index) == expected


def test_a_checkpoint_of_another_kind_or_metric_is_used_for_what_it_has(store: EventStore, tmp_path: Path) -> None:
    """Vectors, codes and table are read, the structure is made anew; and back again."""
    directory = tmp_path / "shared"
    kinds: list[tuple[Any, Any]] = [
        ("flat", "cosine"), ("ivf", "cosine"), ("hnsw", "cosine"), ("hnsw", "ip"), ("ivf", "ip"), ("ivf", "l2"),
    ]  # fmt: skip
    for number, (kind, metric) in enumerate(kinds):
        index = open_index(store, kind, metric=metric, directory=directory)
        assert index.position == (store.position if number else 0)
        fresh = open_index(store, kind, metric=metric, directory=tmp_path / "none")
        assert answers(index) == answers(fresh)
        index.checkpoint()
        again = open_index(store, kind, metric=metric, directory=directory)
        assert answers(again) == answers(fresh)
        if kind != "flat":
            assert made(index) == made(again) == made(fresh)


def test_lists_of_another_first_block_are_not_taken_for_ones_own(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that chose lists by itself begins later than one that was told to."""
    with open_index(store, "ivf") as index:
        index.rebuild()
    monkeypatch.setattr(approximate, "AUTO_ROWS", 5 * SEGMENT)
    chosen = open_index(store, "auto")
    structure = chosen._content.structure
    assert isinstance(structure, InvertedLists)
    assert [(block.start, block.stop) for block in structure.blocks] == [(0, 8), (8, 16)]
    fresh = open_index(store, "auto", directory=Path(f"{store.path}.none"))
    fresh.catch_up()
    assert made(chosen) == made(fresh)
    assert {kind for _, kind in answers(chosen)} == {"ivf", "flat"}
    chosen.checkpoint()
    assert answers(open_index(store, "auto")) == answers(chosen)


def test_a_manifest_without_what_came_later_is_read(store: EventStore) -> None:
    """One of an exact index, written before there were others."""

    def change(fields: dict[str, Any]) -> None:
        del fields["structure"]
        for segment in fields["segments"]:
            del segment["lists"]

    with open_index(store) as index:
        expected = answers(index)
        index.checkpoint()
        assert index.directory is not None
        rewritten(index.directory, change)
    index = open_index(store)
    assert index.position == store.position
    assert answers(index) == expected


def test_vectors_in_files_that_are_damaged_cost_no_answer(store: EventStore) -> None:
    """Candidates are scored from the history then."""
    with open_index(store) as index:
        expected = answers(index)
        index.checkpoint()
    index = open_index(store, vector_memory=0)
    assert index.directory is not None
    for path in index.directory.glob("vectors-*"):
        path.write_bytes(bytes(path.stat().st_size))
    with pytest.warns(CheckpointWarning, match="history fills in"):
        assert answers(index) == expected


def test_every_flipped_byte_of_what_is_new_is_noticed(tmp_path: Path) -> None:
    """Of lists, centroids and a graph, each in turn: a warning, and never another answer."""
    with EventStore(tmp_path / "small.db", durability="normal") as store:
        store.add_many([""] * 60, vectors=clustered(60, dimension=2))
        query = [0.3, -1.0]
        for kind, pattern in (("ivf", "lists-*"), ("ivf", "middles-*"), ("hnsw", "graph-*")):
            directory, kept = tmp_path / kind / pattern[:3], tmp_path / "kept" / pattern[:3]
            index = VectorIndex(store, kind=kind, segment_rows=25, directory=directory)  # type: ignore[arg-type]
            expected = list(index.search(query, 1))
            index.checkpoint()
            shutil.copytree(directory, kept)
            for path in sorted(kept.glob(pattern)):
                content = path.read_bytes()
                for at in range(0, len(content), 1 if len(content) < 200 else 37):
                    shutil.rmtree(directory)
                    shutil.copytree(kept, directory)
                    changed = content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]
                    (directory / path.name).write_bytes(changed)
                    with pytest.warns(CheckpointWarning):
                        again = VectorIndex(store, kind=kind, segment_rows=25, directory=directory)  # type: ignore[arg-type]
                    assert list(again.search(query, 1)) == expected
