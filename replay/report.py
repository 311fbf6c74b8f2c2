"""What verify reports."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from eventstore import Head

__all__ = ["Fault", "FaultKind", "Ranges", "Report"]

FaultKind = Literal[
    "file",  # not an SQLite database, another application's, cut off
    "sqlite",  # what SQLite's own integrity check finds: pages, indexes
    "schema",  # a table, index, trigger or view that is missing or not as it was made
    "settings",  # the dimension or the embedder's name
    "unreadable",  # events or payloads that cannot be read
    "position",  # events that are missing, or were removed from the end
    "event",  # a value of the wrong type, a hash of the wrong length
    "id",  # an event_id that is used twice
    "hash",  # the chain: the event was changed, moved or put in between
    "time",  # recorded before the event before it, or outside of the calendar
    "version",  # does not count by one
    "link",  # prev_seq, add_seq or embedding_seq
    "transition",  # an ADD of a live memory, an UPDATE or DELETE of one that is not
    "payload",  # an event without a payload, a payload without an event
    "digest",  # the payload was changed
    "content",  # missing, or there in a DELETE
    "metadata",  # not a JSON object in the form that is recorded
    "embedding",  # missing, one too many, of another dimension, not finite
    "against",  # the history does not contain a head that was kept elsewhere
    "index",  # the index differs from the history
]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that no append can have left so.

    `position` is that of the event at fault, the first one where several in a row share the fault and `last` is
    that of the last; both are None where the fault is no single event's.
    """

    kind: FaultKind
    position: int | None
    message: str
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found.

    `events` and `payloads` say how many were read, `checked` how many events were read with their payload and so
    checked whole. `head` is the last event that could be read, None if none could. `good` has the first and last
    positions of every run of events that were checked whole and have no fault.
    """

    path: str
    faults: list[Fault]
    events: int
    payloads: int
    checked: int
    head: Head | None
    good: list[tuple[int, int]]

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not self.faults


class Ranges:
    """Ranges of positions, added in ascending order; those that touch are one."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, first: int, last: int) -> None:
        """Add the positions from `first` to `last`."""
        if self._lasts and first <= self._lasts[-1] + 1:
            self._lasts[-1] = max(last, self._lasts[-1])
        else:
            self._firsts.append(first)
            self._lasts.append(last)

    def without(self, taken: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """What is left where ranges, in the order of their firsts, are taken out; they may overlap."""
        left, holes, hole = [], iter(taken), (0, 0)
        for first, last in self:
            while first <= last:
                while hole is not None and hole[1] < first:
                    hole = next(holes, None)  # type: ignore[assignment]
                if hole is None or hole[0] > last:
                    left.append((first, last))
                    break
                if hole[0] > first:
                    left.append((first, hole[0] - 1))
                first = hole[1] + 1
        return left

    def __contains__(self, position: int) -> bool:
        at = bisect_right(self._firsts, position) - 1
        return at >= 0 and position <= self._lasts[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._firsts, self._lasts, strict=True)
