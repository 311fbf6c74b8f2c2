"""Inverted lists: rows in lists around centroids, of which a search goes through the nearest few.

Full segments are taken in blocks, each of which ends where the index is twice as long as where it begins. A block
has centroids of its own, made of all the rows there are when its first segment is full. Nothing in a block is ever
moved: so a search as of a past position finds the blocks, the centroids and the lists that a search found then, and
answers the same. Training and assignment reckon in whole numbers (`grid.py`), so they come out the same to the last bit
everywhere.

To train a block takes seconds, to find the lists of a segment's rows up to one. So a segment is taken some rows after
it has become full (`ready`), which depends on the number of rows alone; by then `prepare`, beside all else, has made
what it needs.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from eventstore import Vector
from projections.codes import Codes
from projections.grid import LEVELS, Bytes, Grid, unpacked
from projections.scoring import Floats, Metric, Query, norms_of
from projections.selection import Selection, selector_of
from projections.vectors import Rows

__all__ = ["MOST_LISTS", "Block", "Centroids", "Check", "InvertedLists", "ListNumbers"]

ListNumbers = npt.NDArray[np.uint16]

MOST_LISTS = 2**16 - 1
_GROWTH = 2
# Of the square root of the rows of a block that is full.
_LISTS_PER_ROOT = 6.0
_TRAINING_ROWS_PER_LIST = 8
_ROUNDS = 2
# Of the square root of a block's lists: so many a search goes through at effort 1. Many small lists, made in few
# rounds, find more among the same number of rows than fewer large ones: 0.965 of the ten nearest of 98,304 sentence
# embeddings with noise (384 numbers), going through a fourteenth of them.
_PROBES_PER_ROOT = 4.0
_ROWS_AT_ONCE = 1024
# A segment is taken when the next one holds such a share of its rows; one that a block begins with, when it is full.
_AHEAD = 1 / 8

Check = Callable[[], None]
"""Called now and then; raises where what is under way is wanted no more."""


def _always() -> None:
    pass


class Centroids:
    """The middles of a block's lists, shape `(lists, dimension)`, and to which one each row belongs."""

    def __init__(self, grid: Grid, middles: Floats) -> None:
        self.grid = grid
        self.middles = middles
        self._weights, step = grid.weights(middles)
        # The nearest by distance has the largest x.m - |m|^2 / 2. All are of length 1 for the cosine.
        halves = np.zeros(len(middles)) if grid.metric == "cosine" else norms_of(middles) ** 2 / 2
        self._halves = (halves / step).astype(np.float32)

    @property
    def count(self) -> int:
        """How many lists there are."""
        return len(self.middles)

    @classmethod
    def trained(cls, grid: Grid, codes: Bytes, count: int, check: Check = _always) -> Centroids:
        """Lloyd's k-means over rows on the grid, begun with rows at even distances: at most `count` centroids."""
        count = min(count, len(codes))
        made = cls._of(grid, unpacked(codes[np.arange(count) * len(codes) // count]).astype(np.float64))
        for _ in range(_ROUNDS):
            lists, scores = made._nearest(codes, check)
            order = np.argsort(lists, kind="stable")
            kept, starts, sizes = np.unique(lists[order], return_index=True, return_counts=True)
            sums = np.add.reduceat(codes[order].astype(np.int32) - 128, starts, axis=0)
            means = unpacked(codes[_worst(scores, count)]).astype(np.float64)  # for lists that came out empty
            means[kept] = sums / sizes[:, None]
            made = cls._of(grid, means)
        return made

    @classmethod
    def _of(cls, grid: Grid, means: Floats) -> Centroids:
        middles = means * grid.scale
        if grid.metric == "cosine":
            lengths = norms_of(middles)[:, None]
            middles = np.divide(middles, lengths, out=np.zeros_like(middles), where=lengths > 0)
        return cls(grid, middles)

    def lists_of(self, codes: Bytes, check: Check = _always) -> ListNumbers:
        """The list that each row belongs to."""
        return self._nearest(codes, check)[0]

    def _nearest(self, codes: Bytes, check: Check) -> tuple[ListNumbers, Vector]:
        lists = np.empty(len(codes), dtype=np.uint16)
        best = np.empty(len(codes), dtype=np.float32)
        for start in range(0, len(codes), _ROWS_AT_ONCE):
            check()
            block = slice(start, start + _ROWS_AT_ONCE)
            scores = unpacked(codes[block]) @ self._weights.T
            scores -= self._halves
            lists[block] = scores.argmax(axis=1)
            best[block] = scores.max(axis=1)
        return lists, best


def _worst(scores: Vector, count: int) -> Rows:
    order: Rows = np.argsort(scores, kind="stable")[:count].astype(np.int64)
    return order


class Block:
    """Segments `[start, stop)`, as far as they are there: their centroids, and their rows' codes in FAISS's lists."""

    def __init__(self, start: int, stop: int, centroids: Centroids) -> None:
        self.start, self.stop = start, stop
        self.centroids = centroids
        self.grid = centroids.grid
        kind = faiss.METRIC_L2 if self.grid.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        dimension = centroids.middles.shape[1]
        eight_bits = faiss.ScalarQuantizer.QT_8bit_direct_signed
        self._quantizer = faiss.IndexScalarQuantizer(dimension, eight_bits, kind)
        self._quantizer.add(self._middles_on_grid())
        self._index = faiss.IndexIVFScalarQuantizer(
            self._quantizer, dimension, centroids.count, eight_bits, kind, False
        )
        self._index.is_trained = True

    def _middles_on_grid(self) -> Vector:
        """The middles as rows are coded; for inner products their common length does not matter and fills the grid."""
        middles = self.centroids.middles
        if self.grid.metric != "l2":
            largest = float(np.abs(self.grid.over(middles)).max(initial=0.0))
            middles = middles * (LEVELS / largest if largest else 1.0)
        return self.grid.numbers(middles)

    def add(self, lists: ListNumbers, codes: Bytes, first_row: int) -> None:
        """Take a segment's rows."""
        width = self._index.sa_code_size() - codes.shape[1]
        prefix = lists.astype("<u8").view(np.uint8).reshape(len(lists), 8)[:, :width]
        rows = np.arange(first_row, first_row + len(lists), dtype=np.int64)
        self._index.add_sa_codes(np.concatenate([prefix, codes], axis=1), rows)

    def search(self, query: Query, most: int, effort: float, selector: Any) -> tuple[Rows, Floats]:
        """The best `most` rows of the nearest lists, and about what their scores are."""
        probes = min(self.centroids.count, math.ceil(effort * _PROBES_PER_ROOT * math.sqrt(self.centroids.count)))
        numbers, step = self.grid.asked(query.wide)
        parameters = faiss.SearchParametersIVF(nprobe=probes, sel=selector)  # type: ignore[call-arg]
        found, rows = self._index.search(numbers[None, :], most, params=parameters)
        there = rows[0] >= 0
        scores = found[0][there].astype(np.float64)
        return rows[0][there].astype(np.int64), scores * (-(step**2) if self.grid.metric == "l2" else step)


@dataclass(frozen=True, slots=True)
class _Step:
    """What the next full segment needs: lists of rows, by segment; and its codes, or a new block that has them."""

    number: int
    lists: dict[int, ListNumbers]
    codes: Bytes | None = None
    block: Block | None = None


class InvertedLists:
    """The blocks of an index. The first is made of `first` full segments.

    `lists` has the list of each row of each segment taken so far; None for segments that are in no block, because
    there was none yet or because their numbers do not fit its grid: a search goes through those as they are.
    """

    kind = "ivf"

    def __init__(self, metric: Metric, segment_rows: int, first: int) -> None:
        self.first = first
        self.blocks: list[Block] = []
        self.lists: list[ListNumbers | None] = []
        self._metric: Metric = metric
        self._segment_rows = segment_rows
        self._making = threading.Lock()
        self._prepared: _Step | None = None
        self._tried = -1  # the segment that was last to be prepared

    def bounds(self, number: int) -> tuple[int, int]:
        """Of the block that a segment is in: the first segment, and the first one past it."""
        start, stop = 0, _GROWTH * self.first
        while number >= stop:
            start, stop = stop, _GROWTH * stop
        return start, stop

    def ready(self, rows: int) -> int:
        """How many full segments are taken of a history with so many rows."""
        full, more = divmod(rows, self._segment_rows)
        begins = full == self.first or (full > self.first and self.bounds(full - 1)[0] == full - 1)
        return full - 1 if full and (begins or more < _AHEAD * self._segment_rows) else full

    def is_behind(self, full: int) -> bool:
        """Whether there is something for `prepare` to make, where so many segments are full; each is tried once."""
        return self._tried < len(self.lists) < full

    def prepare(self, coded: Sequence[Codes], check: Check) -> None:
        """Make what the next full segment needs, beside searches; `coded` has the codes of all full segments."""
        with self._making:
            if self.is_behind(len(coded)):
                self._tried = len(self.lists)
                self._prepared = self._step(coded[: len(self.lists) + 1], check)

    def fold(self, coded: Sequence[Codes]) -> None:
        """Take the segments that are new; `coded` has the codes of all that are to be taken."""
        if len(self.lists) == len(coded):
            return
        with self._making:  # what is being prepared is waited for
            for full in range(len(self.lists) + 1, len(coded) + 1):
                step, self._prepared = self._prepared or self._step(coded[:full], _always), None
                if step.block is not None:
                    self.blocks.append(step.block)
                elif step.codes is not None:
                    self.blocks[-1].add(step.lists[step.number], step.codes, step.number * self._segment_rows)
                self.lists.append(None)
                for number, lists in step.lists.items():
                    self.lists[number] = lists

    def _step(self, coded: Sequence[Codes], check: Check) -> _Step:
        """Depends on the given segments only, whatever else is full by now; nothing that a search sees is changed."""
        number, size = len(coded) - 1, self._segment_rows
        if len(coded) < self.first:
            return _Step(number, {})
        start, stop = self.bounds(number)
        if self.blocks and self.blocks[-1].start == start:
            codes, fits = self.blocks[-1].grid.recoded(coded[number])
            return (
                _Step(number, {number: self.blocks[-1].centroids.lists_of(codes, check)}, codes)
                if fits
                else _Step(number, {})
            )
        grid = Grid.of(self._metric, coded)
        block = Block(start, stop, Centroids.trained(grid, *self._training(grid, coded, stop - start), check))
        found = {}
        for each in range(start, len(coded)):
            codes, fits = grid.recoded(coded[each])
            if fits:
                found[each] = block.centroids.lists_of(codes, check)
                block.add(found[each], codes, each * size)
        return _Step(number, found, block=block)

    def _training(self, grid: Grid, coded: Sequence[Codes], segments: int) -> tuple[Bytes, int]:
        """Rows at even distances to train a block of so many segments on, and how many lists it is to have."""
        size = self._segment_rows
        count = min(MOST_LISTS, math.ceil(_LISTS_PER_ROOT * math.sqrt(segments * size)))
        there = len(coded) * size
        wanted = min(there, _TRAINING_ROWS_PER_LIST * count)
        rows = np.arange(wanted, dtype=np.int64) * there // wanted
        parts = [grid.recoded(codes, rows[rows // size == n] - n * size)[0] for n, codes in enumerate(coded)]
        return np.concatenate(parts), count

    def restore(self, coded: Sequence[Codes], middles: Sequence[Floats], lists: Sequence[ListNumbers | None]) -> None:
        """Take what a checkpoint holds instead of making it anew.

        Raises:
            ValueError: it is not what `fold` makes of so many segments.
        """
        starts: list[int] = []
        if len(coded) >= self.first:
            starts = sorted({self.bounds(number)[0] for number in range(len(coded))})
        if len(middles) != len(starts) or len(lists) != len(coded):
            raise ValueError(f"{len(middles)} blocks of lists for {len(coded)} segments")
        for start, block_middles in zip(starts, middles, strict=True):
            grid = Grid.of(self._metric, coded[: max(start + 1, self.first)])
            self.blocks.append(Block(start, self.bounds(start)[1], Centroids(grid, block_middles)))
        for number, some in enumerate(lists):
            block = next((block for block in self.blocks if block.start <= number < block.stop), None)
            if block is not None:
                codes, fits = block.grid.recoded(coded[number])
                if fits != (some is not None):
                    raise ValueError(f"segment {number} should {'' if fits else 'not '}be in its lists")
                if some is not None:
                    if len(some) != len(codes) or int(some.max()) >= block.centroids.count:
                        raise ValueError(f"the lists of segment {number} cannot be")
                    block.add(some, codes, number * self._segment_rows)
            elif some is not None:
                raise ValueError(f"segment {number} is in lists that are not there")
            self.lists.append(some)

    def covered(self, taken: int) -> list[int]:
        """The segments that candidates come from, of a history of which so many are taken; maybe none."""
        return [number for number in range(taken) if self.lists[number] is not None] if taken >= self.first else []

    def candidates(self, query: Query, most: int, selection: Selection, taken: int, effort: float) -> Rows:
        """About the best `most` of the selected rows of the covered segments, where `taken` segments are taken."""
        size = self._segment_rows
        # Of segments that were taken later the lists have rows too.
        whole = taken == len(self.lists) and selection.whole_until(taken * size)
        selector = None if whole else selector_of(selection.mask[: taken * size])
        rows, scores = [], []
        for block in self.blocks:
            if any(number in selection.parts for number in range(block.start, min(block.stop, taken))):
                found, about = block.search(query, most, effort, selector)
                rows.append(found)
                scores.append(about)
        candidates = np.concatenate(rows)
        order = np.lexsort((candidates, -np.concatenate(scores)))[:most]
        return candidates[order]
