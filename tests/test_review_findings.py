"""What a review of the main job broke: each stays mended."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventstore import (
    Add,
    CorruptHistory,
    EventStore,
    ImportFailed,
    InvalidOperation,
    PositionConflict,
    read_json_lines,
)
from eventstore.versions import VersionTable
from replay import verify
from tests.store_support import lead_of


@pytest.mark.parametrize("exponent", [-320, -7, -5, -4, 0, 15, 16, 17, 22, 300])
def test_metadata_with_floats_verify_and_travel(tmp_path: Path, exponent: int) -> None:
    """What is recorded is Python's own spelling of a float, in every version of every library."""
    with EventStore() as store:
        store.add("x", vector=[1.0], metadata={"f": float(f"1.5e{exponent}"), "deep": [float(f"-1e{exponent}")]})
        assert verify(store).ok
        store.export(tmp_path / "out.jsonl")
        with EventStore() as copy:
            copy.import_events(read_json_lines(tmp_path / "out.jsonl"), source="copy")
            assert copy.head == store.head


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", "-journal"])
def test_an_export_never_overwrites_the_history(tmp_path: Path, ending: str) -> None:
    """Nor the files beside it, under whatever name."""
    with EventStore(tmp_path / "a.db") as store:
        store.add("x", vector=[1.0])
        (tmp_path / "link").symlink_to(tmp_path / f"a.db{ending}")
        for path in (tmp_path / f"a.db{ending}", tmp_path / "link"):
            with pytest.raises(InvalidOperation, match="history itself"):
                store.export(path, overwrite=True)


def test_a_retry_of_a_guarded_append_returns_what_is_there() -> None:
    """The position has moved because the append itself moved it."""
    with EventStore() as store:
        operations = [Add(content="a", vector=[1.0], event_id="e1"), Add(content="b", vector=[1.0], event_id="e2")]
        first = store.append(operations, expected_position=0)
        assert store.append(operations, expected_position=0) == first
        with pytest.raises(PositionConflict):
            store.append([*operations, Add(content="c", vector=[1.0])], expected_position=0)


def test_a_write_from_inside_an_import_is_refused_while_others_wait(tmp_path: Path) -> None:
    """It would wait for a group that waits for the import."""
    with EventStore(tmp_path / "a.db") as store:
        waiting = threading.Thread(target=lambda: store.add("other", vector=[1.0]), daemon=True)

        def records() -> Any:
            waiting.start()
            while store._writer._group._leader is None:
                pass
            with pytest.raises(InvalidOperation, match="inside another"):
                store.add("inner", vector=[1.0])
            yield {"content": "imported", "vector": [1.0]}

        assert store.import_events(records(), source="test").imported == 1
        waiting.join(30)
        assert not waiting.is_alive()
        assert sorted(memory.content for memory in store.memories()) == ["imported", "other"]


def test_numbers_past_64_bits_in_json_lines_are_refused(tmp_path: Path) -> None:
    """Not rounded to a float on the way."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"content": "x", "vector": [1.0], "metadata": {"n": 123456789012345678901234567890}}\n')
    with EventStore() as store, pytest.raises(ImportFailed, match="64 bits"):
        store.import_events(read_json_lines(path), source="test")
    path.write_text('{"content": "x", "vector": [1.0], "metadata": {"n": 18446744073709551615}}\n\n\n')
    with EventStore() as store:
        store.import_events(read_json_lines(path), source="test")
        assert store.memories()[0].metadata == {"n": 2**64 - 1}


@pytest.mark.parametrize("tamper", ["change", "drop"])
def test_an_export_that_was_changed_is_not_imported(tmp_path: Path, tamper: str) -> None:
    """Headers too, and missing lines: the records carry the hashes that they had."""
    with EventStore() as store:
        store.add_many(["a", "b", "c"], vectors=[[1.0]] * 3, actor_id="alice")
        store.export(tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text().splitlines(keepends=True)
    lines = [lines[0], lines[1].replace("alice", "mallory"), lines[2]] if tamper == "change" else [lines[0], lines[2]]
    (tmp_path / "out.jsonl").write_text("".join(lines))
    with EventStore() as store:
        with pytest.raises(ImportFailed, match=r"line 2: .* hash"):
            store.import_events(read_json_lines(tmp_path / "out.jsonl"), source="test")
        assert store.position == 0


@pytest.mark.parametrize("records", [5, "text", {"content": "x"}, None])
def test_records_that_are_no_records_are_refused(records: Any) -> None:
    """One clear error."""
    with EventStore() as store, pytest.raises(InvalidOperation, match="records is of type"):
        store.import_events(records, source="test")


def test_delete_where_sees_what_was_written_while_it_was_looking(tmp_path: Path) -> None:
    """What came after the first look is looked at under the lock, and what went is not deleted again."""
    with EventStore(tmp_path / "a.db") as store, EventStore(tmp_path / "a.db") as other:
        for name in ("old", "gone", "changed"):
            store.add(name, vector=[1.0], memory_id=name, metadata={"n": 1})
        original = store._reader.metadata

        def meddled(positions: Any) -> Any:
            found = list(original(positions))
            if not raced:
                raced.append(True)
                other.add("new", vector=[1.0], memory_id="new", metadata={"n": 1})
                other.delete("gone")
                other.update("changed", metadata={"n": 2})
            return iter(found)

        raced: list[bool] = []
        store._reader.metadata = meddled  # type: ignore[method-assign]
        deleted = store.delete_where({"n": 1})
        assert sorted(event.memory_id for event in deleted) == ["new", "old"]
        assert [memory.memory_id for memory in store.memories()] == ["changed"]


def test_a_deleted_memory_that_comes_again_was_gone_in_between() -> None:
    """The ADD that follows a DELETE does not bring back what the DELETE ended."""
    table = VersionTable()
    table.extend(np.array([1, 2, 3]), np.array([False, True, False]), np.array([0, 1, 2]))
    assert [table.current(position).tolist() for position in range(4)] == [[], [1], [], [3]]


def test_one_too_large_append_does_not_fail_its_group(tmp_path: Path) -> None:
    """An error of one append that only SQLite notices is that append's own."""
    import sqlite3

    with EventStore(tmp_path / "a.db") as store:
        store.add("first", vector=[1.0])
        store._connections._writer.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000)
        results: dict[str, Any] = {}

        def add(content: str) -> None:
            try:
                results[content[:4]] = store.add(content, vector=[1.0])
            except Exception as error:
                results[content[:4]] = error

        with lead_of(store._writer._group):
            threads = [threading.Thread(target=add, args=(text,), daemon=True) for text in ("big " * 3000, "good")]
            for thread in threads:
                thread.start()
            while len(store._writer._group._waiting) < 2:
                pass
        for thread in threads:
            thread.join(30)
        assert isinstance(results["big "], InvalidOperation)
        assert results["good"].position == 2


@pytest.mark.parametrize("column", [b"migration_set", b"applied_at"])
def test_a_schema_whose_text_was_changed_is_damage_and_no_traceback(tmp_path: Path, column: bytes) -> None:
    """As of sqlite-utils' own table of migrations."""
    path = tmp_path / "a.db"
    EventStore(path).close()
    content = path.read_bytes()
    assert content.count(column)
    path.write_bytes(content.replace(column, column[:-1] + b"x"))
    with pytest.raises(CorruptHistory, match="damaged"):
        EventStore(path)
