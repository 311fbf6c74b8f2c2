"""What a search returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, overload

from projections.approximate import Kind

__all__ = ["Hit", "Hits"]


@dataclass(frozen=True, slots=True)
class Hit:
    """A memory that a search found, as it was at the position that the search answered at.

    `score` is higher for better: the cosine, the inner product, or minus the squared distance. `position` is that
    of the event which gave the memory this state; `updated_at` is None if it was never updated.
    """

    memory_id: str
    score: float
    content: str
    metadata: dict[str, Any]
    version: int
    position: int
    created_at: datetime
    updated_at: datetime | None


class Hits(Sequence[Hit]):
    """Hits, best first; equal scores in the order of their positions.

    `position` is the position of the history that was searched: asked again as of it, the answer is the same, or, where
    it came from a graph that has grown since, the exact one. `kind` says how they were found: `"flat"`, exactly, every
    memory considered; or by candidates from `"ivf"`, inverted lists, or `"hnsw"`, a graph, and then there may be nearer
    memories that were not. Scores are exact always. Equal to any sequence of equal hits.
    """

    def __init__(self, hits: Sequence[Hit], position: int, *, kind: Kind = "flat") -> None:
        self._hits = tuple(hits)
        self.position = position
        self.kind: Kind = kind

    @property
    def exact(self) -> bool:
        """Whether every memory was considered."""
        return self.kind == "flat"

    def __len__(self) -> int:
        return len(self._hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit]: ...
    def __getitem__(self, index: int | slice) -> Hit | Sequence[Hit]:
        return self._hits[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, (str, bytes)):
            return NotImplemented
        return self._hits == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Hits({list(self._hits)!r}, position={self.position})"
