"""Eight-bit codes only ever propose: their bounds hold, and answers are those of the full vectors."""

from __future__ import annotations

import itertools
import math
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import EventStore
from eventstore.testing import vectors
from projections import VectorIndex
from projections import scan as scan_module
from projections.codes import Codes
from projections.nearest import nearest
from projections.scan import Scan
from projections.scoring import Query, exact_scores, quick_norms, quick_scores
from projections.segments import Segments
from projections.selection import Selection
from projections.testing import brute_force_search
from tests.profiles import scaled

METRICS = ("cosine", "ip", "l2")
SIZES = (1, 3, 16, 32)


def coded(metric: Any, rows: Any, first: int | None = None) -> Segments:
    """Rows in one full segment, coded by the scale that suits the first of them."""
    segments = Segments(metric, rows.shape[1], len(rows))
    segments.add(rows)
    if first is not None and first < len(rows):
        codes = Codes.of(metric, rows[:first], quick_norms(rows[:first]))
        codes.add(rows[first:], quick_norms(rows[first:]))
        segments.parts[0].codes = codes
    return segments


def every(count: int) -> Any:
    """A selection of all rows."""
    return np.ones(count, dtype=np.bool_)


def chosen(segments: Segments, selected: Any) -> Selection:
    """A selection by a mask."""
    return Selection(selected, segments.segment_rows)


def scanned(segments: Segments, query: Any, most: int, selected: Any) -> tuple[Any, Any, Any, float]:
    """Rows of the only segment, the ends of their scores, and what others score at most."""
    selection = chosen(segments, selected)
    (found,) = Scan(segments, selection, list(selection.parts)).found([Query(segments.metric, query)], most)
    assert [number for number, _ in found.rest] in ([], [0])
    return *found.together(), found.rest[0][1] if found.rest else -math.inf


