"""States of memories that were read lately: what an event left never changes, so it need not be read again."""

from __future__ import annotations

import threading
from sys import getsizeof
from typing import NamedTuple

from eventstore.events import EventRow, Memory, metadata_of
from eventstore.instants import from_microseconds

__all__ = ["LateStates", "State"]

_MOST_BYTES = 8 * 2**20


class State(NamedTuple):
    """What an event left of a memory, checked: its header, when the memory was added, and its texts as recorded."""

    header: EventRow
    added_at: int
    content: str
    metadata: str

    def memory(self) -> Memory:
        """The memory; its metadata are a dict of the caller's own."""
        header = self.header
        return Memory(
            memory_id=header.memory_id,
            content=self.content,
            metadata=metadata_of(self.metadata, header.seq),
            version=header.version,
            position=header.seq,
            created_at=from_microseconds(self.added_at),
            updated_at=None if header.type == "ADD" else from_microseconds(header.recorded_at),
            actor_id=header.actor_id,
            role=header.role,
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
        # Not the lengths of texts: one character past Latin-1 makes all of a text take two or four bytes each.
        size = getsizeof(state.header) + sum(map(getsizeof, (*state.header, state.content, state.metadata)))
        with self._lock:
            if size <= self._most and state.header.seq not in self._new:
                if self._bytes + size > self._most:
                    self._old, self._new, self._bytes = self._new, {}, 0
                self._new[state.header.seq] = state
                self._bytes += size
