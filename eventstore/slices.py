"""Sequences of events that are built as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from eventstore.append import Recorded
from eventstore.events import Event, event_from
from eventstore.queries import EventSelection
from eventstore.reads import EventColumns, Reader

__all__ = ["EventRange", "RecordedEvents"]


class RecordedEvents(Sequence[Event]):
    """The events of an append, in its order. Equal to any sequence of equal events."""

    def __init__(self, recorded: Sequence[Recorded]) -> None:
        self._recorded = recorded

    def __len__(self) -> int:
        return len(self._recorded)

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | Sequence[Event]:
        if isinstance(index, slice):
            return RecordedEvents(self._recorded[index])
        one = self._recorded[index]
        return event_from(one.row, one.content, one.metadata, one.embedding)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, (str, bytes)):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(repr(event) for event in self[:3])
        return f"[{shown}, ... {len(self)} events]" if len(self) > 3 else f"[{shown}]"


class EventRange(Sequence[Event]):
    """The events at the positions in `(after, upto]`: what a projector hands to a projection.

    Iterating reads whole events. A projection that needs positions and embeddings only asks for `columns()`,
    which reads a third as much.
    """

    def __init__(self, reader: Reader, after: int, upto: int, dimension: int | None) -> None:
        self._reader = reader
        self._dimension = dimension
        self.after = after
        self.upto = upto

    def __len__(self) -> int:
        return self.upto - self.after

    def __iter__(self) -> Iterator[Event]:
        return self._reader.events(EventSelection(self.after, self.upto))

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Event]: ...
    def __getitem__(self, index: int | slice) -> Event | Sequence[Event]:
        if isinstance(index, slice):
            return list(self)[index]
        position = range(self.after + 1, self.upto + 1)[index]
        return next(self._reader.events(EventSelection(position - 1, position)))

    def columns(self) -> EventColumns:
        """The same events by column; see `EventColumns`."""
        return self._reader.columns(self.after, self.upto, self._dimension or 0)
