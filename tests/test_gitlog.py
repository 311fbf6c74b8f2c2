"""A git history as records: after every commit, the records folded so far are its text files."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
import threading
import tracemalloc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import EventStore, HashingEmbedder
from eventstore.errors import AsofError, InvalidOperation
from replay.gitlog import NotARepository, count_commits, describe, git_records
from tests.profiles import scaled

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

T0 = 1_600_000_000
PEOPLE = {
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_AUTHOR_DATE": f"@{T0} +0000",
    "GIT_COMMITTER_NAME": "C",
    "GIT_COMMITTER_EMAIL": "c@d",
    "GIT_COMMITTER_DATE": f"@{T0} +0000",
}
Record = dict[str, Any]


@pytest.fixture(autouse=True, scope="module")
def only_our_configuration() -> Iterator[None]:
    """No configuration of the machine or the user, for the tests and the code under test alike."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GIT_")]:
            patch.delenv(name)
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        yield


@dataclass
class Repo:
    """A real repository; commits are a minute apart unless told otherwise."""

    path: Path
    seconds: int = T0

    def git(self, *arguments: str | bytes, stdin: bytes = b"", env: Mapping[str, str] = {}) -> bytes:
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments],
            input=stdin,
            capture_output=True,
            env={**os.environ, **env},
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def line(self, *arguments: str, stdin: bytes = b"") -> str:
        return self.git(*arguments, stdin=stdin).decode().strip()

    def write(self, name: str | bytes, content: str | bytes) -> None:
        target = os.path.join(os.fsencode(self.path), os.fsencode(name))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)

    def commit(
        self,
        message: str = "a commit",
        *,
        author: str = "Ann",
        at: int | None = None,
        authored: int | None = None,
    ) -> str:
        self.seconds = self.seconds + 60 if at is None else at
        self.git("add", "--all")
        return self.seal(
            "commit",
            "-q",
            "--allow-empty",
            "--allow-empty-message",
            "-m",
            message,
            author=author,
            at=authored,
        )

    def seal(self, *arguments: str, author: str = "Ann", at: int | None = None) -> str:
        """Runs a command that commits; returns the commit."""
        dates = {
            "GIT_AUTHOR_DATE": f"@{self.seconds if at is None else at} +0200",
            "GIT_COMMITTER_DATE": f"@{self.seconds} -0300",
        }
        self.git(*arguments, env=PEOPLE | {"GIT_AUTHOR_NAME": author} | dates)
        return self.line("rev-parse", "HEAD")

    def raw_commit(self, author: str, committer: str, message: bytes = b"raw\n", extra: bytes = b"") -> str:
        """Commits the index with these very header lines, whatever git thinks of them."""
        head = f"tree {self.line('write-tree')}\n"
        head += f"parent {self.line('rev-parse', 'HEAD')}\nauthor {author}\ncommitter {committer}\n"
        body = head.encode() + extra + b"\n" + message
        commit = self.line("hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=body)
        self.git("update-ref", "HEAD", commit)
        return commit

    def walk(self, rev: str = "HEAD") -> list[str]:
        return self.line("rev-list", "--first-parent", "--reverse", rev, "--").split()

    def texts(self, commit: str, max_bytes: int = 1_000_000) -> list[tuple[str, str]]:
        """Path and content of the text files of a commit, as `ls-tree` and `cat-file` tell them."""
        found = []
        for entry in self.git("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")[:-1]:
            meta, path = entry.split(b"\t", 1)
            mode, _, blob = meta.split()
            if mode not in (b"100644", b"100755"):
                continue
            content = self.git("cat-file", "blob", blob)
            if len(content) <= max_bytes and b"\0" not in content:
                try:
                    found.append((path.decode(errors="backslashreplace"), content.decode()))
                except UnicodeDecodeError:
                    continue
        return sorted(found)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return new_repo(tmp_path / "repo")


def new_repo(path: Path, *options: str) -> Repo:
    path.mkdir()
    made = Repo(path)
    made.git("init", "-q", "-b", "main", *options)
    return made


def folded(records: Iterable[Record]) -> Iterator[tuple[str, dict[str, Record]]]:
    """Folds records as a store would; gives each commit that has some and what is live after it."""
    live: dict[str, Record] = {}
    commit = None
    for record in records:
        if commit not in (None, record["correlation_id"]):
            yield commit, dict(live)
        commit = record["correlation_id"]
        key = record["memory_id"]
        assert (key in live) == (record["type"] != "ADD"), record
        if record["type"] == "DELETE":
            assert "content" not in record
            assert "metadata" not in record
            del live[key]
        else:
            if record["type"] == "UPDATE":
                assert record["content"] != live[key]["content"]
            live[key] = record
    if commit is not None:
        yield commit, dict(live)


def assert_is_the_history(repo: Repo, records: list[Record], rev: str = "HEAD", max_bytes: int = 1_000_000) -> None:
    """The main property, at every commit of the walk."""
    states = dict(folded(records))
    state: dict[str, Record] = {}
    walk = repo.walk(rev)
    for commit in walk:
        state = states.pop(commit, state)
        assert sorted((r["metadata"]["path"], r["content"]) for r in state.values()) == repo.texts(commit, max_bytes)
    assert states == {}
    order = [record["correlation_id"] for record in records]
    assert order == sorted(order, key=walk.index)
    instants = [record["recorded_at"] for record in records]
    assert instants == sorted(instants)
    assert len({record["event_id"] for record in records}) == len(records)


def events(records: Iterable[Record]) -> list[tuple[str, str, str | None]]:
    return [(record["type"], record["memory_id"], record.get("content")) for record in records]


def utc(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


# -- what a record says -------------------------------------------------------------------------------------


def test_a_record_carries_the_file_and_its_commit(repo: Repo) -> None:
    """Every key, once, in full."""
    repo.write("docs/a b/Page.MD", "hello\n")
    commit = repo.commit("Say hello\n\nA body.", author="Zoë Ann", authored=T0 - 500)
    assert list(git_records(repo.path)) == [
        {
            "type": "ADD",
            "memory_id": "docs/a b/Page.MD",
            "content": "hello\n",
            "metadata": {
                "path": "docs/a b/Page.MD",
                "directory": "docs/a b",
                "extension": ".md",
                "commit": commit,
            },
            "recorded_at": utc(T0 + 60),
            "occurred_at": utc(T0 - 500),
            "actor_id": "Zoë Ann",
            "role": None,
            "reason": "Say hello",
            "event_id": "git-" + hashlib.sha256(commit.encode() + b"\0docs/a b/Page.MD").hexdigest(),
            "correlation_id": commit,
        }
    ]


@pytest.mark.parametrize(
    ("path", "directory", "extension"),
    [
        ("README", "", ""),
        (".gitignore", "", ""),
        ("a.tar.GZ", "", ".gz"),
        ("x.d/y", "x.d", ""),
        ("p/q/r.py", "p/q", ".py"),
    ],
)
def test_metadata_splits_the_path(repo: Repo, path: str, directory: str, extension: str) -> None:
    """Directory and extension are there to filter by."""
    repo.write(path, "x")
    repo.commit()
    (record,) = git_records(repo.path)
    assert (record["metadata"]["directory"], record["metadata"]["extension"]) == (directory, extension)


def test_adds_updates_and_deletes(repo: Repo) -> None:
    """The three events, in the order of commits; a file of the same content again is an ADD again."""
    repo.write("a", "1")
    repo.write("b", "2")
    repo.commit()
    repo.write("a", "3")
    (repo.path / "b").unlink()
    repo.commit()
    repo.write("b", "2")
    repo.commit()
    records = list(git_records(repo.path))
    assert events(records) == [
        ("ADD", "a", "1"),
        ("ADD", "b", "2"),
        ("UPDATE", "a", "3"),
        ("DELETE", "b", None),
        ("ADD", "b", "2"),
    ]
    assert_is_the_history(repo, records)


def test_a_rename_is_a_delete_and_an_add(repo: Repo) -> None:
    """A path is a memory's identity, however alike the contents."""
    repo.write("old", "the same\n" * 50)
    repo.commit()
    repo.git("mv", "old", "new")
    repo.commit()
    assert [(r["type"], r["memory_id"]) for r in git_records(repo.path)] == [
        ("ADD", "old"),
        ("ADD", "new"),
        ("DELETE", "old"),
    ]


def test_an_empty_file_is_text(repo: Repo) -> None:
    repo.write("empty", "")
    repo.commit()
    assert events(git_records(repo.path)) == [("ADD", "empty", "")]


def test_a_commit_without_text_changes_gives_no_record(repo: Repo) -> None:
    """Empty commits, and changes of mode alone."""
    repo.write("run", "x")
    repo.commit()
    repo.commit("empty")
    (repo.path / "run").chmod(0o755)
    repo.commit("mode")
    records = list(git_records(repo.path))
    assert events(records) == [("ADD", "run", "x")]
    assert count_commits(repo.path) == 3
    assert_is_the_history(repo, records)


def test_content_is_taken_as_it_is(repo: Repo) -> None:
    """No line end, byte order mark or attribute changes a character of it."""
    content = "\ufeffone\r\ntwo\rthree \u2028 \U0001f375 $Id$"
    repo.git("config", "core.autocrlf", "false")
    repo.write("f", content)
    repo.commit()
    attributes = repo.path / ".git" / "info" / "attributes"
    attributes.parent.mkdir(exist_ok=True)
    attributes.write_text("f text eol=crlf ident working-tree-encoding=UTF-16\n")
    assert next(git_records(repo.path))["content"] == content


# -- what is text -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [b"nul \0 byte", b"not UTF-8 \xff", b"longer than ten bytes", "link", "submodule"])
def test_ceasing_to_be_text_is_a_delete_and_becoming_it_an_add(repo: Repo, other: bytes | str) -> None:
    """Each of the five ways not to be text, entered and left, and changed in between."""

    def become(kind: bytes | str, turn: int) -> None:
        (repo.path / "f").unlink(missing_ok=True)
        if isinstance(kind, bytes):
            repo.write("f", kind + b"!" * turn)
        elif kind == "link":
            (repo.path / "f").symlink_to(f"target{turn}")
        else:
            repo.git("update-index", "--add", "--cacheinfo", f"160000,{str(turn) * 40},f")
            repo.seal("commit", "-q", "-m", "gitlink")
            return
        repo.commit()

    for step, kind in enumerate([other, other, b"text", other, b"text"], start=1):
        become(kind, step)
    records = list(git_records(repo.path, max_bytes=10))
    assert events(records) == [("ADD", "f", "text!!!"), ("DELETE", "f", None), ("ADD", "f", "text!!!!!")]
    assert_is_the_history(repo, records, max_bytes=10)


def test_a_link_to_what_the_file_said_is_no_text(repo: Repo) -> None:
    """The blob stays the same and only the mode tells."""
    repo.write("f", "target")
    repo.commit()
    (repo.path / "f").unlink()
    (repo.path / "f").symlink_to("target")
    repo.commit()
    assert events(git_records(repo.path)) == [("ADD", "f", "target"), ("DELETE", "f", None)]


def test_max_bytes_is_the_largest_size_taken(repo: Repo) -> None:
    """Bytes, not characters; the limit itself is in."""
    repo.write("in", "é" * 5)
    repo.write("out", "é" * 5 + "x")
    repo.commit()
    assert events(git_records(repo.path, max_bytes=10)) == [("ADD", "in", "é" * 5)]


def test_a_file_becomes_a_directory(repo: Repo) -> None:
    """And a directory a file."""
    repo.write("x", "file")
    repo.commit()
    (repo.path / "x").unlink()
    repo.write("x/y", "inside")
    repo.commit()
    shutil.rmtree(repo.path / "x")
    repo.write("x", "file")
    repo.commit()
    assert_is_the_history(repo, list(git_records(repo.path)))


def test_a_large_file_is_passed_over_in_bounded_memory(repo: Repo) -> None:
    """What is too large is not held, and what follows it is read right."""
    repo.write("a", b"x" * 30_000_000)
    repo.write("b", "small")
    repo.commit()
    tracemalloc.start()
    try:
        assert events(git_records(repo.path)) == [("ADD", "b", "small")]
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


# -- names and ids ------------------------------------------------------------------------------------------

NAMES = [
    b"with space",
    b" leading and trailing ",
    b"-dash",
    b"--option=x",
    b"new\nline",
    b"\nfirst",
    b"tab\tand\rreturn",
    b'quo"te',
    b"back\\slash",
    b":100644 000000 colon",
    b"*?[glob]",
    "ünïcode/文.md".encode(),
    "e\u0301 decomposed".encode(),
    b"latin-1 \xe9",
    b"\xff\xfe",
    b"\xed\xa0\x80 surrogate",
    b"deep/" * 30 + b"x",
]


def test_odd_names(repo: Repo) -> None:
    """Whatever git can name, fast-import's trees included."""
    fast_import(repo, [{"files": {name: (b"100644", b"in " + name[:1].hex().encode()) for name in NAMES}}])
    records = list(git_records(repo.path))
    assert {r["memory_id"] for r in records} == {name.decode(errors="backslashreplace") for name in NAMES}
    assert_is_the_history(repo, records)


def test_a_long_path_is_known_by_its_digest(repo: Repo) -> None:
    """512 characters are an id; 513 are too many for one, and metadata has them."""
    fits, long = b"x/" * 255 + "é".encode() + b"x", b"x/" * 255 + b"yyy"
    fast_import(repo, [{"files": {fits: (b"100644", b"1"), long: (b"100644", b"2")}}])
    ids = {r["metadata"]["path"]: r["memory_id"] for r in git_records(repo.path)}
    assert ids == {fits.decode(): fits.decode(), long.decode(): "sha256:" + hashlib.sha256(long).hexdigest()}


def test_no_two_paths_share_an_id(repo: Repo) -> None:
    """A name may spell what another name's bytes, or its digest, would be written as."""
    long = b"z" * 600
    names = [
        b"\xff",
        rb"\xff",
        b"\xfe" + rb"\xff",
        rb"\xfe" + b"\xff",
        long,
        b"sha256:" + hashlib.sha256(long).hexdigest().encode(),
    ]
    fast_import(repo, [{"files": {name: (b"100644", b"%d" % i) for i, name in enumerate(names)}}])
    records = list(git_records(repo.path))
    assert len({r["memory_id"] for r in records}) == len(names)
    assert_is_the_history(repo, records)


# -- people, subjects, times --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("", None),
        ("one\ntwo\n\nthree", "one two"),
        (":100644 100644 0 0 M", ":100644 100644 0 0 M"),
        ("é" * 3000, "é" * 3000),
        ("%H %x00 \x1b[31m \\0", "%H %x00 \x1b[31m \\0"),
    ],
)
def test_the_reason_is_the_subject(repo: Repo, message: str, reason: str | None) -> None:
    """Of any length and with anything in it; None if there is none."""
    repo.write("f", message or "x")
    repo.commit(message)
    repo.write("g", "after")
    repo.commit("next")
    assert [r["reason"] for r in git_records(repo.path)] == [reason, "next"]


