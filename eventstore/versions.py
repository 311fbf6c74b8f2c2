"""Which events are current at which position: the fold of the history that every read of the past uses."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from eventstore.errors import CorruptHistory

__all__ = ["NEVER", "Positions", "VersionTable", "grown"]

Positions = npt.NDArray[np.int64]

NEVER = np.uint32(0xFFFFFFFF)
"""The `died` of what is still current. So positions end at 4,294,967,294."""


def grown(array: npt.NDArray[np.generic], used: int, more: int) -> npt.NDArray[np.generic]:
    """`array` with room for `more` entries after the first `used`; doubled, so that adding stays cheap."""
    if used + more <= len(array):
        return array
    larger = np.empty((max(2 * len(array), used + more, 1024), *array.shape[1:]), dtype=array.dtype)
    larger[:used] = array[:used]
    return larger


class VersionTable:
    """For every event, the position at which it stops being its memory's current state: 4 bytes an event.

    Event `s` is current at position `p` when `s <= p < died[s]`; a DELETE dies at its own position. Only ever
    extended: what is read for a position that was reached stays true, so reads need no lock.
    """

    def __init__(self) -> None:
        self.position = 0
        self._died = np.empty(0, dtype=np.uint32)
        self._lock = threading.Lock()

    def extend(self, seqs: Positions, is_delete: npt.NDArray[np.bool_], prev_seqs: Positions) -> None:
        """Take the next events; `prev_seqs` is 0 where a memory has none before. Those known are passed over."""
        with self._lock:
            fresh = seqs > self.position
            seqs, is_delete, prev_seqs = seqs[fresh], is_delete[fresh], prev_seqs[fresh]
            if not len(seqs):
                return
            start = self.position
            if seqs[0] != start + 1 or seqs[-1] != start + len(seqs) or (np.diff(seqs) != 1).any():
                raise CorruptHistory(f"the history has a gap after position {start}: run `replay verify`")
            if (prev_seqs >= seqs).any():
                raise CorruptHistory(f"an event after position {start} follows a later one: run `replay verify`")
            died = grown(self._died, start, len(seqs)).view(np.uint32)
            died[start : start + len(seqs)] = np.where(is_delete, seqs, NEVER)
            linked = prev_seqs > 0
            before = prev_seqs[linked] - 1
            # A DELETE is dead from its own position on: the ADD that follows it does not move that.
            died[before] = np.minimum(died[before], seqs[linked])
            self._died = died
            self.position = int(seqs[-1])

    def current(self, position: int) -> Positions:
        """Positions of the events that are current at `position`, ascending."""
        return np.flatnonzero(self._died[:position] > position).astype(np.int64) + 1

    def count(self, position: int) -> int:
        """How many memories are live at `position`."""
        return int(np.count_nonzero(self._died[:position] > position))
