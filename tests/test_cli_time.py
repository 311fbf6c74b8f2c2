"""Going back: `recover`, `restore`, and `export` with `import jsonl` of what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eventstore import EventStore, HashingEmbedder
from tests.cli_support import call, error, files, make_history, ok, ok_json, unchanged


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A small history."""
    path = tmp_path / "h.db"
    make_history(path)
    return path


class TestRecover:
    def test_a_new_database_of_the_history_up_to_then(self, db: Path, tmp_path: Path) -> None:
        """With the same chain: its head is the one that DB had."""
        new = tmp_path / "new.db"
        with EventStore(db) as store:
            head = store.head_at(3)
        assert ok_json("recover", db, "--as-of", "2024-01-01T00:00:03Z", "--to", new) == {
            "database": str(new),
            "position": 3,
            "recorded_at": "2024-01-01T00:00:03.000000+00:00",
            "hash": head.hash,
        }
        assert ok_json("head", new)["hash"] == head.hash
        assert ok_json("diff", new, 0)["added"] == ok_json("diff", db, 0, 3)["added"]

    def test_all_of_it(self, db: Path, tmp_path: Path) -> None:
        """As of now."""
        told = ok("recover", db, "--as-of", "now", "--to", tmp_path / "new.db")
        assert told == f"{tmp_path / 'new.db'} holds 6 events, as of 2024-01-01 00:00:05Z\n"

    def test_never_over_a_file(self, db: Path, tmp_path: Path) -> None:
        """Whatever it is: it stays as it was."""
        other = tmp_path / "other.txt"
        other.write_text("mine")
        with unchanged(tmp_path):
            assert "exists already" in error("recover", db, "--as-of", 3, "--to", other, code=3)
            assert "exists already" in error("recover", db, "--as-of", 3, "--to", db, code=3)
            error("recover", db, "--as-of", 3, "--to", tmp_path / "no" / "where.db", code=3)
            error("recover", db, "--as-of", 7, "--to", tmp_path / "new.db", code=3)

    @pytest.mark.parametrize("arguments", [("--to", "new.db"), ("--as-of", "3"), ("--as-of", "3", "--to", ":memory:")])
    def test_wrong_usage(self, db: Path, arguments: tuple[str, ...]) -> None:
        """Both options are needed, and a file."""
        error("recover", db, *arguments, code=2)


class TestRestore:
    def test_the_present_becomes_what_it_was(self, db: Path) -> None:
        """By appending; the keys are a contract."""
        before = ok_json("diff", db, 0, 2)
        done = ok_json("restore", db, "--as-of", 2, "--reason", "a mistake", "--actor", "ann")
        change = done.pop("diff")
        assert done == {"dry_run": False, "events": 4, "position_before": 6, "position_after": 10}
        assert change == ok_json("diff", db, 6, 2)
        assert [(m["memory_id"], m["content"]) for m in ok_json("diff", db, 0)["added"]] == [
            (m["memory_id"], m["content"]) for m in before["added"]
        ]
        events = [json.loads(line) for line in ok("log", db, "--after", 6, "--json").splitlines()]
        assert {(event["reason"], event["actor_id"]) for event in events} == {("a mistake", "ann")}

    def test_it_can_be_undone(self, db: Path) -> None:
        """The command says how."""
        told = ok("restore", db, "--as-of", 2).splitlines()
        assert told == [
            "restored to position 2 (2024-01-01 00:00:02Z): 1 added, 1 updated, 2 deleted, in 4 new events",
            f"to undo it: replay restore {db} --as-of 6",
        ]
        ok(*told[1].split()[4:])
        assert not call("diff", db, 6, "--exit-code").exit_code
        assert ok_json("verify", db)["ok"]

    def test_a_dry_run_changes_nothing(self, db: Path, tmp_path: Path) -> None:
        """And says what would change."""
        with unchanged(tmp_path):
            told = ok("restore", db, "--as-of", 2, "--dry-run")
            planned = ok_json("restore", db, "--as-of", 2, "-n")
        assert "-  bus " in told
        assert told.endswith(
            "would change back to position 2 (2024-01-01 00:00:02Z): "
            "1 added, 1 updated, 2 deleted; nothing was changed\n"
        )
        assert planned.pop("diff") == ok_json("diff", db, 6, 2)
        assert planned == {"dry_run": True, "events": 0, "position_before": 6, "position_after": 6}

    def test_nothing_to_restore(self, db: Path) -> None:
        """Is no event."""
        assert ok("restore", db, "--as-of", "now").startswith("nothing to restore: ")
        assert ok_json("restore", db, "--as-of", 6)["position_after"] == 6

    def test_wrong_usage(self, db: Path) -> None:
        """There is no instant to go back to unless it is named."""
        assert "--as-of" in error("restore", db, code=2)


class TestExport:
    def test_there_and_back(self, db: Path, tmp_path: Path) -> None:
        """The same events, instants and head."""
        file, copy = tmp_path / "h.jsonl", tmp_path / "copy.db"
        assert ok_json("export", db, file) == {"file": str(file), "events": 6}
        ok("import", "jsonl", file, copy)
        assert ok_json("head", copy) == ok_json("head", db)
        assert ok("export", copy, "-") == ok("export", db, "-") == file.read_text()

    def test_up_to_an_instant(self, db: Path, tmp_path: Path) -> None:
        """To a file or to standard output."""
        assert ok("export", db, tmp_path / "h.jsonl", "--as-of", 2) == f"{tmp_path / 'h.jsonl'} holds 2 events\n"
        assert ok("export", db, "-", "--as-of", 2) == (tmp_path / "h.jsonl").read_text()

    def test_a_file_is_replaced_only_when_told(self, db: Path, tmp_path: Path) -> None:
        """And appears whole or not at all."""
        file = tmp_path / "h.jsonl"
        file.write_text("mine")
        with unchanged(tmp_path):
            assert "exists already" in error("export", db, file, code=3)
        ok("export", db, file, "--overwrite")
        assert len(file.read_text().splitlines()) == 6
        assert set(files(tmp_path)) == {"h.db", "h.jsonl"}

    def test_zero_vectors_come_back_when_allowed(self, tmp_path: Path) -> None:
        """The error names the option."""
        with EventStore(tmp_path / "z.db", allow_zero_vectors=True) as store:
            store.add("nothing", vector=[0.0, 0.0])
        ok("export", tmp_path / "z.db", tmp_path / "z.jsonl")
        assert "--allow-zero-vectors" in error("import", "jsonl", tmp_path / "z.jsonl", tmp_path / "y.db", code=3)
        assert not (tmp_path / "y.db").exists()
        ok("import", "jsonl", tmp_path / "z.jsonl", tmp_path / "y.db", "--allow-zero-vectors")
        assert ok_json("head", tmp_path / "y.db") == ok_json("head", tmp_path / "z.db")

    def test_the_embedder_of_an_export_is_not_needed(self, db: Path, tmp_path: Path) -> None:
        """Its vectors come with it; what is added later needs one."""
        ok("export", db, tmp_path / "h.jsonl")
        ok("import", "jsonl", tmp_path / "h.jsonl", tmp_path / "copy.db")
        assert ok_json("stats", tmp_path / "copy.db")["embedder"] is None
        hits = ok_json("search", tmp_path / "copy.db", "sun", "--embedder", HashingEmbedder().name)["hits"]
        assert len(hits) == 3
        assert ok_json("stats", tmp_path / "copy.db")["embedder"] is None
