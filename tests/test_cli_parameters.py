"""What the arguments and options of `replay` take, and what they say to everything else."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import Head
from replay.cli.parameters import AS_OF, BOUND, DATABASE, EMBEDDER, FILTER, HEAD, RENAMING, VECTOR, VECTORS
from tests.cli_support import call, error, make_history, ok_json

HASH = "ab" * 32


def refusal(type_: click.ParamType, value: str) -> str:
    with pytest.raises(click.BadParameter) as caught:
        type_.convert(value, None, None)
    return caught.value.message


class TestAsOf:
    def test_digits_are_a_position(self) -> None:
        """`--as-of 1932`."""
        assert AS_OF.convert("1932", None, None) == 1932
        assert AS_OF.convert(" 0 ", None, None) == 0

    @pytest.mark.parametrize(
        "text",
        ["2026-11-24T06:50:00Z", "2026-11-24 06:50:00Z", "2026-11-24T08:50+02:00", "2026-11-24T06:50:00.000000+00:00"],
    )
    def test_iso_8601_with_a_zone_is_an_instant(self, text: str) -> None:
        """In any of its usual forms, among them those that this command prints."""
        assert AS_OF.convert(text, None, None) == datetime(2026, 11, 24, 6, 50, tzinfo=timezone.utc)

    @pytest.mark.parametrize(
        ("text", "age"),
        [
            ("90s", timedelta(seconds=90)),
            ("15m", timedelta(minutes=15)),
            ("2h", timedelta(hours=2)),
            ("3d", timedelta(days=3)),
            ("1w", timedelta(weeks=1)),
            ("0.5h", timedelta(minutes=30)),
            ("0s", timedelta()),
        ],
    )
    def test_a_number_and_a_unit_is_an_age(self, text: str, age: timedelta) -> None:
        """Taken back from the clock as it is now."""
        before = datetime.now(timezone.utc)
        instant = AS_OF.convert(text, None, None)
        after = datetime.now(timezone.utc)
        assert before <= instant + age <= after

    def test_now_is_what_the_library_calls_none(self) -> None:
        """Also past the clock: a head may lie there."""
        assert AS_OF.convert("now", None, None) is None

    def test_now_as_a_bound_is_the_clocks_time(self) -> None:
        """`log --since now` lists nothing, not everything."""
        assert abs(BOUND.convert("now", None, None) - datetime.now(timezone.utc)) < timedelta(minutes=1)

    @pytest.mark.parametrize(
        "text", ["", "yesterday", "2026-11-24", "2h30m", "1y", "٣", "-1", "1e3", "2026-13-01T00:00Z"]
    )
    def test_anything_else_is_refused_with_examples(self, text: str) -> None:
        """The message shows every form."""
        message = refusal(AS_OF, text)
        assert message.startswith(repr(text))
        assert "2026-11-24T06:50:00Z" in message
        assert "2h" in message

    def test_an_instant_without_a_zone_is_told_so(self) -> None:
        """The likeliest mistake has a message of its own."""
        assert refusal(AS_OF, "2026-11-24T06:50") == (
            "'2026-11-24T06:50' has no time zone: put Z behind it for UTC, or an offset such as +02:00"
        )

    @pytest.mark.parametrize("text", ["999999999999w", "9" * 5000])
    def test_a_number_too_large_is_refused(self, text: str) -> None:
        """No overflow, no limit of Python's shows."""
        refusal(AS_OF, text)

    @given(st.text())
    def test_no_text_does_anything_but_convert_or_refuse(self, text: str) -> None:
        """Whatever is typed."""
        try:
            value = AS_OF.convert(text, None, None)
        except click.BadParameter:
            return
        assert value is None or isinstance(value, (int, datetime))

    @given(st.datetimes(timezones=st.timezones(), min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)))
    def test_every_instant_can_be_said(self, instant: datetime) -> None:
        """ISO 8601 as Python writes it comes back as the same instant."""
        moment = instant.astimezone(timezone.utc)
        assert AS_OF.convert(moment.isoformat(), None, None) == moment


