"""Reads of a history at any past position: the half of `EventStore` that changes nothing."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from eventstore.checks import check_count, check_id, shown
from eventstore.connections import Connections
from eventstore.errors import InvalidInstant, InvalidOperation, MemoryNotFound
from eventstore.events import Event, EventType, Head, HistoryRecord, Memory, Vector, metadata_of
from eventstore.filters import Everything, parse_filter
from eventstore.filters import Filter as FilterTree
from eventstore.instants import format_instant, from_microseconds, parse_instant
from eventstore.queries import EventSelection
from eventstore.reads import Reader
from eventstore.slices import EventRange
from eventstore.versions import Positions
from eventstore.writer import Writer

__all__ = ["AsOf", "Filter", "HistoryReads"]

AsOf = datetime | str | int | None
"""An aware datetime, ISO 8601 with a zone, a position, or None for now."""

Filter = Mapping[str, Any] | None
"""A filter over metadata; docs/reference/filters.md."""

_ORDERS = ("position", "updated_at", "created_at", "memory_id")
_TYPES = ("ADD", "UPDATE", "DELETE")


class HistoryReads:
    """What `EventStore` reads. All of it is exact at any past position."""

    _connections: Connections
    _reader: Reader
    _writer: Writer

    @property
    def dimension(self) -> int | None:
        """How many numbers a vector has: fixed by the first one, None before it."""
        self._connections.require_open()
        return self._writer.dimension

    # Positions and instants

    @property
    def position(self) -> int:
        """The position of the last event; 0 before the first."""
        return self._reader.head()[0]

    @property
    def head(self) -> Head:
        """The end of the history: position, recorded_at and hash."""
        position, recorded_at, digest = self._reader.head()
        return Head(position, None if recorded_at is None else from_microseconds(recorded_at), digest.hex())

    def head_at(self, as_of: AsOf) -> Head:
        """The head as it was at an instant or position."""
        return self._reader.head_at(self.position_at(as_of))

    def hash_at(self, position: int) -> str | None:
        """The chain's hash after the event at `position`, hexadecimal; None beyond the head."""
        return self._reader.hash_at(position)

    def position_at(self, as_of: AsOf) -> int:
        """The position that an instant or position means: that of the last event recorded no later.

        `InvalidInstant` for a position beyond the head, for an instant without a zone, and for one later than
        both the clock and the head, since what it means could still change.
        """
        position, recorded_at, _ = self._reader.head()
        if as_of is None:
            return position
        if isinstance(as_of, (datetime, str)):
            return self._position_at_instant(parse_instant(as_of), recorded_at)
        try:
            if isinstance(as_of, (bool, np.bool_)):
                raise TypeError
            asked = operator.index(as_of)
        except TypeError:
            raise InvalidInstant(
                f"as_of is of type {type(as_of).__name__}: give an aware datetime, ISO 8601 text, a position or None"
            ) from None
        if not 0 <= asked <= position:
            raise InvalidInstant(f"position {shown(asked)} is not in the history, which has positions 0 to {position}")
        return asked

    def _position_at_instant(self, instant: int, head: int | None) -> int:
        if (head is None or instant > head) and instant > self._writer.settled_until:
            now = self._writer.now()
            if instant > now:
                raise InvalidInstant(
                    f"as_of {format_instant(instant)} is later than the clock, {format_instant(now)}, and than the "
                    "last event: what it means could still change; ask for an instant that has passed"
                )
            self._writer.settle(instant)
        return self._reader.last_at(instant)

    # Reading

    def events(
        self,
        *,
        after: int = 0,
        upto: AsOf = None,
        memory_id: str | None = None,
        actor_id: str | None = None,
        role: str | None = None,
        type: EventType | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        correlation_id: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[Event]:
        """The events that match all that is given, in the order of positions, streaming.

        `after` and `upto` bound the positions, `(after, upto]`; `since` and `until` the time of recording, both
        inclusive. The end is fixed when the call is made: events recorded later do not appear.
        """
        selection = self._select(after, upto, since, until, memory_id, actor_id, role, type, correlation_id, reverse)
        return self._reader.events(selection, _limit(limit))

    def history(
        self,
        memory_id: str | None = None,
        *,
        after: int = 0,
        upto: AsOf = None,
        actor_id: str | None = None,
        role: str | None = None,
        type: EventType | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        correlation_id: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[HistoryRecord]:
        """A memory's history, oldest first: what its content was before and after each event.

        The rows of the `history` view. Without `memory_id` that of all memories; the rest as for `events`.
        """
        selection = self._select(after, upto, since, until, memory_id, actor_id, role, type, correlation_id, reverse)
        return list(self._reader.history(selection, _limit(limit)))

    def _select(
        self,
        after: int,
        upto: AsOf,
        since: datetime | str | None,
        until: datetime | str | None,
        memory_id: str | None,
        actor_id: str | None,
        role: str | None,
        type: EventType | None,
        correlation_id: str | None,
        reverse: bool,
    ) -> EventSelection:
        first, last = self.position_at(check_count("after", after, 0)), self.position_at(upto)
        if since is not None:
            first = max(first, self._reader.last_at(parse_instant(since, "since") - 1))
        if until is not None:
            last = min(last, self._reader.last_at(parse_instant(until, "until")))
        if type is not None and type not in _TYPES:
            raise InvalidOperation(f"type is {type!r}: give 'ADD', 'UPDATE' or 'DELETE'")
        memory_id, actor_id = _id("memory_id", memory_id), _id("actor_id", actor_id)
        role, correlation_id = _id("role", role), _id("correlation_id", correlation_id)
        return EventSelection(first, last, memory_id, actor_id, role, type, correlation_id, reverse)

    def get(self, memory_id: str, *, as_of: AsOf = None) -> Memory | None:
        """A memory as it was at an instant or position; None where it was not live."""
        position = self._reader.current_position(check_id("memory_id", memory_id), self.position_at(as_of))
        return None if position is None else next(self._reader.memories([position]))

    def memories(
        self, filter: Filter = None, *, as_of: AsOf = None, limit: int | None = None, order: str = "position"
    ) -> list[Memory]:
        """The memories that were live at an instant or position and match the filter.

        `order` is `"position"` (the same as `"updated_at"`: when each got its state), `"created_at"` or
        `"memory_id"`; with a minus before it, the other way round.
        """
        key = order.removeprefix("-") if isinstance(order, str) else ""
        if key not in _ORDERS:
            raise InvalidOperation(f"order is {order!r}: give one of {', '.join(_ORDERS)}, or one with a minus")
        most = _limit(limit)
        tree = parse_filter(filter)
        positions = self._reader.current_positions(self.position_at(as_of))
        if key in ("created_at", "memory_id"):
            positions = self._reader.sorted_positions(positions, key)
        if order.startswith("-"):
            positions = positions[::-1]
        if isinstance(tree, Everything):
            return list(self._reader.memories(positions[:most].tolist()))
        found: list[Memory] = []
        for memory in self._reader.memories(positions.tolist()):
            if most is not None and len(found) >= most:
                break
            if tree.matches(memory.metadata):
                found.append(memory)
        return found

    def count(self, filter: Filter = None, *, as_of: AsOf = None) -> int:
        """How many memories were live at an instant or position and match the filter."""
        tree, position = parse_filter(filter), self.position_at(as_of)
        if isinstance(tree, Everything):
            return self._reader.count(position)
        return len(self._matching(tree, self._reader.current_positions(position)))

    def vectors(
        self,
        memory_ids: Sequence[str] | None = None,
        *,
        filter: Filter = None,
        as_of: AsOf = None,
    ) -> tuple[list[str], Vector]:
        """Memory ids and their embeddings, float32, shape `(n, dimension)`, at an instant or position.

        Those of `memory_ids` in that order (`MemoryNotFound` where one was not live), or of all that match the
        filter, in the order of positions. Bit for bit what was recorded.
        """
        if isinstance(memory_ids, str):
            raise InvalidOperation("memory_ids is a str: give a list of ids")
        if memory_ids is not None and filter is not None:
            raise InvalidOperation("memory_ids and filter are both given: give one of them")
        tree, position = parse_filter(filter), self.position_at(as_of)
        if memory_ids is None:
            chosen = self._matching(tree, self._reader.current_positions(position))
            ids = self._reader.memory_ids(chosen)
        else:
            ids, chosen = list(memory_ids), []
            for memory_id in ids:
                current = self._reader.current_position(check_id("memory_id", memory_id), position)
                if current is None:
                    raise MemoryNotFound(f"memory {memory_id!r} was not live at position {position}")
                chosen.append(current)
        return ids, self._reader.embeddings(chosen, self.dimension or 0)

    def _matching(self, tree: FilterTree, positions: Positions) -> list[int]:
        """Those of the positions whose events left metadata that match."""
        if isinstance(tree, Everything):
            return [int(at) for at in positions]
        found = self._reader.metadata(positions.tolist())
        return [at for at, metadata in found if tree.matches(metadata_of(metadata, at))]

    # For projections: reads by position

    def event_range(self, after: int, upto: int) -> EventRange:
        """The events in `(after, upto]`, a sequence that reads what is asked of it."""
        return EventRange(self._reader, after, upto, self.dimension)

    def current_positions(self, as_of: AsOf = None) -> Positions:
        """Positions of the events that gave each live memory its state, ascending, int64."""
        return self._reader.current_positions(self.position_at(as_of))

    def states(self, positions: Iterable[int]) -> Iterator[Memory]:
        """The memories as the events at `positions` (ADD or UPDATE) left them, in that order."""
        self._connections.require_open()
        return self._reader.memories(positions)

    def metadata_json(self, positions: Iterable[int]) -> Iterator[tuple[int, str]]:
        """Position and metadata, as JSON text, after the events at ascending `positions` (ADD or UPDATE)."""
        self._connections.require_open()
        return self._reader.metadata(positions)

    def embeddings(self, positions: Sequence[int]) -> Vector:
        """The embeddings after the events at `positions`, float32, shape `(len(positions), dimension)`."""
        return self._reader.embeddings(positions, self.dimension or 0)


def _id(name: str, value: str | None) -> str | None:
    return None if value is None else check_id(name, value)


def _limit(limit: int | None) -> int | None:
    return None if limit is None else check_count("limit", limit)
