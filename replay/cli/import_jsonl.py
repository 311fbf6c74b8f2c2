"""`replay import jsonl`: an export, or a foreign history, from JSON lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import click

from eventstore import Vector, read_json_lines
from eventstore.embedders import Embedder
from replay.cli.common import command
from replay.cli.foreign import Renaming, renamed
from replay.cli.imported import import_options, tell
from replay.cli.opening import importing_store, recorded_embedder
from replay.cli.parameters import NEW_DATABASE, RENAMING, VECTORS
from replay.cli.progress import progress
from replay.cli.text import path_text

__all__ = ["jsonl"]


@command("jsonl", "JSON lines: an export, or records of others.")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.argument("store", metavar="STORE", type=NEW_DATABASE)
@click.option("--vectors", metavar="FILE.npy", type=VECTORS, help="The vectors, where `vector` is a row number.")
@click.option(
    "--map",
    "renamings",
    metavar="OURS=THEIRS",
    type=RENAMING,
    multiple=True,
    help="Take OURS from the key THEIRS, such as content=text. May be repeated.",
)
@click.option(
    "--metadata", "metadata_keys", metavar="KEY", multiple=True, help="Put a key into the metadata. May be repeated."
)
@click.option("--ignore", "ignored_keys", metavar="KEY", multiple=True, help="Leave a key out. May be repeated.")
@click.option(
    "--no-keep-times",
    is_flag=True,
    help="Record all now, at one instant; the records' times become occurred_at.",
)
@click.option("--allow-zero-vectors", is_flag=True, help="Take vectors of zeros, for indexes by ip or l2.")
@import_options
def jsonl(
    file: str,
    store: str,
    vectors: Vector | None,
    renamings: Sequence[tuple[str, str]],
    metadata_keys: Sequence[str],
    ignored_keys: Sequence[str],
    no_keep_times: bool,
    allow_zero_vectors: bool,
    source: str | None,
    embedder: Embedder | None,
    accept_embedder_change: bool,
    as_json: bool,
) -> None:
    """Import JSON lines into STORE, all or nothing: what `replay export` wrote, or records of others.

    FILE may be "-". A record has type (ADD, UPDATE, DELETE), memory_id, content, metadata, vector (a list, or a
    row of --vectors), recorded_at, occurred_at, actor_id, role, reason, event_id, correlation_id, causation_id;
    what is absent has its default. Times must run forward. STORE is created if it is not there.
    """
    path = "/dev/stdin" if file == "-" else file
    renaming = Renaming(tuple(renamings), tuple(metadata_keys), tuple(ignored_keys))
    source = source or ("stdin" if file == "-" else path_text(os.path.basename(file))[:500])
    used = embedder or recorded_embedder(store, new=None, required=False)
    options = {"accept_embedder_change": accept_embedder_change, "allow_zero_vectors": allow_zero_vectors}
    with importing_store(store, used, **options) as target:
        with progress("Importing", "lines") as report:
            total = _lines(path) if sys.stderr.isatty() else None
            records = renamed(_counted(read_json_lines(path, vectors), total, report), renaming, vectors)
            result = target.import_events(records, source=source, keep_times=not no_keep_times)
        tell(target, result, as_json, {"source": source})


def _lines(path: str) -> int | None:
    if not os.path.isfile(path):
        return None  # a pipe can be read only once
    with open(path, "rb") as stream:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(2**20), b""))


def _counted(
    records: Iterable[dict[str, Any]], total: int | None, report: Callable[[int, int | None], None]
) -> Iterator[dict[str, Any]]:
    for done, record in enumerate(records, 1):
        report(done, total)
        yield record
