"""The exact nearest rows: FAISS proposes by float32 score, float64 decides.

A float32 score is off by at most a known bound. So once the candidates hold every row whose float32 score comes
within twice the bound of the k-th best, they hold the true k best, and rescoring them in float64 gives the answer
that scoring all rows would give, whatever FAISS, BLAS and the cut into segments did.
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
    query_norm = float(norms_of(query[None, :])[0])
    bound = max(
        error_bound(segments.metric, segments.dimension, query_norm, part.largest_norm, part.unit_error)
        for part in segments.parts
    )
    if math.isinf(bound) or k == total:
        rows = np.flatnonzero(selected).astype(np.int64)
    else:
        asked = query
        if segments.metric == "cosine":
            asked = (query.astype(np.float64) / query_norm).astype(np.float32)
        rows = _candidates(segments, asked, k, selected, counts, 2 * bound)
    return _best(segments, query, rows, k)


def _selected_by_part(segments: Segments, selected: Mask) -> list[int]:
    size = segments.segment_rows
    return [int(np.count_nonzero(selected[start : start + size])) for start in range(0, len(selected), size)]


def _candidates(segments: Segments, query: Vector, k: int, selected: Mask, counts: list[int], slack: float) -> Rows:
    """Every row whose float32 score comes within `slack` of the k-th best, and perhaps more."""
    size = segments.segment_rows
    asking = {number: min(k + _SPARE, count) for number, count in enumerate(counts) if count}
    found: dict[int, Approximate] = {}
    while asking:
        for number, most in asking.items():
            part, mask = segments.parts[number], selected[number * size : (number + 1) * size]
            whole = counts[number] == part.rows
            if not whole and len(mask) < part.rows:
                mask = np.concatenate([mask, np.zeros(part.rows - len(mask), dtype=np.bool_)])
            found[number] = part.search(query, most, None if whole else mask, counts[number])
        scores = np.concatenate([part.scores for part in found.values()])
        least = float(np.partition(scores, len(scores) - k)[len(scores) - k]) - slack
        # A part whose cut lies above that may hold more such rows: it is asked again for more.
        asking = {
            number: min(4 * len(part.rows), counts[number]) for number, part in found.items() if part.rest >= least
        }
    kept = [part.rows[part.scores >= least] + number * size for number, part in found.items()]
    return np.concatenate(kept)


def _best(segments: Segments, query: Vector, rows: Rows, k: int) -> tuple[Rows, Floats]:
    scores = np.empty(len(rows), dtype=np.float64)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        scores[start : start + len(some)] = exact_scores(
            segments.metric, query, segments.vectors(some), segments.norms(some)
        )
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]
