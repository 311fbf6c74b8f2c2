"""`make demo`, run as a process: on a repository, where there is none, and on what is none. And what it rests on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import Add, Delete, EventStore, HashingEmbedder, Operation, Update, read_json_lines
from examples import sources
from examples.question import choose, key, survey, tell, title
from projections import VectorIndex
from replay import verify
from tests.profiles import scaled

ROOT = Path(__file__).resolve().parent.parent
STEPS = 7

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def environment(**more: str) -> dict[str, str]:
    """No configuration of the user's, and no repository found above the test's own folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    people = {f"GIT_{who}_{what}": "someone@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    plain = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    return {**kept, **people, **plain, **more}


def demo(*arguments: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """What `make demo` runs, in a folder of the test's own."""
    return subprocess.run(
        [sys.executable, "-m", "examples.demo", *map(str, arguments)],
        cwd=cwd,
        env=environment(GIT_CEILING_DIRECTORIES=str(cwd.parent), **more),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )


def section(output: str, step: int) -> str:
    """What a step prints."""
    return output.split(f"\n{step} ", 1)[1].split(f"\n{step + 1} ", 1)[0]


def answers(text: str) -> list[tuple[str, ...]]:
    """Memory and version of each answer in a table."""
    return re.findall(r"^\d\.\d{3} +(\S+) +(\d+) ", text, re.MULTILINE)


class Repository:
    """A repository with a commit every hour."""

    def __init__(self, path: Path) -> None:
        self.path, self._seconds = path, 1_700_000_000
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> None:
        self._seconds += 3600
        date = f"@{self._seconds} +0000"
        subprocess.run(
            ["git", "-C", str(self.path), *arguments],
            check=True,
            env=environment(GIT_AUTHOR_DATE=date, GIT_COMMITTER_DATE=date),
            capture_output=True,
        )

    def commit(self, subject: str, files: Mapping[str, str | None]) -> None:
        for name, content in files.items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                file.unlink()
            else:
                file.write_text(content, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", subject)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few dozen commits: files added, changed, deleted and added again, and a merge."""
    made = Repository(tmp_path_factory.mktemp("demo") / "garden")
    plants = ["apple", "pear", "quince", "cherry", "plum", "medlar", "walnut", "hazel", "elder", "currant"]
    for number, plant in enumerate(plants):
        made.commit(f"Plant the {plant}", {f"trees/{plant}.md": f"# How to prune the {plant} tree\n\nIn winter.\n"})
        made.commit(f"Water the {plant}", {"diary.txt": f"Day {number}: watered the {plant}.\n"})
    made.git("checkout", "--quiet", "-b", "side")
    made.commit("Prune later", {"trees/apple.md": "# How to prune the apple tree\n\nIn March, not in winter.\n"})
    made.git("checkout", "--quiet", "main")
    made.commit("Fell the plum", {"trees/plum.md": None})
    made.git("merge", "--quiet", "--no-ff", "--message", "Merge side", "side")
    made.commit("Plant the plum again", {"trees/plum.md": "# How to prune the plum tree\n\nAfter the harvest.\n"})
    made.commit("Odd names", {"trees/ö [bold] \x1b[31m.md": "# Ö\n\n[red]no markup[/red] \x1b[31mno colour\n"})
    return made.path


@pytest.fixture(scope="module")
def shown(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The demo on that repository: its output, and the folder with what it made."""
    into = tmp_path_factory.mktemp("shown") / "made"
    before = contents(repository)
    done = demo("--into", into, cwd=repository)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(repository) == before, "the demo wrote to the repository"
    return done.stdout, into


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file()
    }


@needs_git
class TestARepository:
    def test_every_step_is_there(self, shown: tuple[str, Path]) -> None:
        """Seven numbered headings, each with the call that does it."""
        output, _ = shown
        assert re.findall(r"^(\d) .*──", output, re.MULTILINE) == [str(number) for number in range(1, STEPS + 1)]
        assert output.count("\n>>> ") == STEPS

    def test_the_past_answers_differently(self, shown: tuple[str, Path]) -> None:
        """The same question, other answers."""
        output, _ = shown
        now, then = answers(section(output, 2)), answers(section(output, 3))
        assert now
        assert then
        assert now != then

    def test_everything_it_checks_holds(self, shown: tuple[str, Path]) -> None:
        """The rebuilt index, the recovered database, the audit; and the forgery is found."""
        output, _ = shown
        assert "the answers of step 3, bit for bit" in section(output, 5)
        before, after = re.findall(r"sha256 ([0-9a-f]+)", section(output, 6))
        assert before == after
        assert "no fault" in section(output, 7)
        assert re.search(r"^  digest: event \d+", section(output, 7), re.MULTILINE)

    def test_it_is_plain_text_of_the_width_asked_for(self, shown: tuple[str, Path]) -> None:
        """No colour in a pipe, none from somebody's file either; only code is left whole."""
        output, _ = shown
        assert "\x1b" not in output
        long = [line for line in output.splitlines() if len(line) > 80]
        code = re.compile(r">>> |\S*(python -m replay|/replay) ")
        assert [line for line in long if not code.match(line)] == []

    def test_the_store_is_the_repository(self, shown: tuple[str, Path], repository: Path) -> None:
        """What it leaves behind holds the files as they are, and is sound; the forged copy is not."""
        _, into = shown
        with EventStore(into / "history.db") as store:
            memories = {memory.memory_id: memory.content for memory in store.memories()}
        files = [file for file in repository.rglob("*") if file.is_file() and ".git" not in file.parts]
        assert memories == {str(file.relative_to(repository)): file.read_text(encoding="utf-8") for file in files}
        assert verify(into / "history.db").ok
        assert verify(into / "then.db").ok
        assert {fault.kind for fault in verify(into / "forged.db").faults} == {"digest"}

    def test_a_terminal_of_few_letters_will_do(self, repository: Path, tmp_path: Path) -> None:
        """What cannot be shown is replaced, not an error."""
        done = demo(repository, "--into", tmp_path / "made", cwd=tmp_path, PYTHONIOENCODING="ascii", COLUMNS="120")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.isascii()


class TestNoHistory:
    """It says so, and shows the history that it ships."""

    def check(self, done: subprocess.CompletedProcess[str], said: str) -> None:
        assert (done.returncode, done.stderr) == (0, "")
        assert said in " ".join(done.stdout.split())
        assert "an assistant called juno" in " ".join(done.stdout.split())
        assert answers(section(done.stdout, 2)) != answers(section(done.stdout, 3))

    @needs_git
    def test_a_shallow_clone(self, repository: Path, tmp_path: Path) -> None:
        """One commit has no past."""
        clone = tmp_path / "clone"
        subprocess.run(
            ["git", "clone", "--quiet", "--depth=1", repository.as_uri(), str(clone)], check=True, env=environment()
        )
        self.check(demo("--into", tmp_path / "made", cwd=clone), "a shallow clone")

    @needs_git
    def test_a_folder_without_repository(self, tmp_path: Path) -> None:
        """As after unpacking an archive."""
        folder = tmp_path / "unpacked"
        folder.mkdir()
        self.check(demo("--into", tmp_path / "made", cwd=folder), "this folder is not a git repository")

    def test_a_machine_without_git(self, tmp_path: Path) -> None:
        """The demo itself needs no git."""
        folder = tmp_path / "unpacked"
        folder.mkdir()
        self.check(demo("--into", tmp_path / "made", cwd=folder, PATH=str(tmp_path)), "cannot run git")

    @needs_git
    def test_a_repository_without_commits(self, tmp_path: Path) -> None:
        """Just after `git init`."""
        made = Repository(tmp_path / "new")
        self.check(demo("--into", tmp_path / "made", cwd=made.path), "has no commits yet")


class TestBadInput:
    """One line that says what to do, and nothing else."""

    def check(self, done: subprocess.CompletedProcess[str], name: str) -> None:
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert name in done.stderr

    def test_a_path_that_is_not_there(self, tmp_path: Path) -> None:
        """REPO was mistyped."""
        self.check(demo("nowhere", "--into", "made", cwd=tmp_path), "'nowhere'")
        assert list(tmp_path.iterdir()) == []

    @needs_git
    def test_a_folder_that_is_no_repository(self, tmp_path: Path) -> None:
        """REPO was asked for, so another history would be no answer."""
        (tmp_path / "plain").mkdir()
        self.check(demo("plain", "--into", "made", cwd=tmp_path), "'plain'")

    def test_a_folder_that_is_in_use(self, tmp_path: Path) -> None:
        """Nobody's database is thrown away."""
        (tmp_path / "history.db").write_text("mine")
        self.check(demo("--into", tmp_path, cwd=tmp_path, PATH=""), str(tmp_path))
        assert (tmp_path / "history.db").read_text() == "mine"


@needs_git
def test_a_long_history_is_cut_to_its_end(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is a history of its own: its files are added where they first appear."""
    whole = sources.git_source(str(repository))
    monkeypatch.setattr(sources, "EVENT_LIMIT", 10)
    cut = sources.git_source(str(repository))
    assert 2 <= cut.moments < whole.moments
    assert cut.events <= 10
    with EventStore(embedder=HashingEmbedder()) as store:
        sources.fill(store, cut, lambda done, total: None)
        assert store.position == cut.events
        live = {memory.memory_id for memory in store.memories()}
    assert "trees/plum.md" in live
    assert any("the last" in remark for remark in cut.remarks)


def test_the_small_history_tells_its_story() -> None:
    """When the table was booked, nobody had said a word of an allergy; today it is the first answer."""
    source = sources.small_source("")
    assert source.story is not None
    with EventStore(embedder=HashingEmbedder()) as store, VectorIndex(store) as index:
        store.import_events(read_json_lines(sources.SMALL_HISTORY), source="small")
        found = survey(store)
        question = tell(index, store, found, source.story)
        assert 40 <= store.position <= 100
        assert min(found.types[kind] for kind in ("ADD", "UPDATE", "DELETE")) >= 10
        assert found.lives[source.story.memory_id].adds == 2
    assert [hit.memory_id for hit in question.then[:2]] == ["food", "dinner"]
    assert not any("allerg" in hit.content for hit in question.then)
    assert [hit.memory_id for hit in question.now[:2]] == ["food", "allergy-card"]
    assert all("allerg" in hit.content for hit in question.now[:2])


TEXTS = st.text(alphabet="abcdefgh \n#é日", max_size=30)


@settings(max_examples=scaled(60))
@given(data=st.data())
def test_the_answers_differ_whatever_the_history(data: st.DataObject) -> None:
    """Of any two moments or more, whose texts are told apart, some question has another answer then than now."""
    with EventStore(embedder=HashingEmbedder()) as store, VectorIndex(store) as index:
        moments = data.draw(st.integers(2, 8))
        for number in range(moments):
            live = [memory.memory_id for memory in store.memories()]
            name = data.draw(st.sampled_from(["a.md", "b/c.py", "d.json", "e", "f.txt", "g.rst"]))
            content = f"{data.draw(TEXTS)} word{'abcdefgh'[number]}word"
            operation: Operation = Add(memory_id=name, content=content)
            if name in live:
                is_delete = data.draw(st.booleans())
                operation = Delete(memory_id=name) if is_delete else Update(memory_id=name, content=content)
            store.append([operation], correlation_id=f"commit-{number}")
        question = choose(index, store, survey(store))
        assert question.moment.position < store.position
        assert key(question.now) != key(question.then)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("# How to prune a tree\n\nIn winter.\n", "How to prune a tree"),
        ('"""Search by similarity, now or as of then, over an index."""\n', "Search by similarity"),
        (
            "#!/usr/bin/env python\n# Copyright 2020 the authors of this\n\n/* Reads the whole file */\n",
            "Reads the whole file",
        ),
        ("x = 1\ny = 2\n", None),
        ("", None),
    ],
)
def test_a_heading_is_found(content: str, expected: str | None) -> None:
    """A question for people is a few words of prose."""
    assert title(content) == expected


def test_the_example_of_an_agent_runs(tmp_path: Path) -> None:
    """What the README says in a few lines."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.agent_memory"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[:2] == ["now:  Alice prefers coffee", "then: Alice prefers tea"]
    assert list(tmp_path.iterdir()) == []
