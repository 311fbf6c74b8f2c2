"""What salvage reports: every gap, the memories that have one, and where events went."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from eventstore import Head
from replay.report import Ranges

__all__ = ["Gap", "GapKind", "MemoryGap", "Moved", "SalvageReport"]

GapKind = Literal[
    "lost",  # nothing of the event's header can be read: left out
    "refused",  # it can be read, and it is not what was recorded: left out
    "payload",  # what the event carried is lost: left out
    "memory",  # it ends a memory of which nothing else is left: left out
    "unproven",  # taken, though nothing proves what its header says
    "changed",  # taken, and not quite as it was recorded
    "end",  # whether events came after the last one cannot be told
    "settings",  # the embedder's name
]


@dataclass(frozen=True, slots=True)
class Gap:
    """Something in which the new history differs from the damaged one, or may.

    `position` is the original position of the event, the first where several in a row share it and `last` is that
    of the last; both are None where the gap is no single event's.
    """

    kind: GapKind
    position: int | None
    message: str
    last: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryGap:
    """A memory that has lost versions, by their original numbers, `first_version` to `last_version`.

    What the memory was is not known from the original position `since` on, until the event at the original position
    `until`. In between the new history has it as it was before. Where `until` is None that is still so at its end:
    the memory is `outdated`, if there is anything of it.
    """

    memory_id: str
    first_version: int
    last_version: int
    since: int
    until: int | None

    @property
    def outdated(self) -> bool:
        """Whether the new history ends without knowing what became of the memory."""
        return self.until is None


@dataclass(frozen=True, slots=True)
class Moved:
    """Events at the original positions `first` to `last` are at `to` and the positions after it now."""

    first: int
    last: int
    to: int


@dataclass(frozen=True, slots=True)
class SalvageReport:
    """What a salvage brought back and what not.

    `events` are in the new history, whose head is `head`. The first `kept` of them are the original ones, with the
    same positions and hashes. `last` is the last event of the damaged file whose header could be read, None where
    none could: where `ok`, its hash is that of `head`.
    """

    path: str
    to: str
    head: Head
    last: Head | None
    events: int
    kept: int
    gaps: list[Gap]
    memories: list[MemoryGap]
    moved: list[Moved]

    @property
    def ok(self) -> bool:
        """Whether everything is there, as it was."""
        return not self.gaps


@dataclass(slots=True)
class Gaps:
    """Collects gaps: events in a row that share one are one."""

    whole: list[Gap] = field(default_factory=list)
    _ranges: dict[tuple[GapKind, str], Ranges] = field(default_factory=dict)

    def add(self, kind: GapKind, words: str, first: int, last: int | None = None) -> None:
        """Note what is true of the events from `first` to `last`."""
        self._ranges.setdefault((kind, words), Ranges()).add(first, first if last is None else last)

    def note(self, kind: GapKind, message: str) -> None:
        """Note what is no single event's."""
        self.whole.append(Gap(kind, None, message))

    def listed(self) -> Iterator[Gap]:
        """Those of no single event, then the others by position."""
        yield from self.whole
        found = [
            Gap(kind, first, f"event {first}: {words}", None)
            if first == last
            else Gap(kind, first, f"events {first} to {last}: {words}", last)
            for (kind, words), ranges in self._ranges.items()
            for first, last in ranges
        ]
        yield from sorted(found, key=lambda gap: (gap.position or 0, gap.kind))
