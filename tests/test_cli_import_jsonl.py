"""`replay import jsonl`: foreign records, their keys, their vectors, their mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventstore import EventStore, transfer
from replay.cli import foreign
from tests.cli_support import error, ok, ok_json, unchanged

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FOREIGN = [
    {"event": "ADD", "id": "a", "text": "one", "at": "2024-01-01T00:00:00Z", "who": "ann", "commit": "c1", "v": 0},
    {"event": "ADD", "id": "b", "text": "two", "at": "2024-01-02T00:00:00Z", "who": None, "commit": "c2", "v": 1},
    {"event": "DELETE", "id": "a", "at": "2024-01-02T00:00:00Z", "who": "bob", "commit": "c2", "v": None, "why": "x"},
]
MAPPED = "--map type=event --map memory_id=id --map content=text --map recorded_at=at --map actor_id=who --map vector=v"


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    np.save(tmp_path / "v.npy", np.eye(2, dtype=np.float32))
    return tmp_path / "v.npy"


def test_keys_are_renamed_moved_and_left_out(tmp_path: Path, vectors: Path) -> None:
    """What comes out is what the options say, with the records' own times."""
    file = lines(tmp_path / "foreign.jsonl", *FOREIGN)
    arguments = ["import", "jsonl", file, tmp_path / "s.db", "--vectors", vectors, *MAPPED.split()]
    assert ok_json(*arguments, "--metadata", "commit", "--ignore", "why") == {
        "imported": 3,
        "already_there": 0,
        "first_position": 1,
        "last_position": 3,
        "first_recorded_at": "2024-01-01T00:00:00.000000+00:00",
        "last_recorded_at": "2024-01-02T00:00:00.000000+00:00",
        "source": "foreign.jsonl",
    }
    with EventStore(tmp_path / "s.db") as store:
        one, two, three = store.events()
    assert one.vector is not None
    assert (one.memory_id, one.content, one.metadata, one.actor_id) == ("a", "one", {"commit": "c1"}, "ann")
    assert (one.vector.tolist(), one.source) == ([1.0, 0.0], "foreign.jsonl")
    assert (two.recorded_at, two.metadata) == (three.recorded_at, {"commit": "c2"})
    assert (three.type, three.actor_id) == ("DELETE", "bob")


def test_what_people_are_told(tmp_path: Path) -> None:
    """How many, from when to when; and on the second time that nothing is new."""
    record = {"content": "x", "vector": [1.0], "event_id": "e1", "recorded_at": "2024-01-01T00:00:00Z"}
    file, db = lines(tmp_path / "f", record), tmp_path / "s.db"
    assert ok("import", "jsonl", file, db) == f"imported 1 event into {db}, at 2024-01-01 00:00:00Z, positions 1 to 1\n"
    told = ok("import", "jsonl", file, db)
    assert told == f"nothing new for {db}, which ends at position 1; 1 event there already\n"


def test_one_key_can_become_two(tmp_path: Path) -> None:
    """A copy, where a record means two things by it."""
    file = lines(tmp_path / "f", {"text": "x", "vector": [1.0]})
    ok(
        "import",
        "jsonl",
        file,
        tmp_path / "s.db",
        "--map",
        "content=text",
        "--map",
        "reason=text",
        "--metadata",
        "text",
    )
    with EventStore(tmp_path / "s.db") as store:
        (event,) = store.events()
    assert (event.content, event.reason, event.metadata) == ("x", "x", {"text": "x"})


def test_metadata_keys_join_the_metadata_that_is_there(tmp_path: Path) -> None:
    """And never replace any of it."""
    file = lines(tmp_path / "f", {"content": "x", "vector": [1.0], "metadata": {"a": 1}, "b": 2})
    ok("import", "jsonl", file, tmp_path / "s.db", "--metadata", "b", "--metadata", "absent")
    assert ok_json("diff", tmp_path / "s.db", 0)["added"][0]["metadata"] == {"a": 1, "b": 2}
    file = lines(tmp_path / "f", {"content": "x", "vector": [1.0], "metadata": {"b": 1}, "b": 2})
    assert "line 1: metadata has 'b' already" in refused(tmp_path, "--metadata", "b")


def refused(tmp_path: Path, *arguments: object, code: int = 3) -> str:
    """The error of an import of the file f into a new store: nothing may come of it."""
    with unchanged(tmp_path):
        return error("import", "jsonl", tmp_path / "f", tmp_path / "new.db", *arguments, code=code)


def test_unknown_keys_are_all_named_with_what_to_do(tmp_path: Path) -> None:
    """Nothing is dropped unsaid."""
    lines(tmp_path / "f", {"content": "x", "vector": [1.0], "commit": "c", "at": "y"})
    line = refused(tmp_path)
    assert line == (
        "line 1: unknown keys 'commit', 'at': for each give --map OURS=commit, --metadata commit or --ignore commit; "
        "nothing was imported"
    )


