"""The history of a git repository as records for `EventStore.import_events`.

Each text file is a memory, each commit that touched it an event. The walk follows first parents from the
oldest commit to the newest, so after each commit the records folded so far are the text files of
`git ls-tree -r <commit>`.

It runs the `git` program (2.31 or newer), never writes to the repository, never reaches for the network, and
runs no hook, filter or textconv. Configuration, attributes, grafts and replace refs do not change the answer.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import IO, Any, NamedTuple

from eventstore.checks import MAX_ID_LENGTH, check_count
from eventstore.errors import AsofError

__all__ = ["GitHistory", "NotARepository", "count_commits", "describe", "git_records"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_CHUNK = 1 << 16
_OBJECT_ID = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
# Paths that look like an id made from some other path: an escaped byte, a digest.
_LOOKS_MADE = re.compile(rb"\\x[89a-f][0-9a-f]|\Asha256:[0-9a-f]{64}\Z")
_CHECK = "check it with `git fsck`, and clone it again, whole, if it lacks objects"

# Variables by which git finds itself, its configuration and the edge of a repository. Every other GIT_* one
# says what to read, which here only the caller says.
_KEPT = re.compile(r"GIT_(CONFIG.*|EXEC_PATH|CEILING_DIRECTORIES|DISCOVERY_ACROSS_FILESYSTEM)")
_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_OPTIONAL_LOCKS": "0",
    # A partial clone would fetch what it lacks, and so write; older gits know no other way to be told not to.
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
}
_CONFIG = {
    "advice.graftFileDeprecated": "false",
    "core.commitGraph": "false",  # a cache that can be stale or damaged where the commits are not
    "diff.relative": "false",
}
_FIRST_PARENTS = ("log", "-z", "--first-parent", "--no-show-signature", "--no-color")
_TIMES = (*_FIRST_PARENTS, "--format=tformat:%ct")
_CHANGES = (
    *_FIRST_PARENTS,
    "--reverse",
    "--diff-merges=first-parent",
    "--root",
    "--raw",
    "--no-abbrev",
    "--no-renames",
    "--no-ext-diff",
    "--no-textconv",
    "--ignore-submodules=none",
    "--encoding=UTF-8",
    f"-O{os.devnull}",
    "--format=tformat:%H%x00%an%x00%at%x00%ct%x00%s",
)


class NotARepository(AsofError, ValueError):
    """Not a git repository whose history can be read; the message names the path and what to do."""


@dataclass(frozen=True)
class GitHistory:
    """What a walk will read."""

    commit: str
    """The commit it ends at."""
    commits: int
    """How many commits it passes, this one included."""
    shallow: bool
    """Whether the clone is shallow: the walk then starts at its boundary."""


def describe(path: str | os.PathLike[str], rev: str | None = None) -> GitHistory:
    """Returns what `git_records(path, rev=rev)` would walk. Raises `NotARepository`."""
    repository = _Repository(path)
    commit = repository.commit(rev)
    shallow = repository.ask("rev-parse", "--is-shallow-repository") == "true"
    return GitHistory(commit=commit, commits=repository.count(commit, None), shallow=shallow)


def count_commits(path: str | os.PathLike[str], rev: str | None = None, *, after: str | None = None) -> int:
    """Returns how many commits `git_records` would walk, with or without records. Raises `NotARepository`."""
    repository = _Repository(path)
    return repository.count(repository.commit(rev), None if after is None else repository.commit(after))


def git_records(
    path: str | os.PathLike[str],
    *,
    rev: str | None = None,
    max_bytes: int = 1_000_000,
    after: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields a record per text file that a commit added, changed or removed, oldest first, in bounded memory.

    path: anywhere in a working tree, or a bare repository. rev: what to walk to, default HEAD. Merges count
    as what they changed on the first parent; a rename is a DELETE and an ADD. A shallow clone starts at its
    boundary, whose files are all added there. after: a commit of the same walk; only the records of later
    commits are yielded, the very ones that the whole walk yields for them.

    A text file is a regular file of at most `max_bytes` bytes, in UTF-8, without a NUL byte. Becoming one is
    an ADD, ceasing to be one a DELETE; symbolic links and submodules are none.

    memory_id is the path (bytes that are not UTF-8 as `\\xff`), or `sha256:` and the digest of its bytes
    where that is longer than 512 characters or could be another path's id. metadata is path, directory,
    extension (lower case) and commit. A DELETE has neither content nor metadata. actor_id is the author's
    name, cut at 512 characters; reason the subject; correlation_id the commit; occurred_at the author's time;
    each None where git has none. event_id is `git-` and sha256(commit NUL path): a repeated import with the
    same `max_bytes` repeats its events.

    recorded_at is the committer's time but never earlier than on the commit before, for clocks are skewed and
    the order of commits is not. A time that is absent, or later than the start of this walk, counts as the
    time of the commit before (1970 if there is none). Commits of one second share their instant.

    Raises `InvalidOperation` for a negative `max_bytes`; `NotARepository` at once for what cannot be walked,
    and while iterating where git finds an object missing or damaged. Git's processes end with the iterator,
    whether it is exhausted or abandoned.
    """
    check_count("max_bytes", max_bytes, 0)
    repository = _Repository(path)
    tip = repository.commit(rev)
    start = None if after is None else repository.commit(after)
    repository.count(tip, start)
    return _records(repository, tip, start, max_bytes)


