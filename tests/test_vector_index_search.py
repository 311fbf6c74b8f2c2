"""What a search promises: k hits where k exist, the right instant, the right scores, and one clear error otherwise."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import (
    Closed,
    CorruptHistory,
    DimensionMismatch,
    EmbedderMissing,
    EventStore,
    HashingEmbedder,
    InvalidFilter,
    InvalidInstant,
    InvalidOperation,
    InvalidVector,
)
from projections import VectorIndex
from projections.testing import brute_force_search, score_of
from tests.profiles import scaled


@pytest.fixture
def store() -> Any:
    with EventStore(embedder=HashingEmbedder(32)) as store:
        store.add("Alice prefers tea", memory_id="tea", metadata={"user": "alice"})
        store.add("Bob prefers coffee", memory_id="coffee", metadata={"user": "bob"})
        store.add("Alice lives in Lisbon", memory_id="lisbon", metadata={"user": "alice"})
        yield store


def test_the_example_of_the_design(tmp_path: Path) -> None:
    """Now it is coffee; as of the first event it was tea."""
    with EventStore(tmp_path / "agent.db", embedder=HashingEmbedder()) as store, VectorIndex(store) as index:
        tea = store.add("Alice prefers tea", metadata={"user_id": "alice"}, actor_id="assistant", reason="said so")
        store.update(tea.memory_id, "Alice prefers coffee", expected_version=1)
        now = index.search("what does Alice drink?", k=5, filter={"user_id": "alice"})
        then = index.search("what does Alice drink?", k=5, as_of=tea.recorded_at)
        assert [hit.content for hit in now] == ["Alice prefers coffee"]
        assert [hit.content for hit in then] == ["Alice prefers tea"]
        assert (now.position, then.position) == (2, 1)
        assert now[0].updated_at is not None
        assert then[0].updated_at is None


def test_the_filter_is_inside_the_search(store: EventStore) -> None:
    """k hits come back whenever so many match, however far away the matches are."""
    index = VectorIndex(store)
    near = np.asarray(HashingEmbedder(32)(["Bob prefers coffee"]))[0]
    for number in range(200):
        store.add("Bob prefers coffee", vector=near, memory_id=f"crowd{number}", metadata={"user": "crowd"})
    hits = index.search("Bob prefers coffee", k=2, filter={"user": "alice"})
    assert {hit.memory_id for hit in hits} == {"tea", "lisbon"}


def test_a_filter_as_of_an_instant_sees_the_metadata_of_then(store: EventStore) -> None:
    """Today's metadata do not decide yesterday's search."""
    index = VectorIndex(store)
    store.update("tea", metadata={"user": "carol"})
    assert {hit.memory_id for hit in index.search("tea", filter={"user": "alice"}, as_of=3)} == {"tea", "lisbon"}
    assert {hit.memory_id for hit in index.search("tea", filter={"user": "alice"})} == {"lisbon"}


def test_equal_scores_are_in_the_order_of_positions() -> None:
    """More duplicates than any first round of candidates holds."""
    with EventStore() as store, VectorIndex(store, segment_rows=16) as index:
        store.add_many([""] * 500, vectors=[[1.0, 1.0]] * 500)
        assert [hit.position for hit in index.search([1.0, 0.0], k=100)] == list(range(1, 101))
        assert [hit.position for hit in index.search([1.0, 0.0], k=3, as_of=2)] == [1, 2]


def test_min_score_leaves_out_what_scores_lower(store: EventStore) -> None:
    """The bound itself is in."""
    index = VectorIndex(store)
    best, second, _ = index.search("Alice prefers tea")
    assert [hit.memory_id for hit in index.search("Alice prefers tea", min_score=best.score)] == ["tea"]
    assert len(index.search("Alice prefers tea", min_score=second.score)) == 2


def test_an_empty_store_answers_with_nothing_at_position_0() -> None:
    """Before the first vector there is no dimension, and nothing to find."""
    with EventStore() as store, VectorIndex(store) as index:
        hits = index.search([1.0, 2.0, 3.0])
        assert list(hits) == []
        assert hits.position == 0
        assert index.search_many([]) == []


def test_search_many_answers_all_at_one_position(store: EventStore) -> None:
    """Texts, rows of an array or a list of vectors; each as a search of its own."""
    index = VectorIndex(store)
    texts = ["Alice tea", "coffee"]
    vectors = np.asarray(HashingEmbedder(32)(texts))
    expected = [index.search(text) for text in texts]
    assert index.search_many(texts) == expected
    assert index.search_many(vectors) == expected
    assert index.search_many(list(vectors)) == expected
    assert {hits.position for hits in index.search_many(texts)} == {3}


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_many_queries_get_what_each_would_get_by_itself(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are gone through at once, over several segments; filtered, in the past, and with a k that is large."""
    monkeypatch.setattr("projections.nearest._QUERIES_AT_ONCE", 8)
    monkeypatch.setattr("projections.nearest._FOUND_AT_ONCE", 2000)
    rng = np.random.default_rng(7)
    rows, queries = rng.normal(size=(700, 16)), rng.normal(size=(20, 16)).astype(np.float32)
    with EventStore() as store:
        store.add_many([""] * 400, vectors=rows[:400], metadatas=[{"n": n % 3} for n in range(400)])
        store.add_many([""] * 300, vectors=rows[400:], metadatas=[{"n": n % 3} for n in range(300)])
        index = VectorIndex(store, metric=metric, segment_rows=128)
        for asked in ({}, {"filter": {"n": 1}}, {"as_of": 400}, {"min_score": 0.0}):
            for k in (1, 10, 300):
                found = index.search_many(queries, k, **asked)
                assert found == [index.search(query, k, **asked) for query in queries]
                assert {hits.exact for hits in found} == {True}
            asked = {name: value for name, value in asked.items() if name != "min_score"}
            for query, hits in zip(queries, index.search_many(queries, 10, **asked), strict=True):
                expected = brute_force_search(store, query, 10, metric=metric, **asked)
                assert [(hit.memory_id, hit.score, hit.position) for hit in hits] == expected


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"k": 0}, InvalidOperation, "k is 0"),
        ({"k": -1}, InvalidOperation, "at least 1"),
        ({"k": True}, InvalidOperation, "whole number"),
        ({"k": 2.5}, InvalidOperation, "whole number"),
        ({"filter": {"user": {"like": "a"}}}, InvalidFilter, "like"),
        ({"filter": {"user": {"gt": [1]}}}, InvalidFilter, "gt"),
        ({"as_of": 4}, InvalidInstant, "positions 0 to 3"),
        ({"as_of": -1}, InvalidInstant, "-1"),
        ({"as_of": datetime(2026, 1, 1)}, InvalidInstant, "zone"),
        ({"as_of": "yesterday"}, InvalidInstant, "yesterday"),
        ({"as_of": datetime.now(timezone.utc) + timedelta(days=1)}, InvalidInstant, "later than the clock"),
        ({"min_score": "high"}, InvalidOperation, "min_score"),
        ({"query": [1.0]}, DimensionMismatch, "1 numbers"),
        ({"query": [float("nan")] * 32}, InvalidVector, "finite"),
        ({"query": [0.0] * 32}, InvalidVector, "zeros"),
        ({"query": [[1.0] * 32]}, InvalidVector, "flat"),
        ({"query": None}, InvalidVector, "query"),
    ],
)
def test_bad_arguments_are_one_clear_error(store: EventStore, keywords: Any, error: Any, message: str) -> None:
    """The error names the argument; the index goes on working."""
    index = VectorIndex(store)
    with pytest.raises(error, match=message):
        index.search(**{"query": "tea", **keywords})
    assert len(index.search("tea")) == 3


