"""The whole state at an instant: every memory that was live and its vector."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from eventstore import AsOf, CorruptHistory, EventStore, Memory, Vector

__all__ = ["State", "state"]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """All memories as they were at a position.

    `recorded_at` is when the event at `position` was recorded, None at position 0. `memories` maps memory ids to
    memories in the order of their positions; `vectors` maps the same ids to float32 arrays of shape
    `(dimension,)`: read-only rows of one matrix, bit for bit what was recorded.
    """

    position: int
    recorded_at: datetime | None
    memories: dict[str, Memory]
    vectors: dict[str, Vector]


def state(store: EventStore, as_of: AsOf = None) -> State:
    """The memories and vectors that were live at an instant or position; now, by default.

    Raises `InvalidInstant` for what names no settled point of the history, and `CorruptHistory` where a payload
    does not match its digest.
    """
    head = store.head_at(as_of)
    positions = store.current_positions(head.position).tolist()
    memories = {memory.memory_id: memory for memory in store.states(positions)}
    if len(memories) != len(positions):
        raise CorruptHistory(
            f"a memory of {store.path} has two states at position {head.position}: run `replay verify`"
        )
    matrix = store.embeddings(positions)
    matrix.setflags(write=False)
    return State(head.position, head.recorded_at, memories, dict(zip(memories, matrix, strict=True)))
