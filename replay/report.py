"""What verify reports."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
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
    checked whole. `head` is the last event that could be read, None if none could. `good`: the first and last positions
    of the runs of events that were checked whole and are as they were recorded. The event after a lost one is not
    among them: the hash that it follows is lost too.
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

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __contains__(self, position: int) -> bool:
        at = bisect_right(self._firsts, position) - 1
        return at >= 0 and position <= self._lasts[at]

    def first_after(self, position: int) -> int | None:
        """The first position past `position` that is in a range."""
        at = bisect_right(self._lasts, position)
        return max(self._firsts[at], position + 1) if at < len(self._firsts) else None

    def without(self, others: Ranges) -> Ranges:
        """What is in these and in none of the others."""
        left = Ranges()
        for first, last in self:
            while first <= last:
                taken = others.first_after(first - 1)
                if taken is None or taken > last:
                    left.add(first, last)
                    break
                if taken > first:
                    left.add(first, taken - 1)
                first = others.end_of(taken) + 1
        return left

    def end_of(self, position: int) -> int:
        """The last position of the range that `position` is in."""
        return self._lasts[bisect_right(self._firsts, position) - 1]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._firsts, self._lasts, strict=True)
