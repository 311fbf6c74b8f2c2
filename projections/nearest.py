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
from projections.scan import Found, Scan
from projections.scoring import Floats, Query, exact_scores
from projections.segments import Segments
from projections.selection import Selection
from projections.vectors import Rows

__all__ = ["nearest", "nearest_beside"]

# More than k rows reach the k-th score by their upper ends: 30 or so on sentence embeddings, for k = 10.
_SPARE = 48
# So few rows are scored at once: going through codes would cost more.
_FEW = 64
_ROWS_AT_ONCE = 4096
_QUERIES_AT_ONCE = 64
_FOUND_AT_ONCE = 2**20


def nearest(
    segments: Segments, queries: Sequence[Vector], k: int, selection: Selection
) -> Iterator[tuple[Rows, Floats]]:
    """For each query the `k` best of the selected rows (fewer if fewer are selected) and their scores, best first.

    Equal scores are in the order of rows, which is that of positions. Queries are float32, shape `(dimension,)`.
    """
    numbers = list(selection.parts)
    # So many at once that what is found for all of them stays small.
    found_for_one = min(k + _SPARE, segments.segment_rows) * max(1, len(numbers))
    at_once = max(1, min(_QUERIES_AT_ONCE, _FOUND_AT_ONCE // found_for_one))
    for start in range(0, len(queries), at_once):
        contests = [_Contest(segments, Query(segments.metric, query), k) for query in queries[start : start + at_once]]
        if selection.count <= max(k, _FEW):
            rows = selection.rows_of(numbers)
            for contest in contests:
                contest.score(rows)
        else:
            found = _scan(segments, selection, numbers).found([contest.query for contest in contests], k + _SPARE)
            for contest, its in zip(contests, found, strict=True):
                _decide(contest, its, selection)
        yield from (contest.best() for contest in contests)


def nearest_beside(
    segments: Segments, query: Query, k: int, selection: Selection, candidates: Rows, passed_over: Set[int]
) -> tuple[Rows, Floats]:
    """The `k` best of the candidates, and of the selected rows in all segments that are not passed over.

    The candidates are rows of segments that are.
    """
    contest, found = _Contest(segments, query, k), Found()
    numbers = [number for number in selection.parts if number not in passed_over]
    if sum(selection.parts[number].count for number in numbers) <= _FEW:
        candidates = np.concatenate([candidates, selection.rows_of(numbers)])
    else:
        (found,) = _scan(segments, selection, numbers).found([query], k + _SPARE)
    contest.score(candidates)
    if found.pieces:
        _decide(contest, found, selection)
    return contest.best()


def _scan(segments: Segments, selection: Selection, numbers: Sequence[int]) -> Scan:
    """What goes through these segments' selected rows: made once, and again when rows have been added."""
    asked = tuple(numbers)
    made = selection.scans.get(asked)
    if made is None or made.rows != segments.rows:
        made = selection.scans[asked] = Scan(segments, selection, numbers)
    return made


def _decide(contest: _Contest, found: Found, selection: Selection) -> None:
    """Score what was found until nothing else can be among the best."""
    k, most = contest.k, contest.k + _SPARE
    rows, lower, upper = found.together()
    # The k-th best of the lower ends is as far down as the k-th score can be: all who can be among the best, in one go.
    reach = float(np.partition(lower, -k)[-k]) if len(rows) > k else -math.inf
    contest.score(rows[upper >= max(reach, contest.least)])
    # What a segment left out may still reach the k-th score: then it is asked again, for more.
    while numbers := found.above(contest.least):
        most *= 4
        (found,) = Scan(contest.segments, selection, numbers).found([contest.query], most)
        rows, _, upper = found.together()
        contest.score(rows[(upper >= contest.least) & ~np.isin(rows, contest.rows)])


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
            vectors = self.segments.vectors(some)
            scores = exact_scores(self.segments.metric, self.query.recorded, vectors, self.query.length)
            self.rows = np.concatenate([self.rows, some])
            self._scores = np.concatenate([self._scores, scores])
        if len(self._scores) >= self.k:
            self.least = float(np.partition(self._scores, -self.k)[-self.k])

    def best(self) -> tuple[Rows, Floats]:
        """The `k` best, equal scores in the order of rows."""
        order: npt.NDArray[np.intp] = np.lexsort((self.rows, -self._scores))[: self.k]
        return self.rows[order], self._scores[order]
