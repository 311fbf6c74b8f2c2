"""What needs the index: `search`, `rebuild`, `checkpoint` and `verify`."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eventstore import EventStore, HashingEmbedder
from projections import VectorIndex
from tests.cli_support import call, error, make_history, ok, ok_json, unchanged


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A small history without an index."""
    path = tmp_path / "h.db"
    make_history(path)
    return path


def found(db: Path, *arguments: object) -> list[str]:
    return [hit["memory_id"] for hit in ok_json("search", db, *arguments)["hits"]]


class TestSearch:
    def test_answers_as_the_library_does(self, db: Path) -> None:
        """Same hits, same scores, by the built-in embedder that the history names."""
        with EventStore(db, embedder=HashingEmbedder()) as store, VectorIndex(store) as index:
            expected = index.search("who drinks tea?", 2)
        answer = ok_json("search", db, "who drinks tea?", "-k", 2)
        assert [(hit["memory_id"], hit["score"]) for hit in answer["hits"]] == [
            (h.memory_id, h.score) for h in expected
        ]
        assert (answer["position"], answer["exact"], answer["metric"]) == (6, True, "cosine")
        assert answer["recorded_at"] == "2024-01-01T00:00:05.000000+00:00"

    def test_the_keys_of_a_hit(self, db: Path) -> None:
        """They are a contract."""
        hit = ok_json("search", db, "Alice coffee", "-k", 1)["hits"][0]
        assert isinstance(hit.pop("score"), float)
        assert hit == {
            "memory_id": "tea",
            "content": "Alice drinks coffee",
            "metadata": {"user": "alice"},
            "version": 2,
            "position": 3,
            "created_at": "2024-01-01T00:00:01.000000+00:00",
            "updated_at": "2024-01-01T00:00:03.000000+00:00",
        }

    def test_as_of(self, db: Path) -> None:
        """What would have been found then."""
        then = ok_json("search", db, "what does Alice drink?", "--as-of", "2024-01-01T00:00:02Z", "-k", 1)
        assert (then["position"], then["hits"][0]["content"]) == (2, "Alice drinks tea")

    def test_filter_score_and_count(self, db: Path) -> None:
        """All applied inside the search."""
        assert found(db, "the sun and the bus", "--filter", '{"user": "alice"}') == ["tea"]
        assert len(found(db, "the sun")) == 3
        assert found(db, "the sun shines", "--min-score", "0.99") == ["sun"]
        assert found(db, "the sun", "-k", "1") == ["sun"]

    @pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
    def test_a_vector_instead_of_a_text(self, db: Path, tmp_path: Path, metric: str) -> None:
        """From a list or from a file, by any metric, and whatever the embedder."""
        vector = HashingEmbedder()(["The sun shines"])[0]
        np.save(tmp_path / "v.npy", vector)
        assert found(db, "--vector", tmp_path / "v.npy", "-k", 1, "--metric", metric) == ["sun"]
        assert found(db, "--vector", json.dumps(vector.tolist()), "-k", 1, "--metric", metric) == ["sun"]

    def test_for_people(self, db: Path) -> None:
        """A table, and what the answer is true of."""
        shown = ok("search", db, "the sun shines", "-k", 1).splitlines()
        assert shown[0].split() == ["score", "memory", "v", "since", "content"]
        assert shown[1] == "1.0000  sun     1  2024-01-01 00:00:05Z  The sun shines"
        assert shown[3] == "1 of 3 memories as of position 6 (2024-01-01 00:00:05Z)"

    def test_an_empty_history(self, tmp_path: Path) -> None:
        """Has no hits, whatever is asked."""
        EventStore(tmp_path / "e.db").close()
        assert ok_json("search", tmp_path / "e.db", "tea")["hits"] == []
        assert "0 of 0 memories as of position 0" in ok("search", tmp_path / "e.db", "--vector", "[1, 2]")

    def test_text_without_an_embedder(self, tmp_path: Path) -> None:
        """The error says what to do."""
        with EventStore(tmp_path / "v.db") as store:
            store.add("a", vector=[1.0, 2.0])
        line = error("search", tmp_path / "v.db", "tea", code=3)
        assert "--embedder MODULE:ATTRIBUTE" in line
        assert "--vector" in line

    @pytest.mark.parametrize(
        "arguments", [(), ("tea", "--vector", "[1]"), ("tea", "-k", "0"), ("tea", "--metric", "l1")]
    )
    def test_wrong_usage(self, db: Path, arguments: tuple[str, ...]) -> None:
        """Neither or both of text and vector, no hits wanted, an unknown metric."""
        error("search", db, *arguments, code=2)

    def test_bad_vectors(self, db: Path) -> None:
        """Of another dimension, or without a direction."""
        assert "256" in error("search", db, "--vector", "[1, 2]", code=3)
        assert "zeros" in error("search", db, "--vector", json.dumps([0] * 256), code=3)

    def test_a_damaged_checkpoint_is_one_warning(self, db: Path) -> None:
        """And the answer is right all the same."""
        ok("checkpoint", db)
        (segment,) = (db.parent / "h.db.index").glob("vectors-*")
        segment.write_bytes(b"x" * segment.stat().st_size)
        result = call("search", db, "the sun shines", "-k", 1, "--json")
        assert json.loads(result.stdout)["hits"][0]["memory_id"] == "sun"
        assert result.stderr.startswith("warning: index checkpoint ")
        assert result.stderr.count("\n") == 1


