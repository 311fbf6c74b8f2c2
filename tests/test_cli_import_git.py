"""`replay import git`: a repository's history, and what was committed since."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from eventstore import EventStore, HashingEmbedder
from tests.cli_support import error, ok, ok_json, run, unchanged


class Repository:
    """A git repository whose commits have the times they are told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, at: str = "2024-01-01T00:00:00Z") -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        for who in ("AUTHOR", "COMMITTER"):
            environment |= {f"GIT_{who}_NAME": "Ann", f"GIT_{who}_EMAIL": "ann@example.org", f"GIT_{who}_DATE": at}
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, subject: str, at: str, **texts: str | None) -> str:
        for name, text in texts.items():
            file = self.path / f"{name}.md"
            file.unlink() if text is None else file.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", subject, at=at)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Three commits: two files, a change, an end."""
    made = Repository(tmp_path / "notes")
    made.commit("Start", "2024-01-01T00:00:00Z", tea="Alice drinks tea", cat="Bob has a cat")
    made.commit("Change her mind", "2024-01-02T00:00:00Z", tea="Alice drinks coffee")
    made.commit("No more cat", "2024-01-03T00:00:00Z", cat=None)
    return made


def logged(db: Path, *arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ok("log", db, "--json", *arguments).splitlines()]


def test_each_file_is_a_memory_and_each_change_an_event(repository: Repository, tmp_path: Path) -> None:
    """With author, subject and time of the commit, searchable by text at once."""
    db = tmp_path / "s.db"
    assert ok_json("import", "git", repository.path, db) == {
        "imported": 4,
        "already_there": 0,
        "first_position": 1,
        "last_position": 4,
        "first_recorded_at": "2024-01-01T00:00:00.000000+00:00",
        "last_recorded_at": "2024-01-03T00:00:00.000000+00:00",
        "source": "git:notes",
        "commit": repository.git("rev-parse", "HEAD"),
        "commits": 3,
        "shallow": False,
    }
    events = logged(db)
    assert [(event["type"], event["memory_id"], event["reason"]) for event in events] == [
        ("ADD", "cat.md", "Start"),
        ("ADD", "tea.md", "Start"),
        ("UPDATE", "tea.md", "Change her mind"),
        ("DELETE", "cat.md", "No more cat"),
    ]
    assert {event["source"] for event in events} == {"git:notes"}
    then = ok_json("search", db, "what does Alice drink?", "--as-of", "2024-01-01T12:00:00Z", "-k", 1)
    assert then["hits"][0]["content"] == "Alice drinks tea"
    assert ok_json("stats", db)["embedder"] == HashingEmbedder().name


def test_what_people_are_told(repository: Repository, tmp_path: Path) -> None:
    """How many, from when to when; then that nothing is new."""
    db = tmp_path / "s.db"
    assert ok("import", "git", repository.path, db) == (
        f"imported 4 events into {db}, from 2024-01-01 00:00:00Z to 2024-01-03 00:00:00Z, positions 1 to 4\n"
    )
    assert ok("import", "git", repository.path, db) == f"nothing new for {db}, which ends at position 4\n"


def test_again_appends_only_what_is_new(repository: Repository, tmp_path: Path) -> None:
    """The store becomes what one import of everything would have made it."""
    ok("import", "git", repository.path, tmp_path / "s.db")
    repository.commit("More", "2024-01-04T00:00:00Z", bus="The bus is late")
    assert ok_json("import", "git", repository.path, tmp_path / "s.db")["imported"] == 1
    ok("import", "git", repository.path, tmp_path / "whole.db")
    same = ("event_id", "memory_id", "type", "content", "recorded_at", "occurred_at", "reason", "metadata")
    once, twice = logged(tmp_path / "whole.db"), logged(tmp_path / "s.db")
    assert [[event[key] for key in same] for event in once] == [[event[key] for key in same] for event in twice]


def test_a_commit_older_than_the_head_counts_as_recorded_just_after_it(repository: Repository, tmp_path: Path) -> None:
    """A history only grows forward; occurred_at keeps the truth."""
    db = tmp_path / "s.db"
    ok("import", "git", repository.path, db)
    with EventStore(db, embedder=HashingEmbedder()) as store:
        head = store.add("something else was recorded since", memory_id="other").recorded_at
    repository.commit("Made elsewhere, long ago", "2023-06-01T00:00:00Z", bus="The bus is late")
    repository.commit("And another", "2023-06-02T00:00:00Z", sun="The sun shines")
    ok("import", "git", repository.path, db)
    with EventStore(db) as store:
        bus, sun = store.events(after=5)
    assert (bus.recorded_at - head).total_seconds() == 1e-6
    assert sun.recorded_at == bus.recorded_at
    assert bus.occurred_at == datetime(2023, 6, 1, tzinfo=timezone.utc)
    assert ok_json("verify", db)["ok"]


def test_a_revision_and_then_the_rest(repository: Repository, tmp_path: Path) -> None:
    """--rev names where to end."""
    db = tmp_path / "s.db"
    assert ok_json("import", "git", repository.path, db, "--rev", "main~1")["imported"] == 3
    assert ok_json("import", "git", repository.path, db)["imported"] == 1


def test_a_rewritten_history_is_refused(repository: Repository, tmp_path: Path) -> None:
    """The store holds commits that are no more; nothing is changed."""
    db = tmp_path / "s.db"
    ok("import", "git", repository.path, db)
    repository.git("commit", "--quiet", "--amend", "--message", "Rewritten")
    with unchanged(tmp_path):
        line = error("import", "git", repository.path, db, code=3)
    assert "its history was rewritten" in line.replace("the repository's", "its")
    assert "import into a new STORE" in line


def test_a_shallow_clone_is_one_warning(repository: Repository, tmp_path: Path) -> None:
    """What lies before its boundary is not there to be read."""
    subprocess.run(
        ["git", "clone", "--quiet", "--depth=1", f"file://{repository.path}", tmp_path / "clone"],
        check=True,
        capture_output=True,
    )
    code, out, err = run("import", "git", tmp_path / "clone", tmp_path / "s.db", "--json")
    assert (code, json.loads(out)["shallow"], json.loads(out)["imported"]) == (0, True, 1)
    assert err.startswith("warning: ")
    assert err.count("\n") == 1


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """No repository, no commits, no such revision: one line, and no store."""
    (tmp_path / "folder").mkdir()
    empty = Repository(tmp_path / "empty")
    db = tmp_path / "s.db"
    for path, says in (
        (tmp_path / "none", "not a directory"),
        (tmp_path / "folder", "not a git"),
        (empty.path, "no commits"),
    ):
        assert says in error("import", "git", path, db, code=3)
    empty.commit("Start", "2024-01-01T00:00:00Z", a="a")
    assert "'nope'" in error("import", "git", empty.path, db, "--rev", "nope", code=3)
    assert not db.exists()


def test_a_store_with_vectors_of_another_embedder(repository: Repository, tmp_path: Path) -> None:
    """The error says how to name it."""
    db = tmp_path / "s.db"
    with EventStore(db) as store:
        store.add("x", vector=[1.0])
    assert "--embedder MODULE:ATTRIBUTE" in error("import", "git", repository.path, db, code=3)
    with EventStore(db) as store:
        assert (store.position, store.embedder_name) == (1, None)