class _Change(NamedTuple):
    """One path in one commit; the blobs are those of regular files, None for anything else or nothing."""

    path: bytes
    old_blob: bytes | None
    blob: bytes | None


def _records(repository: _Repository, tip: str, start: str | None, max_bytes: int) -> Iterator[dict[str, Any]]:
    # Whether the regular file now at a path is text; what is older than `start` is missing, and read again.
    known: dict[bytes, bool] = {}
    with (
        repository.text_reader(max_bytes) as read_text,
        closing(_changes(repository, tip, start)) as changes,
    ):
        for header, (path, old_blob, blob) in changes:
            if old_blob == blob:  # a change of mode alone, or of what is no regular file
                continue
            was_text = old_blob is not None and (known.pop(path) if path in known else read_text(old_blob) is not None)
            content = None if blob is None else read_text(blob)
            if blob is not None:
                known[path] = content is not None
            if content is None and not was_text:
                continue
            commit = header["correlation_id"]
            record = {
                "type": "DELETE" if content is None else "UPDATE" if was_text else "ADD",
                "memory_id": _memory_id(path),
                "event_id": "git-" + hashlib.sha256(commit.encode() + b"\0" + path).hexdigest(),
                **header,
            }
            if content is not None:
                record["content"] = content
                record["metadata"] = _metadata(path, commit)
            yield record


def _changes(
    repository: _Repository, tip: str, start: str | None
) -> Generator[tuple[dict[str, Any], _Change], None, None]:
    """Yields each change of the walk, with what its commit says of every record."""
    now = datetime.now(timezone.utc)
    recorded = _EPOCH
    if start is not None:
        with closing(repository.stream(*_TIMES, start, "--")) as times:
            for committed in times:
                recorded = _recorded_at(committed, recorded, now)
    header: dict[str, Any] = {}
    with closing(repository.stream(*_CHANGES, *_span(tip, start))) as fields:
        # Fields are taken by count, so that no subject and no path can pass for anything else.
        for field in fields:
            field = field.lstrip(b"\n")  # a line feed stands between a commit and its changes
            if field.startswith(b":"):
                old_mode, mode, old_blob, blob, _ = field[1:].split(b" ")
                path = next(fields)
                yield header, _Change(path, _regular(old_mode, old_blob), _regular(mode, blob))
            elif field:
                author, authored, committed, subject = islice(fields, 4)
                recorded = _recorded_at(committed, recorded, now)
                header = {
                    "recorded_at": recorded,
                    "occurred_at": _instant(authored),
                    "actor_id": _decoded(author)[:MAX_ID_LENGTH] or None,
                    "role": None,
                    "reason": _decoded(subject) or None,
                    "correlation_id": field.decode("ascii"),
                }


def _span(tip: str, start: str | None) -> tuple[str, ...]:
    return (tip, "--") if start is None else (tip, f"^{start}", "--")


def _regular(mode: bytes, blob: bytes) -> bytes | None:
    return blob if mode.startswith(b"100") else None


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _instant(seconds: bytes) -> datetime | None:
    try:
        return _EPOCH + timedelta(seconds=int(seconds))
    except (ValueError, OverflowError):  # absent, or past the year 9999
        return None


def _recorded_at(seconds: bytes, previous: datetime, now: datetime) -> datetime:
    instant = _instant(seconds)
    return previous if instant is None or instant > now else max(previous, instant)


def _memory_id(path: bytes) -> str:
    name = _decoded(path)
    if len(name) > MAX_ID_LENGTH or _LOOKS_MADE.search(path):
        return "sha256:" + hashlib.sha256(path).hexdigest()
    return name


def _metadata(path: bytes, commit: str) -> dict[str, Any]:
    name = _decoded(path)
    directory, base = posixpath.split(name)
    extension = posixpath.splitext(base)[1].lower()
    return {"path": name, "directory": directory, "extension": extension, "commit": commit}