@st.composite
def matrices(draw: st.DrawFn) -> tuple[Any, Any]:
    """A query and rows of one dimension, some with the hard cases; many rows are of a random generator's making."""
    dimension = draw(st.sampled_from(SIZES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    hard = draw(st.lists(vectors(dimension), min_size=1, max_size=4))
    usual = rng.normal(size=(draw(st.integers(0, 24)), dimension)) * 10.0 ** draw(st.integers(-30, 30))
    rows = np.concatenate([np.array(hard, dtype=np.float32), usual.astype(np.float32)])
    rng.shuffle(rows)
    query = (
        np.array(draw(vectors(dimension)), dtype=np.float32) if draw(st.booleans()) else rows[0] * 0.5 + rows[-1] * 0.5
    )
    return (query if query.any() and np.isfinite(query).all() else np.ones(dimension, dtype=np.float32)), rows


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=scaled(40))
@given(case=matrices())
def test_exact_scores_lie_between_the_ends_that_the_codes_give(metric: Any, case: tuple[Any, Any]) -> None:
    """Whatever the sizes: a bound that did not hold would lose a hit."""
    query, rows = case
    found, lower, upper, rest = scanned(coded(metric, rows), query, len(rows), every(len(rows)))
    exact = exact_scores(metric, query, rows[found])
    assert sorted(found.tolist()) == list(range(len(rows)))
    assert (lower <= exact).all()
    assert (exact <= upper).all()
    assert rest == -math.inf


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=scaled(40))
@given(case=matrices())
def test_exact_scores_lie_between_the_ends_of_quick_ones(metric: Any, case: tuple[Any, Any]) -> None:
    """In float32 and in float64."""
    query, rows = case
    lower, upper = quick_scores(metric, Query(metric, query), rows, quick_norms(rows))
    exact = exact_scores(metric, query, rows)
    assert (lower <= exact).all()
    assert (exact <= upper).all()


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=scaled(40))
@given(case=matrices(), most=st.integers(1, 24), first=st.integers(1, 30))
def test_what_codes_leave_out_scores_no_more_than_they_say(
    metric: Any, case: tuple[Any, Any], most: int, first: int
) -> None:
    """Also when later rows did not fit into the scale of the first."""
    query, rows = case
    found, lower, upper, rest = scanned(coded(metric, rows, first), query, most, every(len(rows)))
    out = np.setdiff1d(np.arange(len(rows)), found)
    exact = exact_scores(metric, query, rows[found])
    assert (exact_scores(metric, query, rows[out]) <= rest).all()
    assert (lower <= exact).all()
    assert (exact <= upper).all()


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=scaled(40))
@given(
    case=matrices(),
    k=st.integers(1, 30),
    size=st.integers(1, 20),
    some=st.integers(0, 2**24 - 1),
    batch=st.integers(1, 7),
    uncoded=st.integers(1, 5),
    taken_out=st.sampled_from(("no", "codes", "vectors")),
)
def test_the_nearest_are_those_that_scoring_every_row_gives(
    metric: Any, case: tuple[Any, Any], k: int, size: int, some: int, batch: int, uncoded: int, taken_out: str
) -> None:
    """In every cut into segments, coded or not yet, for every selection, at first and asked again, ties by row."""
    query, rows = case
    segments = Segments(metric, rows.shape[1], size)
    selected = np.array([some >> bit & 1 for bit in range(len(rows))], dtype=np.bool_)
    exact = exact_scores(metric, query, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("projections.nearest._FEW", 0)
        patch.setattr("projections.segments._UNCODED_ROWS", uncoded)
        patch.setattr("projections.scan._MOST_TAKEN_OUT", 0 if taken_out == "no" else 2**20)
        patch.setattr("projections.scan._MOST_AS_THEY_ARE", 2**20 if taken_out == "vectors" else 0)
        for start in range(0, len(rows), batch):
            segments.add(rows[start : start + batch])
            there = selected[: segments.rows]
            expected = sorted(np.flatnonzero(there).tolist(), key=lambda row: (-exact[row], row))[:k]
            selection = chosen(segments, there)
            for _ in range(3 if segments.rows == len(rows) else 1):
                ((found, scores),) = nearest(segments, [query], k, selection)
                assert found.tolist() == expected
                assert scores.tolist() == exact[expected].tolist()


@pytest.mark.parametrize("way", ["no", "codes", "vectors"])
@pytest.mark.parametrize("metric", METRICS)
def test_selections_of_rows_that_have_codes_and_of_some_that_have_none_yet(
    metric: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one segment, before another or alone: any number of each, asked for again and again."""
    monkeypatch.setattr("projections.nearest._FEW", 0)
    monkeypatch.setattr("projections.segments._UNCODED_ROWS", 5)
    monkeypatch.setattr(scan_module, "_MOST_TAKEN_OUT", 0 if way == "no" else 2**20)
    monkeypatch.setattr(scan_module, "_MOST_AS_THEY_ARE", 2**20 if way == "vectors" else 0)
    rng = np.random.default_rng(31)
    for before, coded, late in itertools.product((0, 16), (5, 9), (1, 4)):
        rows = rng.normal(size=(before + coded + late, 3)).astype(np.float32)
        segments = Segments(metric, 3, 16)
        segments.add(rows[: before + coded])
        list(nearest(segments, [rows[0]], 1, chosen(segments, every(before + coded))))
        segments.add(rows[before + coded :])
        exact = exact_scores(metric, rows[-1], rows)
        for share in (0.3, 0.5, 0.7, 0.9) * 5:
            selected = rng.random(len(rows)) < share
            selection, some = chosen(segments, selected), np.flatnonzero(selected)
            expected = some[np.lexsort((some, -exact[some]))][:2]
            for _ in range(3):
                ((found, _),) = nearest(segments, [rows[-1]], 2, selection)
                assert found.tolist() == expected.tolist()
        assert segments.parts[-1].codes.rows == coded


def near_ties(count: int, dimension: int, seed: int) -> Any:
    """Rows around one direction, so close that their codes cannot tell them apart."""
    rng = np.random.default_rng(seed)
    center = rng.normal(size=dimension)
    return (center + rng.normal(scale=3e-3, size=(count, dimension))).astype(np.float32), center


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_codes_cannot_tell_apart_are_still_in_the_right_order(metric: Any) -> None:
    """The codes are asked for more and more until nothing left out can be a hit."""
    rows, center = near_ties(3000, 24, 1)
    segments = Segments(metric, 24, 2048)
    for start in range(0, len(rows), 500):
        segments.add(rows[start : start + 500])
    selection = chosen(segments, every(len(rows)))
    for query in (center + np.random.default_rng(2).normal(scale=0.3, size=(5, 24))).astype(np.float32):
        ((found, _),) = nearest(segments, [query], 10, selection)
        exact = exact_scores(metric, query, rows)
        assert found.tolist() == sorted(range(len(rows)), key=lambda row: (-exact[row], row))[:10]


def searched(segments: Segments, query: Any) -> Any:
    """The codes of the first segment after a search for ten rows, which is held against scoring every row."""
    rows = segments.vectors(np.arange(segments.rows))
    exact = exact_scores(segments.metric, query, rows)
    ((found, _),) = nearest(segments, [query], 10, chosen(segments, every(len(rows))))
    assert found.tolist() == sorted(range(len(rows)), key=lambda row: (-exact[row], row))[:10]
    return segments.parts[0].codes


def test_rows_are_coded_once_there_are_many_and_again_when_the_scale_no_longer_suits() -> None:
    """A segment that began with small numbers does not keep their scale."""
    rng = np.random.default_rng(5)
    small, large = rng.normal(size=(1024, 16)).astype(np.float32), rng.normal(size=(1024, 16)).astype(np.float32) * 50
    segments, query = Segments("ip", 16, 16_384), np.ones(16, dtype=np.float32)
    segments.add(small[:1000])
    assert searched(segments, query).rows == 0
    segments.add(small[1000:])
    first = searched(segments, query)
    assert first.rows == 1024
    segments.add(large)
    assert searched(segments, query).rows == 2048
    assert segments.parts[0].codes.scale.max() > 10 * first.scale.max()


def test_a_part_of_a_segment_is_coded_by_who_searches_it_and_a_full_one_on_adding() -> None:
    """What comes in bulk is coded once, not as often as it grows."""
    segments, rows = Segments("ip", 4, 4096), np.random.default_rng(6).normal(size=(6000, 4)).astype(np.float32)
    for start in range(0, 4000, 500):
        segments.add(rows[start : start + 500])
    assert segments.parts[0].codes.rows == 0
    segments.add(rows[4000:])
    assert [part.codes.rows for part in segments.parts] == [4096, 0]
    searched(segments, rows[0])
    assert [part.codes.rows for part in segments.parts] == [4096, 1904]


def test_threads_that_search_at_once_code_each_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them codes, the others wait for that, however long it takes; then more rows come, and again."""
    block = Codes._block
    monkeypatch.setattr(Codes, "_block", lambda self, *args: (time.sleep(0.002), block(self, *args))[1])
    rows = np.random.default_rng(8).normal(size=(9000, 8)).astype(np.float32)
    segments = Segments("ip", 8, 16_384)
    with ThreadPoolExecutor(6) as threads:
        for start in range(0, 9000, 1500):
            segments.add(rows[start : start + 1500])
            for codes in threads.map(lambda query: searched(segments, query), rows[:12]):
                assert codes.rows == segments.rows


def test_coding_that_was_interrupted_goes_on_with_the_next_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in a search, with some of the new rows coded: the next one takes up the rest."""
    rows = np.random.default_rng(9).normal(size=(6000, 8)).astype(np.float32)
    segments = Segments("ip", 8, 16_384)
    segments.add(rows[:1500])
    assert searched(segments, rows[0]).rows == 1500
    segments.add(rows[1500:])
    block, blocks = Codes._block, []

    def interrupted(self: Codes, *args: Any) -> Any:
        blocks.append(args)
        if len(blocks) == 3:
            raise KeyboardInterrupt
        return block(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Codes, "_block", interrupted)
        with pytest.raises(KeyboardInterrupt):
            searched(segments, rows[0])
    assert segments.parts[0].codes.rows == 1500 + 2 * 1024
    assert searched(segments, rows[0]).rows == 6000


@pytest.mark.parametrize("room", [0, 4 * 8 * 700])
def test_a_segment_that_outgrows_its_room_keeps_its_rows(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, wherever memory had to be found for more of them."""
    monkeypatch.setattr("projections.segments._ROOM", room)
    rows = np.random.default_rng(10).normal(size=(3000, 8)).astype(np.float32)
    segments = Segments("cosine", 8, 2048)
    for start in range(0, 3000, 333):
        segments.add(rows[start : start + 333])
    assert segments.vectors(np.arange(3000)).tobytes() == rows.tobytes()


@pytest.mark.parametrize("metric", METRICS)
def test_an_index_of_thousands_answers_like_brute_force(metric: Any) -> None:
    """Grown by a thousand, filtered, in the past, and opened again with its vectors in files."""
    rng = np.random.default_rng(7)
    matrix = rng.normal(size=(5000, 12)).astype(np.float32)
    with EventStore() as store:
        index = VectorIndex(store, metric=metric, segment_rows=2048)
        for start in range(0, 5000, 700):
            some = matrix[start : start + 700]
            users = [{"user": int(number % 50)} for number in range(start, start + len(some))]
            store.add_many([""] * len(some), vectors=some, metadatas=users)
            index.catch_up()
            assert index.faults() == []
        for query in rng.normal(size=(4, 12)).astype(np.float32):
            for filter, as_of in ((None, None), (None, 3000), ({"user": 7}, None), ({"user": {"gte": 10}}, 4321)):
                expected = brute_force_search(store, query, 10, metric=metric, filter=filter, as_of=as_of)
                hits = index.search(query, 10, filter=filter, as_of=as_of)
                assert [(hit.position, hit.score) for hit in hits] == [(one.position, one.score) for one in expected]


@pytest.mark.parametrize("metric", METRICS)
def test_a_selection_that_is_asked_for_again_is_taken_out_if_it_is_small(
    metric: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A very small one as vectors, else as codes. The answers are those of scoring each; no whole part is copied."""
    rng = np.random.default_rng(11)
    rows, queries = rng.normal(size=(6000, 16)).astype(np.float32), rng.normal(size=(4, 16)).astype(np.float32)
    segments = Segments(metric, 16, 2048)
    segments.add(rows)
    codes: list[int] = []
    products: list[int] = []
    only, quick = Codes.only, scan_module.quick_scores
    monkeypatch.setattr(Codes, "only", lambda self, some: (codes.append(len(some)), only(self, some))[1])
    monkeypatch.setattr(scan_module, "quick_scores", lambda *asked: (products.append(len(asked[2])), quick(*asked))[1])
    monkeypatch.setattr(scan_module, "_MOST_TAKEN_OUT", (16 + 8) * 2000)
    monkeypatch.setattr(scan_module, "_MOST_AS_THEY_ARE", 4 * 16 * 600)
    for share, way in ((0.02, "vectors"), (0.1, "vectors"), (0.4, "codes"), (0.6, "no"), (0.9, "no")):
        selected = rng.random(6000) < share
        selected[:2048] = True
        some, count = np.flatnonzero(selected), np.count_nonzero(selected[2048:])
        selection = chosen(segments, selected)
        for number, query in enumerate(queries):
            codes.clear()
            products.clear()
            ((nearest_rows, scores),) = nearest(segments, [query], 10, selection)
            assert sum(codes) == (count if way == "codes" and number == 1 else 0)
            assert products == ([count] if way == "vectors" and number >= 1 else [])
            exact = exact_scores(metric, query, rows[some])
            best = np.lexsort((some, -exact))[:10]
            assert nearest_rows.tolist() == some[best].tolist()
            assert scores.tolist() == exact[best].tolist()
        codes.clear()
        products.clear()
        together = list(nearest(segments, list(queries), 10, chosen(segments, selected)))
        assert (bool(codes), products) == (way == "codes", [count] * 4 if way == "vectors" else [])
        assert [found.tolist() for found, _ in together][-1] == nearest_rows.tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_a_selection_answers_for_its_rows_when_others_have_come(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same one, kept, while its segment is coded bit by bit, fills up, and a new one begins; asked thrice."""
    monkeypatch.setattr("projections.segments._UNCODED_ROWS", 100)
    rng = np.random.default_rng(13)
    rows, query = rng.normal(size=(1500, 16)).astype(np.float32), rng.normal(size=16).astype(np.float32)
    exact = exact_scores(metric, query, rows)
    segments, selections = Segments(metric, 16, 512), []
    for start in range(0, 1500, 70):
        segments.add(rows[start : start + 70])
        selections += [chosen(segments, every(segments.rows)), chosen(segments, rng.random(segments.rows) < 0.9)]
        for selection in selections:
            some = np.flatnonzero(selection.mask)
            for _ in range(3):
                ((found, scores),) = nearest(segments, [query], 10, selection)
                best = np.lexsort((some, -exact[some]))[:10]
                assert found.tolist() == some[best].tolist()
                assert scores.tolist() == exact[some[best]].tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_not_coded_yet_do_not_pass_for_coded_ones(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many are selected as are coded, and yet not all of those that are."""
    monkeypatch.setattr("projections.segments._UNCODED_ROWS", 20)
    monkeypatch.setattr("projections.nearest._FEW", 0)
    rng = np.random.default_rng(14)
    rows = rng.normal(size=(21, 16)).astype(np.float32)
    segments = Segments(metric, 16, 64)
    segments.add(rows[:20])
    assert searched(segments, rows[0]).rows == 20
    segments.add(rows[20:])
    selected = every(21)
    selected[0] = False
    exact = exact_scores(metric, rows[0], rows[1:])
    selection = chosen(segments, selected)
    for _ in range(3):
        ((found, scores),) = nearest(segments, [rows[0]], 3, selection)
        assert found.tolist() == (1 + np.lexsort((np.arange(20), -exact))[:3]).tolist()
        assert scores.tolist() == np.sort(exact)[::-1][:3].tolist()


@pytest.mark.parametrize(("room", "together"), [(1, 1), (1000, 6), (2000, 12), (2**20, 64)])
def test_so_many_queries_are_answered_at_once_that_what_is_found_for_all_stays_small(
    room: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For one there may be more: it is answered all the same, and all of them are, in their order."""
    rng = np.random.default_rng(16)
    rows, queries = rng.normal(size=(150, 8)).astype(np.float32), rng.normal(size=(100, 8)).astype(np.float32)
    segments = Segments("ip", 8, 32)  # five, with 32 rows found in each
    segments.add(rows)
    at_once: list[int] = []
    found = Scan.found
    monkeypatch.setattr(Scan, "found", lambda self, some, most: (at_once.append(len(some)), found(self, some, most))[1])
    monkeypatch.setattr("projections.nearest._FOUND_AT_ONCE", room)
    answers = list(nearest(segments, list(queries), 10, chosen(segments, every(150))))
    assert (set(at_once[: 100 // together]), sum(at_once)) == ({together}, 100)
    for query, (rows_found, _) in zip(queries, answers, strict=True):
        exact = exact_scores("ip", query, rows)
        assert rows_found.tolist() == np.lexsort((np.arange(150), -exact))[:10].tolist()


def test_more_hits_than_a_segment_has_rows_take_no_more_memory() -> None:
    """What is found in a segment has the room of its rows, however many are asked for."""
    segments = Segments("ip", 8, 4)
    segments.add(np.random.default_rng(15).normal(size=(2000, 8)).astype(np.float32))
    selection = chosen(segments, every(2000))
    tracemalloc.start()
    ((found, _),) = nearest(segments, [np.ones(8, dtype=np.float32)], 1500, selection)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1500
    assert most < 4 * 2**20


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_a_segment_of_zeros_is_gone_through_whatever_the_query(metric: Any) -> None:
    """Its codes have no scale of their own."""
    rows = np.concatenate([np.zeros((64, 4)), np.ones((40, 4))]).astype(np.float32)
    segments = Segments(metric, 4, 64)
    segments.add(rows)
    for size in (0, 1e-30, 1, 1e9, 1e18):
        query = np.full(4, size, dtype=np.float32)
        exact = exact_scores(metric, query, rows)
        ((found, scores),) = nearest(segments, [query], 3, chosen(segments, every(104)))
        assert found.tolist() == np.lexsort((np.arange(104), -exact))[:3].tolist()
        assert scores.tolist() == exact[found].tolist()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nearest_pass", [True, False])
def test_where_nearly_all_rows_pass_the_others_are_dropped_afterwards(metric: Any, nearest_pass: bool) -> None:
    """Also where those that do not pass are the nearest: then each is asked about."""
    rng = np.random.default_rng(12)
    rows = rng.normal(size=(1000, 16)).astype(np.float32)
    query = rng.normal(size=16).astype(np.float32)
    order = np.argsort(-exact_scores(metric, query, rows))
    selected = every(1000)
    selected[order[-80:] if nearest_pass else order[:80]] = False
    found, lower, upper, rest = scanned(coded(metric, rows), query, 20, selected)
    assert selected[found].all()
    assert len(found) >= 20
    left_out = selected.copy()
    left_out[found] = False
    assert (exact_scores(metric, query, rows[left_out]) <= rest).all()
    exact = exact_scores(metric, query, rows[found])
    assert (lower <= exact).all()
    assert (exact <= upper).all()


@pytest.mark.parametrize("dimension", [1, 2, 24])
def test_what_is_taken_out_of_a_selection_takes_no_more_memory_than_it_may(
    dimension: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes or vectors, and which rows they are of: whatever is larger of the two. Of more rows nothing is kept."""
    most = 16_000
    monkeypatch.setattr(scan_module, "_MOST_TAKEN_OUT", most)
    monkeypatch.setattr(scan_module, "_MOST_AS_THEY_ARE", most)
    rng = np.random.default_rng(17)
    rows = rng.normal(size=(6000, dimension)).astype(np.float32)
    segments = Segments("ip", dimension, 2048)
    segments.add(rows)
    ways = set()
    for count in (70, 130, 400, 700, 1500, 1900, 4000):
        selected = np.zeros(6000, dtype=np.bool_)
        selected[rng.permutation(5900)[:count]] = True
        selection = chosen(segments, selected)
        for _ in range(3):
            list(nearest(segments, [rows[0]], 10, selection))
        (scan,) = selection.scans.values()
        taken = scan._taken_out
        kept = sum(part.__dict__.get("_few_rows", rows[:0]).nbytes for part in selection.parts.values())
        if taken is None:
            ways.add("nothing")
            assert kept <= 3 * 256 * 8
            continue
        if taken.plain is not None:
            ways.add("vectors")
            kept += sum(array.nbytes for array in taken.plain)
            assert kept <= most
        else:
            ways.add("codes")
            kept += sum(way.rows.nbytes + way.index.codes.size() for way in taken.group.ways.values())
            assert kept <= most + 3 * 256 * 8
    assert ways == {"nothing", "codes", "vectors"}