def test_a_commit_in_another_encoding_is_read_in_it(repo: Repo) -> None:
    """And one that is not what it says keeps its bytes, escaped."""
    repo.commit()
    repo.write("f", "1")
    repo.git("add", "-A")
    who = f"A <a@b> {T0 + 100} +0000"
    repo.raw_commit(who, who, "né\n".encode("latin-1"), b"encoding ISO-8859-1\n")
    repo.write("f", "2")
    repo.git("add", "-A")
    repo.raw_commit(who, who, b"n\xe9 \xff\n")
    assert [r["reason"] for r in git_records(repo.path)] == ["né", "n\\xe9 \\xff"]


@pytest.mark.parametrize(("author", "actor"), [("x" * 600, "x" * 512), ("", None), ("Zoë", "Zoë")])
def test_the_actor_is_the_author(repo: Repo, author: str, actor: str | None) -> None:
    """Cut at the length of an id, None if there is no name, and untouched by a mailmap."""
    repo.write(".mailmap", "Somebody Else <a@b>\n")
    repo.git("add", "-A")
    repo.git("commit", "-q", "-m", "first", env=PEOPLE)
    repo.write("f", "1")
    repo.git("add", "-A")
    repo.raw_commit(f"{author} <a@b> {T0} +0000", f"C <c@d> {T0} +0000")
    assert [r["actor_id"] for r in git_records(repo.path)] == ["A", actor]


