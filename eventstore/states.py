"""States of memories that were read lately: what an event left never changes, so it need not be read again."""

from __future__ import annotations

import threading
from datetime import datetime
from sys import getsizeof
from typing import NamedTuple

from eventstore.events import EventRow, Memory, metadata_of

__all__ = ["LateStates", "State"]

_MOST_BYTES = 8 * 2**20
# Of a state but for its texts: two tuples, numbers, digests, instants, and its place in a dict.
_FIXED_BYTES = 1024


class State(NamedTuple):
    """What an event left of a memory, checked: its header, when the memory was added and updated last, its texts."""

    header: EventRow
    created_at: datetime
    updated_at: datetime | None
    content: str
    metadata: str

    def memory(self) -> Memory:
        """The memory; its metadata are a dict of the caller's own."""
        header = self.header
        return Memory(
            header.memory_id,
            self.content,
            metadata_of(self.metadata, header.seq),
            header.version,
            header.seq,
            self.created_at,
            self.updated_at,
            header.actor_id,
            header.role,
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
        header = state.header
        texts = filter(None, (header.event_id, header.memory_id, *header[10:16], state.content, state.metadata))
        size = _FIXED_BYTES + sum(map(getsizeof, texts))
        with self._lock:
            if size <= self._most and state.header.seq not in self._new:
                if self._bytes + size > self._most:
                    self._old, self._new, self._bytes = self._new, {}, 0
                self._new[state.header.seq] = state
                self._bytes += size
