"""The version table of an index: which rows were alive at which position."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eventstore import CorruptHistory
from eventstore.versions import NEVER, Positions, grown

__all__ = ["RowTable"]

Uints = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]


class RowTable:
    """One row for every version of every memory, alive in `[born, died)`, in positions: 8 bytes a row.

    Rows are in the order of `born` and are never reused or removed, so a row's number is the same in every index
    of the history, and the row that a later event ends is found by binary search for its `prev_seq`.
    """

    def __init__(self, born: Uints | None = None, died: Uints | None = None) -> None:
        self._born = np.empty(0, dtype=np.uint32) if born is None else born
        self._died = np.empty(0, dtype=np.uint32) if died is None else died
        self.rows = len(self._born)

    @property
    def born(self) -> Uints:
        """The position that each row is alive from."""
        return self._born[: self.rows]

    @property
    def died(self) -> Uints:
        """The position from which each row is alive no more; `NEVER` where it still is."""
        return self._died[: self.rows]

    def extend(self, seqs: Positions, prev_seqs: Positions, is_delete: Mask) -> None:
        """Take the next events in order; `prev_seqs` is 0 where a memory has no event before."""
        # What can be wrong is found before anything that a reader sees is touched: rows past `self.rows` are not.
        new = seqs[~is_delete].astype(np.uint32)
        start, end = self.rows, self.rows + len(new)
        born = grown(self._born, start, len(new)).view(np.uint32)
        died = grown(self._died, start, len(new)).view(np.uint32)
        born[start:end] = new
        died[start:end] = NEVER
        if (prev_seqs >= seqs).any():
            raise CorruptHistory("an event of the history follows itself or one after it: run `replay verify`")
        linked = prev_seqs > 0
        at, ends = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint32)
        if linked.any():  # of new memories no event is
            ended, ends = prev_seqs[linked].astype(np.uint32), seqs[linked].astype(np.uint32)
            at = np.searchsorted(born[:end], ended)
            # An ADD after a DELETE follows an event that has no row: there is nothing left to end.
            has_row = at < end
            has_row[has_row] = born[at[has_row]] == ended[has_row]
            at, ends = at[has_row], ends[has_row]
            if (died[at] != NEVER).any() or len(np.unique(at)) < len(at) or (ends <= born[at]).any():
                raise CorruptHistory("two events of the history follow the same one: run `replay verify`")
        self._born, self._died = born, died
        died[at] = ends
        self.rows = end

    def rows_of(self, positions: Positions) -> Positions:
        """The rows born at `positions`; `CorruptHistory` where there is none."""
        rows = np.searchsorted(self.born, positions.astype(np.uint32))
        if (rows >= self.rows).any() or (self.born[rows] != positions).any():
            raise CorruptHistory("an event points at an embedding that is not there: run `replay verify`")
        return rows.astype(np.int64)

    def born_by(self, position: int) -> int:
        """How many rows were born by `position`."""
        return int(np.searchsorted(self.born, np.uint32(position), side="right"))

    def alive(self, position: int) -> Mask:
        """Which of the rows born by `position` were alive then, shape `(rows born by then,)`."""
        return self._died[: self.born_by(position)] > position