def test_the_clock_never_runs_backward(repo: Repo) -> None:
    """A skewed committer time counts as the one before; the author's is kept as it is."""
    times = [T0, T0 + 50, T0 + 20, T0 + 50, T0 + 60]
    for number, at in enumerate(times):
        repo.write("f", str(number))
        repo.commit(at=at, authored=at)
    records = list(git_records(repo.path))
    assert [r["recorded_at"] for r in records] == [utc(T0 + s) for s in (0, 50, 50, 50, 60)]
    assert [r["occurred_at"] for r in records] == [utc(at) for at in times]


def test_a_skewed_clock_on_a_commit_without_records_counts_too(repo: Repo) -> None:
    """The walk's commits make the order, not only those with records."""
    repo.commit(at=T0 + 500)
    repo.write("f", "1")
    repo.commit(at=T0)
    assert [r["recorded_at"] for r in git_records(repo.path)] == [utc(T0 + 500)]


@pytest.mark.parametrize(
    ("when", "authored"),
    [
        ("", None),
        ("nonsense +0000", None),
        ("-5 +0000", None),
        ("99999999999999999999999 +0000", None),
        ("300000000000 +0000", None),
        (f"{T0 + 7} +9999", T0 + 7),
        ("4000000000 +0000", 4_000_000_000),
    ],
)
def test_a_time_that_cannot_be_counts_as_the_commit_before(repo: Repo, when: str, authored: int | None) -> None:
    """Absent, before 1970, past the year 9999, in the future; the commits after it are not dragged along."""
    repo.write("f", "1")
    repo.commit(at=T0)
    repo.write("f", "2")
    repo.git("add", "-A")
    repo.raw_commit(f"A <a@b> {when}", f"C <c@d> {when}")
    repo.write("f", "3")
    repo.commit(at=T0 + 9)
    _, odd, last = git_records(repo.path)
    possible = authored is not None and authored < T0 + 9
    assert odd["recorded_at"] == utc(T0 + 7 if possible else T0)
    assert odd["occurred_at"] == (None if authored is None else utc(authored))
    assert last["recorded_at"] == utc(T0 + 9)