class TestIndexCommands:
    def test_checkpoint(self, db: Path) -> None:
        """Beside the database, at its head."""
        made = ok_json("checkpoint", db)
        assert made == {"position": 6, "directory": f"{db}.index"}
        assert list(Path(made["directory"]).glob("generation-*.json"))
        assert ok("checkpoint", db) == f"checkpoint at position 6: {db}.index\n"

    def test_rebuild_after_the_index_was_destroyed(self, db: Path) -> None:
        """From the history alone."""
        ok("checkpoint", db)
        before = ok_json("search", db, "tea")
        for file in (db.parent / "h.db.index").iterdir():
            file.write_bytes(b"\0")
        assert call("rebuild", db, "--json").exit_code == 0
        assert ok_json("verify", db)["index"] == {"directory": f"{db}.index", "position": 6}
        assert ok_json("search", db, "tea") == before
        assert ok("rebuild", db) == f"rebuilt from 6 events: {db}.index\n"

    def test_the_index_can_be_elsewhere(self, db: Path, tmp_path: Path) -> None:
        """--index, on every command that has one."""
        elsewhere = tmp_path / "elsewhere"
        assert ok_json("checkpoint", db, "--index", elsewhere)["directory"] == str(elsewhere)
        assert ok_json("rebuild", db, "--index", elsewhere)["directory"] == str(elsewhere)
        assert ok_json("verify", db, "--index", elsewhere)["index"]["directory"] == str(elsewhere)
        assert found(db, "Alice coffee", "-k", 1, "--index", elsewhere) == ["tea"]
        assert not Path(f"{db}.index").exists()

    def test_an_index_of_another_history(self, db: Path, tmp_path: Path) -> None:
        """Is refused, and verify reports it."""
        other = tmp_path / "other.db"
        with EventStore(other) as store:
            store.add("a", vector=[1.0, 2.0])
        ok("checkpoint", other)
        assert "dimension" in error("search", db, "tea", "--index", f"{other}.index", code=3)
        report = call("verify", db, "--index", f"{other}.index", "--json")
        assert report.exit_code == 1
        assert [fault["kind"] for fault in json.loads(report.stdout)["faults"]] == ["index"]


def report(db: Path, *arguments: object) -> tuple[int, dict[str, Any]]:
    result = call("verify", db, "--json", *arguments)
    assert result.stderr == ""
    return result.exit_code, json.loads(result.stdout)


def tamper(db: Path, statement: str) -> None:
    """Change the file behind the triggers' back."""
    with sqlite3.connect(db) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)
    connection.close()