def test_text_without_an_embedder_is_refused() -> None:
    """And the remedy is named."""
    with EventStore() as store, VectorIndex(store) as index:
        store.add("x", vector=[1.0])
        with pytest.raises(EmbedderMissing, match="embedder"):
            index.search("x")


def test_an_unknown_metric_is_refused(store: EventStore) -> None:
    """Naming the known ones."""
    with pytest.raises(InvalidOperation, match="cosine"):
        VectorIndex(store, metric="dot")  # type: ignore[arg-type]


def test_a_closed_index_and_a_closed_store_say_so(store: EventStore) -> None:
    """Closed, whichever was closed."""
    index = VectorIndex(store)
    index.close()
    index.close()
    for use in (
        lambda: index.search("x"),
        index.catch_up,
        index.checkpoint,
        index.rebuild,
        index.reset,
        index.faults,
        index.contents,
        lambda: index.search_many(["x"]),
    ):
        with pytest.raises(Closed):
            use()
    other = VectorIndex(store)
    store.close()
    with pytest.raises(Closed):
        other.search("x")


def test_an_index_reads_what_another_process_wrote(tmp_path: Path) -> None:
    """The same road for every writer: the history."""
    path = tmp_path / "agent.db"
    with EventStore(path) as store, VectorIndex(store) as index:
        store.add("mine", vector=[1.0, 0.0])
        assert len(index.search([1.0, 0.0])) == 1
        script = f"import eventstore\neventstore.EventStore({str(path)!r}).add('theirs', vector=[0, 1])"
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60, cwd=Path(__file__).parents[1])
        assert [hit.content for hit in index.search([0.0, 1.0])] == ["theirs", "mine"]


