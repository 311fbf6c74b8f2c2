"""Opening and reading a file in a process must not cost that process its locks on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eventstore import EventStore
from replay import recover, state, verify

ELSEWHERE = """
import sys
from eventstore import EventStore
with EventStore(sys.argv[1]) as store:
    print(store.position)
"""


def position_elsewhere(path: Path) -> int:
    """What another process sees, which opens the history and closes it."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(path)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


MEANWHILE: dict[str, Callable[[EventStore, Path], object]] = {
    "opened and closed": lambda store, path: EventStore(path).close(),
    "verified": lambda store, path: verify(path),
    "recovered": lambda store, path: recover(store, None, path.with_name("b.db")),
    "exported": lambda store, path: store.export(path.with_name("b.jsonl")),
    "read": lambda store, path: state(store),
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_an_append_outlives_what_else_is_done_with_the_file(tmp_path: Path, what: str) -> None:
    """The file is used once more by the same process, then by another one; what is appended after it is there.

    Closing a file drops every lock that the process has on it, by whatever descriptor: the other process would
    then take itself for the last one and delete the write-ahead log, which the first goes on writing to.
    """
    path = tmp_path / "a.db"
    with EventStore(path) as store:
        store.add("one", vector=[1, 2])
        MEANWHILE[what](store, path)
        assert position_elsewhere(path) == 1
        assert os.path.exists(f"{path}-wal")
        store.add("two", vector=[1, 2])
        assert position_elsewhere(path) == 2