class TestDatabase:
    def test_a_file_is_taken_as_it_was_given(self, tmp_path: Path) -> None:
        """Existing files are for the library to judge."""
        (tmp_path / "x").write_text("x")
        assert DATABASE.convert(str(tmp_path / "x"), None, None) == str(tmp_path / "x")

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        """Nothing there, nothing in it, a directory, memory."""
        (tmp_path / "empty").touch()
        assert "there is no file" in refusal(DATABASE, str(tmp_path / "none"))
        assert "is empty" in refusal(DATABASE, str(tmp_path / "empty"))
        assert "is a directory" in refusal(DATABASE, str(tmp_path))
        assert "in memory" in refusal(DATABASE, ":memory:")


class TestHead:
    def test_position_and_hash(self) -> None:
        """As `replay head` prints them."""
        assert HEAD.convert(f"12:{HASH.upper()}", None, None) == [Head(12, None, HASH)]

    def test_a_file_of_one_or_of_many(self, tmp_path: Path) -> None:
        """What `replay head --json` printed, once or appended again and again, indented or not."""
        one = {"position": 12, "recorded_at": "2026-11-24T06:50:00.000000+00:00", "hash": HASH}
        head = Head(12, datetime(2026, 11, 24, 6, 50, tzinfo=timezone.utc), HASH)
        file = tmp_path / "heads"
        file.write_text(json.dumps(one, indent=2))
        assert HEAD.convert(str(file), None, None) == [head]
        file.write_text(f"{json.dumps(one)}\n\n{json.dumps({**one, 'position': 13, 'recorded_at': None})}\n")
        assert HEAD.convert(str(file), None, None) == [head, Head(13, None, HASH)]

    @pytest.mark.parametrize(
        "content", ["", "[]", "1", "{}", '{"position": 1, "hash": "ab"}', "{", "\x00\xff", '{"position": -1}']
    )
    def test_a_file_without_heads_is_refused(self, tmp_path: Path, content: str) -> None:
        """Whatever it holds instead."""
        file = tmp_path / "heads"
        file.write_text(content)
        assert "holds no heads" in refusal(HEAD, str(file))

    @pytest.mark.parametrize("text", ["12", "12:ab", f"x:{HASH}", "\0", "/"])
    def test_what_is_neither_is_refused(self, text: str) -> None:
        """The message says what both look like."""
        assert "POSITION:HASH" in refusal(HEAD, text)


class TestFilter:
    def test_a_json_object(self) -> None:
        """The filter language is the library's."""
        assert FILTER.convert('{"age": {"gte": 3}}', None, None) == {"age": {"gte": 3}}

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"age": {"greater": 3}}', '{"AND": []}'])
    def test_anything_else_is_wrong_usage(self, text: str) -> None:
        """Also what is JSON and no filter."""
        assert "a filter looks like" in refusal(FILTER, text)


class TestVector:
    def test_a_json_list_or_a_file(self, tmp_path: Path) -> None:
        """A flat array, or a matrix of one row."""
        file = tmp_path / "v.npy"
        np.save(file, np.array([[1.0, 2.0]], dtype=np.float32))
        assert VECTOR.convert("[1, 2.5]", None, None).tolist() == [1, 2.5]
        assert VECTOR.convert(str(file), None, None).tolist() == [1, 2]

    @pytest.mark.parametrize("text", ["[", "[]", '["1"]', "[true]", "[[1]]", "[null]", "none.npy", "{}", ""])
    def test_anything_else_is_refused(self, text: str) -> None:
        """In words."""
        assert refusal(VECTOR, text)

    @pytest.mark.parametrize("type_", [VECTOR, VECTORS])
    def test_a_file_is_never_believed(self, tmp_path: Path, type_: click.ParamType) -> None:
        """Not an array, cut off, of objects (which would be unpickled), of text, an archive of several."""
        file = tmp_path / "v.npy"
        np.save(file, np.ones((3, 4)))
        whole = file.read_bytes()
        for content in (b"", b"text", whole[:60], whole[:-8]):
            file.write_bytes(content)
            assert refusal(type_, str(file))
        for array in (np.array(["x"]), np.array([{}], dtype=object), np.array([1j])):
            np.save(file, array, allow_pickle=True)
            assert refusal(type_, str(file))
        np.savez(tmp_path / "a.npz", a=np.ones((2, 2)))
        assert "archive" in refusal(type_, str(tmp_path / "a.npz"))

    def test_vectors_are_one_a_row(self, tmp_path: Path) -> None:
        """A flat array is one vector, not many."""
        file = tmp_path / "v.npy"
        np.save(file, np.ones((3, 4)))
        assert VECTORS.convert(str(file), None, None).shape == (3, 4)
        np.save(file, np.ones(4))
        assert "one vector a row" in refusal(VECTORS, str(file))