def test_a_key_that_would_be_overwritten(tmp_path: Path) -> None:
    """Is an error, not a loss."""
    lines(tmp_path / "f", {"content": "x", "text": "y", "vector": [1.0]})
    assert "--ignore content" in refused(tmp_path, "--map", "content=text")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"content": "x", "vector": [1]}\n{"content"\n', "line 2: not JSON"),
        ('{"content": "x", "vector": [1]}\n[]\n', "line 2: not a JSON object"),
        ('{"content": "x", "vector": 7}\n', "line 1: vector is 7, not a list"),
        ('{"content": "x", "vector": [1, 2]}\n{"content": "y", "vector": [1]}\n', "line 2: vector has 1 numbers"),
        ('{"content": "x", "vector": [1], "type": "MOVE"}\n', "line 1: type 'MOVE' is not"),
        ('{"memory_id": "x", "type": "DELETE"}\n', "line 1: memory 'x' does not exist"),
        ('{"content": "x"}\n', "name one with --embedder MODULE:ATTRIBUTE"),
        (
            '{"content": "x", "vector": [1], "recorded_at": "2024-01-02T00:00:00Z"}\n'
            '{"content": "x", "vector": [1], "recorded_at": "2024-01-01T00:00:00Z"}\n',
            "--no-keep-times",
        ),
        ('{"content": "x", "vector": [1], "recorded_at": "2999-01-01T00:00:00Z"}\n', "line 1: recorded_at 2999"),
    ],
)
def test_a_mistake_is_named_by_its_line_and_nothing_is_imported(tmp_path: Path, content: str, says: str) -> None:
    """And no new store is left behind."""
    (tmp_path / "f").write_text(content)
    assert says in refused(tmp_path)


def test_a_failed_import_leaves_a_store_as_it_was(tmp_path: Path) -> None:
    """Byte for byte."""
    with EventStore(tmp_path / "s.db") as store:
        store.add("x", vector=[1.0])
    file = lines(tmp_path / "f", {"content": "y", "vector": [1.0]}, {"content": "z", "vector": [1.0, 2.0]})
    with unchanged(tmp_path):
        assert "line 2" in error("import", "jsonl", file, tmp_path / "s.db", code=3)


def test_rows_of_a_vector_file(tmp_path: Path, vectors: Path) -> None:
    """Under our key or under theirs; a row that is not there names the line."""
    lines(tmp_path / "f", {"content": "x", "v": 1})
    arguments = ("--vectors", vectors, "--map", "vector=v")
    ok("import", "jsonl", tmp_path / "f", tmp_path / "s.db", *arguments)
    with EventStore(tmp_path / "s.db") as store:
        assert store.vectors()[1].tolist() == [[0.0, 1.0]]
    lines(tmp_path / "f", {"content": "x", "v": 2})
    assert "line 1: vector is row 2, and --vectors has 2 rows" in refused(tmp_path, *arguments)
    assert "there is no --vectors" in refused(tmp_path, "--map", "vector=v")
    lines(tmp_path / "f", {"content": "x", "vector": 2})
    assert "line 1: vector 2 is no row" in refused(tmp_path, "--vectors", vectors)


def test_times_need_not_be_kept(tmp_path: Path) -> None:
    """All are recorded now, and the records' times become occurred_at."""
    record = {"content": "x", "vector": [1.0], "recorded_at": "2999-01-01T00:00:00Z"}
    ok("import", "jsonl", lines(tmp_path / "f", record), tmp_path / "s.db", "--no-keep-times", "--source", "elsewhere")
    (event,) = (json.loads(line) for line in ok("log", tmp_path / "s.db", "--json").splitlines())
    assert event["occurred_at"] == "2999-01-01T00:00:00.000000+00:00"
    assert event["recorded_at"] < "2999"
    assert event["source"] == "elsewhere"


def test_text_is_embedded(tmp_path: Path) -> None:
    """By a built-in embedder that is named once: later imports find it in the store."""
    db = tmp_path / "s.db"
    ok("import", "jsonl", lines(tmp_path / "f", {"content": "tea"}), db, "--embedder", "hashing-64-v1")
    ok("import", "jsonl", lines(tmp_path / "f", {"content": "coffee"}), db)
    assert (ok_json("stats", db)["embedder"], ok_json("stats", db)["dimension"]) == ("hashing-64-v1", 64)
    assert ok_json("search", db, "coffee", "-k", 1)["hits"][0]["content"] == "coffee"
    line = error("import", "jsonl", tmp_path / "f", db, "--embedder", "hashing-32-v1", code=3)
    assert "--accept-embedder-change" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--map", "text=content"), "a record has no 'text'"),
        (("--map", "content"), "OURS=THEIRS"),
        (("--vectors", "none.npy"), "cannot be read"),
        (("--embedder", "x"), "MODULE:ATTRIBUTE"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    """Exit code 2, and no store."""
    lines(tmp_path / "f", {"content": "x", "vector": [1.0]})
    assert says in refused(tmp_path, *arguments, code=2)


def test_a_store_that_cannot_be(tmp_path: Path) -> None:
    """Another application's file, a directory, a folder that is not there, a history in memory."""
    file = lines(tmp_path / "f", {"content": "x", "vector": [1.0]})
    with unchanged(tmp_path):
        assert "not an SQLite database" in error("import", "jsonl", file, file, code=3)
        error("import", "jsonl", file, tmp_path / "no" / "s.db", code=3)
        error("import", "jsonl", file, tmp_path, code=2)
        error("import", "jsonl", file, ":memory:", code=2)
        error("import", "jsonl", tmp_path / "none", tmp_path / "s.db", code=2)


def test_the_keys_that_a_record_may_have_are_the_librarys() -> None:
    """The command names unknown keys itself, so that it can name its options."""
    assert foreign.OURS | foreign._EXPORTED == transfer._TAKEN | transfer._DERIVED


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared histories are not here")
def test_a_real_history(tmp_path: Path) -> None:
    """Six years of edits to a notes repository, with real embeddings."""
    keys = "--map type=event --map memory_id=id --map content=text --map recorded_at=at --map actor_id=actor"
    told = ok_json(
        *("import", "jsonl", DATA / "til-history.jsonl", tmp_path / "til.db"),
        *("--vectors", DATA / "til-history.npy", *keys.split(), "--metadata", "commit"),
    )
    assert (told["imported"], told["last_recorded_at"]) == (1932, "2026-07-14T03:50:11.000000+00:00")
    assert ok_json("verify", tmp_path / "til.db")["ok"]
