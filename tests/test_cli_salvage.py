"""`replay salvage`: what a damaged file still holds, and a report that people and programs read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eventstore import EventStore
from tests.cli_support import call, error, files, make_history, ok, ok_json, run, unchanged
from tests.replay_support import tamper


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A small history in a folder of its own."""
    (tmp_path / "damaged").mkdir()
    path = tmp_path / "damaged" / "h.db"
    make_history(path)
    return path


@pytest.fixture
def broken(db: Path) -> Path:
    """Of its six events the header of the second and the payload of the third are lost."""
    tamper(
        db,
        "PRAGMA secure_delete = ON",
        "DELETE FROM events WHERE seq = 2",
        "DELETE FROM payloads WHERE seq = 3",
    )
    return db


def test_nothing_is_missing(db: Path, tmp_path: Path) -> None:
    """Exit code 0, though the file does not open: the new one has the head that it had. The keys are a contract."""
    head = ok_json("head", db)
    db.write_bytes(bytes(16384) + db.read_bytes()[16384:])
    error("head", db, code=3)
    with unchanged(db.parent):
        assert ok_json("salvage", db, "--to", tmp_path / "new.db") == {
            "ok": True,
            "database": str(tmp_path / "new.db"),
            **head,
            "kept": 6,
            "last": head,
            "gaps": [],
            "memories": [],
            "moved": [],
        }
        told = ok("salvage", db, "--to", tmp_path / "other.db")
    assert told == f"nothing is missing: {tmp_path / 'other.db'} holds 6 events, as of 2024-01-01 00:00:05Z\n"
    assert ok_json("head", tmp_path / "new.db") == head


def test_gaps_as_json(broken: Path, tmp_path: Path) -> None:
    """Exit code 1, and the report is one object."""
    new = tmp_path / "new.db"
    with unchanged(broken.parent):
        code, out, err = run("salvage", broken, "--to", new, "--json")
    assert (code, err) == (1, "")
    assert out.count("\n") == 1
    report = ok_json("verify", new)
    assert report["ok"]
    found = json.loads(out)
    assert found["ok"] is False
    assert {key: found[key] for key in ("position", "recorded_at", "hash")} == report["head"]
    assert (found["position"], found["kept"], found["last"]["position"]) == (3, 1, 6)
    assert [(gap["kind"], gap["position"], gap["last"]) for gap in found["gaps"]] == [
        ("lost", 2, None),
        ("payload", 3, None),
        ("memory", 4, None),
    ]
    assert found["memories"] == [
        {
            "memory_id": "cat",
            "first_version": 1,
            "last_version": 1,
            "since": 2,
            "until": 4,
            "outdated": False,
        },
        {
            "memory_id": "tea",
            "first_version": 2,
            "last_version": 2,
            "since": 3,
            "until": None,
            "outdated": True,
        },
    ]
    assert found["moved"] == [{"first": 5, "last": 6, "to": 2}]


def test_gaps_for_people(broken: Path, tmp_path: Path) -> None:
    """A table of gaps, one of memories, what moved, and a verdict."""
    result = call("salvage", broken, "--to", tmp_path / "new.db")
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout.splitlines() == [
        "gap      position  what",
        "lost            2  event 2: lost but for the payload, and nothing says whose that is",
        "payload         3  event 3: left out: its payload is lost or is not what was recorded",
        "memory          4  event 4: left out: it deletes a memory that is not there, for what added it is lost",
        "",
        "memory  lost versions  not known from   to",
        "cat                 1               2    4",
        "tea                 2               3  now",
        "",
        "moved: 5-6 are 2-3 now",
        f"3 gaps: {tmp_path / 'new.db'} holds 3 events, as of 2024-01-01 00:00:05Z, "
        "the first 1 of them with the chain that they had",
    ]


def test_long_tables_are_cut(tmp_path: Path) -> None:
    """The rest is in the JSON."""
    db = tmp_path / "h.db"
    with EventStore(db) as store:
        store.add_many(["x"] * 500, vectors=[[1.0, 2.0]] * 500)
    tamper(db, "DELETE FROM payloads WHERE seq % 2 = 1")
    result = call("salvage", db, "--to", tmp_path / "new.db")
    assert result.exit_code == 1
    assert result.stdout.count("... and 150 more; --json lists them all\n") == 2
    assert ", ...\n" in result.stdout


def test_never_over_a_file(broken: Path, tmp_path: Path) -> None:
    """Whatever it is: it stays as it was, and nothing is left beside it."""
    other = tmp_path / "other.txt"
    other.write_text("mine")
    with unchanged(tmp_path):
        assert "exists already" in error("salvage", broken, "--to", other, code=3)
        assert "exists already" in error("salvage", broken, "--to", broken, code=3)
        error("salvage", broken, "--to", tmp_path / "no" / "where.db", code=3)
        error("salvage", broken, code=2)
        error("salvage", broken, "--to", ":memory:", code=2)


def test_a_file_in_which_nothing_is_left(db: Path, tmp_path: Path) -> None:
    """An error, and no new file."""
    db.write_bytes(bytes(db.stat().st_size))
    before = files(tmp_path)
    assert "nothing of a history can be salvaged" in error("salvage", db, "--to", tmp_path / "new.db", code=3)
    assert files(tmp_path) == before
