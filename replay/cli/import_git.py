"""`replay import git`: a repository's history, every version of its text files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import click

from eventstore import EventStore, HashingEmbedder
from eventstore.embedders import Embedder
from replay.cli.common import command
from replay.cli.failures import warn
from replay.cli.imported import import_options, tell
from replay.cli.opening import importing_store, recorded_embedder
from replay.cli.parameters import NEW_DATABASE
from replay.cli.progress import progress
from replay.cli.text import path_text
from replay.gitlog import NotARepository, count_commits, describe, git_records

__all__ = ["git"]


@command("git", "A git repository: every version of its text files.")
@click.argument("repository", metavar="REPO", type=click.Path())
@click.argument("store", metavar="STORE", type=NEW_DATABASE)
@click.option("--rev", metavar="REV", help="The commit, branch or tag to read up to.  [default: HEAD]")
@import_options
def git(
    repository: str,
    store: str,
    rev: str | None,
    source: str | None,
    embedder: Embedder | None,
    accept_embedder_change: bool,
    as_json: bool,
) -> None:
    """Import a git repository into STORE: each text file a memory, each commit that changed it an event.

    Content, author, subject and time are the commit's. STORE is created if it is not there. Importing again
    appends what is new. Needs the `git` program; REPO is only read.
    """
    history = describe(repository, rev)
    source = source or f"git:{_name(repository)}"
    used = embedder or recorded_embedder(store, new=HashingEmbedder(), required=True)
    with importing_store(store, used, accept_embedder_change=accept_embedder_change) as target:
        after = _last_commit(target, source)
        records, commits = _walk(repository, history.commit, after, f"{path_text(store)} from {source}")
        with progress("Importing", "commits") as report:
            counted_records = _counted(records, lambda done: report(done, commits))
            result = target.import_events(_past_head(counted_records, target.head.recorded_at), source=source)
        tell(
            target,
            result,
            as_json,
            {"source": source, "commit": history.commit, "commits": commits, "shallow": history.shallow},
        )
    if history.shallow:
        warn(f"{path_text(repository)} is a shallow clone: what lies before its boundary is not in the history")


def _name(repository: str) -> str:
    name = os.path.basename(os.path.realpath(repository)).removesuffix(".git")
    return path_text(name)[:500] or "repository"


def _last_commit(store: EventStore, source: str) -> str | None:
    """The commit that the last import from this source ended with, so that only later ones are read."""
    for event in store.events(reverse=True):
        if event.source == source and event.event_id.startswith("git-"):
            return event.correlation_id
    return None


def _walk(repository: str, commit: str, after: str | None, what: str) -> tuple[Iterator[dict[str, Any]], int]:
    """The records of the commits past `after`, and how many commits these are."""
    try:
        return git_records(repository, rev=commit, after=after), count_commits(repository, commit, after=after)
    except NotARepository as error:
        if after is None:
            raise
        raise NotARepository(
            f"the last import into {what} ended with commit {after[:12]}, which does not lead to {commit[:12]}: "
            "the repository's history was rewritten, or this is another branch or repository; import into a new STORE"
        ) from error


def _counted(records: Iterable[dict[str, Any]], report: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    done, commit = 0, None
    for record in records:
        if record["correlation_id"] != commit:
            commit = record["correlation_id"]
            done += 1
            report(done)
        yield record


def _past_head(records: Iterable[dict[str, Any]], head: datetime | None) -> Iterator[dict[str, Any]]:
    """The records, none of them recorded at or before the head.

    A history only grows forward. A commit can be older than the store's last event: it was made elsewhere and
    pulled later, or something else was recorded since the last import. It counts as recorded just after the head,
    which is when the store learned of it, or nearly; its occurred_at stays the author's time.
    """
    for record in records:
        if head is not None and record["recorded_at"] <= head:
            record["recorded_at"] = head + timedelta(microseconds=1)
        yield record
