"""States of memories that were read lately: what an event left never changes, so it need not be read again."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from sys import getsizeof

from eventstore.events import Memory, metadata_of

__all__ = ["LateStates", "State"]

_MOST_BYTES = 8 * 2**20
_OVERHEAD = 400


@dataclass(frozen=True, slots=True)
class State:
    """What an event left of a memory, checked; the metadata as JSON text, since each caller gets a dict of its own."""

    memory_id: str
    content: str
    metadata: str
    version: int
    position: int
    created_at: datetime
    updated_at: datetime | None
    actor_id: str | None
    role: str | None

    def memory(self) -> Memory:
        """The memory."""
        return Memory(
            memory_id=self.memory_id,
            content=self.content,
            metadata=metadata_of(self.metadata, self.position),
            version=self.version,
            position=self.position,
            created_at=self.created_at,
            updated_at=self.updated_at,
            actor_id=self.actor_id,
            role=self.role,
        )


class LateStates:
    """States by position, in bounded memory. Safe to share between threads.

    In two halves: when the new one is full the old one is let go, so that what is asked for again and again stays.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._lock = threading.Lock()
        self._most = most_bytes // 2
        self._new: dict[int, State] = {}
        self._old: dict[int, State] = {}
        self._bytes = 0

    def get(self, position: int) -> State | None:
        """The state that the event at a position left, if it is here."""
        state = self._new.get(position)
        if state is None and (state := self._old.get(position)) is not None:
            self.put(state)
        return state

    def put(self, state: State) -> None:
        """Keep a state, if it is not as large as all that there is room for."""
        # Not their lengths: one character past Latin-1 makes all of a text take two or four bytes each.
        size = _OVERHEAD + sum(map(getsizeof, (state.content, state.metadata, state.memory_id)))
        with self._lock:
            if size <= self._most and state.position not in self._new:
                if self._bytes + size > self._most:
                    self._old, self._new, self._bytes = self._new, {}, 0
                self._new[state.position] = state
                self._bytes += size
