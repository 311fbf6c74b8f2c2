"""Query plans: every read is served by an index or by the order of positions, none scans the table or sorts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from eventstore import Add, EventStore
from eventstore.queries import HEAD
from eventstore.recent import RecentRows
from tests.store_support import START, Clock

ROWS = 3000


@pytest.fixture(scope="module", params=["fresh", "analyzed", "misled"])
def store(request: pytest.FixtureRequest) -> Iterator[EventStore]:
    """Enough events that a plan matters; without and with the statistics that ANALYZE gathers, and with wrong ones."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch, EventStore(clock=clock) as opened:
        # What it wrote itself a store need not read.
        patch.setattr(RecentRows, "put", lambda self, rows: None)
        for part in range(3):
            opened.add_many(
                ["x"] * (ROWS // 3),
                vectors=np.ones((ROWS // 3, 2)),
                memory_ids=[f"m{part}-{n}" for n in range(ROWS // 3)],
                event_ids=[f"e{part}-{n}" for n in range(ROWS // 3)],
                metadatas=[{"n": n % 10} for n in range(ROWS // 3)],
                actor_id=["ann", "bob", None][part],
                role=["user", None, "tool"][part],
                correlation_id=[None, "chat-1", "chat-2"][part],
            )
            clock.move(hours=1)
        for n in range(100):
            opened.update(f"m0-{n}", metadata={"n": n})
        connection = opened._connections._writer
        if request.param != "fresh":
            connection.execute("ANALYZE")
        if request.param == "misled":
            # As where they were gathered on another kind of history: one memory, an actor for each event.
            connection.execute("UPDATE sqlite_stat1 SET stat = '3100 3100 1' WHERE idx = 'events_memory'")
            connection.execute("UPDATE sqlite_stat1 SET stat = '3100 1' WHERE idx = 'events_actor'")
            connection.execute("UPDATE sqlite_stat1 SET stat = '3100 3100' WHERE idx = 'events_correlation'")
            connection.execute("ANALYZE sqlite_schema")
        yield opened


def plans(store: EventStore, action: Callable[[], Any]) -> list[tuple[str, list[str]]]:
    """Every statement that an action runs, with SQLite's plan for it.

    Reads twice: as they are asked, with parameters, and as the trace shows them, with the values in their place.
    """
    asked: list[tuple[str, Sequence[Any]]] = []
    connections, fetch = store._connections, store._connections.fetch

    def noting(sql: str, parameters: Sequence[Any] = (), *, brief: bool = False) -> Any:
        asked.append((sql, parameters))
        return fetch(sql, parameters, brief=brief)

    connections._writer.set_trace_callback(lambda sql: asked.append((sql, ())))
    connections.fetch = noting  # type: ignore[method-assign]
    try:
        action()
    finally:
        del connections.fetch
        connections._writer.set_trace_callback(None)
    return [
        (sql, [row[3] for row in connections._writer.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)])
        for sql, parameters in asked
        if sql.startswith(("SELECT", "INSERT"))
    ]


def faults(plan: list[str]) -> list[str]:
    """The steps that read a whole table or sort. Constants are no table; what a subquery reads has its own steps."""
    scans = [step for step in plan if step.startswith("SCAN") and not step.startswith("SCAN (subquery")]
    return [step for step in scans if "CONSTANT ROW" not in step and "VALUES" not in step] + [
        step for step in plan if "TEMP B-TREE" in step
    ]


HOUR = {"since": START, "until": START.replace(hour=1)}

# What is asked, and what has to serve it: "" is the order of positions.
PATTERNS: dict[str, tuple[Callable[[EventStore], Any], str]] = {
    "by memory": (lambda s: list(s.events(memory_id="m0-7")), "events_memory"),
    "by memory, newest first": (lambda s: list(s.events(memory_id="m0-7", reverse=True, limit=1)), "events_memory"),
    "by memory and date": (lambda s: list(s.events(memory_id="m0-7", **HOUR)), "events_memory"),
    "by memory and actor": (lambda s: list(s.events(memory_id="m0-7", actor_id="ann")), "events_memory"),
    "by actor": (lambda s: list(s.events(actor_id="nobody")), "events_actor"),
    "by actor, newest first": (lambda s: list(s.events(actor_id="ann", reverse=True)), "events_actor"),
    "by actor and date": (lambda s: list(s.events(actor_id="ann", **HOUR)), "events_actor"),
    "by actor and type": (lambda s: list(s.events(actor_id="ann", type="UPDATE")), "events_actor"),
    "by correlation": (lambda s: list(s.events(correlation_id="chat-1")), "events_correlation"),
    "by date": (lambda s: list(s.events(**HOUR)), ""),
    "by date, newest first": (lambda s: list(s.events(**HOUR, reverse=True)), ""),
    "by role": (lambda s: list(s.events(role="tool")), ""),
    "by type": (lambda s: list(s.events(type="UPDATE")), ""),
    "all": (lambda s: list(s.events()), ""),
    "all, newest first": (lambda s: list(s.events(reverse=True, limit=5)), ""),
    "history by memory": (lambda s: s.history("m0-7"), "events_memory"),
    "history by actor": (lambda s: s.history(actor_id="bob"), "events_actor"),
    "history by correlation": (lambda s: s.history(correlation_id="chat-1"), "events_correlation"),
    "history by date": (lambda s: s.history(**HOUR), ""),
    "history of all": (lambda s: s.history(reverse=True), ""),
    "get": (lambda s: s.get("m0-7"), "events_memory"),
    "get as of": (lambda s: s.get("m0-7", as_of=500), "events_memory"),
    "position_at": (lambda s: s.position_at(START.replace(minute=5)), "events_recorded_at"),
    "head": (lambda s: s.head, ""),
    "head_at": (lambda s: s.head_at(7), ""),
    "memories": (lambda s: s.memories(), ""),
    "memories that match": (lambda s: s.memories({"n": 3}, as_of=500), ""),
    "memories by id": (lambda s: s.memories(order="memory_id"), ""),
    "memories by creation": (lambda s: s.memories(order="-created_at", limit=3), ""),
    "count": (lambda s: s.count(), ""),
    "count of what matches": (lambda s: s.count({"n": 3}), ""),
    "vectors": (lambda s: s.vectors(), ""),
    "vectors of named memories": (lambda s: s.vectors(["m0-7", "m1-7"]), "events_memory"),
    "a projector's range": (lambda s: s.event_range(10, 2000).columns(), ""),
    "retry of an event": (
        lambda s: s.add("x", vector=[1, 1], memory_id="m2-7", metadata={"n": 7}, role="tool",
                        correlation_id="chat-2", event_id="e2-7"),
        "events_event_id",
    ),
    "append": (lambda s: s.append([Add(content="y", vector=[1, 1], memory_id=f"new-{s.position}")]), "events_memory"),
    "append of many": (
        lambda s: s.append([Add(content="y", vector=[1, 1], memory_id=f"n{n}-{s.position}") for n in range(3)]),
        "events_memory",
    ),
    "delete where": (lambda s: s.delete_where({"n": 77}), ""),
}  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_read_scans_or_sorts_the_table(store: EventStore, pattern: str) -> None:
    """Each statement that it runs searches by an index or walks a range of positions."""
    action, _ = PATTERNS[pattern]
    found = plans(store, lambda: action(store))
    assert found
    assert [(sql, step) for sql, plan in found for step in faults(plan) if not _one_row_from_an_end(sql)] == []


def _one_row_from_an_end(sql: str) -> bool:
    """The head: SQLite calls it a scan, and it ends after one row; the table of counters has one."""
    return sql == HEAD


@pytest.mark.parametrize("pattern", [name for name, (_, index) in PATTERNS.items() if index])
def test_what_has_an_index_uses_it(store: EventStore, pattern: str) -> None:
    """Not a walk through all positions."""
    action, index = PATTERNS[pattern]
    steps = [step for _, plan in plans(store, lambda: action(store)) for step in plan]
    assert any(index in step for step in steps), steps


@pytest.mark.parametrize("store", ["fresh", "analyzed"], indirect=True)
@pytest.mark.parametrize(
    "condition", ["memory_id = 'm0-7'", "id = 'e0-7'", "actor_id = 'ann'"], ids=lambda text: text.split()[0]
)
def test_the_view_is_searched_by_an_index(store: EventStore, condition: str) -> None:
    """For clients that read it by memory, by id or by actor."""
    connection = store._connections._writer
    sql = f"EXPLAIN QUERY PLAN SELECT * FROM history WHERE {condition}"
    steps = [row[3] for row in connection.execute(sql)]
    assert faults(steps) == []
    assert steps[0].startswith("SEARCH e USING INDEX")
