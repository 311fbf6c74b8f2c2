"""Going through codes: the best of the selected rows of some segments, and between what their exact scores lie.

What the products of whole numbers propose comes with the bound of its error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from eventstore import Vector
from projections.codes import LEVELS, Codes
from projections.scoring import Floats, Query, distance_bounds, quick_scores, rounding
from projections.segments import Segments
from projections.selection import Mask, Selection, Share
from projections.vectors import Rows

__all__ = ["Found", "Scan"]

# Where such a share of the rows passes, going through all of them costs no more than FAISS's look at each. So many more
# are looked for than would do if those that pass lay evenly.
_MOST_PASS = 0.75
_WIDER = 32
# From the second query on, the codes of what is selected are gone through alone, if they have so few bytes: those of
# 20,000 rows of 384 numbers. For one query FAISS's look at every row costs less than taking them out.
_MOST_TAKEN_OUT = 8 * 2**20
# Vectors of so few bytes are taken out as they are: one product of them all, 1,300 rows of 384 numbers, costs less than
# codes that FAISS is asked about segment by segment, and leaves fewer rows to be scored exactly.
_MOST_AS_THEY_ARE = 2 * 2**20

# What is divided by is not 0.
_LEAST = 1e-300
_NO_ROWS = np.empty(0, dtype=np.int64)


@dataclass(slots=True)
class Found:
    """Pieces of rows with the lower and the upper ends of their scores; and what else there may be.

    `rest` has segments of which something was left out, each with the most that this can score.
    """

    pieces: list[tuple[Rows, Floats, Floats]] = field(default_factory=list)
    rest: list[tuple[int, float]] = field(default_factory=list)

    def together(self) -> tuple[Rows, Floats, Floats]:
        """The pieces as one."""
        if len(self.pieces) == 1:
            return self.pieces[0]
        rows, lower, upper = zip(*self.pieces, strict=True)
        return np.concatenate(rows), np.concatenate(lower), np.concatenate(upper)

    def above(self, least: float) -> list[int]:
        """The segments in which something left out may score so much."""
        return [number for number, rest in self.rest if rest >= least]


@dataclass(frozen=True, slots=True)
class _Part:
    """A segment to go through: `chosen` of its coded rows are selected."""

    number: int
    codes: Codes
    share: Share
    chosen: int


class _Asked(NamedTuple):
    """A query in whole numbers, a row for each part.

    A product of numbers times `step` is off the exact score by at most `slack`; for l2 so is the distance.
    """

    numbers: Vector
    step: Floats
    slack: Floats


class _Way(NamedTuple):
    """How FAISS goes through a part: what it goes through, what tells it which rows count, and whose rows these are."""

    index: Any
    parameters: Any = None
    rows: Rows | None = None


class _Group:
    """Parts that are gone through together.

    `at` picks theirs out of an array by part, with an axis more for their hits.
    """

    def __init__(self, parts: Sequence[_Part], ways: dict[int, _Way], segment_rows: int) -> None:
        self.ways = ways
        self.at: Any = (slice(None) if len(ways) == len(parts) else np.array(list(ways)), None)
        self.numbers = [parts[place].number for place in ways]
        self.chosen = [parts[place].chosen for place in ways]
        self.fewest = min(self.chosen)
        self.offsets = np.array(self.numbers, dtype=np.int64)[:, None, None] * segment_rows


class _Plain(NamedTuple):
    """Rows that are gone through by their vectors as they were recorded."""

    rows: Rows
    vectors: Vector
    norms: Floats


class _TakenOut(NamedTuple):
    """What is gone through once the rows selected in part have been taken out: all parts, or the others and these."""

    group: _Group | None
    plain: _Plain | None = None


class Scan:
    """The selected rows of some segments, made ready to be gone through: good for as long as no rows are added."""

    def __init__(self, segments: Segments, selection: Selection, numbers: Sequence[int]) -> None:
        """`numbers` are those of the segments; all have selected rows."""
        self.rows = segments.rows
        self._segments = segments
        self._late: list[tuple[int, Rows]] = []  # the newest rows of a segment, which have no codes yet
        self._parts: list[_Part] = []
        for number in numbers:
            self._take(number, selection.parts[number])
        codes = [part.codes for part in self._parts]
        self._scales = np.array([each.scale for each in codes])
        self._inverses = np.array([each.inverse for each in codes])
        # What is a hair too small by rounding is not.
        self._error = np.array([each.error for each in codes]) * (1 + 1e-9)
        self._size = self._error + np.array([each.size for each in codes])
        self._relative = rounding(segments.dimension, 2.0**-24)
        longest = math.sqrt(segments.dimension) * LEVELS
        self._rounding = self._relative * longest * np.array([each.code_size for each in codes])
        self._nearly = {
            place: self._group({place: _Way(part.codes.index)})
            for place, part in enumerate(self._parts)
            if _MOST_PASS * part.codes.rows <= part.chosen < part.codes.rows
        }
        self._queries, self._tried = 0, False
        self._taken_out: _TakenOut | None = None

    def _take(self, number: int, share: Share) -> None:
        codes, new = self._segments.parts[number].current_codes(), _NO_ROWS
        if codes.rows < self._segments.parts[number].rows:
            new = codes.rows + np.flatnonzero(share.mask[codes.rows :])
            if len(new):
                self._late.append((number, new))
        if share.count > len(new):
            self._parts.append(_Part(number, codes, share, share.count - len(new)))

    def _group(self, ways: dict[int, _Way]) -> _Group:
        return _Group(self._parts, ways, self._segments.segment_rows)

    @cached_property
    def _masked(self) -> _Group | None:
        return self._by_mask(place for place in range(len(self._parts)) if place not in self._nearly)

    def _by_mask(self, places: Iterable[int]) -> _Group | None:
        ways = {}
        for place in places:
            part = self._parts[place]
            whole = part.chosen == part.codes.rows
            ways[place] = _Way(part.codes.index, None if whole else part.share.parameters)
        return self._group(ways) if ways else None

    def _take_out(self) -> _TakenOut | None:
        """Of all parts that are selected in part, what is selected by itself; None where that is too much."""
        some = {place: part for place, part in enumerate(self._parts) if part.chosen < part.codes.rows}
        count, dimension = sum(part.chosen for part in some.values()), self._segments.dimension
        if not some or count * (dimension + 8) > _MOST_TAKEN_OUT:  # the codes, and which row it is
            return None
        if count * (4 * dimension + 24) <= _MOST_AS_THEY_ARE:  # vectors, norms, and twice which row it is
            others = self._by_mask(place for place in range(len(self._parts)) if place not in some)
            return _TakenOut(others, self._vectors_of(some.values()))
        ways = {place: _Way(part.codes.index) for place, part in enumerate(self._parts)}
        for place, part in some.items():
            rows = part.share.rows[: part.chosen]
            ways[place] = _Way(part.codes.only(rows), None, rows)
        return _TakenOut(self._group(ways))

    def _vectors_of(self, parts: Iterable[_Part]) -> _Plain:
        rows, norms = [], []
        for part in parts:
            chosen = part.share.rows[: part.chosen]
            rows.append(chosen + part.number * self._segments.segment_rows)
            norms.append(self._segments.parts[part.number].norms[chosen])
        together = np.concatenate(rows)
        return _Plain(together, self._segments.vectors(together), np.concatenate(norms))

    def found(self, queries: Sequence[Query], most: int) -> list[Found]:
        """For each query at least the best `most` of each segment, by what is known of their scores."""
        assert self.rows == self._segments.rows
        found, most = [Found() for _ in queries], min(most, self._segments.segment_rows)
        self._queries += len(queries)  # threads may lose count: then it is done a query later
        if self._queries > 1 and not self._tried:
            self._taken_out, self._tried = self._take_out(), True
        if (taken := self._taken_out) is None:
            self._by_codes(queries, most, found)
        else:
            if taken.group is not None:
                self._best(taken.group, [self._ask(query) for query in queries], most, found)
            if taken.plain is not None:
                self._by_vectors(queries, taken.plain, found)
        for number, new in self._late:
            segment = self._segments.parts[number]
            whole = len(new) == segment.rows - new[0]
            vectors = segment.vectors.all()[new[0] :] if whole else segment.vectors.take(new)
            rows = new + number * self._segments.segment_rows
            self._by_vectors(queries, _Plain(rows, vectors, segment.norms[new]), found)
        return found

    def _by_codes(self, queries: Sequence[Query], most: int, found: Sequence[Found]) -> None:
        if not self._parts:
            return
        asked = [self._ask(query) for query in queries]
        left = {place for place in self._nearly if not self._widely(place, asked, most, found)}
        others = (place for place in range(len(self._parts)) if place in left or place not in self._nearly)
        group = self._by_mask(others) if left else self._masked
        if group is not None:
            self._best(group, asked, most, found)

    def _by_vectors(self, queries: Sequence[Query], plain: _Plain, found: Sequence[Found]) -> None:
        for query, its in zip(queries, found, strict=True):
            ends = quick_scores(self._segments.metric, query, plain.vectors, plain.norms)
            its.pieces.append((plain.rows, *ends))

    def _ask(self, query: Query) -> _Asked:
        """How far products are off.

        q.x = (q + dq).(x + dx) with the errors dq of the query and dx of the row: off by at most |q||dx| + |dq||x + dx|
        (Cauchy and Schwarz). And whole numbers are summed exactly up to 2**24, and rounded like any floats past that.
        """
        if self._segments.metric == "l2":
            step = np.where(self._scales[:, 0] > 0, self._scales[:, 0], 1.0)
            numbers = np.rint(query.wide / step[:, None])
            np.clip(numbers, -LEVELS, LEVELS, out=numbers)
            slack = self._error + _lengths(query.wide - numbers * step[:, None]) * (1 + 1e-9)
        else:
            scaled = query.wide * self._scales
            step = np.maximum(np.abs(scaled).max(axis=1) / LEVELS, _LEAST)
            numbers = np.rint(scaled / step[:, None])
            scaled -= numbers * step[:, None]
            scaled *= self._inverses
            slack = query.norm * self._error + _lengths(scaled) * self._size + self._rounding * step
        return _Asked(numbers.astype(np.float32), step, slack)

    def _ends(self, scores: Floats, step: Floats, slack: Floats) -> tuple[Floats, Floats]:
        """Lower and upper ends of the exact scores, from those by codes."""
        if self._segments.metric == "l2":
            distances = np.sqrt(scores) * step
            return distance_bounds(distances, slack + self._relative * distances)
        scores = scores * step
        return scores - slack, scores + slack

    def _best(self, group: _Group, asked: Sequence[_Asked], most: int, found: Sequence[Found]) -> None:
        """The best of each part of a group."""
        scores, rows = self._search(group, asked, most)
        rows += group.offsets
        for place, (one, its) in enumerate(zip(asked, found, strict=True)):
            some = rows[:, place]
            lower, upper = self._ends(scores[:, place], one.step[group.at], one.slack[group.at])
            worst = zip(group.numbers, group.chosen, upper[:, -1].tolist(), strict=True)
            its.rest += [(number, rest) for number, count, rest in worst if count > most]
            if group.fewest >= most:
                its.pieces.append((some.ravel(), lower.ravel(), upper.ravel()))
            else:
                there = np.arange(most) < np.array(group.chosen)[:, None]
                its.pieces.append((some[there], lower[there], upper[there]))

    def _search(self, group: _Group, asked: Sequence[_Asked], most: int) -> tuple[Floats, Rows]:
        """Scores by codes and rows, shape `(parts, queries, most)`; best first."""
        # A part for all queries, then the next: it stays in the processor's cache, and FAISS takes the threads it may.
        shape = len(group.ways), len(asked), most
        scores, rows = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int64)
        numbers = asked[0].numbers[:, None] if len(asked) == 1 else np.stack([one.numbers for one in asked], axis=1)
        for at, (place, way) in enumerate(group.ways.items()):
            way.index.search(numbers[place], most, params=way.parameters, D=scores[at], I=rows[at])
            if way.rows is not None:
                rows[at] = way.rows[rows[at]]
        return scores.astype(np.float64), rows

    def _widely(self, place: int, asked: Sequence[_Asked], most: int, found: Sequence[Found]) -> bool:
        """The best of a part among all its rows, without those that are not selected; or say that too few are left."""
        part = self._parts[place]
        coded, most = part.codes.rows, min(most, part.chosen)
        wide = min(coded, math.ceil(most * coded / part.chosen) + _WIDER)
        (scores,), (rows,) = self._search(self._nearly[place], asked, wide)
        kept: Mask = part.share.passes(rows)
        if np.count_nonzero(kept, axis=1).min() < most:
            return False  # the nearest are among those that do not pass
        rows += part.number * self._segments.segment_rows
        for one, its, some, where, there in zip(asked, found, scores, rows, kept, strict=True):
            lower, upper = self._ends(some, one.step[place], one.slack[place])
            its.pieces.append((where[there], lower[there], upper[there]))
            if wide < coded:
                its.rest.append((part.number, float(upper[-1])))
        return True


def _lengths(rows: Floats) -> Floats:
    lengths: Floats = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return lengths
