"""Approximate search: candidates from a structure over the full segments, and the newest rows as they are.

A structure is a function of the history alone, whatever the batches were in which it came. It takes whole segments,
once they are full or some time after: so a single add never touches it. All that it proposes is scored exactly, beside
the best of the rows that it does not have. Selections too small for it are searched exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import numpy as np

from eventstore import InvalidOperation, Vector
from projections.codes import Codes
from projections.hnsw import Graph
from projections.ivf import InvertedLists
from projections.nearest import nearest, nearest_beside
from projections.scoring import Floats, Metric, Query
from projections.segments import Segments
from projections.selection import Selection
from projections.vectors import Rows

__all__ = ["Kind", "Structure", "check_effort", "check_kind", "new_structure", "search"]

Kind = Literal["auto", "flat", "ivf", "hnsw"]

# An index that chooses for itself is exact up to so many rows. Lists are made of the full segments before that, while
# the next one fills up, and are in use from then on.
AUTO_ROWS = 250_000
# One that is told to have inverted lists makes them of so many full segments, 65,536 rows, and uses them one segment
# later. Fewer rows are gone through as fast, and make centroids that do not suit what comes later.
LISTS_FROM = 4
# Selections of so many of the rows that a structure has, or of such a share of them, are searched exactly.
FEW_ROWS = 10_000
FEW_SHARE = 0.1
# So many candidates for k hits: the ten best of sentence embeddings are among the 18 best or so by codes.
PER_HIT = 2
SPARE = 16


class Structure(Protocol):
    """What finds candidates among the rows of full segments."""

    @property
    def kind(self) -> str:
        """What hits that were found by it say."""

    def ready(self, rows: int) -> int:
        """How many full segments are taken of a history with so many rows."""

    def fold(self, coded: Sequence[Codes]) -> None:
        """Take the segments that are new; `coded` has the codes of all that are to be taken."""

    def covered(self, taken: int) -> list[int]:
        """The segments that candidates come from, of a history of which so many are taken; maybe none."""

    def candidates(self, query: Query, most: int, selection: Selection, taken: int, effort: float) -> Rows | None:
        """About the best `most` of the selected rows of the covered segments, where `taken` segments are taken.

        None where it is no good for the query.
        """


def check_kind(kind: str) -> Kind:
    """The kind, or `InvalidOperation`."""
    for known in get_args(Kind):
        if kind == known:
            return known  # type: ignore[no-any-return]
    raise InvalidOperation(f"kind is {kind!r}: give 'auto', 'flat', 'ivf' or 'hnsw'")


def check_effort(effort: float) -> float:
    """The effort, or `InvalidOperation`."""
    if isinstance(effort, bool) or not isinstance(effort, (int, float, np.number)) or not 0 < effort < float("inf"):
        raise InvalidOperation(f"effort is {effort!r}: give a number above 0; 1 is the usual effort")
    return float(effort)


def new_structure(kind: Kind, metric: Metric, segment_rows: int) -> InvertedLists | Graph | None:
    """An empty structure for an index of a kind; None where every search is exact."""
    if kind == "flat":
        return None
    if kind == "hnsw":
        return Graph(metric, segment_rows)
    first = LISTS_FROM if kind == "ivf" else max(1, -(-AUTO_ROWS // segment_rows) - 1)
    return InvertedLists(metric, segment_rows, first)


def search(
    segments: Segments,
    structure: Structure | None,
    queries: Sequence[Vector],
    k: int,
    selection: Selection,
    effort: float,
) -> list[tuple[Rows, Floats, Kind]]:
    """For each query the `k` best of the selected rows, their scores, and how they were found: `"flat"` says exactly.

    Of a selection for the position that is searched.
    """
    found: list[tuple[Rows, Floats, Kind] | None] = [None] * len(queries)
    if structure is not None and (parts := _covered(structure, k, selection, segments.segment_rows)):
        kind = check_kind(structure.kind)
        for number, query in enumerate(queries):
            rows = _approximately(segments, structure, Query(segments.metric, query), k, selection, effort, parts)
            found[number] = None if rows is None else (*rows, kind)
    left = [query for query, one in zip(queries, found, strict=True) if one is None]
    exact = nearest(segments, left, k, selection)
    return [one or (*next(exact), "flat") for one in found]


def _covered(structure: Structure, k: int, selection: Selection, size: int) -> list[int]:
    """The segments that the structure is asked for; none where so few of their rows are selected that it is no good.

    Depends on the selection, and on what there was by then: an index that has grown since answers the same.
    """
    parts = structure.covered(structure.ready(len(selection.mask)))
    there = sum(selection.parts[number].count for number in parts if number in selection.parts)
    return parts if there > max(FEW_ROWS, FEW_SHARE * len(parts) * size, PER_HIT * k + SPARE) else []


def _approximately(
    segments: Segments,
    structure: Structure,
    query: Query,
    k: int,
    selection: Selection,
    effort: float,
    parts: list[int],
) -> tuple[Rows, Floats] | None:
    """What `nearest` gives, but for a few hits; None where the structure is no good for it."""
    taken = structure.ready(len(selection.mask))
    candidates = structure.candidates(query, PER_HIT * k + SPARE, selection, taken, effort)
    if candidates is None:
        return None
    rows, scores = nearest_beside(segments, query, k, selection, candidates, set(parts))
    return (rows, scores) if len(rows) == k else None
