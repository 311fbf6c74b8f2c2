"""A plain model of a store: a list of events, folded naively. It shares no code with what it judges."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import Any

from eventstore import Event


@dataclass(frozen=True)
class ModelMemory:
    """A memory as the model remembers it."""

    memory_id: str
    content: str
    metadata: dict[str, Any]
    embedding: bytes
    version: int
    position: int
    created_position: int

    @property
    def numbers(self) -> list[float]:
        """The vector, as Python floats."""
        return list(struct.unpack(f"<{len(self.embedding) // 4}f", self.embedding))


@dataclass
class Model:
    """What a store should hold: every event that was acknowledged, in order."""

    events: list[Event] = field(default_factory=list)
    expected: list[tuple[str, str, str | None, dict[str, Any] | None, bytes | None]] = field(default_factory=list)

    @property
    def position(self) -> int:
        """The position of the last event."""
        return len(self.expected)

    def take(
        self, event: Event, type: str, memory_id: str, content: Any, metadata: Any, embedding: bytes | None
    ) -> None:
        """Remember what was asked for, and the event that the store said it recorded."""
        self.events.append(event)
        self.expected.append((type, memory_id, content, metadata, embedding))

    def state(self, position: int) -> dict[str, ModelMemory]:
        """The fold of the first `position` events."""
        alive: dict[str, ModelMemory] = {}
        versions: dict[str, int] = {}
        for at, (type, memory_id, content, metadata, embedding) in enumerate(self.expected[:position], 1):
            version = versions[memory_id] = versions.get(memory_id, 0) + 1
            if type == "DELETE":
                del alive[memory_id]
                continue
            before = alive.get(memory_id)
            created = at if before is None else before.created_position
            kept = before or ModelMemory(memory_id, "", {}, b"", 0, 0, 0)
            alive[memory_id] = ModelMemory(
                memory_id,
                kept.content if content is None else content,
                kept.metadata if metadata is None else metadata,
                kept.embedding if embedding is None else embedding,
                version,
                at,
                created,
            )
        return alive

    def version(self, memory_id: str) -> int:
        """How many events a memory has."""
        return sum(1 for entry in self.expected if entry[1] == memory_id)

    def search(
        self, metric: str, query: list[float], k: int, position: int, wanted: Any = None, min_score: float | None = None
    ) -> list[tuple[str, float]]:
        """The k best by scoring everything: ids and scores, best first, ties by position."""
        found = [
            (-score(metric, query, memory.numbers), memory.position, memory.memory_id)
            for memory in self.state(position).values()
            if wanted is None or wanted(memory.metadata)
        ]
        return [
            (memory_id, -negative)
            for negative, _, memory_id in sorted(found)[:k]
            if min_score is None or -negative >= min_score
        ]


def folded(terms: list[float]) -> float:
    """Summed by halves: of n terms the last n // 2 are added to the first, until one is left."""
    while len(terms) > 1:
        half = len(terms) // 2
        terms = [a + b for a, b in zip(terms[:half], terms[len(terms) - half :], strict=True)] + terms[
            half : len(terms) - half
        ]
    return terms[0]


def score(metric: str, query: list[float], numbers: list[float]) -> float:
    """The score as docs/reference defines it, one number at a time."""
    if metric == "l2":
        return 0.0 - folded([(x - q) * (x - q) for q, x in zip(query, numbers, strict=True)])
    product = folded([x * q for q, x in zip(query, numbers, strict=True)])
    if metric == "ip":
        return product
    scale = math.sqrt(folded([x * x for x in numbers])) * math.sqrt(folded([q * q for q in query]))
    return product / scale if scale > 0 else 0.0
