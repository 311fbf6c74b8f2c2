"""The JSON objects of `--json`; docs/reference/command-line.md documents them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from eventstore import Event, Head, Memory
from replay.diff import Change, Diff

__all__ = ["diff_record", "event_record", "head_record", "instant_text", "memory_record"]


def instant_text(instant: datetime | None) -> str | None:
    """ISO 8601 in UTC, always with six decimals."""
    return None if instant is None else instant.isoformat(timespec="microseconds")


def event_record(event: Event) -> dict[str, Any]:
    """An event, without its embedding: what `export` writes, but for vector and salt."""
    return {
        "position": event.position,
        "event_id": event.event_id,
        "memory_id": event.memory_id,
        "version": event.version,
        "type": event.type,
        "recorded_at": instant_text(event.recorded_at),
        "occurred_at": instant_text(event.occurred_at),
        "actor_id": event.actor_id,
        "role": event.role,
        "reason": event.reason,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "source": event.source,
        "content": event.content,
        "metadata": event.metadata,
        "prev_position": event.prev_seq,
        "add_position": event.add_seq,
        "embedding_position": event.embedding_seq,
        "payload_digest": event.payload_digest,
        "hash": event.hash,
    }


def memory_record(memory: Memory) -> dict[str, Any]:
    """A memory as it was at some position."""
    return {
        "memory_id": memory.memory_id,
        "content": memory.content,
        "hash": memory.hash,
        "metadata": memory.metadata,
        "version": memory.version,
        "position": memory.position,
        "created_at": instant_text(memory.created_at),
        "updated_at": instant_text(memory.updated_at),
        "actor_id": memory.actor_id,
        "role": memory.role,
    }


def head_record(head: Head) -> dict[str, Any]:
    """A head: what `verify --against` takes."""
    return {"position": head.position, "recorded_at": instant_text(head.recorded_at), "hash": head.hash}


def diff_record(diff: Diff) -> dict[str, Any]:
    """What differs between two positions."""
    return {
        "from_position": diff.a,
        "to_position": diff.b,
        "added": [memory_record(memory) for memory in diff.added],
        "updated": [_change_record(change) for change in diff.updated],
        "deleted": [memory_record(memory) for memory in diff.deleted],
    }


def _change_record(change: Change) -> Mapping[str, Any]:
    return {"before": memory_record(change.before), "after": memory_record(change.after)}
