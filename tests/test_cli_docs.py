"""docs/reference/command-line.md says what the command does.

The help texts in it are made by `python -m tests.test_cli_docs`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from replay.cli.app import replay
from tests.cli_support import ROOT, call, make_history, ok
from tests.replay_support import tamper
from tests.test_cli_errors import COMMANDS

PAGE = ROOT / "docs/reference/command-line.md"
HELP = re.compile(r"(?<=^```text\n)Usage: (replay.*?) \[OPTIONS\].*?(?=^```$)", re.MULTILINE | re.DOTALL)


def help_text(command: str) -> str:
    """What `--help` prints on a terminal of 80 columns."""
    words = command.split()[1:]
    result = CliRunner().invoke(replay, [*words, "--help"], prog_name="replay", terminal_width=80)
    assert result.exit_code == 0, result.output
    return result.stdout


def with_help(page: str) -> str:
    """The page with every help text as it is now."""
    return HELP.sub(lambda found: help_text(found[1]), page)


def sections(page: str) -> dict[str, str]:
    """Heading -> text, for every heading of the second and third level."""
    parts = re.split(r"^#{2,3} (.+)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


TEXT = PAGE.read_text(encoding="utf-8")
SECTIONS = sections(TEXT)


def test_every_command_has_a_section_with_its_help() -> None:
    """And a line in the table of commands."""
    for words in COMMANDS:
        command = f"replay {' '.join(words)}"
        assert f"Usage: {command} [OPTIONS]" in SECTIONS[command], command
        assert f"| [`{command}`](#{command.replace(' ', '-')}) |" in TEXT, command


def test_the_help_is_the_commands_own() -> None:
    """If this fails: python -m tests.test_cli_docs."""
    assert with_help(TEXT) == TEXT


def test_every_option_is_in_the_help() -> None:
    """None is hidden."""
    for words, command in COMMANDS.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[-1] in SECTIONS[f"replay {' '.join(words)}"]


def test_exit_codes_are_documented() -> None:
    """Those that the code knows."""
    from replay.cli import failures

    codes = {failures.FINE, failures.FOUND, failures.WRONG_USAGE, failures.FAILED}
    codes |= {failures.INTERRUPTED, failures.OUTPUT_CLOSED}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", SECTIONS["Exit codes"], re.MULTILINE)} == codes


def keys_of(value: Any) -> Iterator[str]:
    """Every key of an object and of the objects in it, except of metadata."""
    if isinstance(value, list):
        for each in value:
            yield from keys_of(each)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key != "metadata":
                yield from keys_of(inner)


OBJECTS = "".join(SECTIONS[name] for name in ("Event", "Memory", "Diff"))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_key_of_the_json_is_documented(words: tuple[str, ...], tmp_path: Path) -> None:
    """In the command's section, or in that of an object which it links to."""
    db, file = tmp_path / "h.db", tmp_path / "h.jsonl"
    make_history(db)
    ok("export", db, file)
    ok("checkpoint", db)
    shutil.copy(db, tmp_path / "damaged.db")
    tamper(tmp_path / "damaged.db", "DELETE FROM payloads WHERE seq = 2")
    more: dict[str, list[Any]] = {
        "show": [db, "tea"],
        "search": [db, "tea"],
        "diff": [db, 1],
        "verify": [db, "--against", f"3:{'0' * 64}"],
        "recover": [db, "--as-of", 2, "--to", tmp_path / "new.db"],
        "salvage": [tmp_path / "damaged.db", "--to", tmp_path / "new.db"],
        "restore": [db, "--as-of", 2, "--dry-run"],
        "import git": [ROOT, tmp_path / "git.db"],
        "import jsonl": [file, tmp_path / "new.db"],
        "export": [db, tmp_path / "new.jsonl"],
    }
    name = " ".join(words)
    result = call(*words, *more.get(name, [db]), "--json")
    if name == "import git" and result.exit_code:
        pytest.skip("the checkout has no git history")
    section = SECTIONS[f"replay {name}"]
    if name == "checkpoint":
        section += SECTIONS["replay rebuild"]
    if name == "import jsonl":
        section += SECTIONS["replay import git"]
    if re.search(r"\]\(#(event|memory|diff)\)", section):
        section += OBJECTS
    printed = [json.loads(line) for line in result.stdout.splitlines()]
    assert printed
    assert {key for key in keys_of(printed) if f"`{key}`" not in section and f'"{key}"' not in section} == set()


def main() -> None:
    """Put the help texts of today into the page."""
    PAGE.write_text(with_help(TEXT), encoding="utf-8")


if __name__ == "__main__":
    main()
