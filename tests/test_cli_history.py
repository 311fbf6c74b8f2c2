"""Looking at a history: `log`, `show`, `stats`, `head` and `diff`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eventstore import EventStore
from replay.cli.records import event_record, memory_record
from tests.cli_support import Clock, call, error, make_history, ok, ok_json


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small history; none of these commands writes to it."""
    path = tmp_path_factory.mktemp("history") / "h.db"
    make_history(path)
    return path


def logged(db: Path, *arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ok("log", db, "--json", *arguments).splitlines()]


def positions(db: Path, *arguments: object) -> list[int]:
    return [event["position"] for event in logged(db, *arguments)]


class TestLog:
    def test_one_event_a_line(self, db: Path) -> None:
        """Each with all that the history knows of it, but for the embedding."""
        with EventStore(db) as store:
            assert logged(db) == [event_record(event) for event in store.events()]

    def test_the_keys_of_an_event(self, db: Path) -> None:
        """They are a contract: instants in ISO 8601 with a zone, hashes in hexadecimal."""
        event = logged(db, "--limit", 1)[0]
        digest, link = event.pop("payload_digest"), event.pop("hash")
        assert (len(bytes.fromhex(digest)), len(bytes.fromhex(link))) == (32, 32)
        assert event.pop("event_id")
        assert event == {
            "position": 1,
            "memory_id": "tea",
            "version": 1,
            "type": "ADD",
            "recorded_at": "2024-01-01T00:00:01.000000+00:00",
            "occurred_at": None,
            "actor_id": "bot",
            "role": "user",
            "reason": "said so",
            "correlation_id": None,
            "causation_id": None,
            "source": None,
            "content": "Alice drinks tea",
            "metadata": {"user": "alice"},
            "prev_position": None,
            "add_position": 1,
            "embedding_position": 1,
        }

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ((), [1, 2, 3, 4, 5, 6]),
            (("--memory", "tea"), [1, 3]),
            (("--actor", "bot"), [1, 2, 4]),
            (("--role", "user"), [1]),
            (("--type", "ADD"), [1, 2, 5, 6]),
            (("--type", "update"), [3]),
            (("--correlation", "chat-1"), [2]),
            (("--since", "2024-01-01T00:00:03Z"), [3, 4, 5, 6]),
            (("--until", "2024-01-01T00:00:03Z"), [1, 2, 3]),
            (("--since", "3"), [3, 4, 5, 6]),
            (("--until", "3"), [1, 2, 3]),
            (("--until", "0"), []),
            (("--since", "2", "--until", "2024-01-01T00:00:04Z"), [2, 3, 4]),
            (("--since", "1h"), []),
            (("--since", "now"), []),
            (("--until", "now"), [1, 2, 3, 4, 5, 6]),
            (("--after", "4"), [5, 6]),
            (("--after", "4", "--since", "2"), [5, 6]),
            (("--upto", "2024-01-01T00:00:02Z"), [1, 2]),
            (("--upto", "4", "--until", "2"), [1, 2]),
            (("--reverse", "-n", "2"), [6, 5]),
            (("--actor", "bot", "--type", "DELETE"), [4]),
            (("--actor", "nobody"), []),
        ],
    )
    def test_every_filter(self, db: Path, arguments: tuple[str, ...], expected: list[int]) -> None:
        """All that are given must hold."""
        assert positions(db, *arguments) == expected

    def test_a_table_for_people(self, db: Path) -> None:
        """A line each under one header, ids whole, nothing that only a terminal understands."""
        lines = ok("log", db).splitlines()
        assert lines[0].split() == ["#", "recorded", "at", "event", "v", "memory", "by", "and", "why"]
        assert lines[1].split(maxsplit=6)[-1] == "bot: said so"
        assert lines[3] == "3  2024-01-01 00:00:03Z  UPDATE  2  tea     ann: changed her mind"
        assert len(lines) == 7

    def test_no_events(self, db: Path) -> None:
        """It says so to people, and nothing to programs."""
        assert ok("log", db, "--actor", "nobody") == "no events\n"
        assert ok("log", db, "--actor", "nobody", "--json") == ""

    def test_a_position_beyond_the_head(self, db: Path) -> None:
        """Is an error of the library: only it knows where the head is."""
        assert "positions 0 to 6" in error("log", db, "--upto", 7, code=3)
        assert "positions 0 to 6" in error("log", db, "--since", 7, code=3)

    @pytest.mark.parametrize("arguments", [("--limit", "0"), ("--after", "-1"), ("--type", "MOVE"), ("--after", "1h")])
    def test_wrong_usage(self, db: Path, arguments: tuple[str, ...]) -> None:
        """Exit code 2, naming the option."""
        assert f"'{arguments[0]}'" in error("log", db, *arguments, code=2).replace("'-n' / ", "")


