"""`brute_force_search`: the oracle of search, one number at a time, sharing no code with what it judges."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from eventstore import AsOf, EventStore
from eventstore.testing import CheckedFilter, ModelEvent, ModelStore
from eventstore.testing.model import json_of

__all__ = ["Found", "brute_force_search", "difference", "score_of"]


class Found(NamedTuple):
    """A memory that brute force found: its id, its score, and the position of the event that gave it its state."""

    memory_id: str
    score: float
    position: int


def brute_force_search(
    source: ModelStore | EventStore,
    query: Any,
    k: int = 10,
    *,
    metric: str = "cosine",
    filter: CheckedFilter | Mapping[str, Any] | None = None,
    as_of: AsOf = None,
    min_score: float | None = None,
) -> list[Found]:
    """What a search must find: every live memory scored, the `k` best first, ties in the order of positions.

    `source` is a model or a store, whose events are folded naively. The query is a vector, or text where the
    source has an embedder. A filter is read by the kit's own oracle. Scores are those of docs/reference, to the
    last bit: sums in float64, folded by halves.
    """
    if isinstance(source, ModelStore):
        if isinstance(as_of, str):
            raise ValueError("as_of is a str: give the model a position or an aware datetime")
        model, moment = source, as_of
        embed: Callable[[list[str]], Any] | None = source.embed
    else:
        moment = source.position_at(as_of)
        model = ModelStore.of(source.events(upto=moment))
        embed = source.embed
    if isinstance(query, str):
        if embed is None:
            raise ValueError("query is a text and the model has no embedder: give ModelStore(embed=...) or a vector")
        query = next(iter(embed([query])))
    asked = _float32(query)
    chosen = filter if isinstance(filter, CheckedFilter) else CheckedFilter(dict(filter or {}))
    found = [
        Found(memory.memory_id, score_of(metric, asked, memory.vector or []), memory.position)
        for memory in model.state(moment).values()
        if chosen.matches(memory.metadata or {})
    ]
    best = sorted(found, key=lambda each: (-each.score, each.position))[:k]
    return [each for each in best if min_score is None or each.score >= min_score]


def difference(hit: Any, event: ModelEvent) -> str | None:
    """What a hit says of its memory that is not what the event left, in words; None where all of it is right.

    Compared are `memory_id`, `version` and what it has of `content`, `metadata`, `created_at` and `updated_at`.
    """
    updated = event.recorded_at if event.type == "UPDATE" else None
    right = {"memory_id": event.memory_id, "version": event.version}
    right |= {"content": event.content, "created_at": event.created_at, "updated_at": updated}
    for name, expected in right.items():
        if (name in ("memory_id", "version") or hasattr(hit, name)) and getattr(hit, name) != expected:
            return f"the {name} of {event.memory_id!r} is {getattr(hit, name)!r}; by the history it is {expected!r}"
    if hasattr(hit, "metadata") and json_of(hit.metadata) != json_of(event.metadata):
        return f"the metadata of {event.memory_id!r} are {hit.metadata!r}; by the history they are {event.metadata!r}"
    return None


def assert_plausible(who: str, found: Sequence[Found], everything: Sequence[Found], least: int) -> None:
    """What must hold of an approximate answer: true hits with true scores in order, and at least so many of them."""
    for each in found:
        if each not in everything:
            raise AssertionError(f"{who} finds {each!r}, which by brute force is not there")
    if list(found) != sorted(set(found), key=lambda each: (-each.score, each.position)):
        raise AssertionError(f"{who} finds {list(found)!r}, which is not in order")
    if len(found) < least:
        raise AssertionError(f"{who} finds {len(found)} memories, and there are {len(everything)}")


def score_of(metric: str, query: Sequence[float], numbers: Sequence[float]) -> float:
    """The score of a vector, higher is better.

    `"cosine"`: q.x / (|q| |x|), 0 where either is all zeros. `"ip"`: q.x. `"l2"`: minus the squared distance.
    """
    if metric == "l2":
        return 0.0 - _folded([(x - q) * (x - q) for q, x in zip(query, numbers, strict=True)])
    product = _folded([x * q for q, x in zip(query, numbers, strict=True)])
    if metric == "ip":
        return product
    if metric != "cosine":
        raise ValueError(f"metric is {metric!r}: give 'cosine', 'ip' or 'l2'")
    scale = math.sqrt(_folded([x * x for x in numbers])) * math.sqrt(_folded([q * q for q in query]))
    return product / scale if scale > 0 else 0.0


def _folded(terms: list[float]) -> float:
    """Summed by halves: of n terms the last n // 2 are added to the first, until one is left."""
    while len(terms) > 1:
        half = len(terms) // 2
        rest = len(terms) - half
        terms = [a + b for a, b in zip(terms[:half], terms[rest:], strict=True)] + terms[half:rest]
    return terms[0]


def _float32(vector: Sequence[float]) -> list[float]:
    numbers = [float(number) for number in vector]
    return list(struct.unpack(f"<{len(numbers)}f", struct.pack(f"<{len(numbers)}f", *numbers)))
