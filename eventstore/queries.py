"""The SQL of every read, as text and parameters: what a test can ask SQLite to explain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eventstore.schema import EVENT_COLUMNS

__all__ = ["EventSelection", "event_page", "history_page"]

_HEADER = ", ".join(f"e.{name}" for name in EVENT_COLUMNS)

EVENT_SELECT = (
    f"SELECT {_HEADER}, p.salt, p.content, p.metadata, p.embedding, v.embedding"
    " FROM events e LEFT JOIN payloads p ON p.seq = e.seq"
    " LEFT JOIN payloads v ON v.seq = e.embedding_seq AND v.seq <> e.seq"
)

HISTORY_SELECT = (
    "SELECT e.seq, e.event_id, e.memory_id, b.content, a.content, e.type, born.recorded_at, e.recorded_at,"
    " e.actor_id, e.role, e.version, e.reason FROM events e LEFT JOIN payloads a ON a.seq = e.seq"
    " LEFT JOIN payloads b ON b.seq = e.prev_seq AND e.type <> 'ADD'"
    " LEFT JOIN events born ON born.seq = e.add_seq"
)

MEMORY_SELECT = (
    "SELECT e.seq, e.memory_id, e.version, e.type, e.recorded_at, e.actor_id, e.role, e.payload_digest,"
    " born.recorded_at, p.salt, p.content, p.metadata, p.embedding FROM events e"
    " LEFT JOIN payloads p ON p.seq = e.seq LEFT JOIN events born ON born.seq = e.add_seq"
)

CURRENT_POSITION = "SELECT seq, type FROM events WHERE memory_id = ? AND seq <= ? ORDER BY version DESC LIMIT 1"

# The last event of an instant: recorded_at never decreases, so among equals the largest seq is the last.
POSITION_AT = "SELECT seq FROM events WHERE recorded_at <= ? ORDER BY recorded_at DESC, seq DESC LIMIT 1"

HEAD = "SELECT seq, recorded_at, hash FROM events ORDER BY seq DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class EventSelection:
    """Which events: positions in `(after, upto]` and whatever else is given, each an equality."""

    after: int
    upto: int
    memory_id: str | None = None
    actor_id: str | None = None
    role: str | None = None
    type: str | None = None
    correlation_id: str | None = None
    reverse: bool = False

    def page(self, select: str, limit: int) -> tuple[str, list[Any]]:
        """SQL and parameters of at most `limit` rows in the order asked for."""
        conditions, parameters = ["e.seq > ?", "e.seq <= ?"], [self.after, self.upto]
        for name in ("memory_id", "correlation_id", "actor_id", "role", "type"):
            value = getattr(self, name)
            if value is not None:
                conditions.append(f"e.{name} = ?")
                parameters.append(value)
        # A memory's versions run in the order of positions, and its index is sorted by them.
        order = "e.version" if self.memory_id is not None else "e.seq"
        sql = f"{select} WHERE {' AND '.join(conditions)} ORDER BY {order} {'DESC' if self.reverse else 'ASC'} LIMIT ?"
        return sql, [*parameters, limit]

    def past(self, seq: int) -> EventSelection:
        """What is left of the selection once `seq` has been read."""
        after, upto = (self.after, seq - 1) if self.reverse else (seq, self.upto)
        return EventSelection(
            after,
            upto,
            self.memory_id,
            self.actor_id,
            self.role,
            self.type,
            self.correlation_id,
            self.reverse,
        )


def event_page(selection: EventSelection, limit: int) -> tuple[str, list[Any]]:
    """A page of events with their payloads."""
    return selection.page(EVENT_SELECT, limit)


def history_page(selection: EventSelection, limit: int) -> tuple[str, list[Any]]:
    """A page of the history's ten columns, and position, version and reason."""
    return selection.page(HISTORY_SELECT, limit)