def test_a_first_commit_without_a_time_is_of_1970(repo: Repo) -> None:
    """There is no commit before to take it from."""
    repo.write("f", "1")
    repo.commit(at=4_000_000_000)
    assert [r["recorded_at"] for r in git_records(repo.path)] == [utc(0)]


# -- the walk -----------------------------------------------------------------------------------------------


@pytest.fixture
def merged(repo: Repo) -> Repo:
    """A merge that was changed by hand, and a branch that is not merged."""
    repo.write("a", "1")
    repo.write("b", "1")
    repo.commit("root")
    repo.git("checkout", "-q", "-b", "side")
    repo.write("a", "side")
    repo.write("new", "side")
    repo.commit("on the side")
    repo.write("new", "side, again")
    repo.commit("on the side again")
    repo.git("checkout", "-q", "main")
    repo.write("b", "main")
    repo.commit("on main")
    repo.seconds += 60
    repo.git("merge", "-q", "--no-commit", "side", env=PEOPLE)
    repo.write("a", "by hand")
    repo.write("evil", "in the merge alone")
    repo.commit("merge")
    repo.git("checkout", "-q", "-b", "open", "HEAD~1")
    repo.write("c", "open")
    repo.commit("not merged")
    repo.git("checkout", "-q", "main")
    return repo


def test_a_merge_is_what_it_changed_on_the_first_parent(merged: Repo) -> None:
    """One commit with the sum of the branch; the branch's own commits are not walked."""
    records = list(git_records(merged.path))
    assert [(r["reason"], r["type"], r["memory_id"], r.get("content")) for r in records] == [
        ("root", "ADD", "a", "1"),
        ("root", "ADD", "b", "1"),
        ("on main", "UPDATE", "b", "main"),
        ("merge", "UPDATE", "a", "by hand"),
        ("merge", "ADD", "evil", "in the merge alone"),
        ("merge", "ADD", "new", "side, again"),
    ]
    assert_is_the_history(merged, records)


@pytest.mark.parametrize(
    "rev", ["main", "side", "open", "HEAD~1", "HEAD^2", ":/on the side again", "v1", "lightweight"]
)
def test_any_revision_can_be_walked_to(merged: Repo, rev: str) -> None:
    """Branches, ancestors, other parents, messages, tags of both kinds."""
    merged.git("tag", "-a", "-m", "x", "v1", "side", env=PEOPLE)
    merged.git("tag", "lightweight", "open")
    records = list(git_records(merged.path, rev=rev))
    commit = merged.line("rev-parse", rev + "^{commit}" if rev[0] != ":" else rev)
    assert records[-1]["correlation_id"] == commit
    assert_is_the_history(merged, records, rev=commit)
    assert describe(merged.path, rev).commit == commit


def test_a_branch_named_like_an_option(merged: Repo) -> None:
    """Git can be made to have one; it is a name, not an option."""
    merged.git("update-ref", "refs/heads/--all", "side")
    assert list(git_records(merged.path, rev="--all")) == list(git_records(merged.path, rev="side"))


def test_unrelated_histories_and_octopus_merges(repo: Repo) -> None:
    """A merge with more than two parents, one of which is another root."""
    repo.write("main", "1")
    repo.commit()
    for name in ("one", "two"):
        repo.git("checkout", "-q", "--orphan", name)
        repo.git("rm", "-rqf", ".")
        repo.write(name, name)
        repo.commit(name)
    repo.git("checkout", "-q", "main")
    tree = repo.git("ls-tree", "main") + repo.git("ls-tree", "one") + repo.git("ls-tree", "two")
    made = repo.line("mktree", stdin=tree)
    merge = repo.git("commit-tree", made, "-p", "main", "-p", "one", "-p", "two", "-m", "octopus", env=PEOPLE)
    repo.git("update-ref", "HEAD", merge.strip())
    records = list(git_records(repo.path))
    assert [r["memory_id"] for r in records] == ["main", "one", "two"]
    assert_is_the_history(repo, records)