class TestVerify:
    def test_a_sound_history(self, db: Path) -> None:
        """The keys are a contract."""
        ok("checkpoint", db)
        with EventStore(db) as store:
            head = store.head.hash
        assert report(db) == (
            0,
            {
                "ok": True,
                "events": 6,
                "payloads": 6,
                "checked": 6,
                "head": {"position": 6, "recorded_at": "2024-01-01T00:00:05.000000+00:00", "hash": head},
                "index": {"directory": f"{db}.index", "position": 6},
                "good": [{"first": 1, "last": 6}],
                "faults": [],
            },
        )
        assert ok("verify", db).startswith("ok: 6 events of 6 checked whole, index at position 6, head at position 6")

    def test_without_an_index(self, db: Path) -> None:
        """Where there is none there is nothing to compare, and none is made."""
        assert report(db)[1]["index"] is None
        assert "no index" in ok("verify", db)
        assert not Path(f"{db}.index").exists()
        ok("checkpoint", db)
        assert report(db, "--no-index")[1]["index"] is None

    def test_writes_nothing(self, db: Path) -> None:
        """Neither to the history nor to a sound index."""
        ok("checkpoint", db)
        with unchanged(db.parent):
            assert report(db)[0] == 0

    def test_tampering_is_found(self, db: Path) -> None:
        """Exit code 1, each fault with its kind and position."""
        tamper(db, "UPDATE payloads SET content = 'Alice drinks gin' WHERE seq = 3")
        code, found = report(db)
        assert (code, found["ok"], found["events"]) == (1, False, 6)
        assert [fault["position"] for fault in found["faults"] if fault["kind"] == "digest"] == [3]
        assert {fault["kind"] for fault in found["faults"]} == {"digest", "schema"}
        shown = call("verify", db)
        assert shown.exit_code == 1
        assert "digest" in shown.stdout
        assert shown.stdout.splitlines()[-1].endswith("head at position 6 (2024-01-01 00:00:05Z)")

    def test_a_file_too_damaged_to_open(self, db: Path) -> None:
        """What can be read is read; damage is reported, not raised."""
        db.write_bytes(db.read_bytes()[:-20000])
        code, found = report(db)
        assert (code, found["ok"]) == (1, False)
        assert call("log", db).exit_code == 3

    def test_a_damaged_checkpoint_is_a_fault(self, db: Path) -> None:
        """Searching would do without it; whoever verifies wants to know."""
        ok("checkpoint", db)
        (rows,) = (db.parent / "h.db.index").glob("rows-*")
        rows.write_bytes(b"x" * rows.stat().st_size)
        code, found = report(db)
        assert (code, [fault["kind"] for fault in found["faults"]]) == (1, ["index"])

    def test_against_heads_kept_elsewhere(self, db: Path, tmp_path: Path) -> None:
        """A history that was cut, or written anew, does not contain them any more."""
        kept = tmp_path / "heads.jsonl"
        kept.write_text(ok("head", db, "--json") + ok("head", db, "--json", "--as-of", 3))
        line = ok("head", db).split()[1]
        assert report(db, "--against", kept, "--against", line)[0] == 0
        assert "against 3 heads" in ok("verify", db, "--against", kept, "--against", line)
        shorter = tmp_path / "shorter.db"
        ok("recover", db, "--as-of", 4, "--to", shorter)
        assert report(shorter)[0] == 0
        code, found = report(shorter, "--against", kept)
        assert (code, [(fault["kind"], fault["position"]) for fault in found["faults"]]) == (1, [("against", 6)])
        other = tmp_path / "other.db"
        make_history(other)
        assert [fault["position"] for fault in report(other, "--against", kept)[1]["faults"]] == [3, 6]

    def test_many_faults(self, db: Path, tmp_path: Path) -> None:
        """People see the first hundred and how many more; programs all."""
        with EventStore(tmp_path / "m.db") as store:
            store.add_many([str(number) for number in range(150)], vectors=np.ones((150, 2)))
        tamper(tmp_path / "m.db", "UPDATE payloads SET content = 'x'")
        faults = report(tmp_path / "m.db")[1]["faults"]
        assert sum(fault["kind"] == "digest" for fault in faults) == 150
        shown = call("verify", tmp_path / "m.db").stdout.splitlines()
        assert len(shown) < 110
        assert f"... and {len(faults) - 100} more; --json lists them all" in shown
        assert shown[-1].startswith(f"{len(faults)} faults: ")

    def test_what_is_no_history_at_all(self, tmp_path: Path) -> None:
        """A text file has nothing to verify: that is a fault found."""
        (tmp_path / "notes.txt").write_text("notes" * 100)
        code, found = report(tmp_path / "notes.txt", "--no-index")
        assert (code, found["faults"][0]["kind"]) == (1, "file")


def test_reading_commands_change_nothing(db: Path, tmp_path: Path) -> None:
    """Not a byte of the database, and no file beside it."""
    shutil.rmtree(f"{db}.index", ignore_errors=True)
    with unchanged(tmp_path):
        for command in (("log", db), ("show", db, "tea"), ("diff", db, 2), ("stats", db), ("head", db), ("verify", db)):
            ok(*command)
        ok("restore", db, "--as-of", 2, "--dry-run")
        ok("export", db, "-")