class TestShow:
    def test_a_memory_and_its_events(self, db: Path) -> None:
        """As the library reads them."""
        with EventStore(db) as store:
            memory = store.get("tea")
            assert memory is not None
            assert ok_json("show", db, "tea") == {
                "position": 6,
                "memory": memory_record(memory),
                "events": [event_record(event) for event in store.events(memory_id="tea")],
            }

    def test_the_keys_of_a_memory(self, db: Path) -> None:
        """They are a contract."""
        memory = ok_json("show", db, "tea")["memory"]
        assert len(bytes.fromhex(memory.pop("hash"))) == 32
        assert memory == {
            "memory_id": "tea",
            "content": "Alice drinks coffee",
            "metadata": {"user": "alice"},
            "version": 2,
            "position": 3,
            "created_at": "2024-01-01T00:00:01.000000+00:00",
            "updated_at": "2024-01-01T00:00:03.000000+00:00",
            "actor_id": "ann",
            "role": None,
        }

    def test_as_of(self, db: Path) -> None:
        """The memory as it was, and only what had happened by then."""
        then = ok_json("show", db, "tea", "--as-of", "2024-01-01T00:00:02Z")
        assert (then["position"], then["memory"]["content"], len(then["events"])) == (2, "Alice drinks tea", 1)

    def test_a_deleted_memory(self, db: Path) -> None:
        """Its history stays."""
        shown = ok_json("show", db, "cat")
        assert (shown["memory"], [event["type"] for event in shown["events"]]) == (None, ["ADD", "DELETE"])
        assert "deleted at  2024-01-01 00:00:04Z, position 4\n" in ok("show", db, "cat")

    def test_a_timeline_for_people(self, db: Path) -> None:
        """What each event changed."""
        shown = ok("show", db, "tea")
        assert "\nAlice drinks coffee\n" in shown
        assert "3  2024-01-01 00:00:03Z  UPDATE  2  ann: changed her mind" in shown
        assert "- Alice drinks tea\n" in shown
        assert "+ Alice drinks coffee\n" in shown

    def test_a_memory_that_never_was(self, db: Path) -> None:
        """By then, at least."""
        assert "has no memory 'dog'" in error("show", db, "dog", code=3)
        assert "as of position 4" in error("show", db, "bus", "--as-of", 4, code=3)


class TestHead:
    def test_what_to_keep_elsewhere(self, db: Path) -> None:
        """For people in the form that --against takes."""
        with EventStore(db) as store:
            head, then = store.head, store.head_at(2)
        assert ok_json("head", db) == {
            "position": 6,
            "recorded_at": "2024-01-01T00:00:05.000000+00:00",
            "hash": head.hash,
        }
        assert ok_json("head", db, "--as-of", 2)["hash"] == then.hash
        assert f"head         6:{head.hash}\n" in ok("head", db)

    def test_an_empty_history(self, tmp_path: Path) -> None:
        """Has a head too."""
        EventStore(tmp_path / "e.db").close()
        assert ok_json("head", tmp_path / "e.db") == {"position": 0, "recorded_at": None, "hash": "0" * 64}
        assert ok("head", tmp_path / "e.db") == f"head  0:{'0' * 64}\n"