class _Repository:
    """Runs git on one repository. `name` is the path as the caller gave it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        if not os.path.isdir(path):
            raise NotARepository(f"{self.name!r} is not a directory: give the path of a git repository")
        self._path = os.path.realpath(path)  # a walk may begin after the caller has changed directory
        self._environment = {key: value for key, value in os.environ.items() if _passes(key)} | _ENVIRONMENT
        answer = self._run("rev-parse", "--git-dir")
        if answer.returncode:
            said = _one_line(answer.stderr)
            if "not a git repository (or any" in said:
                raise NotARepository(f"{self.name!r} is not a git repository: give a path inside one")
            raise NotARepository(f"git refuses to read {self.name!r}: {said}")

    def commit(self, rev: str | None) -> str:
        """Returns the id of the commit that `rev` names, HEAD if None."""
        named = self._parsed("HEAD" if rev is None else rev)
        if named is None:
            if not self.ask("for-each-ref", "--count=1"):
                raise NotARepository(f"{self.name!r} has no commits yet: make the first one, then try again")
            if rev is None:
                raise NotARepository(f"HEAD of {self.name!r} names no commit: say which branch to read (rev)")
            raise NotARepository(f"{self.name!r} has no revision {rev!r}: give a commit, branch or tag")
        commit = self._parsed(named + "^{commit}")
        if commit is None:
            raise NotARepository(
                f"{rev or 'HEAD'!r} names no commit that git can read in {self.name!r}: "
                f"give a commit, branch or tag, or {_CHECK}"
            )
        return commit

    def count(self, tip: str, start: str | None) -> int:
        """Returns how many first parents lead from `tip` to `start`, or to the oldest commit if None."""
        commits = int(self.ask("rev-list", "--count", "--first-parent", *_span(tip, start)))
        if start is not None and self._parsed(f"{tip}~{commits}") != start:
            raise NotARepository(
                f"{start} is not among the first parents of {tip} in {self.name!r}: "
                "its history was rewritten or this is another branch; read all of it (without after)"
            )
        return commits

    def ask(self, *arguments: str) -> str:
        answer = self._run(*arguments)
        if answer.returncode:
            raise self.failure(answer.stderr)
        return _decoded(answer.stdout).strip()

    def stream(self, *arguments: str) -> Generator[bytes, None, None]:
        """Yields the NUL-terminated fields of git's answer."""
        with self._started(arguments, subprocess.DEVNULL) as (process, errors):
            assert process.stdout is not None
            rest = b""
            while chunk := process.stdout.read(_CHUNK):
                *fields, rest = (rest + chunk).split(b"\0")
                yield from fields
            if process.wait() or rest:
                raise self.failure(_tail(errors))

    @contextmanager
    def text_reader(self, max_bytes: int) -> Iterator[Callable[[bytes], str | None]]:
        """Gives a function from a blob's id to its text, or None if it is not a text file's."""
        # Git streams what is above this threshold instead of loading it whole.
        threshold = f"core.bigFileThreshold={max(max_bytes, _CHUNK)}"
        with self._started(("-c", threshold, "cat-file", "--batch"), subprocess.PIPE) as (process, errors):
            requests, answers = process.stdin, process.stdout
            assert requests is not None
            assert answers is not None

            def failure(blob: bytes) -> NotARepository:
                return self.failure(_tail(errors) or b"blob " + blob + b" is missing")

            def read_text(blob: bytes) -> str | None:
                try:
                    requests.write(blob + b"\n")
                    requests.flush()
                except OSError:
                    raise failure(blob) from None
                answer = answers.readline().split()
                if len(answer) != 3 or answer[1] != b"blob":
                    raise failure(blob)
                size = int(answer[2])
                fits = size <= max_bytes
                remaining, parts = size + 1, list[bytes]()  # a line feed ends it
                while remaining:
                    part = answers.read(min(remaining, 1 << 20))
                    if not part:
                        raise failure(blob)
                    remaining -= len(part)
                    if fits:
                        parts.append(part)
                content = b"".join(parts)[:-1]
                if not fits or b"\0" in content:
                    return None
                try:
                    return content.decode("utf-8")
                except UnicodeDecodeError:
                    return None

            yield read_text

    def failure(self, said: bytes) -> NotARepository:
        reason = _one_line(said) or "it gave no reason"
        return NotARepository(f"git failed to read {self.name!r} ({reason}): {_CHECK}")

    def _parsed(self, rev: str) -> str | None:
        try:
            answer = self._run("rev-parse", "--verify", "--end-of-options", rev)
        except ValueError:  # a NUL or a lone surrogate: no name of anything
            return None
        named = answer.stdout.strip()
        return named.decode("ascii") if not answer.returncode and _OBJECT_ID.fullmatch(named) else None

    def _command(self, arguments: Sequence[str]) -> list[str]:
        config = [word for key, value in _CONFIG.items() for word in ("-c", f"{key}={value}")]
        return ["git", "-C", self._path, "--no-pager", *config, *arguments]

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        with self._needing_git():
            return subprocess.run(
                self._command(arguments),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
            )

    @contextmanager
    def _started(self, arguments: Sequence[str], stdin: int) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
        """Gives a git process and the file of its messages, and ends it however the block ends."""
        # Messages go to a file: a pipe that nobody empties would stop git once it is full.
        with tempfile.TemporaryFile() as errors:
            with self._needing_git():
                process = subprocess.Popen(
                    self._command(arguments),
                    env=self._environment,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                )
            try:
                yield process, errors
            finally:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        with suppress(OSError):
                            pipe.close()

    @contextmanager
    def _needing_git(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise NotARepository(
                f"cannot run git to read {self.name!r} ({error.strerror}): install git and put it on the PATH"
            ) from error


def _passes(variable: str) -> bool:
    return not variable.startswith("GIT_") or _KEPT.fullmatch(variable) is not None


def _tail(errors: IO[bytes]) -> bytes:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 2000))
    return errors.read()


def _one_line(said: bytes) -> str:
    return " ".join(_decoded(said).split())
