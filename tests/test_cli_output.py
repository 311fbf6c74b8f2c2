"""How `replay` lays out its tables and makes the texts of a history fit to be shown."""

from __future__ import annotations

import io
import sys
import unicodedata
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from eventstore.instants import parse_instant, to_microseconds
from replay.cli import output
from replay.cli.output import Column, table
from replay.cli.progress import progress
from replay.cli.styles import changed_metadata, changed_text
from replay.cli.text import counted, instant, one_line, preview, printable

TEXTS = st.text(st.characters(), max_size=300)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(TEXTS)
def test_nothing_printable_steers_a_terminal(text: str) -> None:
    """No control character but line feed and tab, no bidirectional override, no surrogate: it can be encoded."""
    shown = printable(text)
    shown.encode()
    unfit = {
        c for c in shown if unicodedata.category(c) in ("Cc", "Cs") or unicodedata.bidirectional(c) in ("LRO", "RLO")
    }
    assert unfit <= {"\n", "\t"}
    assert set(one_line(text)) & set("\n\t\r") == set()


@given(TEXTS, st.integers(2, 100))
def test_a_preview_is_one_short_line(text: str, length: int) -> None:
    """With an ellipsis exactly where something was left out."""
    shown = preview(text, length)
    assert len(shown) <= length
    if not shown.endswith("…"):
        assert shown == one_line(text)


def test_a_plain_text_is_its_own_preview() -> None:
    """White space aside."""
    assert preview("one\n  two\tthree ") == "one two three"


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31)))
def test_an_instant_that_is_shown_can_be_asked_for(moment: datetime) -> None:
    """Nothing of it is cut off, so `--as-of` of it means the same."""
    moment = moment.replace(tzinfo=timezone.utc)
    assert parse_instant(instant(moment)) == to_microseconds(moment)


def test_instants_are_as_short_as_they_can_be() -> None:
    """Whole seconds without a fraction."""
    moment = datetime(2026, 11, 24, 6, 50, tzinfo=timezone.utc)
    assert instant(moment) == "2026-11-24 06:50:00Z"
    assert instant(moment + timedelta(milliseconds=10)) == "2026-11-24 06:50:00.010000Z"


def test_counting() -> None:
    """With a comma for thousands and the right form of the noun."""
    assert [counted(n, "memory", "memories") for n in (0, 1, 1932)] == ["0 memories", "1 memory", "1,932 memories"]


COLUMNS = (Column("#", right=True), Column("id", share=1, is_id=True), Column("text", share=2, lines=2))
ROWS = st.lists(st.tuples(st.integers(0, 10**6).map(str), TEXTS, TEXTS), min_size=1, max_size=5)


def printed(monkeypatch: pytest.MonkeyPatch, rows: list[tuple[str, str, str]], width: int | None) -> list[str]:
    """The lines of a table, in a terminal of some width or in a pipe."""
    with monkeypatch.context() as patch:
        stream = io.StringIO() if width is None else Terminal()
        patch.setattr(sys, "stdout", stream)
        patch.delenv("COLUMNS", raising=False)
        patch.delenv("FORCE_COLOR", raising=False)
        if width is not None:
            patch.setenv("COLUMNS", str(width))
        assert table(COLUMNS, rows) == len(rows)
    return Text.from_ansi(stream.getvalue()).plain.splitlines()


@given(ROWS, st.integers(40, 200))
def test_a_table_fits_its_terminal(rows: list[tuple[str, str, str]], width: int) -> None:
    """Whatever is in it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert max(map(cell_len, printed(monkeypatch, rows, width))) <= width


@given(ROWS)
def test_a_table_in_a_pipe_has_a_line_for_each_row(rows: list[tuple[str, str, str]]) -> None:
    """With every id whole."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        header, *lines = printed(monkeypatch, rows, None)
    assert header.split() == ["#", "id", "text"]
    assert len(lines) == len(rows)
    for line, (_, name, _) in zip(lines, rows):
        assert one_line(name) in line


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=200), st.integers(4, 60))
def test_folding_loses_nothing(text: str, width: int) -> None:
    """The parts of an id make the id."""
    parts = list(output._folded(text, width))
    assert "".join(parts) == text
    assert max(map(cell_len, parts)) <= width


def test_ids_are_folded_where_people_would() -> None:
    """After a slash or a dash, if one is near."""
    assert list(output._folded("github-actions/only-master.md", 18)) == ["github-actions/", "only-master.md"]


def test_columns_stay_in_line_through_a_long_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table is laid out as its rows come; later parts have no header and are no narrower."""
    rows = [(str(number), "x" * 10 if number < 200 else "y", "text") for number in range(450)]
    lines = printed(monkeypatch, rows, None)
    assert len(lines) == 451
    assert lines[1].index("text") == lines[300].index("text") == lines[450].index("text")


class TestChanges:
    def test_only_what_differs(self) -> None:
        """Lines that stayed are left out, wherever they are."""
        assert changed_text("a\nb\nc\nd", "a\nB\nc\nd").plain == "- b\n+ B"
        assert changed_text("a\nb", "a\nb").plain == ""

    def test_few_lines_and_how_many_more(self) -> None:
        """A hint, not a patch."""
        assert changed_text("", "a\nb\nc\nd").plain == "+ a\n+ b\n… 2 more lines"

    def test_a_long_line_begins_near_the_difference(self) -> None:
        """Else what differs would be cut off."""
        same = "the same words again and again, "
        assert changed_text(same + "tea", same + "coffee").plain == "- …and again, tea\n+ …and again, coffee"

    def test_large_texts_are_not_compared_line_by_line(self) -> None:
        """It would take minutes."""
        old, new = "\n".join(map(str, range(100_000))), "\n".join(map(str, range(100_000, 0, -1)))
        assert changed_text(old, new).plain.count("\n") == 4

    def test_metadata_by_key(self) -> None:
        """Old and new value of what differs; to Python 1 and true are equal, to JSON they are not."""
        assert changed_metadata({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": [2], "d": None}).plain == (
            "~ b: 2 → [2]\n~ c: 3 → none\n~ d: none → null"
        )
        assert changed_metadata({"a": 1}, {"a": True}).plain == "~ a: 1 → true"


def test_no_progress_where_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where colours are forced."""
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr("replay.cli.progress._PATIENCE", 0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("Working") as report:
        report(1, 2)
    assert stderr.getvalue() == ""


def test_progress_of_unknown_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says how much is done."""
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr("replay.cli.progress._PATIENCE", 0)
    monkeypatch.setattr("replay.cli.progress._EVERY", 0)
    monkeypatch.setenv("TERM", "xterm")
    with progress("Importing", "lines") as report:
        report(1000, None)
        report(2000, None)
    assert "2,000 lines" in stderr.getvalue()
