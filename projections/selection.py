"""Which rows a search may find, and what is worked out of that once for all searches of the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import faiss as _faiss
import numpy as np
import numpy.typing as npt

from projections.vectors import Rows

__all__ = ["Mask", "Selection", "Share", "selector_of"]

faiss: Any = _faiss  # its types lack how selectors and parameters are made

Mask = npt.NDArray[np.bool_]

# Of so many selected rows of a segment their numbers are kept, of more they are found again.
_KEPT = 256


def selector_of(mask: Mask) -> Any:
    """A FAISS selector of the rows that are set, and of none past the mask."""
    return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))


class Share:
    """The selected rows of one segment, `count` of them, at least one.

    `mask` covers the rows that it had by then: it is shorter than the segment where others have come since.
    """

    def __init__(self, mask: Mask, count: int) -> None:
        self.mask = mask
        self.count = count

    @property
    def rows(self) -> Rows:
        """The rows that are selected, counted from the segment's first."""
        return self._few_rows if self.count <= _KEPT else self._found_rows()

    @cached_property
    def _few_rows(self) -> Rows:
        return self._found_rows()

    def _found_rows(self) -> Rows:
        return np.flatnonzero(self.mask).astype(np.int64)

    @cached_property
    def parameters(self) -> Any:
        """What tells FAISS to look at no others."""
        return faiss.SearchParameters(sel=selector_of(self.mask))

    def passes(self, rows: Rows) -> Mask:
        """Which of some rows are selected."""
        within = rows < len(self.mask)
        if within.all():
            return self.mask[rows]
        within[within] = self.mask[rows[within]]
        return within


class Selection:
    """The selected ones of the rows that there were at some position; later ones are not. Which they are never changes.

    `parts` has the share of each segment that has any, by the segment's number, ascending. `scans` is where searches
    keep what goes through some of these segments, by their numbers, for the next one.
    """

    def __init__(self, mask: Mask, segment_rows: int) -> None:
        self.mask = mask
        self._segment_rows = segment_rows
        self.count = int(np.count_nonzero(mask))
        self.parts: dict[int, Share] = {}
        self.scans: dict[tuple[int, ...], Any] = {}
        every = self.count == len(mask)
        for number, start in enumerate(range(0, len(mask) if self.count else 0, segment_rows)):
            some = mask[start : start + segment_rows]
            count = len(some) if every else int(np.count_nonzero(some))
            if count:
                self.parts[number] = Share(some, count)

    @property
    def every(self) -> bool:
        """Whether all rows that there were are selected."""
        return self.count == len(self.mask)

    def rows_of(self, numbers: Sequence[int]) -> Rows:
        """The selected rows of segments that have some."""
        parts = [self.parts[number].rows + number * self._segment_rows for number in numbers]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def whole_until(self, rows: int) -> bool:
        """Whether all of the first so many rows are selected."""
        return rows <= len(self.mask) and (self.every or bool(self.mask[:rows].all()))
