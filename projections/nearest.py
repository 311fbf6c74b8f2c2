"""The exact nearest rows: FAISS proposes by float32 score, float64 decides.

A float32 score is off by at most a known bound. At least k rows truly score the k-th largest of "score less bound";
so once the candidates hold every row whose score and bound reach that, they hold the true k best, and rescoring them in
float64 gives the answer that scoring all rows would give, whatever FAISS, BLAS and the cut into segments did.
"""

from __future__ import annotations

import math

import numpy as np

from eventstore import Vector
from projections.scoring import Floats, error_bound, exact_scores, norms_of
from projections.segments import Approximate, Mask, Rows, Segments

__all__ = ["nearest"]

_SPARE = 16
_ROWS_AT_ONCE = 8192


def nearest(segments: Segments, query: Vector, k: int, selected: Mask) -> tuple[Rows, Floats]:
    """The `k` best of the selected rows (fewer if fewer are selected) and their scores, best first.

    Equal scores are in the order of rows, which is that of positions. `query` is float32, shape `(dimension,)`;
    `selected` covers the first `len(selected)` rows, later ones are left out.
    """
    counts = _selected_by_part(segments, selected)
    total = sum(counts)
    if not total:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64)
    k = min(k, total)
    if k == total:
        return _best(segments, query, np.flatnonzero(selected).astype(np.int64), k)
    query_norm = float(norms_of(query[None, :])[0])
    asked = query
    if segments.metric == "cosine":
        asked = (query.astype(np.float64) / query_norm).astype(np.float32)
    return _best(segments, query, _candidates(segments, asked, query_norm, k, selected, counts), k)


def _selected_by_part(segments: Segments, selected: Mask) -> list[int]:
    size = segments.segment_rows
    return [int(np.count_nonzero(selected[start : start + size])) for start in range(0, len(selected), size)]


def _candidates(
    segments: Segments, query: Vector, query_norm: float, k: int, selected: Mask, counts: list[int]
) -> Rows:
    """Every row that can be among the `k` best by its float32 score and its part's bound, and perhaps more."""
    size = segments.segment_rows
    masks, bounds = {}, {}
    for number, count in enumerate(counts):
        if count:
            part = segments.parts[number]
            masks[number] = _mask_of(selected[number * size : (number + 1) * size], part.rows, count)
            norm = part.largest_norm_of(masks[number])
            bounds[number] = error_bound(segments.metric, segments.dimension, query_norm, norm, part.unit_error)
    # Where float32 could overflow it says nothing: those rows are candidates, all of them.
    kept = [_rows_of(masks[n], segments.parts[n].rows) + n * size for n, bound in bounds.items() if math.isinf(bound)]
    asking = {n: min(k + _SPARE, counts[n]) for n, bound in bounds.items() if not math.isinf(bound)}
    found: dict[int, Approximate] = {}
    least = -math.inf
    while asking:
        for number, most in asking.items():
            found[number] = segments.parts[number].search(query, most, masks[number], counts[number])
        # At least k rows score this much, so what cannot reach it is not among the k best.
        lowest = np.concatenate([part.scores - bounds[number] for number, part in found.items()])
        if len(lowest) >= k:
            least = float(np.partition(lowest, len(lowest) - k)[len(lowest) - k])
        # A part whose cut lies above that may hold more such rows: it is asked again for more.
        asking = {
            number: min(4 * len(part.rows), counts[number])
            for number, part in found.items()
            if part.rest + bounds[number] >= least and part.rest > -math.inf
        }
    for number, near in found.items():
        kept.append(near.rows[near.scores + bounds[number] >= least] + number * size)
    return np.concatenate(kept)


def _mask_of(selected: Mask, rows: int, count: int) -> Mask | None:
    """The selection as long as its part; None if that is all of it."""
    if count == rows:
        return None
    if len(selected) < rows:
        return np.concatenate([selected, np.zeros(rows - len(selected), dtype=np.bool_)])
    return selected


def _rows_of(mask: Mask | None, rows: int) -> Rows:
    return np.arange(rows) if mask is None else np.flatnonzero(mask).astype(np.int64)


def _best(segments: Segments, query: Vector, rows: Rows, k: int) -> tuple[Rows, Floats]:
    scores = np.empty(len(rows), dtype=np.float64)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        scores[start : start + len(some)] = exact_scores(
            segments.metric, query, segments.vectors(some), segments.norms(some)
        )
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]