def test_after_gives_the_rest_of_the_same_records(merged: Repo) -> None:
    """From each commit of the walk on; what was text before it is known."""
    merged.write("a", b"binary \0")
    merged.commit("binary", at=T0 - 1000)
    merged.write("a", "text")
    merged.write("b", "text")
    merged.commit("text", at=T0 - 1000)
    every = list(git_records(merged.path))
    walk = merged.walk()
    for number, commit in enumerate(walk, start=1):
        rest = [record for record in every if record["correlation_id"] in walk[number:]]
        assert list(git_records(merged.path, after=commit)) == rest
        assert count_commits(merged.path, after=commit) == len(walk) - number
    assert list(git_records(merged.path, after="HEAD")) == []


@pytest.mark.parametrize("after", ["side", "open", "HEAD"])
def test_after_a_commit_that_is_not_on_the_walk_is_refused(merged: Repo, after: str) -> None:
    """A merged branch, another branch, a descendant: none has a rest of this walk."""
    rev = "HEAD~1" if after == "HEAD" else "HEAD"
    for read in (git_records, count_commits):
        with pytest.raises(NotARepository, match="not among the first parents"):
            read(merged.path, rev=rev, after=after)


def test_again_after_more_commits_repeats_the_records(merged: Repo) -> None:
    """Ids and all, so that importing again appends only what is new."""
    before = list(git_records(merged.path))
    merged.write("a", "more")
    merged.commit()
    again = list(git_records(merged.path))
    assert again[:-1] == before


def test_count_and_description(merged: Repo) -> None:
    """The total that a progress bar runs to."""
    assert count_commits(merged.path) == 3
    assert count_commits(merged.path, "side") == 3
    described = describe(merged.path)
    assert (described.commit, described.commits, described.shallow) == (merged.walk()[-1], 3, False)


# -- where a repository can be ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["sub/directory", ".git", "../bare.git", "../worktree", "../worktree/sub"])
def test_every_place_in_a_repository_gives_the_whole(merged: Repo, where: str) -> None:
    """Subdirectories, the git directory, bare clones and worktrees."""
    merged.write("sub/directory/file", "x")
    merged.commit()
    merged.git("clone", "-q", "--bare", ".", "../bare.git")
    merged.git("worktree", "add", "-q", "../worktree", "HEAD", "--detach")
    assert list(git_records(merged.path / where)) == list(git_records(merged.path))
    assert list(git_records(str(merged.path / where))) == list(git_records(merged.path))


