"""Sixteen writers and sixteen readers, one store, one index."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventstore import EventStore
from projections import VectorIndex
from tests.crash.lab import LONG
from tests.races import work

WRITERS = READERS = 16
SECONDS = 60 if LONG else 3


def in_threads(tasks: list[Callable[[], Any]], deadline: float) -> list[Any]:
    """What the tasks return, all started at once; their first error, or a failure if one does not end."""
    results: list[Any] = [None] * len(tasks)
    errors: list[BaseException] = []
    start = threading.Barrier(len(tasks))

    def run(number: int) -> None:
        try:
            start.wait()
            results[number] = tasks[number]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(tasks))]
    for thread in threads:
        thread.start()
    until = time.monotonic() + deadline
    for thread in threads:
        thread.join(max(0.1, until - time.monotonic()))
        assert not thread.is_alive(), "deadlock: a thread did not end"
    if errors:
        raise errors[0]
    return results


@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize("durability", ["full", "normal"])
def test_writers_and_readers_of_one_store_and_index(tmp_path: Path, durability: Any) -> None:
    """Invariants 1 to 6 while everyone is at it, with checkpoints and a rebuild in between."""
    path = tmp_path / "agent.db"
    work.prepare(path)
    with EventStore(path, durability=durability) as store, VectorIndex(store, segment_rows=64) as index:
        until = time.monotonic() + SECONDS

        def keep() -> dict[str, Any]:
            kept = 0
            while time.monotonic() < until:
                kept += 1
                index.checkpoint()
                if kept % 5 == 0:
                    index.rebuild()
            return {"checkpoints": kept}

        done = in_threads(
            [
                *(lambda n=n: work.write(store, str(n), until) for n in range(WRITERS)),
                *(lambda n=n: work.read(store, index, str(n), until) for n in range(READERS)),
                keep,
            ],
            SECONDS + 180,
        )
        assert all(one["searches"] for one in done[WRITERS:-1])
        assert index.faults() == []
    print(f"{durability}: {work.check(path, done[:WRITERS])}, {sum(one['searches'] for one in done[WRITERS:-1])} reads")
