"""What a store has just recorded is handed to its indexes as it was committed, and read from the file otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventstore.recent as module
from eventstore import EventStore, MemoryExists
from eventstore.events import EventRow, PayloadRow
from eventstore.recent import RecentRows


def rows(first: int, count: int) -> list[tuple[EventRow, PayloadRow]]:
    """Rows at consecutive positions."""
    digest = bytes(32)
    return [
        (
            EventRow(at, f"e{at}", "m", at, None, 1, at, "ADD", at, *[None] * 7, digest, digest),  # type: ignore[arg-type]
            PayloadRow(at, bytes(16), "text", "{}", bytes(8)),
        )
        for at in range(first, first + count)
    ]


@given(
    appends=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=12),
    asked=st.tuples(st.integers(0, 120), st.integers(0, 30)),
)
def test_a_range_is_whole_or_not_there(appends: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    """Whatever others appended in between, and whatever was let go of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_ROWS", 16)
        recent, at = RecentRows(), 1
        for skipped, count in appends:
            at += skipped
            recent.put(rows(at, count))
            at += count
            assert recent.between(at - count - 1, at - 1) == rows(at - count, count)
        after, upto = asked[0], asked[0] + asked[1]
        found = recent.between(after, upto)
        assert found is None or found == rows(after + 1, upto - after)
        assert recent.between(at - 2, at) is None
        assert len(recent._rows) <= 16


def test_memory_is_bounded_by_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few large rows are as much as many small ones."""
    monkeypatch.setattr(module, "_MOST_BYTES", 100)
    recent = RecentRows()
    for at in range(1, 60):
        recent.put(rows(at, 1))
        assert recent._bytes == sum(map(module._size, recent._rows)) <= 100
        assert recent.between(at - 1, at) is not None
    recent.put(rows(60, 50))
    assert recent._bytes <= 100


@pytest.mark.parametrize(("text", "least"), [("x" * 50, 50), ("x" * 49 + "\N{TEACUP WITHOUT HANDLE}", 200)])
def test_a_text_is_as_large_as_the_characters_in_it_make_it(text: str, least: int) -> None:
    """One that is no ASCII makes Python take up to four bytes for each of the others too."""
    ((header, payload),) = rows(1, 1)
    assert module._size((header, payload._replace(content=text, metadata="", embedding=None))) == least


def reads_of(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that reads run from now on."""
    asked: list[str] = []
    original = store._connections.fetch
    monkeypatch.setattr(
        store._connections, "fetch", lambda sql, p=(), **how: (asked.append(sql), original(sql, p, **how))[1]
    )
    return asked


def columns(store: EventStore) -> list[Any]:
    """Every column of the history, as an index gets them."""
    got = store.event_range(0, store.position).columns()
    return [np.asarray(getattr(got, name)).tolist() for name in got.__slots__]


def test_an_own_append_is_not_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is the same, to the bit, as what another store reads from the file."""
    path = tmp_path / "agent.db"
    with EventStore(path) as store, EventStore(path) as other:
        store.add_many(["a", "b", "c"], vectors=np.eye(3), memory_ids=["a", "b", "c"])
        store.update("a", "A", vector=[1, 1, 1])
        store.update("b", metadata={"n": 1})
        store.delete("c")
        with pytest.raises(MemoryExists):
            store.add("again", vector=[1, 0, 0], memory_id="a")
        asked = reads_of(store, monkeypatch)
        mine = columns(store)
        assert not [sql for sql in asked if "payloads" in sql or "payload_digest" in sql]
        assert mine == columns(other)


def test_what_others_append_is_read(tmp_path: Path) -> None:
    """Between two appends of one's own, and after them."""
    path = tmp_path / "agent.db"
    with EventStore(path) as store, EventStore(path) as other:
        for number in range(4):
            (store, other)[number % 2].add("x", vector=[number, 1], memory_id=f"m{number}")
            assert columns(store) == columns(other)