def test_threads_write_and_search_side_by_side(tmp_path: Path) -> None:
    """Every answer is that of the position it names."""
    faiss.omp_set_num_threads(2)
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(8, 40, 4)).astype(np.float32)
    answers: list[Any] = []
    errors: list[BaseException] = []
    with EventStore(tmp_path / "agent.db", durability="normal") as store, VectorIndex(store, segment_rows=32) as index:

        def work(number: int) -> None:
            try:
                for row, vector in enumerate(vectors[number]):
                    if number % 2:
                        store.add("x", vector=vector, memory_id=f"{number}-{row}", metadata={"n": number})
                    else:
                        hits = index.search(vector, 5, filter={"n": 3} if row % 2 else None)
                        answers.append((vector, {"n": 3} if row % 2 else None, hits))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not errors
        assert not any(thread.is_alive() for thread in threads)
        for vector, chosen, hits in answers:
            assert index.search(vector, 5, filter=chosen, as_of=hits.position) == hits
        assert index.faults() == []


def test_a_damaged_payload_is_an_error_and_no_hit(tmp_path: Path) -> None:
    """A hit's content is checked against its digest."""
    import sqlite3

    with EventStore(tmp_path / "agent.db") as store, VectorIndex(store) as index:
        store.add("right", vector=[1.0])
        with sqlite3.connect(tmp_path / "agent.db") as other:
            other.execute("DROP TRIGGER payloads_no_update")
            other.execute("UPDATE payloads SET content = 'wrong'")
        other.close()
        with pytest.raises(CorruptHistory, match=r"event 1 .* digest"):
            index.search([1.0])


# Lengths over the whole range of float32, so that products overflow, underflow and tie.
numbers = st.one_of(
    st.integers(-2, 2).map(float), st.floats(width=32, allow_nan=False, allow_infinity=False), st.just(1e-45)
)


