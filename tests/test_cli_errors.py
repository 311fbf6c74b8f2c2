"""How `replay` ends: one line on stderr that says what to do, and an exit code that says what kind of end it was."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import click
import pytest

from eventstore import AsofError, InvalidVector, StorageError
from projections import CheckpointWarning
from replay.cli import log as log_command
from replay.cli.app import replay
from tests.cli_support import call, error, make_history, ok, unchanged


def commands(group: click.Group = replay, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    """Every command by its words, groups left out."""
    found: dict[tuple[str, ...], click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, (*prefix, name))
        else:
            found[(*prefix, name)] = command
    return found


COMMANDS = commands()
ON_A_DATABASE = [words for words in COMMANDS if words[0] != "import"]
MORE = {"show": ["tea"], "search": ["tea"], "diff": ["1"], "recover": ["--as-of", "1", "--to", "new.db"]}
MORE |= {"salvage": ["--to", "new.db"], "restore": ["--as-of", "1"], "export": ["out.jsonl"]}


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small history in the current directory."""
    monkeypatch.chdir(tmp_path)
    make_history(tmp_path / "h.db")
    return tmp_path / "h.db"


def test_the_commands() -> None:
    """All that were promised, in the order of the help."""
    assert [" ".join(words) for words in COMMANDS] == (
        ["log", "show", "search", "diff", "stats", "head", "verify", "recover", "salvage", "restore", "rebuild"]
        + ["checkpoint", "import git", "import jsonl", "export"]
    )


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_the_common_options(words: tuple[str, ...]) -> None:
    """A sentence on what it does, one on each option, --json, --debug, -h."""
    command = COMMANDS[words]
    assert command.help
    assert command.short_help
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []
    assert {"--json", "--debug"} <= {flag for option in options for flag in option.opts}
    assert ok(*words, "-h").startswith(f"Usage: replay {' '.join(words)} [OPTIONS] ")


@pytest.mark.parametrize("words", ON_A_DATABASE, ids=" ".join)
def test_a_database_that_is_not_there_is_wrong_usage(words: tuple[str, ...], tmp_path: Path) -> None:
    """And none comes into being."""
    with unchanged(tmp_path):
        line = error(*words, tmp_path / "none.db", *MORE.get(words[0], []), code=2)
        assert f"there is no file '{tmp_path / 'none.db'}'" in line
        error(*words, tmp_path, *MORE.get(words[0], []), code=2)
    (tmp_path / "empty.db").touch()
    with unchanged(tmp_path):
        error(*words, tmp_path / "empty.db", *MORE.get(words[0], []), code=2)


@pytest.mark.parametrize("words", [words for words in ON_A_DATABASE if words != ("verify",)], ids=" ".join)
@pytest.mark.parametrize("content", [b"text\n" * 100, b"SQLite format 3\0" + bytes(2000)])
def test_a_file_that_is_no_history_is_refused_and_left_alone(
    words: tuple[str, ...], content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text file, or another application's database."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").write_bytes(content)
    with unchanged(tmp_path):
        error(*words, "other", *MORE.get(words[0], []), code=3)


def test_without_a_command_it_shows_its_help(tmp_path: Path) -> None:
    """On stderr, since nothing was done."""
    for words in ((), ("import",)):
        result = call(*words)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("Usage: replay")


@pytest.mark.parametrize(
    ("arguments", "names", "help_of"),
    [
        (("lgo",), "lgo", "replay"),
        (("log",), "DB", "replay log"),
        (("log", "h.db", "--acter", "x"), "--acter", "replay log"),
        (("log", "h.db", "--limit"), "--limit", "replay"),
        (("log", "h.db", "more"), "more", "replay log"),
        (("--nope",), "--nope", "replay"),
        (("recover", "h.db", "--to", "new.db"), "--as-of", "replay recover"),
    ],
)
def test_wrong_usage_is_one_line_that_points_to_the_help(
    db: Path, arguments: tuple[str, ...], names: str, help_of: str
) -> None:
    """It names what is wrong; click says it in four lines."""
    line = error(*arguments, code=2)
    assert names in line
    assert line.endswith(f"; `{help_of} --help` shows what it takes")


def fail_with(monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise failure

    monkeypatch.setattr(log_command, "EventStore", fail)


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (StorageError("no space left for x: free some"), "no space left for x: free some"),
        (AsofError("two\nlines\tand \x1b[31mred"), "two lines and \\x1b[31mred"),
        (PermissionError(13, "Permission denied", "x.db"), "x.db: Permission denied"),
        (OSError(28, "No space left on device"), "the operating system refused: No space left on device"),
        (MemoryError(), "out of memory: nothing was changed; free some, or work on less at a time"),
        (TypeError("a bug"), "TypeError: a bug; --debug shows where it comes from"),
        (BrokenPipeError(32, "Broken pipe"), "the operating system refused: Broken pipe"),
        (
            InvalidVector("it is all zeros; open the store with allow_zero_vectors=True to take it all the same"),
            "it is all zeros; import with --allow-zero-vectors to take it all the same",
        ),
    ],
)
def test_every_failure_is_one_line(
    db: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, line: str
) -> None:
    """Exit code 3; the library's remedies are named as the command line has them; nothing steers the terminal."""
    fail_with(monkeypatch, failure)
    assert error("log", db, code=3) == line


@pytest.mark.parametrize("arguments", [("log", "--debug"), ("--debug", "log")])
def test_debug_shows_where_it_comes_from(db: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str]) -> None:
    """On either side of the command; the exit code is the same."""
    fail_with(monkeypatch, StorageError("refused"))
    result = call(*arguments, db)
    assert result.exit_code == 3
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert result.stderr.endswith("\nerror: refused\n")


def test_an_interrupt_is_one_line(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 130, as shells have it."""
    fail_with(monkeypatch, KeyboardInterrupt())
    result = call("log", db)
    assert (result.exit_code, result.stderr) == (130, "interrupted: nothing is left half done\n")


def test_warnings_of_the_library_are_one_line_each(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every one of them, also the same one twice, and none of Python's own decoration."""

    def warning(*arguments: Any, **options: Any) -> None:
        for _ in range(2):
            warnings.warn("the checkpoint\nis damaged", CheckpointWarning, stacklevel=1)
        raise StorageError("refused")

    monkeypatch.setattr(log_command, "EventStore", warning)
    result = call("log", db)
    assert result.stderr == "warning: the checkpoint is damaged\n" * 2 + "error: refused\n"


def test_other_programs_can_call_it_without_an_exit(db: Path) -> None:
    """Click's standalone_mode=False: errors are raised."""
    with pytest.raises(click.BadParameter):
        replay.main(["log", "none.db"], standalone_mode=False)


def test_shell_completion_is_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    """`_REPLAY_COMPLETE=bash_source replay` prints the script."""
    result = call(env={"_REPLAY_COMPLETE": "bash_source"})
    assert (result.exit_code, "complete" in result.stdout) == (0, True)


def test_a_path_that_is_not_unicode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is spelled out in messages and JSON."""
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9.db")
    line = error("log", name, code=2)
    assert "caf\\xe9.db" in line.replace("\\\\", "\\")
    try:
        make_history(tmp_path / name)
    except AsofError:
        pytest.skip("this file system takes no such names")
    assert '"database":"caf\\\\xe9.db"' in ok("stats", name, "--json")
