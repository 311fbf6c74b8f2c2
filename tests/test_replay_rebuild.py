"""Rebuild: a projection is made again from the history."""

from __future__ import annotations

from pathlib import Path

from eventstore import Add, EventStore
from projections import VectorIndex
from replay import rebuild, verify
from tests.replay_support import told


def test_an_index_is_made_again(tmp_path: Path) -> None:
    """It ends at the head, says how far it is, and is what the history says."""
    told([[Add(memory_id=each, content=each, vector=[1, 2])] for each in "abc"], tmp_path / "a.db").close()
    with EventStore(tmp_path / "a.db") as store, VectorIndex(store) as index:
        index.catch_up()
        store.add("more", vector=[3, 4], memory_id="d")
        seen: list[tuple[int, int]] = []
        assert rebuild(index, progress=lambda done, total: seen.append((done, total))) == 4
        assert seen[-1] == (4, 4)
        assert index.position == store.position
        assert verify(store, index).faults == []
        assert [hit.memory_id for hit in index.search([3, 4], k=1)] == ["d"]
