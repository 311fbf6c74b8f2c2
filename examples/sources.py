"""Where the demo's history comes from: a git repository, or the small history that ships with it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from eventstore import EventStore, read_json_lines
from replay.cli.text import counted, path_text
from replay.gitlog import GitHistory, describe, git_records

__all__ = ["SMALL_HISTORY", "Source", "Story", "fill", "git_source", "small_source"]

SMALL_HISTORY = Path(__file__).with_name("small-history.jsonl")

Record = Mapping[str, Any]

# What a demo can embed in about half a minute. A longer history is read from its end backwards.
TEXT_LIMIT = 100_000_000
EVENT_LIMIT = 50_000
LONGEST_FILE = 200_000

_BATCH_EVENTS = 500
_BATCH_TEXT = 1_000_000


@dataclass(frozen=True)
class Story:
    """What to ask of a history whose content is known, and what to say of it.

    `decision` is the event to whose instant the demo goes back, `memory_id` the memory whose timeline it shows.
    """

    question: str
    decision: str
    memory_id: str
    before: str
    after: str


@dataclass(frozen=True)
class Source:
    """A history to import: `records` starts the walk, which yields `events` records of `moments` commits or chats."""

    title: str
    call: str
    name: str
    explained: str
    records: Callable[[], Iterable[Record]]
    events: int
    moments: int
    memory: str
    did: str
    shallow: bool = False
    remarks: tuple[str, ...] = ()
    story: Story | None = None


def small_source(why: str) -> Source:
    """The history that ships with the demo; `why` says why it is used."""
    records = list(read_json_lines(SMALL_HISTORY))
    shown = path_text(min(os.path.relpath(SMALL_HISTORY), str(SMALL_HISTORY), key=len))
    return Source(
        title="an assistant's memories of a user called Maya",
        call=f'store.import_events(read_json_lines("{shown}"), source="small-history")',
        name="small-history",
        explained="Each fact is a memory, each change of it an event: who, when, why, what.",
        records=lambda: records,
        events=len(records),
        moments=len({record["recorded_at"] for record in records}),
        memory="memory",
        did="wrote",
        remarks=(why, "So here is a small history that comes with the demo: six weeks of an assistant called juno."),
        story=Story(
            question="Can Maya eat oysters? Is she allergic to shellfish?",
            decision="maya-booked-oysters",
            memory_id="allergy-card",
            before="juno has just booked The Oyster Room for Maya's birthday. What did it know when it decided?",
            after="No allergy was known then. It was recorded on 27 March; the booking stood until 2 April.",
        ),
    )


def git_source(path: str) -> Source:
    """The history of the git repository around `path`, as much of it as a demo can take.

    Raises `NotARepository` for what has no history that can be read.
    """
    history = describe(path)
    records, size, newest = _fitted(path, history)
    remarks = []
    if newest < history.commits:
        remarks.append(
            f"It is long, so this is its end: the last {counted(newest, 'commit')} of {history.commits:,}, and the "
            f"files they touched. All of it: replay import git {path_text(path)} all.db"
        )
    elif history.shallow:
        remarks.append("The clone is shallow: its history begins at the boundary.")
    name = path_text(os.path.basename(os.path.realpath(path)))[:500] or "repository"
    return Source(
        title=f"the git history of {path_text(os.path.realpath(path))}",
        call=f'store.import_events(git_records("{path_text(path)}"), source="git:{name}")',
        name=f"git:{name}",
        explained="Each text file is a memory, each commit to it an event: who, when, why, what.",
        records=records,
        events=size.events,
        moments=size.moments,
        memory="file",
        did="committed",
        shallow=history.shallow,
        remarks=tuple(remarks),
    )


def _fitted(path: str, history: GitHistory) -> tuple[Callable[[], Iterable[Record]], _Size, int]:
    """The walk through the newest commits, how large it is, and how many they are: all, or a quarter, and so on."""
    if history.commits < 2:
        # Nothing to look back to; and it may be the whole tree of a large project, cloned without its past.
        return _Walk(path, None), _Size(0, 1), 1
    newest = history.commits
    while True:
        after = None if newest == history.commits else describe(path, f"{history.commit}~{newest}").commit
        records = _Walk(path, after)
        # The last two commits are taken as they are: there is nothing smaller.
        size = _size(records(), limited=newest > 2)
        if size is not None:
            return records, size, newest
        newest = max(2, newest // 4)


class _Size(NamedTuple):
    events: int
    moments: int


def _size(records: Iterable[Record], *, limited: bool) -> _Size | None:
    """How many records there are, of how many commits; None if they are more than a demo takes."""
    events = moments = characters = 0
    for _, group in itertools.groupby(records, key=lambda record: record.get("correlation_id")):
        moments += 1
        for record in group:
            events += 1
            characters += len(record.get("content") or "")
            if limited and (events > EVENT_LIMIT or characters > TEXT_LIMIT):
                return None
    return _Size(events, moments)


@dataclass(frozen=True)
class _Walk:
    """The records after a commit, or all; a file's first record adds it, whatever came before."""

    path: str
    after: str | None

    def __call__(self) -> Iterator[Record]:
        live: set[str] = set()
        for record in git_records(self.path, max_bytes=LONGEST_FILE, after=self.after):
            memory_id = record["memory_id"]
            if record["type"] == "DELETE":
                if memory_id not in live:
                    continue
                live.remove(memory_id)
            elif memory_id not in live:
                live.add(memory_id)
                record["type"] = "ADD"
            yield record


def fill(store: EventStore, source: Source, progress: Callable[[int, int], None]) -> None:
    """Import the source in batches, so that memory is bounded and progress is seen. An instant is never cut in two."""
    done = 0
    for batch in _batches(source.records()):
        store.import_events(batch, source=source.name)
        done += len(batch)
        progress(done, source.events)


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    characters = 0
    for _, group in itertools.groupby(records, key=lambda record: record["recorded_at"]):
        for record in group:
            batch.append(record)
            characters += len(record.get("content") or "")
        if len(batch) >= _BATCH_EVENTS or characters >= _BATCH_TEXT:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
