"""Restore: the present becomes what it was at an instant, by appending what undoes the time since."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from eventstore import AsOf, Event, EventStore, Memory
from eventstore.checked import chunks
from eventstore.checks import metadata_json
from eventstore.operations import Context, Prepared, prepare_context
from replay.diff import Diff, diff

__all__ = ["Restored", "restore"]

_OPERATIONS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did, or would do.

    `diff` leads from the state at `position_before` to the one restored, at `diff.b`. `events` are those that
    were appended; they are read when asked for. The positions are equal where nothing was appended; restoring
    to `position_before` undoes the restore.
    """

    diff: Diff
    events: Sequence[Event]
    position_before: int
    position_after: int


def restore(
    store: EventStore,
    as_of: AsOf,
    *,
    reason: str | None = None,
    actor_id: str | None = None,
    dry_run: bool = False,
) -> Restored:
    """Bring the memories back to what they were at an instant or position: content, metadata, vectors bit for bit.

    The events that undo what came after are appended, all at one instant, with `restore:<position>` as their
    correlation_id; so nothing is lost, and a restore can itself be undone. Where nothing differs nothing is
    appended; with `dry_run` nothing is in any case. What others record meanwhile is undone too or comes after:
    the append and the comparison it rests on are one transaction.

    Raises `InvalidInstant` for what names no settled point of the history, `ReadOnlyStore`, `StoreBusy`,
    `StorageError`: nothing was written then.
    """
    target = store.position_at(as_of)
    context = prepare_context(reason=reason, actor_id=actor_id, correlation_id=f"restore:{target}")
    change = diff(store, None, target)
    after = change.a
    if change and not dry_run:
        operations = list(_undoing(store, change, context))
        with store._writer.transaction() as transaction:
            if transaction.tail.position != change.a:
                # Somebody was faster; nobody is now.
                change = diff(store, transaction.tail.position, target)
                operations = list(_undoing(store, change, context))
            for some in chunks(operations, _OPERATIONS_AT_ONCE):
                transaction.record(some)
            after = transaction.tail.position
    return Restored(change, store.event_range(change.a, after), change.a, after)


def _undoing(store: EventStore, change: Diff, context: Context) -> Iterator[Prepared]:
    """Deletes first, then the states that come back in the order in which they once arose."""
    for memory in change.deleted:
        yield Prepared("DELETE", memory.memory_id, None, None, None, None, None, context)
    added = {memory.position for memory in change.added}
    states = [*change.added, *(each.after for each in change.updated)]
    states.sort(key=lambda memory: memory.position)
    for memory, embedding in _with_embeddings(store, states):
        yield Prepared(
            "ADD" if memory.position in added else "UPDATE",
            memory.memory_id,
            memory.content,
            metadata_json(memory.metadata),
            embedding,
            None,
            None,
            context,
            vector_given=True,
        )


def _with_embeddings(store: EventStore, memories: Iterable[Memory]) -> Iterator[tuple[Memory, bytes]]:
    for some in chunks(memories, _OPERATIONS_AT_ONCE):
        # Bytes as recorded, past the checks at the door: a vector of zeros that was taken once is taken again.
        matrix = store.embeddings([memory.position for memory in some])
        yield from ((memory, vector.tobytes()) for memory, vector in zip(some, matrix, strict=True))