class TestRenaming:
    def test_ours_and_theirs(self) -> None:
        """What stands after the first = is theirs, whatever it is."""
        assert RENAMING.convert("content=a=b", None, None) == ("content", "a=b")

    @pytest.mark.parametrize("text", ["content", "content=", "=text", "text=content"])
    def test_anything_else_is_refused(self, text: str) -> None:
        """Among it keys that records do not have."""
        assert refusal(RENAMING, text)


class TestEmbedder:
    @pytest.fixture(autouse=True)
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A user's own module where the command is run."""
        (tmp_path / "my_embedders.py").write_text(
            "class Lengths:\n"
            "    name = 'lengths-v1'\n"
            "    def __call__(self, texts):\n"
            "        return [[len(text), 1.0] for text in texts]\n"
            "def lengths(texts):\n"
            "    return Lengths()(texts)\n"
            "class Nested:\n"
            "    made = Lengths()\n"
            "number = 3\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        make_history(tmp_path / "h.db")

    @pytest.mark.parametrize("name", ["my_embedders:Lengths", "my_embedders:lengths", "my_embedders:Nested.made"])
    def test_a_class_a_function_or_an_instance(self, name: str) -> None:
        """A class is called to make one."""
        embedder: Any = EMBEDDER.convert(name, None, None)
        assert embedder(["abc"]) == [[3, 1.0]]

    def test_the_name_of_a_built_in_one(self) -> None:
        """As a history records it."""
        assert EMBEDDER.convert("hashing-64-v1", None, None)(["x"]).shape == (1, 64)

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("my_embedders", "MODULE:ATTRIBUTE"),
            ("hashing-0-v1", "MODULE:ATTRIBUTE"),
            ("no_such_module_x:y", "there is no module 'no_such_module_x'"),
            ("my_embedders:nothing", "has no 'nothing'"),
            ("my_embedders:number", "is a int"),
        ],
    )
    def test_anything_else_is_refused(self, name: str, says: str) -> None:
        """Each mistake in its own words."""
        assert says in refusal(EMBEDDER, name)

    def test_another_embedder_than_the_historys_is_refused(self, tmp_path: Path) -> None:
        """Scores against its vectors would mean nothing."""
        line = error("search", "h.db", "tea", "--embedder", "my_embedders:Lengths", code=3)
        assert "'hashing-256-v1'" in line
        assert "'lengths-v1'" in line

    def test_a_history_of_ones_own_embedder(self, tmp_path: Path) -> None:
        """Imported and searched with it; without it the error says how to name it; a search records nothing."""
        Path("a.jsonl").write_text('{"content": "abc"}\n{"content": "abcdefgh"}\n')
        ok_json("import", "jsonl", "a.jsonl", "own.db", "--embedder", "my_embedders:Lengths")
        assert ok_json("stats", "own.db")["embedder"] == "lengths-v1"
        hits = ok_json("search", "own.db", "xyz", "--embedder", "my_embedders:Lengths", "--metric", "l2")["hits"]
        assert hits[0]["content"] == "abc"
        assert "'lengths-v1'" in error("search", "own.db", "xyz", code=3)
        assert "--embedder" in error("search", "own.db", "xyz", code=3)

    def test_what_the_embedder_raises_is_one_line(self) -> None:
        """Its own words, and how to see more."""
        Path("broken_embedder.py").write_text("def broken(texts):\n    raise RuntimeError('no\\nmodel')\n")
        Path("a.jsonl").write_text('{"content": "abc"}\n')
        line = error("import", "jsonl", "a.jsonl", "own.db", "--embedder", "broken_embedder:broken", code=3)
        assert "RuntimeError: no model" in line
        assert "--debug" in line
        assert not Path("own.db").exists()


def test_a_refused_value_names_the_option(tmp_path: Path) -> None:
    """In one line, with exit code 2."""
    make_history(tmp_path / "h.db")
    result = call("log", tmp_path / "h.db", "--since", "tomorrow")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: invalid value for '--since': 'tomorrow' is no instant: give ISO 8601")
