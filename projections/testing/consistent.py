"""`assert_consistent`: do a store and its projections say what the history says?"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

from eventstore import AsOf, EventStore
from eventstore.testing import ModelEvent, ModelStore
from eventstore.testing.model import CONTEXT, json_of
from projections.projection import Projection, project
from projections.testing.search import Found, assert_plausible, brute_force_search, difference

__all__ = ["assert_consistent"]

_QUERIES = 4
_ASKED = ("type", "memory_id", "version", "prev_seq", "content", "recorded_at", "created_at", "occurred_at")


def assert_consistent(
    store: EventStore,
    *projections: Projection,
    as_of: AsOf = None,
    model: ModelStore | None = None,
    queries: Iterable[Sequence[float]] | None = None,
) -> None:
    """Compare a store and its projections with the naive fold of the history, as of an instant or position.

    Of the store: events, memories, count, get and vectors, as of the position that is meant and in the way that was
    asked for. A projection is brought up to the moment first; then what it offers of `contents(as_of=...)`,
    `search(query, k, as_of=...)` and `faults()` is compared: rows and vectors bit for bit, searches for `queries` (by
    default the vectors of a few live memories) with brute force, ids, scores and order, and what the hits say with
    the memories. Another projection has its position compared, and what is in it is for its own test.

    `model` says what was asked for; without one the store's own events are what it is held to.

    Raises `AssertionError`, which names the first difference in words.
    """
    position = store.position_at(as_of)
    history = ModelStore.of(store.events(upto=position))
    _same("the store", f"the number of events up to position {position}", history.position, position)
    if model is not None:
        _compare_with_model(history, model, position)
    _compare_reads(store, history, position)
    _compare_ways_of_asking(store, history, position, as_of)
    for projection in projections:
        _compare_projection(projection, store, history, position, queries)


def _same(who: str, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise AssertionError(f"{who} says that {what} is {found!r}; by the history it is {expected!r}")


def _compare_with_model(history: ModelStore, model: ModelStore, position: int) -> None:
    if position > model.position:
        raise AssertionError(
            f"the store has an event at position {model.position + 1} that nobody asked for: "
            f"{history.events[model.position].type} of {history.events[model.position].memory_id!r}"
        )
    for found, asked in zip(history.events, model.events, strict=False):
        for name in (*_ASKED, *CONTEXT):
            _asked(found, name, getattr(found, name), getattr(asked, name))
        _asked(found, "metadata", json_of(found.metadata), json_of(asked.metadata))
        _asked(found, "vector", _shown(found.embedding), _shown(asked.embedding))


def _asked(event: ModelEvent, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise AssertionError(
            f"the event at position {event.position} ({event.type} of {event.memory_id!r}) has {what} {found!r}; "
            f"what was asked for is {expected!r}"
        )


def _compare_reads(store: EventStore, history: ModelStore, position: int) -> None:
    state = history.state()
    at = f"as of position {position}"
    who = f"the store {at}"
    memories = store.memories(as_of=position)
    _compare_ids(who, [memory.memory_id for memory in memories], list(state))
    for memory in memories:
        expected = state[memory.memory_id]
        what = f"memory {memory.memory_id!r}"
        for name in ("content", "version", "position", "created_at", "actor_id", "role"):
            _same(who, f"the {name} of {what}", getattr(memory, name), getattr(expected, name))
        _same(who, f"the metadata of {what}", json_of(memory.metadata), json_of(expected.metadata))
        updated = expected.recorded_at if expected.type == "UPDATE" else None
        _same(who, f"updated_at of {what}", memory.updated_at, updated)
        _same(who, f"what get() gives for {what}", store.get(memory.memory_id, as_of=position), memory)
    for memory_id in _ids(history) - set(state):
        _same(who, f"what get() gives for {memory_id!r}", store.get(memory_id, as_of=position), None)
    _same(who, "the count of memories", store.count(as_of=position), len(state))
    ids, matrix = store.vectors(as_of=position)
    _compare_ids(f"vectors() of {who}", ids, list(state))
    for memory_id, row in zip(ids, matrix, strict=True):
        _same(who, f"the vector of memory {memory_id!r}", _shown(row.tobytes()), _shown(state[memory_id].embedding))


def _compare_ways_of_asking(store: EventStore, history: ModelStore, position: int, as_of: AsOf) -> None:
    """That an instant, or nothing for now, gets the answers of the position that it means."""
    if isinstance(as_of, int):
        return
    asked, who = ({}, "the store now") if as_of is None else ({"as_of": as_of}, f"the store as of {as_of}")
    found = _answers(store, history, asked)
    if as_of is None and store.position != position:
        return  # something was recorded meanwhile, by another: now is another moment
    for (what, given), (_, right) in zip(found, _answers(store, history, {"as_of": position}), strict=True):
        if given != right:
            raise AssertionError(f"{who} gives for {what} {given!r}; as of position {position} it is {right!r}")


def _answers(store: EventStore, history: ModelStore, asked: dict[str, Any]) -> list[tuple[str, Any]]:
    ids, matrix = store.vectors(**asked)
    memories = store.memories(**asked)
    found: list[tuple[str, Any]] = [("memories()", memories), ("count()", store.count(**asked))]
    found += [("vectors()", (ids, [row.tobytes() for row in matrix]))]
    return found + [(f"get({memory_id!r})", store.get(memory_id, **asked)) for memory_id in sorted(_ids(history))]


def _ids(history: ModelStore) -> set[str]:
    return {event.memory_id for event in history.events}


def _compare_ids(who: str, found: list[str], expected: list[str]) -> None:
    for memory_id in found:
        if memory_id not in expected:
            raise AssertionError(f"{who} has memory {memory_id!r}, which by the history is not live then")
    for memory_id in expected:
        if memory_id not in found:
            raise AssertionError(f"{who} lacks memory {memory_id!r}, which by the history is live then")
    if len(found) > len(expected):
        raise AssertionError(f"{who} has a memory twice: {found!r}")
    if found != expected:
        raise AssertionError(f"{who} has the memories in the order {found!r}; by the history it is {expected!r}")


def _compare_projection(
    projection: Any, store: EventStore, history: ModelStore, position: int, queries: Iterable[Sequence[float]] | None
) -> None:
    who = f"projection {projection.name!r} as of position {position}"
    if projection.position < position:
        project(projection, store, upto=position)
    if projection.position < position:
        raise AssertionError(f"{who} is at position {projection.position} after it was brought up to {position}")
    state = history.state()
    if hasattr(projection, "contents"):
        positions, vectors = projection.contents(as_of=position)
        _compare_rows(who, [int(each) for each in positions], vectors, state)
    if hasattr(projection, "search"):
        asked = [memory.vector or [] for memory in list(state.values())[-_QUERIES:]] if queries is None else queries
        for query in asked:
            _compare_search(who, projection, history, list(query), position)
    if hasattr(projection, "faults"):
        for fault in projection.faults():
            raise AssertionError(f"{who} finds fault with itself: {fault}")


def _compare_rows(who: str, positions: list[int], vectors: Any, state: dict[str, ModelEvent]) -> None:
    by_position = {memory.position: memory for memory in state.values()}
    for position in positions:
        if position not in by_position:
            raise AssertionError(
                f"{who} has the event at position {position}, which by the history is not current then"
            )
    for position, memory in by_position.items():
        if position not in positions:
            raise AssertionError(f"{who} lacks memory {memory.memory_id!r}, current since position {position}")
    _same(who, "the order of its rows", positions, sorted(positions))
    if len(positions) > len(by_position):
        raise AssertionError(f"{who} has a row twice: {positions!r}")
    for position, row in zip(positions, vectors, strict=True):
        memory = by_position[position]
        what = f"the vector of memory {memory.memory_id!r}"
        _same(who, what, _shown(row.tobytes()), _shown(memory.embedding))


def _compare_search(who: str, projection: Any, history: ModelStore, query: list[float], position: int) -> None:
    metric = getattr(projection, "metric", "cosine")
    if metric == "cosine" and not any(query):
        return  # it has no direction
    k = max(1, len(history.state()))
    expected = [(found.memory_id, found.score) for found in brute_force_search(history, query, k, metric=metric)]
    hits = projection.search(query, k, as_of=position)
    if not getattr(hits, "exact", True):
        answer = [Found(hit.memory_id, hit.score, hit.position) for hit in hits]
        everything = brute_force_search(history, query, len(history.events), metric=metric)
        return assert_plausible(f"{who}, searched for {query!r},", answer, everything, min(k, len(everything)))
    found = [(hit.memory_id, hit.score) for hit in hits]
    where = f"{who}, searched for {query!r},"
    for rank, (mine, right) in enumerate(zip(found, expected, strict=False), 1):
        if mine != right:
            raise AssertionError(f"{where} finds {mine!r} at rank {rank}; by brute force that is {right!r}")
    if len(found) != len(expected):
        missing = [memory_id for memory_id, _ in expected if memory_id not in dict(found)]
        lacks = f": memory {missing[0]!r} is missing" if missing else ""
        raise AssertionError(f"{where} finds {len(found)} memories of {len(expected)}{lacks}")
    for hit in hits:
        if wrong := difference(hit, history.events[hit.position - 1]):
            raise AssertionError(f"{where} says that {wrong}")


def _shown(embedding: bytes | None) -> Any:
    """An embedding in words that keep -0.0 and 0.0 apart."""
    return None if embedding is None else repr(list(struct.unpack(f"<{len(embedding) // 4}f", embedding)))
