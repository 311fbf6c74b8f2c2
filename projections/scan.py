"""Going through codes: the best of the selected rows of some segments, and between what their exact scores lie.

What the products of whole numbers propose comes with the bound of its error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
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
# Where so few pass, to take their codes out costs less than FAISS's look at each row.
_FEW_PASS = 0.03

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
    """A segment to go through: `count` of its coded rows are selected."""

    number: int
    codes: Codes
    share: Share
    count: int


class _Asked(NamedTuple):
    """A query in whole numbers, a row for each part.

    A product of numbers times `step` is off the exact score by at most `slack`; for l2 so is the distance.
    """

    numbers: Vector
    step: Floats
    slack: Floats


class _Group:
    """Parts that FAISS goes through, those in `masked` only where they are selected, and what is known of each.

    `at` picks them out of what is kept by part, for what has a column more than that.
    """

    def __init__(self, parts: Sequence[_Part], places: Sequence[int], masked: Set[int], segment_rows: int) -> None:
        self.places = places
        self.at: Any = (slice(None) if len(places) == len(parts) else np.array(places), None)
        self.codes = [parts[place].codes.index for place in places]
        self.parameters = [parts[place].share.parameters if place in masked else None for place in places]
        self.numbers = [parts[place].number for place in places]
        self.counts = [parts[place].count for place in places]
        self.fewest = min(self.counts)
        self.offsets = np.array(self.numbers, dtype=np.int64)[:, None, None] * segment_rows


class Scan:
    """The selected rows of some segments, made ready to be gone through: good for as long as no rows are added."""

    def __init__(self, segments: Segments, selection: Selection, numbers: Sequence[int]) -> None:
        """`numbers` are those of the segments; all have selected rows."""
        self.rows = segments.rows
        self._segments = segments
        self._late: list[tuple[int, Rows]] = []  # the newest rows of a segment, which have no codes yet
        self._parts: list[_Part] = []
        self._through: list[int] = []
        self._masked: set[int] = set()
        self._nearly: list[int] = []
        self._few: list[int] = []
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
        self._main = self._group(self._through, self._masked) if self._through else None

    def _group(self, places: Sequence[int], masked: Set[int]) -> _Group:
        return _Group(self._parts, places, masked, self._segments.segment_rows)

    def _take(self, number: int, share: Share) -> None:
        codes, new = self._segments.parts[number].current_codes(), _NO_ROWS
        coded = codes.rows
        if coded < self._segments.parts[number].rows:
            new = coded + np.flatnonzero(share.mask[coded:])
            if len(new):
                self._late.append((number, new))
        count = share.count - len(new)
        if not count:
            return
        place = len(self._parts)
        self._parts.append(_Part(number, codes, share, count))
        if count < _FEW_PASS * coded:
            self._few.append(place)
        elif count < coded and count >= _MOST_PASS * coded:
            self._nearly.append(place)
        else:
            self._through.append(place)
            if count < coded:
                self._masked.add(place)

    def found(self, queries: Sequence[Query], most: int) -> list[Found]:
        """For each query at least the best `most` of each segment, by what is known of their scores."""
        found = [Found() for _ in queries]
        if self._parts:
            asked = [self._ask(query) for query in queries]
            group = self._main
            if left := [place for place in self._nearly if not self._widely(place, asked, most, found)]:
                group = self._group(sorted([*self._through, *left]), self._masked.union(left))
            if group is not None:
                self._best(group, asked, most, found)
            if self._few:
                self._take_out(asked, found)
        for number, new in self._late:
            segment = self._segments.parts[number]
            whole = len(new) == segment.rows - new[0]
            vectors = segment.vectors.all()[new[0] :] if whole else segment.vectors.take(new)
            rows, norms = new + number * self._segments.segment_rows, segment.norms[new]
            for query, its in zip(queries, found, strict=True):
                its.pieces.append((rows, *quick_scores(self._segments.metric, query, vectors, norms)))
        return found

    def _ask(self, query: Query) -> _Asked:
        """How far products are off.

        q.x = (q + dq).(x + dx) with the errors dq of the query and dx of the row: off by at most |q||dx| + |dq||x + dx|
        (Cauchy and Schwarz). And whole numbers are summed exactly up to 2**24, and rounded like any floats past that.
        """
        if self._segments.metric == "l2":
            step = np.maximum(self._scales[:, 0], _LEAST)
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
            worst = zip(group.numbers, group.counts, upper[:, -1].tolist(), strict=True)
            its.rest += [(number, rest) for number, count, rest in worst if count > most]
            if group.fewest >= most:
                its.pieces.append((some.ravel(), lower.ravel(), upper.ravel()))
            else:
                there = np.arange(most) < np.array(group.counts)[:, None]
                its.pieces.append((some[there], lower[there], upper[there]))

    def _search(self, group: _Group, asked: Sequence[_Asked], most: int) -> tuple[Floats, Rows]:
        """Scores by codes and rows, shape `(parts, queries, most)`; best first."""
        # A part for all queries, then the next: it stays in the processor's cache, and FAISS takes the threads it may.
        shape = len(group.places), len(asked), most
        scores, rows = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.int64)
        numbers = asked[0].numbers[:, None] if len(asked) == 1 else np.stack([one.numbers for one in asked], axis=1)
        for at, (place, codes, parameters) in enumerate(zip(group.places, group.codes, group.parameters, strict=True)):
            codes.search(numbers[place], most, params=parameters, D=scores[at], I=rows[at])
        return scores.astype(np.float64), rows

    def _widely(self, place: int, asked: Sequence[_Asked], most: int, found: Sequence[Found]) -> bool:
        """The best of a part among all its rows, without those that are not selected; or say that too few are left."""
        part = self._parts[place]
        coded, most = part.codes.rows, min(most, part.count)
        wide = min(coded, math.ceil(most * coded / part.count) + _WIDER)
        (scores,), (rows,) = self._search(self._group([place], set()), asked, wide)
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

    def _take_out(self, asked: Sequence[_Asked], found: Sequence[Found]) -> None:
        """All selected rows of the parts that have few."""
        for place in self._few:
            part = self._parts[place]
            rows = part.share.rows[: part.count]
            codes = part.codes.codes[rows].astype(np.float32)
            codes -= np.float32(LEVELS + 1)
            rows = rows + part.number * self._segments.segment_rows
            for one, its in zip(asked, found, strict=True):
                numbers = one.numbers[place]
                scores = np.square(codes - numbers).sum(axis=1) if self._segments.metric == "l2" else codes @ numbers
                ends = self._ends(scores.astype(np.float64), one.step[place], one.slack[place])
                its.pieces.append((rows, *ends))


def _lengths(rows: Floats) -> Floats:
    lengths: Floats = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return lengths
