"""What writers and readers do in a race, and what must be true of the history afterwards."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from eventstore import Add, Delete, EventStore, MemoryExists, Update, VersionConflict
from projections import VectorIndex
from projections.testing import assert_consistent
from replay import verify

DIMENSION = 8
SHARED = "shared"
"""A memory that everyone updates, saying which version they saw."""

Acknowledged = list[tuple[str, int]]
"""Event ids and positions."""


def vector(number: int) -> Any:
    """A vector that is a function of a number."""
    return np.random.default_rng(number).normal(size=DIMENSION)


def prepare(path: Path) -> None:
    """A history with the shared memory in it."""
    with EventStore(path) as store:
        store.add("begun", vector=vector(0), memory_id=SHARED)


def write(store: EventStore, name: str, until: float) -> dict[str, Any]:
    """Append single events, batches and contested updates; return what was acknowledged and which versions were won."""
    chosen = random.Random(name)
    acknowledged: Acknowledged = []
    won: list[int] = []
    number = 0
    while time.monotonic() < until:
        number += 1
        key = f"{name}-{number}"
        way = chosen.randrange(4)
        if way == 0:
            event = store.add(key, vector=vector(number), memory_id=key, metadata={"by": name}, event_id=f"e-{key}")
            acknowledged.append((event.event_id, event.position))
        elif way == 1:
            events = store.append(
                [
                    Add(content=key, vector=vector(number), memory_id=key, event_id=f"e-{key}-0"),
                    Update(memory_id=key, content="twice", vector=vector(number + 1), event_id=f"e-{key}-1"),
                    Delete(memory_id=key, event_id=f"e-{key}-2"),
                ],
                correlation_id=key,
            )
            acknowledged += [(event.event_id, event.position) for event in events]
        elif way == 2:
            seen = store.get(SHARED).version
            try:
                event = store.update(SHARED, key, vector=vector(number), expected_version=seen, event_id=f"e-{key}")
            except VersionConflict:
                continue
            assert event.version == seen + 1
            won.append(event.version)
            acknowledged.append((event.event_id, event.position))
        else:
            try:
                event = store.add("one of many", vector=vector(number), memory_id=f"one-{number}", event_id=f"e-{key}")
            except MemoryExists:
                continue
            acknowledged.append((event.event_id, event.position))
    return {"acknowledged": acknowledged, "won": won}


def read(store: EventStore, index: VectorIndex, name: str, until: float) -> dict[str, Any]:
    """Search and read, now and in the past; every answer is held against itself and against the rest."""
    chosen = random.Random(name)
    last = searches = 0
    while time.monotonic() < until:
        searches += 1
        query = vector(chosen.randrange(50))
        hits = index.search(query, 5)
        assert hits.position >= last, "an answer from before one that was given already"
        last = hits.position
        assert all(hit.position <= hits.position for hit in hits)
        assert index.search(query, 5, as_of=hits.position) == hits
        then = chosen.randint(1, last)
        past = index.search(query, 5, as_of=then, filter={"by": "0"} if chosen.random() < 0.3 else None)
        assert past.position == then
        states = {memory.memory_id: memory for memory in store.memories(as_of=then)}
        assert all(states[hit.memory_id].position == hit.position for hit in past)
        for event in store.events(after=max(0, last - 3), upto=last):
            if event.correlation_id is not None:
                types = [one.type for one in store.events(correlation_id=event.correlation_id)]
                assert types == ["ADD", "UPDATE", "DELETE"], "half an append"
    return {"searches": searches}


def noted(folder: Path, done: dict[str, Any]) -> dict[str, int]:
    """How much was done, which a run shows; all of it is written down, for `notes`."""
    (folder / "done.json").write_text(json.dumps(done))
    return {what: len(those) for what, those in done.items()}


def notes(folder: Path) -> Any:
    """What `noted` wrote down."""
    return json.loads((folder / "done.json").read_text())


def check(path: Path, done: list[dict[str, Any]]) -> dict[str, int]:
    """Nothing lost, nothing twice, order and chain as promised, and an index that says the same."""
    acknowledged = [tuple(pair) for one in done for pair in one["acknowledged"]]
    with EventStore(path) as store, VectorIndex(store, directory=path.with_suffix(".checked")) as index:
        events = list(store.events())
        assert [event.position for event in events] == list(range(1, len(events) + 1))
        assert sorted(acknowledged) == sorted((event.event_id, event.position) for event in events[1:])
        appends = Counter(event.recorded_at for event in events)
        assert set(appends.values()) <= {1, 3}
        for before, after in itertools.pairwise(events):
            together = after.correlation_id is not None and after.correlation_id == before.correlation_id
            assert before.recorded_at == after.recorded_at if together else before.recorded_at < after.recorded_at
        won = sorted(version for one in done for version in one["won"])
        assert won == list(range(2, store.get(SHARED).version + 1)), "not one of many racers won each version"
        assert verify(store, index).ok
        assert_consistent(store, index)
        return {"events": len(events), "won": len(won)}
