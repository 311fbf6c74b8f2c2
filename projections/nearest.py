"""The exact nearest rows: codes propose, float64 decides.

A proposed score comes with the ends between which the exact one lies. Only rows whose upper end reaches the k-th best
score that is known, at first by its lower end, can be among the k best. When all such are scored, the answer is the one
that scoring every row would give, whatever FAISS, BLAS and the cut into segments did.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set

import numpy as np
import numpy.typing as npt

from eventstore import Vector
from projections.scoring import Floats, Query, Scored, exact_scores, quick_scores
from projections.segments import Mask, Rows, Segments

__all__ = ["nearest", "nearest_beside"]

# More than k rows reach the k-th score by their upper ends: 30 or so on sentence embeddings, for k = 10.
_SPARE = 48
# So few rows are scored at once: going through codes would cost more.
_FEW = 64
# Of so many, if they are no more than such a share of all, the vectors are gone through, where they are in memory.
_SOME = 4096
_SPARSE = 0.125
_ROWS_AT_ONCE = 4096
_QUERIES_AT_ONCE = 64
_FOUND_AT_ONCE = 2**20


def nearest(segments: Segments, queries: Sequence[Vector], k: int, selected: Mask) -> Iterator[tuple[Rows, Floats]]:
    """For each query the `k` best of the selected rows (fewer if fewer are selected) and their scores, best first.

    Equal scores are in the order of rows, which is that of positions. Queries are float32, shape `(dimension,)`;
    `selected` covers the first `len(selected)` rows, later ones are left out.
    """
    chosen = _Chosen(segments, selected, set())
    # So many at once that what is found for all of them stays small.
    found_for_one = min(k + _SPARE, segments.segment_rows) * max(1, len(chosen.parts))
    at_once = max(1, min(_QUERIES_AT_ONCE, _FOUND_AT_ONCE // found_for_one))
    for start in range(0, len(queries), at_once):
        some = queries[start : start + at_once]
        contests = [_Contest(segments, Query(segments.metric, query), k) for query in some]
        _decide(contests, chosen)
        yield from (contest.best() for contest in contests)


def nearest_beside(
    segments: Segments, query: Query, k: int, selected: Mask, candidates: Rows, passed_over: Set[int]
) -> tuple[Rows, Floats]:
    """The `k` best of the candidates, and of the selected rows in all segments that are not passed over.

    The candidates are rows of segments that are.
    """
    contest = _Contest(segments, query, k)
    contest.score_best(candidates)
    _decide([contest], _Chosen(segments, selected, passed_over))
    return contest.best()


class _Chosen:
    """The selected rows of the segments that are not passed over; `parts` has those of each, and how many they are.

    A part's selection is as long as the part; None if it is all of it.
    """

    def __init__(self, segments: Segments, selected: Mask, passed_over: Set[int]) -> None:
        self._selected, self._passed_over, self._size = selected, passed_over, segments.segment_rows
        self.parts: dict[int, tuple[Mask | None, int]] = {}
        every = bool(selected.all())
        for number in range(-(-len(selected) // self._size)):
            if number not in passed_over:
                some = selected[number * self._size : (number + 1) * self._size]
                count = len(some) if every else int(np.count_nonzero(some))
                if count:
                    self.parts[number] = _mask_of(some, segments.parts[number].rows, count), count
        self.count = sum(count for _, count in self.parts.values())
        self.rows_there = sum(segments.parts[number].rows for number in self.parts)

    def rows(self) -> Rows:
        """All of them."""
        rows = np.flatnonzero(self._selected).astype(np.int64)
        return rows[~np.isin(rows // self._size, list(self._passed_over))] if self._passed_over else rows


def _mask_of(selected: Mask, rows: int, count: int) -> Mask | None:
    if count == rows:
        return None
    if len(selected) < rows:
        return np.concatenate([selected, np.zeros(rows - len(selected), dtype=np.bool_)])
    return selected


def _decide(contests: Sequence[_Contest], chosen: _Chosen) -> None:
    """Score what can be among the best of each of several contests over the same rows."""
    segments, queries = contests[0].segments, [contest.query for contest in contests]
    if chosen.count <= max(contests[0].k, _FEW):
        rows = chosen.rows()
        for contest in contests:
            contest.score(rows)
        return
    if chosen.count <= min(_SOME, _SPARSE * chosen.rows_there) and segments.in_memory:
        # One product over all of them costs less than going through the codes of every part.
        rows = chosen.rows()
        vectors, norms = segments.vectors_and_norms(rows)
        for contest in contests:
            ends = quick_scores(segments.metric, contest.query, vectors, norms)
            _compete(contest, {0: Scored(rows, *ends, -math.inf)}, chosen)
        return
    most = contests[0].k + _SPARE
    # A part for all queries, then the next: it stays in the processor's cache, and FAISS takes the threads it may.
    found = {n: segments.parts[n].search(queries, most, mask, count) for n, (mask, count) in chosen.parts.items()}
    for number, contest in enumerate(contests):
        _compete(contest, {n: scored[number] for n, scored in found.items()}, chosen)


def _compete(contest: _Contest, found: dict[int, Scored], chosen: _Chosen) -> None:
    """Score rows of the parts until no other can be among the best. More than k are selected."""
    segments, k = contest.segments, contest.k
    rows, lower, upper = _together(found, segments.segment_rows)
    # None of them is scored yet: what is, is of other parts. The k-th best of the lower ends is as far down as the k-th
    # score can be, so that all who can be among the best are scored in one go.
    contest.score(rows[upper >= max(contest.least, float(np.partition(lower, len(lower) - k)[len(lower) - k]))])
    # What a part left out may still reach the k-th score: it is asked again for more.
    while asking := {n: 4 * len(part.rows) for n, part in found.items() if part.rest >= contest.least}:
        for number, most in asking.items():
            found[number] = segments.parts[number].search([contest.query], most, *chosen.parts[number])[0]
        rows, _, upper = _together(found, segments.segment_rows)
        contest.score(rows[(upper >= contest.least) & ~np.isin(rows, contest.rows)])


def _together(found: dict[int, Scored], size: int) -> tuple[Rows, Floats, Floats]:
    """The rows of all parts, and the lower and the upper ends of their scores."""
    return (
        np.concatenate([part.rows + number * size for number, part in found.items()]),
        np.concatenate([part.lower for part in found.values()]),
        np.concatenate([part.upper for part in found.values()]),
    )


class _Contest:
    """Rows scored exactly so far. `least` is the k-th best of their scores, minus infinity while there are fewer."""

    def __init__(self, segments: Segments, query: Query, k: int) -> None:
        self.segments = segments
        self.query = query
        self.k = k
        self.rows: Rows = np.empty(0, dtype=np.int64)
        self._scores: Floats = np.empty(0, dtype=np.float64)
        self.least = -math.inf

    def score(self, rows: Rows) -> None:
        """Score rows that are not scored yet."""
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            self._take(some, self.segments.vectors(some))

    def _take(self, rows: Rows, vectors: Vector) -> None:
        asked = self.query
        scores = exact_scores(self.segments.metric, asked.recorded, vectors, asked.length)
        self.rows = np.concatenate([self.rows, rows])
        self._scores = np.concatenate([self._scores, scores])
        if len(self._scores) >= self.k:
            place = len(self._scores) - self.k
            self.least = float(np.partition(self._scores, place)[place])

    def score_best(self, rows: Rows) -> None:
        """Score those rows that can be among the `k` best of these: one product in float32 tells nearly all apart."""
        if not len(rows):
            return
        vectors, norms = self.segments.vectors_and_norms(rows)
        if len(rows) > self.k:
            lower, upper = quick_scores(self.segments.metric, self.query, vectors, norms)
            likely = upper >= np.partition(lower, len(rows) - self.k)[len(rows) - self.k]
            rows, vectors = rows[likely], vectors[likely]
        self._take(rows, vectors)

    def best(self) -> tuple[Rows, Floats]:
        """The `k` best, equal scores in the order of rows."""
        order: npt.NDArray[np.intp] = np.lexsort((self.rows, -self._scores))[: self.k]
        return self.rows[order], self._scores[order]