def test_a_relative_path_is_held_on_to(merged: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk begins at the first record, and the caller may have moved by then."""
    monkeypatch.chdir(merged.path.parent)
    records = git_records("repo")
    monkeypatch.chdir("/")
    assert list(records) == list(git_records(merged.path))


def test_a_shallow_clone_starts_at_its_boundary(merged: Repo, tmp_path: Path) -> None:
    """All files of the boundary are added there; the rest is as in the whole."""
    merged.write("a", "latest")
    merged.commit("latest")
    merged.git("clone", "-q", "--depth", "2", f"file://{merged.path}", str(tmp_path / "shallow"))
    shallow = Repo(tmp_path / "shallow")
    described = describe(shallow.path)
    assert (described.commits, described.shallow) == (2, True)
    records = list(git_records(shallow.path))
    assert [r["type"] for r in records] == ["ADD"] * 4 + ["UPDATE"]
    assert_is_the_history(shallow, records)


def test_objects_of_sha256(tmp_path: Path) -> None:
    """The longer ids read the same way."""
    repo = new_repo(tmp_path / "repo", "--object-format=sha256")
    repo.write("a", "1")
    repo.commit()
    repo.write("a", "2")
    assert len(repo.commit()) == 64
    records = list(git_records(repo.path))
    assert_is_the_history(repo, records)
    assert len(records) == 2


# -- what must not change the answer ------------------------------------------------------------------------

HOSTILE = {
    "alias.log": "!touch OWNED",
    "color.ui": "always",
    "color.diff": "always",
    "core.abbrev": "4",
    "core.attributesFile": "OWNED-attributes",
    "core.commentChar": ":",
    "core.fsmonitor": "touch OWNED",
    "core.hooksPath": "hooks-of-theirs",
    "core.pager": "touch OWNED",
    "core.quotePath": "true",
    "diff.context": "9",
    "diff.external": "touch OWNED; false",
    "diff.evil.textconv": "touch OWNED; echo evil",
    "diff.evil.command": "touch OWNED",
    "diff.ignoreSubmodules": "all",
    "diff.mnemonicPrefix": "true",
    "diff.noprefix": "true",
    "diff.orderFile": "order",
    "diff.relative": "true",
    "diff.renames": "copies",
    "diff.submodule": "log",
    "diff.wordRegex": ".",
    "filter.evil.clean": "touch OWNED",
    "filter.evil.smudge": "touch OWNED; echo evil",
    "filter.evil.required": "true",
    "format.notes": "*",
    "format.pretty": "oneline",
    "i18n.logOutputEncoding": "UTF-16",
    "log.abbrevCommit": "true",
    "log.date": "relative",
    "log.decorate": "full",
    "log.diffMerges": "off",
    "log.follow": "true",
    "log.mailmap": "true",
    "log.showRoot": "false",
    "log.showSignature": "true",
    "notes.displayRef": "*",
    "pager.log": "touch OWNED",
    "submodule.recurse": "true",
}


@pytest.mark.parametrize("more", [{}, {"core.worktree": "/nonexistent"}], ids=["", "worktree elsewhere"])
def test_no_configuration_changes_the_answer_or_runs_anything(
    merged: Repo, monkeypatch: pytest.MonkeyPatch, more: dict[str, str]
) -> None:
    """Configuration, attributes, notes, grafts, replacements and the environment of a hook."""
    merged.write("sub/é.md", "é")
    merged.write("moved", "x\n" * 30)
    merged.commit("sub", author="Zoë")
    merged.git("mv", "moved", "sub/moved")
    merged.git("notes", "add", "-m", "a note", env=PEOPLE)
    signature = b"gpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n"
    merged.raw_commit(f"A <a@b> {merged.seconds} +0000", f"A <a@b> {merged.seconds} +0000", extra=signature)
    expected = list(git_records(merged.path))
    assert_is_the_history(merged, expected)

    git_dir = merged.path / ".git"
    walk = merged.walk()
    blob = merged.line("rev-parse", "HEAD:sub/é.md")
    merged.git("replace", blob, merged.line("rev-parse", "HEAD:a"))
    merged.git("replace", walk[1], merged.line("rev-parse", "open"))
    (git_dir / "info").mkdir(exist_ok=True)
    (git_dir / "info" / "grafts").write_text(f"{walk[2]}\n")
    (git_dir / "info" / "attributes").write_text("* diff=evil filter=evil text eol=crlf\n")
    (merged.path / "order").write_text("sub/*\n")
    hooks = merged.path / "hooks-of-theirs"
    hooks.mkdir()
    for hook in ("gpg", "post-checkout", "reference-transaction", "fsmonitor-watchman", "post-index-change"):
        (hooks / hook).write_text(f"#!/bin/sh\ntouch {merged.path}/OWNED\necho '[GNUPG:] GOODSIG 0 x'\n")
        (hooks / hook).chmod(0o755)
    with open(git_dir / "config", "a", encoding="utf-8") as config:
        for key, value in (HOSTILE | more | {"gpg.program": str(hooks / "gpg")}).items():
            section, *middle, name = key.split(".")
            head = f'[{section} "{middle[0]}"]' if middle else f"[{section}]"
            config.write(f'{head}\n{name} = "{value}"\n')
    for name, value in {
        "GIT_DIR": "/nonexistent",
        "GIT_WORK_TREE": "/nonexistent",
        "GIT_INDEX_FILE": "/nonexistent",
        "GIT_OBJECT_DIRECTORY": "/nonexistent",
        "GIT_NAMESPACE": "theirs",
        "GIT_EXTERNAL_DIFF": "touch OWNED",
        "GIT_DIFF_OPTS": "-u9",
        "GIT_PAGER": "touch OWNED",
        "GIT_TRACE": "1",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_GRAFT_FILE": str(git_dir / "info" / "grafts"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "diff.renames",
        "GIT_CONFIG_VALUE_0": "copies",
        "LC_ALL": "de_DE.UTF-8",
    }.items():
        monkeypatch.setenv(name, value)

    for place in (merged.path, merged.path / "sub"):
        assert list(git_records(place)) == expected
        assert count_commits(place) == len(walk)
    assert list(merged.path.rglob("OWNED")) == []


def test_a_damaged_commit_graph_is_not_read(merged: Repo) -> None:
    """It repeats what the commits say, and git trusts it where it is allowed to."""
    expected = list(git_records(merged.path))
    merged.git("commit-graph", "write", "--reachable")
    graph = merged.path / ".git" / "objects" / "info" / "commit-graph"
    graph.chmod(0o644)
    size = graph.stat().st_size
    graph.write_bytes(graph.read_bytes()[: size - 120] + b"A" * 120)
    assert describe(merged.path).commits == 3
    assert list(git_records(merged.path)) == expected


def test_the_repository_is_left_as_it_was(merged: Repo) -> None:
    """Not a file written, not a time changed."""

    def snapshot() -> dict[str, tuple[int, int, bytes]]:
        files = (path for path in merged.path.rglob("*"))
        return {
            str(path): (
                path.stat().st_mtime_ns,
                path.stat().st_mode,
                path.read_bytes() if path.is_file() else b"",
            )
            for path in files
        }

    merged.write("a", "changed and not committed")
    before = snapshot()
    describe(merged.path)
    list(git_records(merged.path, after="HEAD~1"))
    list(git_records(merged.path))
    assert snapshot() == before


# -- processes ----------------------------------------------------------------------------------------------


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Every process that the code under test starts."""
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    return started


def many_files(repo: Repo) -> Repo:
    fast_import(repo, [{"files": {b"f%d" % i: (b"100644", b"%d\n" % i * 200) for i in range(1500)}}])
    return repo


@pytest.mark.parametrize("way", ["closed", "dropped", "thrown into"])
def test_an_abandoned_walk_ends_its_processes(repo: Repo, processes: list[subprocess.Popen[bytes]], way: str) -> None:
    """In the middle of much that git still had to say."""
    records = git_records(many_files(repo).path)
    next(records)
    running = [process for process in processes if process.poll() is None]
    assert len(running) == 2
    if way == "closed":
        records.close()  # type: ignore[attr-defined]
    elif way == "dropped":
        del records
        gc.collect()
    else:
        with pytest.raises(KeyboardInterrupt):
            records.throw(KeyboardInterrupt())  # type: ignore[attr-defined]
    assert all(process.returncode is not None for process in running)
    assert all(pipe.closed for process in running for pipe in (process.stdin, process.stdout) if pipe)


def test_a_walk_never_begun_starts_nothing(repo: Repo, processes: list[subprocess.Popen[bytes]]) -> None:
    """What was started to check the arguments has ended."""
    records = git_records(many_files(repo).path)
    assert all(process.returncode is not None for process in processes)
    del records


def test_an_exhausted_walk_ends_its_processes(repo: Repo, processes: list[subprocess.Popen[bytes]]) -> None:
    """More through the pipes than they hold, and nobody left waiting."""
    assert len(list(git_records(many_files(repo).path))) == 1500
    assert all(process.returncode is not None for process in processes)


def test_two_walks_side_by_side(merged: Repo) -> None:
    """Each has its own processes, in one thread or in several."""
    expected = list(git_records(merged.path))
    assert list(zip(git_records(merged.path), git_records(merged.path))) == list(zip(expected, expected))
    results: list[list[Record]] = []
    threads = [threading.Thread(target=lambda: results.append(list(git_records(merged.path)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


# -- errors -------------------------------------------------------------------------------------------------


def assert_refused(path: Path | str, match: str, **arguments: Any) -> None:
    """Refused at the call, in one line that names the path."""
    for read in (git_records, describe, count_commits):
        if read is not git_records and arguments.keys() - {"rev"}:
            continue
        with pytest.raises(NotARepository, match=match) as caught:
            read(path, **arguments)
        message = str(caught.value)
        assert "\n" not in message
        assert repr(str(path)) in message
        assert isinstance(caught.value, AsofError)


def test_a_directory_that_is_no_repository(tmp_path: Path) -> None:
    assert_refused(tmp_path, "not a git repository")


@pytest.mark.parametrize("name", ["nowhere", "file", "nul\0"])
def test_no_directory(tmp_path: Path, name: str) -> None:
    """Nothing there, a file, what cannot be a path."""
    (tmp_path / "file").write_text("x")
    assert_refused(f"{tmp_path}/{name}", "not a directory")


def test_a_repository_without_commits(repo: Repo) -> None:
    """Asked for HEAD or for anything else."""
    assert_refused(repo.path, "no commits yet")
    assert_refused(repo.path, "no commits yet", rev="main")


def test_head_on_a_branch_without_commits(merged: Repo) -> None:
    """There are commits, only not where HEAD is."""
    merged.git("symbolic-ref", "HEAD", "refs/heads/unborn")
    assert_refused(merged.path, "say which branch")
    assert list(git_records(merged.path, rev="main")) != []


@pytest.mark.parametrize(
    "rev",
    [
        "nope",
        "",
        "-1",
        "--all",
        "--output=OWNED",
        "-h",
        "main..side",
        "^main",
        "HEAD~99",
        "main side",
        "a\nb",
        "a\0b",
        "\ud800",
        "f" * 40,
    ],
)
def test_an_unknown_revision(merged: Repo, rev: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges, several names and options are not one either."""
    monkeypatch.chdir(merged.path)
    assert_refused(merged.path, "no revision|names no commit", rev=rev)
    assert_refused(merged.path, "no revision|names no commit", after=rev)
    assert list(merged.path.rglob("OWNED")) == []


def test_a_revision_that_is_not_a_commit(merged: Repo) -> None:
    assert_refused(merged.path, "names no commit", rev="HEAD:a")
    assert_refused(merged.path, "names no commit", rev="HEAD^{tree}")


@pytest.mark.parametrize("max_bytes", [-1, 1.5, "1", True])
def test_a_limit_that_is_no_number_of_bytes(merged: Repo, max_bytes: Any) -> None:
    with pytest.raises(InvalidOperation, match="max_bytes"):
        git_records(merged.path, max_bytes=max_bytes)


def test_git_is_not_installed(merged: Repo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert_refused(merged.path, "install git")


def test_a_repository_of_someone_else(merged: Repo) -> None:
    """Git's own refusal, with its remedy, in one line."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    for path in (merged.path, merged.path / ".git"):
        os.chown(path, 12345, 12345)
    assert_refused(merged.path, "safe.directory")


def test_a_configuration_that_git_cannot_read(merged: Repo) -> None:
    (merged.path / ".git" / "config").write_text("[core\n")
    assert_refused(merged.path, "bad config line 1")


def loose(repo: Repo, rev: str) -> Path:
    name = repo.line("rev-parse", rev)
    path = repo.path / ".git" / "objects" / name[:2] / name[2:]
    path.chmod(path.stat().st_mode | stat.S_IWUSR)
    return path


def assert_fails_midway(repo: Repo) -> list[Record]:
    records = git_records(repo.path)
    read: list[Record] = []
    with pytest.raises(NotARepository, match="git fsck") as caught:
        read.extend(records)
    assert "\n" not in str(caught.value)
    assert repr(str(repo.path)) in str(caught.value)
    return read


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "truncated"])
@pytest.mark.parametrize("rev", ["HEAD:a", "HEAD^{tree}"])
def test_an_object_is_missing_or_damaged(merged: Repo, rev: str, damage: str) -> None:
    """What came before it is read; then one line says what to do."""
    merged.write("a", "".join(map(str, range(9000))))
    merged.commit()
    path = loose(merged, rev)
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "garbage": b"garbage" * 99, "truncated": whole[: len(whole) // 2]}[damage])
    assert len(assert_fails_midway(merged)) == 6


def test_an_old_commit_is_missing(merged: Repo) -> None:
    loose(merged, "HEAD~1").unlink()
    with pytest.raises(NotARepository, match="git fsck"):
        list(git_records(merged.path))
    with pytest.raises(NotARepository, match="git fsck"):
        count_commits(merged.path)


def test_the_commit_of_head_is_missing(merged: Repo) -> None:
    loose(merged, "HEAD").unlink()
    assert_refused(merged.path, "git fsck")


def test_a_partial_clone_is_not_filled_in(merged: Repo, tmp_path: Path) -> None:
    """Reading must not fetch: that writes, and needs a network."""
    merged.git("config", "uploadpack.allowFilter", "true")
    merged.git("clone", "-q", "--bare", "--filter=blob:none", f"file://{merged.path}", str(tmp_path / "partial"))
    before = sorted(path for path in (tmp_path / "partial").rglob("*"))
    assert describe(tmp_path / "partial").commits == 3
    assert assert_fails_midway(Repo(tmp_path / "partial")) == []
    assert sorted(path for path in (tmp_path / "partial").rglob("*")) == before


# -- into a store -------------------------------------------------------------------------------------------


def test_a_store_takes_the_records_and_later_only_the_new_ones(merged: Repo) -> None:
    """At every commit it knows what git lists; the same walk again adds what was committed since."""
    with EventStore(embedder=HashingEmbedder()) as store:

        def texts(as_of: datetime) -> list[tuple[str, str]]:
            return sorted((memory.memory_id, memory.content) for memory in store.memories(as_of=as_of))

        first = store.import_events(git_records(merged.path), source="git")
        assert (first.imported, first.already_there) == (6, 0)
        merged.write("a", "later")
        (merged.path / "b").unlink()
        merged.commit("later")
        second = store.import_events(git_records(merged.path), source="git")
        assert (second.imported, second.already_there) == (2, 6)
        for commit in merged.walk():
            assert texts(utc(int(merged.line("show", "-s", "--format=%ct", commit)))) == merged.texts(commit)


# -- any history --------------------------------------------------------------------------------------------


def fast_import(repo: Repo, commits: list[dict[str, Any]]) -> None:
    """Makes commits by `git fast-import`, each on top of the one before.

    Keys, all optional: `files` ({path: (mode, content), or None to remove it}), `at`, `authored`, `message`,
    and `merge` (how many commits back a side commit starts, and its files).
    """
    out: list[bytes] = []
    marks = 0

    def commit(ref: bytes, parents: list[int], spec: dict[str, Any]) -> int:
        nonlocal marks
        marks += 1
        message = spec.get("message", "generated").encode()
        at = spec.get("at", T0)
        out.append(b"commit %s\nmark :%d\n" % (ref, marks))
        out.append(b"author Ann <a@b> %d +0000\ncommitter Cora <c@d> %d +0000\n" % (spec.get("authored", at), at))
        out.append(b"data %d\n%s\n" % (len(message), message))
        for number, parent in enumerate(parents):
            out.append((b"merge :%d\n" if number else b"from :%d\n") % parent)
        for path, file in spec.get("files", {}).items():
            quoted = b'"' + b"".join(b"\\%03o" % byte for byte in path) + b'"'
            if file is None:
                out.append(b"D %s\n" % quoted)
            elif file[0] == b"160000":
                out.append(b"M 160000 %s %s\n" % (hashlib.sha1(file[1]).hexdigest().encode(), quoted))
            else:
                out.append(b"M %s inline %s\ndata %d\n%s\n" % (file[0], quoted, len(file[1]), file[1]))
        return marks

    line: list[int] = []
    for spec in commits:
        parents = line[-1:]
        if line and spec.get("merge"):
            back, files = spec["merge"]
            parents = [*parents, commit(b"refs/heads/other", [line[-1 - back % len(line)]], {"files": files})]
        line.append(commit(b"refs/heads/main", parents, spec))
    repo.git("fast-import", "--quiet", "--force", stdin=b"".join(out))


LIMIT = 20
PATHS = [b"a", b"a/b", b"a/b/c.md", b"d.txt", b"-d", b"sp ace\n", "ü".encode(), b"\xff", rb"\xff", b"n" * 600]
CONTENTS = [b"", b"one", b"two\r\n", "drei é".encode(), b"nul\0", b"\xff", b"x" * LIMIT, b"x" * (LIMIT + 1)]
MODES = [b"100644", b"100644", b"100755", b"120000", b"160000"]
FILES = st.dictionaries(
    st.sampled_from(PATHS),
    st.none() | st.tuples(st.sampled_from(MODES), st.sampled_from(CONTENTS)),
    max_size=4,
)
COMMITS = st.lists(
    st.fixed_dictionaries(
        {"files": FILES, "at": st.integers(T0, T0 + 5), "authored": st.integers(0, 2**40)},
        optional={
            "message": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
            "merge": st.tuples(st.integers(0, 5), FILES),
        },
    ),
    min_size=1,
    max_size=7,
)


@settings(max_examples=scaled(50))
@given(commits=COMMITS, cut=st.integers(0, 6))
def test_any_history_folds_to_what_git_lists(commits: list[dict[str, Any]], cut: int) -> None:
    """Whatever the commits, merges, modes and clocks; whole, and as the rest after any commit."""
    with tempfile.TemporaryDirectory() as folder:
        repo = new_repo(Path(folder) / "repo", "--bare")
        fast_import(repo, commits)
        records = list(git_records(repo.path, max_bytes=LIMIT))
        assert_is_the_history(repo, records, max_bytes=LIMIT)
        walk = repo.walk()
        highest = [max(commit["at"] for commit in commits[: i + 1]) for i in range(len(commits))]
        instants = dict(zip(walk, map(utc, highest)))
        assert [r["recorded_at"] for r in records] == [instants[r["correlation_id"]] for r in records]
        after = walk[cut % len(walk)]
        rest = [r for r in records if r["correlation_id"] in walk[cut % len(walk) + 1 :]]
        assert list(git_records(repo.path, max_bytes=LIMIT, after=after)) == rest
