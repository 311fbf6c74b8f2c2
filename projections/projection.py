"""The port that every projection implements, and the projector that brings one up to the history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from eventstore import AsOf, Event, EventStore, InvalidOperation

__all__ = ["Progress", "Projection", "project"]

Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is to do."""

EVENTS_AT_ONCE = 4096


@runtime_checkable
class Projection(Protocol):
    """Something folded out of the history: it can be thrown away and made again.

    A projection keeps its position together with its data, so that after a crash both are from the same moment.
    """

    @property
    def name(self) -> str:
        """What the projection is called, in messages."""

    @property
    def position(self) -> int:
        """The position of the last event applied; 0 for none."""

    def apply(self, events: Sequence[Event]) -> None:
        """Take events, in order and without gaps, and the new position, together.

        Those at or before `position` are passed over: applying an event twice changes nothing.
        """

    def reset(self) -> None:
        """Go back to position 0, empty."""


def project(
    projection: Projection,
    store: EventStore,
    *,
    upto: AsOf = None,
    progress: Progress | None = None,
    events_at_once: int = EVENTS_AT_ONCE,
) -> int:
    """Bring a projection to an instant or position, the head by default, and return where it is.

    Events are read in ranges of `events_at_once`, so memory is bounded; killed at any moment, the next call goes
    on from the position that the projection has kept. One that is past `upto` already stays where it is.

    Raises:
        InvalidOperation: the projection is ahead of the history, so it belongs to another.
    """
    target = store.position_at(upto)
    at = projection.position
    if at > target and at > (head := store.position):
        raise InvalidOperation(
            f"projection {projection.name!r} is at position {at} and the history ends at {head}: "
            "it belongs to another history; reset it"
        )
    return advance(projection, store, target, progress, events_at_once)


def advance(
    projection: Projection, store: EventStore, target: int, progress: Progress | None, events_at_once: int
) -> int:
    """Bring a projection to a position that the history is known to have; see `project`."""
    start = at = projection.position
    while at < target:
        upper = min(target, at + events_at_once)
        projection.apply(store.event_range(at, upper))
        at = upper
        if progress is not None:
            progress(at - start, target - start)
    return projection.position
