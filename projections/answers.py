"""From what is asked to vectors, and from the rows found to hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eventstore import EventStore, InvalidVector, Vector
from eventstore.checks import check_content, check_matrix, check_vector
from eventstore.versions import Positions
from projections.approximate import Kind
from projections.hits import Hit, Hits
from projections.scoring import Floats, Metric

__all__ = ["Answer", "hits_of", "query_vectors"]


@dataclass(frozen=True, slots=True)
class Answer:
    """The positions at which the rows found were born, their scores, and how they were found."""

    positions: Positions
    scores: Floats
    kind: Kind

    @classmethod
    def nothing(cls) -> Answer:
        """Where there is nothing to find."""
        return cls(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64), "flat")


def query_vectors(store: EventStore, metric: Metric, queries: Sequence[Any] | Vector) -> list[Vector]:
    """The vectors of queries, texts embedded; an error where one cannot be searched for."""
    if not len(queries):
        return []
    dimension = store.dimension
    if isinstance(queries, list) and len(queries) == 1 and _is_ready(queries[0], dimension):
        vectors = queries
    elif all(isinstance(query, str) for query in queries):
        vectors = list(store.embed([check_content(query) for query in queries]))
    elif isinstance(queries, np.ndarray) and queries.ndim == 2:
        vectors = list(check_matrix("queries", queries, dimension))
    else:
        vectors = [
            query if _is_ready(query, dimension) else check_vector("query", query, dimension, allow_zero=True)
            for query in queries
        ]
    if metric == "cosine" and not all(vector.any() for vector in vectors):
        raise InvalidVector("query is all zeros: it has no direction, so cosine is not defined for it")
    return vectors


def _is_ready(query: Any, dimension: int | None) -> bool:
    """Whether a query is a vector as it is searched for already, as most are."""
    return (
        type(query) is np.ndarray
        and query.dtype == np.float32
        and query.shape == (dimension,)
        and query.flags.c_contiguous
        and bool(np.isfinite(query).all())
    )


def hits_of(store: EventStore, answer: Answer, position: int) -> Hits:
    """The memories found, as the history has them."""
    memories = store.states(answer.positions.tolist())
    return Hits(
        [
            Hit(
                memory.memory_id,
                score,
                memory.content,
                memory.metadata,
                memory.version,
                memory.position,
                memory.created_at,
                memory.updated_at,
            )
            for memory, score in zip(memories, answer.scores.tolist(), strict=True)
        ],
        position,
        kind=answer.kind,
    )