class TestStats:
    def test_a_history_in_numbers(self, db: Path) -> None:
        """The keys are a contract."""
        with EventStore(db) as store:
            head = store.head
        assert ok_json("stats", db) == {
            "database": str(db),
            "position": 6,
            "hash": head.hash,
            "first_recorded_at": "2024-01-01T00:00:01.000000+00:00",
            "last_recorded_at": "2024-01-01T00:00:05.000000+00:00",
            "events": {"ADD": 4, "UPDATE": 1, "DELETE": 1},
            "memories": 3,
            "memories_ever": 4,
            "actors": 2,
            "sources": 0,
            "dimension": 256,
            "embedder": "hashing-256-v1",
            "bytes": db.stat().st_size,
        }

    def test_as_of(self, db: Path) -> None:
        """The numbers as they were."""
        then = ok_json("stats", db, "--as-of", 3)
        assert (then["events"], then["memories"]) == ({"ADD": 2, "UPDATE": 1, "DELETE": 0}, 2)

    def test_for_people(self, db: Path, tmp_path: Path) -> None:
        """Also where there is nothing yet."""
        assert "events    6 (4 ADD, 1 UPDATE, 1 DELETE)\n" in ok("stats", db)
        EventStore(tmp_path / "e.db").close()
        assert "events    0 (0 ADD, 0 UPDATE, 0 DELETE)\n" in ok("stats", tmp_path / "e.db")


class TestDiff:
    def test_added_updated_deleted(self, db: Path) -> None:
        """Whole memories, before and after."""
        with EventStore(db) as store:
            tea_then, tea, cat, bus, sun = (
                store.get(memory_id, as_of=at)
                for memory_id, at in (("tea", 2), ("tea", 6), ("cat", 2), ("bus", 6), ("sun", 6))
            )
            assert ok_json("diff", db, 2, 6) == {
                "from_position": 2,
                "to_position": 6,
                "added": [memory_record(bus), memory_record(sun)],  # type: ignore[arg-type]
                "updated": [{"before": memory_record(tea_then), "after": memory_record(tea)}],  # type: ignore[arg-type]
                "deleted": [memory_record(cat)],  # type: ignore[arg-type]
            }

    def test_to_now_unless_said(self, db: Path) -> None:
        """And backwards where B is earlier."""
        assert ok_json("diff", db, 2) == ok_json("diff", db, 2, "now") == ok_json("diff", db, 2, 6)
        assert len(ok_json("diff", db, 6, "2024-01-01T00:00:02Z")["deleted"]) == 2

    def test_for_people(self, db: Path) -> None:
        """What changed, and a sentence that sums it up."""
        shown = ok("diff", db, 2)
        assert "+  bus       1  + The bus is late\n" in shown
        assert "~  tea     1→2  - Alice drinks tea\n                + Alice drinks coffee\n" in shown
        assert "-  cat       1  - Bob has a cat\n" in shown
        assert shown.endswith(
            "\n2 added, 1 updated, 1 deleted"
            " from position 2 (2024-01-01 00:00:02Z) to position 6 (2024-01-01 00:00:05Z)\n"
        )

    def test_differences_are_no_error_unless_asked(self, db: Path) -> None:
        """As in git."""
        assert call("diff", db, 2, 6).exit_code == 0
        assert call("diff", db, 2, 6, "--exit-code").exit_code == 1
        assert call("diff", db, 6, 6, "--exit-code").exit_code == 0

    def test_what_changed_in_the_metadata_or_only_in_the_vector(self, tmp_path: Path) -> None:
        """Is said too."""
        with EventStore(tmp_path / "h.db", clock=Clock()) as store:
            store.add("a", memory_id="m", vector=[1, 0], metadata={"x": 1})
            store.add("b", memory_id="v", vector=[1, 0])
            store.update("m", metadata={"y": True})
            store.update("v", vector=[0, 1])
        shown = ok("diff", tmp_path / "h.db", 2)
        assert "~ x: 1 → none\n" in shown
        assert "~ y: none → true\n" in shown
        assert "another vector\n" in shown


def test_hostile_text_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """Control characters and markup from a history are shown, not obeyed; JSON escapes them its own way."""
    evil = "\x1b[2J\x1b]0;title\x07[bold]:smile:\u202e\x9b31m"
    path = tmp_path / "h.db"
    with EventStore(path, clock=Clock()) as store:
        store.add(evil, memory_id=evil, vector=[1.0], metadata={evil: evil}, actor_id=evil, reason=evil, role=evil)
        store.update(evil, content=evil + "x", vector=[2.0])
    for command in (("log", path), ("show", path, evil), ("diff", path, 0), ("search", path, "--vector", "[1]")):
        shown = ok(*command)
        assert not set(shown) & set("\x1b\x07\x9b\u202e")
        assert "[bold]:smile:" in shown
        json.loads(ok(*command, "--json").splitlines()[0])
    assert "\x1b" not in error("show", path, evil + "?", code=3)
