"""The file of schema version 1 that is kept: whatever asof becomes, it reads from it what was read when it was made."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventstore import Add, EventStore
from projections import VectorIndex
from replay import state, verify
from tests.data import make_v1

EXPECTED: dict[str, Any] = json.loads((make_v1.HERE / "v1.json").read_text(encoding="utf-8"))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A copy of the kept file."""
    return make_v1.unpack(tmp_path / "v1.db")


def test_it_is_what_it_says(kept: Path) -> None:
    """A version-1 file with one step of the schema, closed, and with every kind of thing in it."""
    with closing(sqlite3.connect(f"file:{kept}?mode=ro&immutable=1", uri=True)) as connection:
        assert connection.execute("SELECT name FROM _sqlite_migrations").fetchall() == [("m001_history",)]
        types = connection.execute("SELECT DISTINCT type FROM events ORDER BY type").fetchall()
        assert types == [("ADD",), ("DELETE",), ("UPDATE",)]
        again = "SELECT count(*) FROM events WHERE type = 'ADD' AND version > 1"
        assert connection.execute(again).fetchone()[0] >= 2
        assert connection.execute("SELECT count(*) FROM events WHERE embedding_seq < seq").fetchone()[0] >= 2
        assert connection.execute("SELECT count(*) FROM events WHERE source IS NOT NULL").fetchone()[0] >= 3
        assert connection.execute("SELECT min(recorded_at) < 0 FROM events").fetchone() == (1,)
    assert sum(path.stat().st_size for path in make_v1.HERE.glob("v1.db*")) < 100_000


@pytest.mark.parametrize("what", EXPECTED)
def test_every_read_answers_as_it_did(kept: Path, what: str) -> None:
    """Events, history, memories and vectors of the past, hashes, instants, filters: to the bit."""
    # As text: 0 is not -0.0, and 1 not 1.0.
    assert json.dumps(make_v1.describe(kept)[what]) == json.dumps(EXPECTED[what])


def test_it_is_sound(kept: Path) -> None:
    """By the checks of today."""
    report = verify(kept, against=[(int(at), digest) for at, digest in EXPECTED["hashes"].items()])
    assert report.faults == []
    assert report.events == EXPECTED["head"]["position"]


def test_it_goes_on(kept: Path) -> None:
    """It takes appends, its chain goes on from the head it had, and an index can be made of it."""
    with EventStore(kept, embedder=make_v1.embed) as store:
        head = store.head
        added = store.append([Add(content="today")])[-1]
        assert added.position == head.position + 1
        assert store.hash_at(head.position) == EXPECTED["head"]["hash"]
        with VectorIndex(store) as index:
            assert index.search("today", 1)[0].memory_id == added.memory_id
        then = EXPECTED["memories"][str(head.position)]
        assert {*state(store, head.position).memories} == {memory["memory_id"] for memory in then}
    assert verify(kept).ok
