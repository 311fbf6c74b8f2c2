"""Histories to damage."""

from __future__ import annotations

import shutil

import pytest

from eventstore import (
    Event,
    EventStore,
)
from tests.replay_support import Sound, large_history
from tests.salvage.support import (
    varied,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """Sixty events on some fifteen pages, two of them of headers."""
    return varied(tmp_path_factory.mktemp("small") / "a.db")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    """A history of 600 events of as many memories, on some thirty pages, in a tree of two levels."""
    return large_history(tmp_path_factory.mktemp("large") / "a.db")


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, list[Event], list[int]]:
    """File and log of a store that a killed process had open, its events, and at which positions appends end."""
    folder = tmp_path_factory.mktemp("logged")
    with EventStore(folder / "a.db") as store:
        store.add_many(["folded into the file"] * 10, vectors=[[1.0] * 64] * 10)
    with EventStore(folder / "a.db") as store:
        for number in range(12):
            store.add_many([f"in the log {number}"] * 3, vectors=[[1.0] * 64] * 3)
        shutil.copy(folder / "a.db", folder / "b.db")
        shutil.copy(folder / "a.db-wal", folder / "b.db-wal")
        events = list(store.events())
    ends = [10 + 3 * number for number in range(13)]
    return (folder / "b.db").read_bytes(), (folder / "b.db-wal").read_bytes(), events, ends
