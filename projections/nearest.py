"""The exact nearest rows: codes propose, float64 decides.

A proposed score comes with the ends between which the exact one lies. Only rows whose upper end reaches the k-th best
score that is known, at first by its lower end, can be among the k best. When all such are scored, the answer is the one
that scoring every row would give, whatever FAISS, BLAS and the cut into segments did.
"""

from __future__ import annotations

import math
from collections.abc import Set

import numpy as np
import numpy.typing as npt

from eventstore import Vector
from projections.scoring import Floats, Query, Scored, exact_scores
from projections.segments import Mask, Rows, Segments

__all__ = ["nearest", "nearest_beside"]

# More than k rows reach the k-th score by their upper ends: 30 or so on sentence embeddings, for k = 10.
_SPARE = 48
# So few rows are scored at once: going through codes would cost more.
_FEW = 64
_ROWS_AT_ONCE = 4096


def nearest(segments: Segments, query: Vector, k: int, selected: Mask) -> tuple[Rows, Floats]:
    """The `k` best of the selected rows (fewer if fewer are selected) and their scores, best first.

    Equal scores are in the order of rows, which is that of positions. `query` is float32, shape `(dimension,)`;
    `selected` covers the first `len(selected)` rows, later ones are left out.
    """
    return nearest_beside(segments, query, k, selected, np.empty(0, dtype=np.int64), set())


def nearest_beside(
    segments: Segments, query: Vector, k: int, selected: Mask, candidates: Rows, passed_over: Set[int]
) -> tuple[Rows, Floats]:
    """The `k` best of the candidates, and of the selected rows in all segments that are not passed over.

    The candidates are rows of segments that are.
    """
    size = segments.segment_rows
    contest = _Contest(segments, Query(segments.metric, query), k)
    contest.score(candidates)
    every = bool(selected.all())
    counts: dict[int, int] = {}
    for number in range(-(-len(selected) // size)):
        if number not in passed_over:
            start, stop = number * size, min(len(selected), (number + 1) * size)
            count = stop - start if every else int(np.count_nonzero(selected[start:stop]))
            if count:
                counts[number] = count
    if sum(counts.values()) <= max(k, _FEW):
        rows = np.flatnonzero(selected).astype(np.int64)
        contest.score(rows[~np.isin(rows // size, list(passed_over))] if passed_over else rows)
        return contest.best()
    masks = {
        number: _mask_of(selected[number * size : (number + 1) * size], segments.parts[number].rows, count)
        for number, count in counts.items()
    }
    _compete(contest, masks, counts)
    return contest.best()


def _mask_of(selected: Mask, rows: int, count: int) -> Mask | None:
    """The selection as long as its part; None if that is all of it."""
    if count == rows:
        return None
    if len(selected) < rows:
        return np.concatenate([selected, np.zeros(rows - len(selected), dtype=np.bool_)])
    return selected


def _compete(contest: _Contest, masks: dict[int, Mask | None], counts: dict[int, int]) -> None:
    """Score rows of the parts until no other can be among the best. More than k are selected."""
    segments, k, first_time = contest.segments, contest.k, True
    found: dict[int, Scored] = {}
    asking = dict.fromkeys(masks, k + _SPARE)
    while asking:
        for number, most in asking.items():
            found[number] = segments.parts[number].search(contest.query, most, masks[number], counts[number])
        rows = np.concatenate([part.rows + number * segments.segment_rows for number, part in found.items()])
        upper = np.concatenate([part.upper for part in found.values()])
        if first_time:
            # None of them is scored yet: what is, is of other parts. The k-th best of the lower ends is as far as the
            # k-th score can be down, so that all who can be among the best are scored in one go.
            lower = np.concatenate([part.lower for part in found.values()])
            least = max(contest.least, float(np.partition(lower, len(lower) - k)[len(lower) - k]))
            contest.score(rows[upper >= least])
            first_time = False
        else:
            contest.score(rows[(upper >= contest.least) & ~np.isin(rows, contest.rows)])
        # What a part left out may still reach the k-th score: it is asked again for more.
        asking = {n: 4 * len(part.rows) for n, part in found.items() if part.rest >= contest.least}


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
        asked = self.query
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            scores = exact_scores(self.segments.metric, asked.recorded, self.segments.vectors(some), asked.length)
            self.rows = np.concatenate([self.rows, some])
            self._scores = np.concatenate([self._scores, scores])
        if len(rows) and len(self._scores) >= self.k:
            place = len(self._scores) - self.k
            self.least = float(np.partition(self._scores, place)[place])

    def best(self) -> tuple[Rows, Floats]:
        """The `k` best, equal scores in the order of rows."""
        order: npt.NDArray[np.intp] = np.lexsort((self.rows, -self._scores))[: self.k]
        return self.rows[order], self._scores[order]
