"""The documentation says what is true: its code is run, its links lead somewhere, its reference is complete.

Of README.md and every page under docs/:

- ```python blocks are run, in their order, in one namespace and one empty folder per page. A ```text block right
  after one is what it prints.
- ```console blocks are run in the same folder, each line that begins with `$ ` by a shell. What follows it is
  what it prints; where nothing does, its output is not compared. A command may fail only where the next one is
  `echo $?`.
- `...` in an output stands for anything, as in doctest.
- A block after `<!-- not run: why -->` is not run; `NOT_RUN` says how many of them a page may have.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pages import FENCE, PAGES, ROOT, Block, blocks, name

LINKED = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]

# Pages with blocks that cannot be run here, and how many: what needs the network, or would run all tests again.
NOT_RUN = {"README.md": 1, "docs/performance.md": 1}

# The code


def output_of(page: Path, block: Block) -> str | None:
    """What the page says that a block prints: a text block that follows with nothing but white space between."""
    text = page.read_text(encoding="utf-8")
    for following in blocks(page):
        if following.start > block.end:
            is_output = following.language == "text" and not text[block.end : following.start].strip()
            return following.body if is_output else None
    return None


def compare(where: str, expected: str, printed: str) -> None:
    expected, printed = (re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE) for text in (expected, printed))
    if not doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS):
        pytest.fail(f"{where} prints something else\n--- the page\n{expected}\n--- printed\n{printed}", pytrace=False)


def run_python(page: Path, block: Block, namespace: dict[str, Any]) -> None:
    where = f"{name(page)}:{block.line}"
    code = compile("\n" * (block.line - 1) + block.body, str(page), "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    expected = output_of(page, block)
    if expected is not None:
        compare(where, expected, printed.getvalue())
    elif printed.getvalue():
        pytest.fail(f"{where} prints what the page does not show:\n{printed.getvalue()}", pytrace=False)


def commands(body: str) -> list[tuple[str, str]]:
    """Each command of a console block, continued lines joined, with the output that the page shows."""
    found: list[tuple[str, str]] = []
    for line in body.splitlines(keepends=True):
        if found and found[-1][0].endswith("\\\n"):
            found[-1] = (found[-1][0] + line.removeprefix("> "), "")
        elif line.startswith("$ "):
            found.append((line[2:], ""))
        else:
            command, output = found[-1]
            found[-1] = (command, output + line)
    return found


def run_console(page: Path, block: Block) -> None:
    where, code = f"{name(page)}:{block.line}", 0
    everything = commands(block.body)
    for number, (command, expected) in enumerate(everything):
        done = subprocess.run(
            ["sh", "-c", f"(exit {code})\n{command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Not what the process has beside it: readline puts COLUMNS there, and pytest imports it.
            env=dict(os.environ),
            text=True,
            check=False,
        )
        code = done.returncode
        may_fail = number + 1 < len(everything) and everything[number + 1][0].strip() == "echo $?"
        if code and not may_fail:
            pytest.fail(f"{where}: {command} exits with {code}:\n{done.stdout}", pytrace=False)
        if expected:
            compare(f"{where}: {command}", expected, done.stdout)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with `replay` and `python` on the path and no configuration of the machine's."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for program, arguments in (("replay", " -m replay"), ("python", "")):
        script = programs / program
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for variable in ("COLUMNS", "FORCE_COLOR", "PYTHONWARNINGS", *(key for key in os.environ if key[:4] == "GIT_")):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in {
        "NO_COLOR": "1",
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }.items():
        monkeypatch.setenv(variable, value)
    return work


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_code_of_a_page_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block runs, one after the other, and prints what the page says."""
    monkeypatch.syspath_prepend(folder)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.skipped:
            continue
        if block.language == "python":
            run_python(page, block, namespace)
        elif block.language == "console":
            run_console(page, block)


def test_only_what_cannot_run_is_not_run() -> None:
    """A block that is not run is counted, so that nobody marks one just because it fails."""
    skipped = {name(page): sum(block.skipped for block in blocks(page)) for page in PAGES}
    assert {page: count for page, count in skipped.items() if count} == NOT_RUN


def test_no_fence_is_left_open() -> None:
    """A fence that is not closed, or is indented, would hide its code from these tests."""
    for page in LINKED:
        fences = re.findall(r"^\s*`{3,}", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(blocks(page)), name(page)


# The links


def prose(page: Path) -> str:
    """The page without its fenced blocks and code spans."""
    return re.sub(r"`[^`\n]+`", "`code`", FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).strip().replace(" ", "-")
        number = 0
        while (unique := anchor if not number else f"{anchor}-{number}") in found:
            number += 1
        found.add(unique)
    return found


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    """A relative link names a file of the repository, and a heading in it where it names one."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_page_can_be_found_from_the_index() -> None:
    """A page that docs/index.md does not link to is a page that nobody reads."""
    linked = {
        (ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", prose(ROOT / "docs/index.md"))
    }
    assert {name(page) for page in PAGES if page.parent != ROOT and page.name != "index.md"} <= {
        name(page) for page in linked if page.is_relative_to(ROOT)
    }
