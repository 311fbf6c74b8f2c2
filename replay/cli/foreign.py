"""Foreign records made into ours: keys renamed, moved into the metadata, or left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from eventstore import ImportFailed, Vector

__all__ = ["OURS", "Renaming", "renamed"]

OURS = frozenset(
    "type memory_id content metadata vector recorded_at occurred_at actor_id role reason event_id correlation_id"
    " causation_id source".split()
)
"""What a record can say."""

# What an export says besides: the import checks some of it, and works the rest out again.
_EXPORTED = frozenset("position version hash prev_position add_position embedding_position salt payload_digest".split())
_NOTHING = "nothing was imported"


@dataclass(frozen=True)
class Renaming:
    """Which of a record's keys become which of ours, which become metadata, and which are left out."""

    keys: tuple[tuple[str, str], ...] = ()
    metadata: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def renamed(records: Iterable[dict[str, Any]], renaming: Renaming, vectors: Vector | None) -> Iterator[dict[str, Any]]:
    """The records as `import_events` takes them.

    Raises:
        ImportFailed: names the line and the keys that nothing was said about, or that would be overwritten.
    """
    for line, record in enumerate(records, 1):
        yield _renamed(record, renaming, vectors, line)


def _renamed(record: dict[str, Any], renaming: Renaming, vectors: Vector | None, line: int) -> dict[str, Any]:
    spent = {theirs for _, theirs in renaming.keys} | {*renaming.metadata, *renaming.ignored}
    ours = {key: value for key, value in record.items() if key not in spent}
    for key, theirs in renaming.keys:
        if theirs in record:
            if key in ours:
                raise ImportFailed(
                    f"line {line}: has {key!r} itself, and --map makes {theirs!r} {key!r} too: give --ignore {key} or "
                    f"--metadata {key}; {_NOTHING}",
                    line,
                )
            ours[key] = _vector(record[theirs], vectors, line) if key == "vector" else record[theirs]
    moved = {key: record[key] for key in renaming.metadata if key in record}
    if moved:
        ours["metadata"] = _merged(ours.get("metadata"), moved, line)
    unknown = [key for key in ours if key not in OURS and key not in _EXPORTED]
    if unknown:
        raise ImportFailed(
            f"line {line}: unknown {'key' if len(unknown) == 1 else 'keys'} {', '.join(map(repr, unknown[:10]))}: for "
            f"each give --map OURS={unknown[0]}, --metadata {unknown[0]} or --ignore {unknown[0]}; {_NOTHING}",
            line,
        )
    return ours


def _vector(value: Any, vectors: Vector | None, line: int) -> Any:
    """A vector under another name: `read_json_lines` has made vectors of the row numbers under our own."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if vectors is None or not 0 <= value < len(vectors):
        where = "there is no --vectors" if vectors is None else f"--vectors has {len(vectors)} rows"
        raise ImportFailed(f"line {line}: vector is row {value}, and {where}; {_NOTHING}", line)
    return vectors[value]


def _merged(metadata: Any, moved: dict[str, Any], line: int) -> Any:
    if metadata is None:
        return moved
    if not isinstance(metadata, dict):
        return metadata  # the import refuses it, in its own words
    twice = moved.keys() & metadata.keys()
    if twice:
        raise ImportFailed(
            f"line {line}: metadata has {min(twice)!r} already, and --metadata adds it; {_NOTHING}", line
        )
    return {**metadata, **moved}