@settings(max_examples=scaled(150), deadline=None)
@given(
    st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=40),
    st.lists(numbers, min_size=3, max_size=3),
    st.integers(1, 12),
    st.sampled_from(["cosine", "ip", "l2"]),
    st.booleans(),
)
def test_search_is_brute_force_for_vectors_of_any_length(
    rows: list[list[float]], query: list[float], k: int, metric: Any, unit: bool
) -> None:
    """Ids, scores and order, to the last bit, against a score computed one number at a time."""
    matrix = np.array(rows, dtype=np.float32)
    if unit:
        norms = np.sqrt((matrix.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
        matrix = (matrix / np.where(norms > 0, norms, 1)).astype(np.float32)
    asked = np.array(query, dtype=np.float32)
    if metric == "cosine" and not asked.any():
        asked[0] = 1
    with EventStore(allow_zero_vectors=True) as store, VectorIndex(store, metric=metric, segment_rows=7) as index:
        store.add_many([""] * len(matrix), vectors=matrix)
        hits = index.search(asked, k)
        scores = [score_of(metric, asked.astype(float).tolist(), row) for row in matrix.astype(float).tolist()]
        expected = sorted((-number, position) for position, number in enumerate(scores, 1))[:k]
        assert [(hit.position, hit.score) for hit in hits] == [(position, -number) for number, position in expected]


@settings(max_examples=scaled(25), deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["cosine", "ip", "l2"]), st.sampled_from([17, 64, 4096]))
def test_search_is_exact_among_near_ties(seed: int, metric: Any, segment_rows: int) -> None:
    """Rows closer together than float32 can tell apart: the order is still the exact one."""
    rng = np.random.default_rng(seed)
    dimension = 24
    center = rng.normal(size=dimension)
    center /= np.linalg.norm(center)
    matrix = (center + rng.normal(scale=3e-7, size=(400, dimension))).astype(np.float32)
    query = (center + rng.normal(scale=0.3, size=dimension)).astype(np.float32)
    with EventStore() as store, VectorIndex(store, metric=metric, segment_rows=segment_rows) as index:
        store.add_many([""] * 400, vectors=matrix)
        scores = [score_of(metric, query.astype(float).tolist(), row) for row in matrix.astype(float).tolist()]
        expected = sorted((-number, position) for position, number in enumerate(scores, 1))[:15]
        hits = index.search(query, 15)
        assert [(hit.position, hit.score) for hit in hits] == [(position, -number) for number, position in expected]


def test_searches_beside_a_rebuild_answer_in_full(store: EventStore) -> None:
    """An index that is being made again is waited for: a search never sees the half of it."""
    index = VectorIndex(store, segment_rows=2)
    store.add_many([f"text {number}" for number in range(60)], metadatas=[{"user": "dave"}] * 60)
    expected = [index.search("text", 30), index.search("text", 30, filter={"user": "dave"})]
    wrong: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            found = [index.search("text", 30), index.search("text", 30, filter={"user": "dave"})]
            if found != expected or [len(index.contents()[0])] != [63]:
                wrong.append(found)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        index.rebuild()
    stop.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_rows_of_almost_unit_length_are_compared_exactly(metric: Any) -> None:
    """Cosine compares them as they are, so by how much they miss unit length is part of the bound."""
    rng = np.random.default_rng(11)
    center = rng.normal(size=16)
    center /= np.linalg.norm(center)
    matrix = center + rng.normal(scale=2e-5, size=(500, 16))
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    matrix = (matrix * (1 + rng.uniform(-9e-4, 9e-4, size=(500, 1)))).astype(np.float32)
    with EventStore() as store, VectorIndex(store, metric=metric, segment_rows=64) as index:
        store.add_many([""] * 500, vectors=matrix)
        for query in (center + rng.normal(scale=0.2, size=(10, 16))).astype(np.float32):
            scores = [score_of(metric, query.astype(float).tolist(), row) for row in matrix.astype(float).tolist()]
            expected = sorted((-number, position) for position, number in enumerate(scores, 1))[:10]
            assert [(hit.position, hit.score) for hit in index.search(query)] == [(at, -n) for n, at in expected]


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_one_long_row_does_not_make_every_row_a_candidate(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is that of the rows asked for in each segment, not of the longest that ever was."""
    from projections import nearest as module

    scored: list[int] = []
    original = module._Contest.best
    monkeypatch.setattr(module._Contest, "best", lambda self: (scored.append(len(self.rows)), original(self))[1])
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(2000, 32)).astype(np.float32)
    with EventStore() as store, VectorIndex(store, metric=metric, segment_rows=100) as index:
        store.add_many([""] * 2000, vectors=matrix)
        long = store.add("long", vector=matrix[0] * 1e6)
        index.search(matrix[1])
        store.delete(long.memory_id)
        index.search(matrix[1])
    assert len(scored) == 2
    assert max(scored) < 400


def test_what_a_search_may_find_is_worked_out_once_and_remembered_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """By instant and filter: another of either, or more events, is another question."""
    from projections.rows import RowTable

    asked: list[int] = []
    alive = RowTable.alive
    monkeypatch.setattr(RowTable, "alive", lambda self, at: (asked.append(at), alive(self, at))[1])
    with EventStore() as store, VectorIndex(store) as index:
        for number in range(30):
            store.add(str(number), vector=[1.0, number], metadata={"even": number % 2 == 0})

        def found(filter: Any = None, as_of: int | None = None) -> list[str]:
            return [hit.content for hit in index.search([0.0, 1.0], 2, filter=filter, as_of=as_of)]

        for _ in range(3):
            assert found() == ["29", "28"]
            assert found({"even": True}) == ["28", "26"]
            assert found({"even": False}) == ["29", "27"]
            assert found({"even": 1}) == found({"even": {"in": [0, 1]}}) == []
            assert found({"even": False}, as_of=28) == ["27", "25"]
        assert asked == [30, 30, 30, 30, 30, 28]
        store.delete(store.memories(order="-position")[1].memory_id)
        assert found() == ["29", "27"]
        assert found({"even": True}) == ["26", "24"]
        assert found(as_of=30) == ["29", "28"]
        assert asked == [30, 30, 30, 30, 30, 28, 31, 31]
        for as_of in range(1, 30):
            assert found(as_of=as_of)[0] == str(as_of - 1)
            assert found({"even": True}) == ["26", "24"]  # asked for again and again, it stays
        assert len(index._content._selections.values()) == 8
        assert asked.count(31) == 2


def test_codes_that_kept_selections_hold_are_let_go_of_when_rows_come() -> None:
    """Those of a segment that grows are made anew: eight selections would keep eight of them."""
    rows = np.random.default_rng(3).normal(size=(300, 4)).astype(np.float32)
    with EventStore() as store, VectorIndex(store, segment_rows=64) as index:
        store.add_many([""] * 200, vectors=rows[:200])
        for as_of in (None, 150, 100):
            index.search(rows[0], as_of=as_of)
        kept = list(index._content._selections.values())
        assert [len(selection.scans) for selection in kept] == [1, 1, 1]
        store.add("", vector=rows[200])
        index.catch_up()
        assert [len(selection.scans) for selection in kept] == [0, 0, 0]


def test_an_interrupted_filter_finds_everything_the_next_time(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-filled bitmaps are thrown away."""
    from projections.metadata_index import _Column

    index = VectorIndex(store)
    original = _Column.settle
    monkeypatch.setattr(_Column, "settle", lambda self: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        index.search("tea", filter={"user": "alice"})
    monkeypatch.setattr(_Column, "settle", original)
    assert len(index.search("tea", filter={"user": "alice"})) == 2


def test_a_text_that_embeds_to_zeros_is_refused_like_a_vector_of_zeros() -> None:
    """Cosine has no direction to compare."""
    with EventStore(embedder=lambda texts: np.zeros((len(texts), 2)), allow_zero_vectors=True) as store:
        store.add("x")
        with pytest.raises(InvalidVector, match="zeros"):
            VectorIndex(store).search("x")


def test_a_min_score_that_is_no_number_is_refused(store: EventStore) -> None:
    """NaN compares with nothing."""
    with pytest.raises(InvalidOperation, match="min_score"):
        VectorIndex(store).search("tea", min_score=float("nan"))
