"""What is damaged, and what is asked of it afterwards: every read, and searches with a checkpoint and without."""

from __future__ import annotations

import faulthandler
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from eventstore import Add, AsofError, EventStore, Head
from projections import CheckpointWarning, VectorIndex
from replay import Report, state, verify
from tests.crash import lab

PAGE_SIZE = 512  # the smallest: rows overflow and trees have branches, in a file small enough to flip all of it
SEGMENT_ROWS = 4
SECONDS = 60.0
"""Longer than any question takes, however busy the machine: then the process is killed and the test fails."""

SIDE_FILES = ("-wal", "-shm", "-journal", "-failed")
MEMORIES = ("alice", "bob", "carol", "dave", "nobody")
QUERIES = ([1.0, 0.2], [-0.5, 1.0])
_START = datetime(2026, 5, 1, 12, tzinfo=timezone.utc)


class Clock:
    """A minute later each time."""

    def __init__(self) -> None:
        self.now = _START

    def __call__(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now


@dataclass(frozen=True)
class Refused:
    """A question that was answered with an `AsofError`."""

    error: type[AsofError]
    message: str = field(compare=False)


Answers = dict[str, Any]


def database(directory: Path) -> Path:
    """The history."""
    return directory / "agent.db"


def index_directory(directory: Path) -> Path:
    """Its checkpoints."""
    return directory / "agent.db.index"


@contextmanager
def small_pages() -> Iterator[None]:
    """New databases get small pages."""
    with mock.patch("eventstore.connections.PAGE_SIZE", PAGE_SIZE):
        yield


def make(directory: Path, *, text: str = "tea", later: bool = True) -> Head:
    """A history with something in every column, and an index checkpoint of all of it but the last events."""
    directory.mkdir(parents=True, exist_ok=True)
    with small_pages(), EventStore(database(directory), clock=Clock()) as store:
        store.add(f"Alice prefers {text}", vector=[1, 0], memory_id="alice", metadata={"n": 1}, actor_id="ann")
        store.append(
            [
                Add(memory_id="bob", content="Bob reads", vector=[0, 1], metadata={"n": 2, "tag": "x"}),
                Add(memory_id="carol", content="Carol " * 90, vector=[-1, 1], occurred_at="2020-01-01T00:00:00Z"),
            ],
            correlation_id="chat",
            role="user",
        )
        store.update("alice", f"Alice prefers more {text}", vector=[1, 1], reason="she said so", actor_id="ann")
        store.update("bob", metadata={"n": 2, "tag": "y"}, actor_id="bot", causation_id="chat")
        store.delete("carol", correlation_id="chat")
        store.add("Carol again", vector=[0.5, -1], memory_id="carol", metadata={"n": 3})
        index = VectorIndex(store, segment_rows=SEGMENT_ROWS)
        index.catch_up()
        index.checkpoint()
        if later:
            store.update("carol", "Carol at last", vector=[0.25, -1])
            store.add("Dave came late", vector=[-1, -1], memory_id="dave", actor_id="bot", metadata={"n": 1})
        return store.head


@dataclass(frozen=True)
class Subject:
    """A sound history, in `sound`, that is copied to `work` and damaged there."""

    sound: Path
    work: Path
    head: Head
    answers: Answers

    @staticmethod
    def made(directory: Path, **keywords: Any) -> Subject:
        """A new one."""
        sound, work = directory / "sound", directory / "work"
        head = make(sound, **keywords)
        assert not any(Path(f"{database(sound)}{suffix}").exists() for suffix in SIDE_FILES)
        shutil.copytree(sound, work)
        subject = Subject(sound, work, head, answers(work))
        refused = {name: answer for name, answer in subject.answers.items() if isinstance(answer, Refused)}
        assert not refused, refused
        subject.restore()
        return subject

    def restore(self) -> None:
        """Make `work` as it was."""
        for suffix in SIDE_FILES:
            Path(f"{database(self.work)}{suffix}").unlink(missing_ok=True)
        shutil.copyfile(database(self.sound), database(self.work))
        kept, used = index_directory(self.sound), index_directory(self.work)
        if not used.is_dir() or {path.name for path in kept.iterdir()} != {path.name for path in used.iterdir()}:
            shutil.rmtree(used, ignore_errors=True)
            shutil.copytree(kept, used)

    def examine(self) -> Outcome:
        """Verify what is in `work`, ask everything of it, and compare."""
        report = verify(database(self.work), IndexOnDisk(self.work))
        found = answers(self.work)
        differing = {name for name in self.answers if found[name] != self.answers[name]}
        wrong = {name for name in differing if not isinstance(found[name], Refused)}
        return Outcome(report, found, sorted(differing), sorted(wrong))


@dataclass(frozen=True)
class Outcome:
    """What became of a damaged history: which answers differ from the sound one's, and which of them are no error."""

    report: Report
    found: Answers
    differing: list[str]
    wrong: list[str]

    def require_nothing_wrong(self) -> None:
        """No answer is another one without an error; and where verify finds nothing, no answer differs at all."""
        assert not self.wrong, {name: self.found[name] for name in self.wrong}
        if self.report.ok:
            assert not self.differing, {name: self.found[name] for name in self.differing}


class IndexOnDisk:
    """The index as `replay verify` takes it: opened when the history has been checked, its warnings are faults."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def faults(self) -> list[str]:
        """Checkpoints that could not be used, and rows that differ from the history."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CheckpointWarning)
            with EventStore(database(self._directory)) as store:
                differences = VectorIndex(store, segment_rows=SEGMENT_ROWS).faults()
        return [str(warning.message) for warning in caught] + differences


def answers(directory: Path) -> Answers:
    """The answer to every question, by its name; `Refused` where that was an `AsofError`."""
    found: Answers = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        try:
            with EventStore(database(directory)) as store:
                for name, question in _READS.items():
                    found[name] = _asked(question, store)
                for kind, path in (("checkpoint", None), ("no checkpoint", directory / "none.index")):
                    _ask_index(found, store, kind, path)
        except AsofError as error:
            found["open"] = Refused(type(error), str(error))
            for name in ALL:
                found.setdefault(name, found["open"])
        else:
            found["open"] = "open"
    return found


def _asked(question: Callable[[Any], Any], of: Any) -> Any:
    try:
        return question(of)
    except AsofError as error:
        return Refused(type(error), str(error))


def _ask_index(found: Answers, store: EventStore, kind: str, path: Path | None) -> None:
    try:
        # Not closed: that would write a checkpoint.
        index = VectorIndex(store, segment_rows=SEGMENT_ROWS, directory=path)
    except AsofError as error:
        found.update({f"{kind}: {name}": Refused(type(error), str(error)) for name in _SEARCHES})
        return
    for name, search in _SEARCHES.items():
        found[f"{kind}: {name}"] = _asked(search, index)


def _plain(value: Any) -> Any:
    """A value that compares by what is in it."""
    if isinstance(value, np.ndarray):
        return (value.shape, value.tobytes())
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _state(store: EventStore, as_of: Any) -> Any:
    found = state(store, as_of)
    vectors = {name: vector.tobytes() for name, vector in found.vectors.items()}
    return (found.position, found.recorded_at, found.memories, vectors)


_INSTANTS = [(_START + timedelta(minutes=minutes, seconds=30)).isoformat() for minutes in (2, 5)]


def _reads() -> dict[str, Callable[[EventStore], Any]]:
    reads: dict[str, Callable[[EventStore], Any]] = {
        "head": lambda store: store.head,
        "position": lambda store: store.position,
        "dimension": lambda store: store.dimension,
        "embedder": lambda store: store.embedder_name,
        "events": lambda store: list(store.events()),
        "events backwards": lambda store: list(store.events(reverse=True)),
        "history": lambda store: store.history(),
        "count": lambda store: store.count(),
        "count where": lambda store: store.count({"n": 1}),
        "state": lambda store: _state(store, None),
        "memories": lambda store: store.memories(),
        "memories by id": lambda store: store.memories(order="memory_id"),
        "memories where": lambda store: store.memories({"n": {"gte": 2}}),
        "vectors": lambda store: _plain(store.vectors()),
        "vectors of some": lambda store: _plain(store.vectors(["alice", "bob"])),
        "embeddings": lambda store: _plain(store.embeddings([1, 2])),
    }
    for instant in _INSTANTS:
        reads[f"position at {instant}"] = lambda store, at=instant: store.position_at(at)  # type: ignore[misc]
        reads[f"head at {instant}"] = lambda store, at=instant: store.head_at(at)  # type: ignore[misc]
        reads[f"memories at {instant}"] = lambda store, at=instant: store.memories(as_of=at)  # type: ignore[misc]
        reads[f"events since {instant}"] = lambda store, at=instant: list(store.events(since=at))  # type: ignore[misc]
        reads[f"events until {instant}"] = lambda store, at=instant: list(store.events(until=at))  # type: ignore[misc]
    for position in (1, 3, 5, 6):
        reads[f"state at {position}"] = lambda store, at=position: _state(store, at)  # type: ignore[misc]
    for memory in MEMORIES:
        reads[f"get {memory}"] = lambda store, it=memory: store.get(it)  # type: ignore[misc]
        reads[f"get {memory} at 4"] = lambda store, it=memory: store.get(it, as_of=4)  # type: ignore[misc]
        reads[f"history of {memory}"] = lambda store, it=memory: store.history(it)  # type: ignore[misc]
        reads[f"events of {memory}"] = lambda store, it=memory: list(store.events(memory_id=it))  # type: ignore[misc]
    for name, value in (("actor_id", "ann"), ("actor_id", "bot"), ("role", "user"), ("correlation_id", "chat")):
        reads[f"events by {name} {value}"] = lambda store, by=name, value=value: list(  # type: ignore[misc]
            store.events(**{by: value})
        )
    reads["deletes"] = lambda store: list(store.events(type="DELETE"))
    return reads


def _searches() -> dict[str, Callable[[VectorIndex], Any]]:
    searches: dict[str, Callable[[VectorIndex], Any]] = {}
    for number, query in enumerate(QUERIES):
        for as_of in (None, 3, 6, _INSTANTS[1]):
            searches[f"search {number} at {as_of}"] = lambda index, q=query, at=as_of: _hits(  # type: ignore[misc]
                index.search(q, 3, as_of=at)
            )
    searches["search where"] = lambda index: _hits(index.search(QUERIES[0], 3, filter={"n": {"lte": 2}}))
    searches["search where, then"] = lambda index: _hits(index.search(QUERIES[0], 3, filter={"tag": "x"}, as_of=4))
    searches["contents"] = lambda index: _plain(index.contents())
    return searches


def _hits(hits: Any) -> Any:
    return (hits.position, list(hits))


_READS = _reads()
_SEARCHES = _searches()
ALL = ["open", *_READS, *(f"{kind}: {name}" for kind in ("checkpoint", "no checkpoint") for name in _SEARCHES)]


@contextmanager
def deadline() -> Iterator[None]:
    """Kill the process, showing where it is, if the block takes too long; C code notices no exception."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def run_noting(function: Callable[..., Any], directory: Path, *arguments: Any) -> Any:
    """`lab.run`; if the process dies, the error says what it had written to the file `doing` before."""
    try:
        return lab.run(function, directory, *arguments)
    except BaseException as error:
        doing = directory / "doing"
        at = doing.read_text() if doing.exists() else "nothing yet"
        raise AssertionError(f"the last damage tried was {at}") from error
