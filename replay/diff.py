"""What differs between two instants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from eventstore import AsOf, EventStore, Memory

__all__ = ["Change", "Diff", "diff"]

_PAIRS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Change:
    """A memory whose content, metadata or embedding differ: as it was at `Diff.a` and at `Diff.b`."""

    before: Memory
    after: Memory


@dataclass(frozen=True, slots=True)
class Diff:
    """What leads from the memories at position `a` to those at position `b`. False when nothing does.

    `added` and `updated` are in the order of positions at `b`, `deleted` of those at `a`.
    """

    a: int
    b: int
    added: list[Memory]
    updated: list[Change]
    deleted: list[Memory]

    @property
    def empty(self) -> bool:
        """Whether the same memories were live at both, with the same content, metadata and embeddings."""
        return not (self.added or self.updated or self.deleted)

    def __bool__(self) -> bool:
        return not self.empty


def diff(store: EventStore, a: AsOf, b: AsOf) -> Diff:
    """The memories added, updated and deleted from one instant or position to another, earlier or later.

    What happened in between and was undone does not show: a memory deleted and added again is an update if it
    differs and nothing if it does not. Reads the payloads of what has changed only. Raises as `state` does.
    """
    first, second = store.position_at(a), store.position_at(b)
    before, after = store.current_positions(first), store.current_positions(second)
    gone = _by_id(store, np.setdiff1d(before, after, assume_unique=True).tolist())
    come = _by_id(store, np.setdiff1d(after, before, assume_unique=True).tolist())
    both = [Change(gone[memory_id], memory) for memory_id, memory in come.items() if memory_id in gone]
    return Diff(
        first,
        second,
        added=[memory for memory_id, memory in come.items() if memory_id not in gone],
        updated=list(_different(store, both)),
        deleted=[memory for memory_id, memory in gone.items() if memory_id not in come],
    )


def _by_id(store: EventStore, positions: list[int]) -> dict[str, Memory]:
    return {memory.memory_id: memory for memory in store.states(positions)}


def _different(store: EventStore, changes: Sequence[Change]) -> Iterator[Change]:
    for start in range(0, len(changes), _PAIRS_AT_ONCE):
        some = changes[start : start + _PAIRS_AT_ONCE]
        before = store.embeddings([change.before.position for change in some])
        after = store.embeddings([change.after.position for change in some])
        # As integers, so that bits are compared: -0.0 is not 0.0 here.
        moved = (before.view(np.uint32) != after.view(np.uint32)).any(axis=1)
        for change, vector_differs in zip(some, moved, strict=True):
            if vector_differs or _recorded_form(change.before) != _recorded_form(change.after):
                yield change


def _recorded_form(memory: Memory) -> tuple[str, bytes]:
    # Not the dict: to Python {"n": 1}, {"n": 1.0} and {"n": True} are equal.
    return memory.content, orjson.dumps(memory.metadata, option=orjson.OPT_SORT_KEYS)
